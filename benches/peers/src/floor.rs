//! What nobody gets below: datagrams that are echoed in the clear, and the cipher alone.

use std::{
    io::{self, BufRead},
    net::UdpSocket,
    time::{Duration, Instant},
};

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, Nonce, UnboundKey};

use crate::{
    Result,
    drive::{answer, latency_figures, parse},
    link::{Failure, Measured},
    setup::{LOOPBACK, SMALL, Setup, announce},
};

pub fn serve(_setup: &Setup) -> Result<()> {
    let socket = UdpSocket::bind(LOOPBACK)?;
    announce(socket.local_addr()?)?;
    let mut buffer = [0; 2048];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..length], from)?;
    }
}

/// The client of datagrams; see [`drive`](crate::drive) for the commands.
pub fn drive(_setup: &Setup, address: &str) -> Result<()> {
    let socket = UdpSocket::bind(LOOPBACK)?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    for line in io::stdin().lock().lines() {
        answer(&obey(&socket, &line?))?;
    }
    Ok(())
}

fn obey(socket: &UdpSocket, line: &str) -> Measured<String> {
    match parse(line) {
        Some(("connect", 1, _)) => Ok(String::new()),
        Some(("calls", in_flight, millis)) => {
            let end = Instant::now() + Duration::from_millis(millis);
            calls(socket, in_flight, |now, _count| now >= end)
        }
        Some(("count", in_flight, total)) => {
            let total = usize::try_from(total)?;
            calls(socket, in_flight, |_now, count| count >= total)
        }
        _ => Err(Failure::NotOffered("has datagrams and nothing else")),
    }
}

/// A datagram is sent for each that comes back, which comes in the order of the sending on loopback.
fn calls(socket: &UdpSocket, in_flight: u64, over: impl Fn(Instant, usize) -> bool) -> Measured<String> {
    let start = Instant::now();
    let mut sent = std::collections::VecDeque::new();
    for _ in 0..in_flight {
        sent.push_back(Instant::now());
        socket.send(&SMALL)?;
    }
    let mut latencies = Vec::new();
    let mut buffer = [0; 2048];
    while let Some(before) = sent.pop_front() {
        socket.recv(&mut buffer)?;
        let now = Instant::now();
        latencies.push(u32::try_from((now - before).as_nanos())?);
        if !over(now, latencies.len()) {
            sent.push_back(now);
            socket.send(&SMALL)?;
        }
    }
    Ok(latency_figures(start.elapsed(), latencies))
}

/// The lengths of packets: as small as an exchange's, and as large as they get.
pub const PACKETS: [usize; 2] = [128, 1200];
/// The shorter key, and the one that rustls prefers.
pub const CIPHERS: [(&str, &Algorithm, &[u8]); 2] =
    [("AES-128-GCM", &AES_128_GCM, &[7; 16]), ("AES-256-GCM", &AES_256_GCM, &[7; 32])];

/// Seconds for sealing, and for opening, one packet of this length.
pub fn aes(
    algorithm: &'static Algorithm,
    key: &[u8],
    packet: usize,
    duration: Duration,
) -> Result<(f64, f64)> {
    let failed = |_| "ring fails";
    let key = LessSafeKey::new(UnboundKey::new(algorithm, key).map_err(failed)?);
    let nonce = || Nonce::assume_unique_for_key([7; 12]);
    let mut sealed = vec![7; packet];
    let tag = key.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut sealed).map_err(failed)?;
    let mut ciphertext = sealed.clone();
    ciphertext.extend_from_slice(tag.as_ref());

    let sealing = timed(duration, || {
        let _tag = key.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut sealed).map_err(failed)?;
        Ok(())
    })?;
    let mut buffer = ciphertext.clone();
    let opening = timed(duration, || {
        // Opening destroys the ciphertext; copying it back costs a hundredth.
        buffer.copy_from_slice(&ciphertext);
        key.open_in_place(nonce(), Aad::empty(), &mut buffer).map_err(failed)?;
        Ok(())
    })?;
    Ok((sealing, opening))
}

fn timed(duration: Duration, mut operation: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    let mut count = 0_u32;
    while start.elapsed() < duration {
        for _ in 0..1000 {
            operation()?;
        }
        count += 1000;
    }
    Ok(start.elapsed().as_secs_f64() / f64::from(count))
}
