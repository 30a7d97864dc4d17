//! What every node and client is told, and says.

use std::{
    env, fs,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::LazyLock,
};

use nix::sys::{
    prctl,
    signal::Signal,
    socket::{setsockopt, sockopt::RcvBuf},
};

use crate::Result;

/// A port of the system's choice on loopback.
pub const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// The name in the server's certificate.
pub const SERVER_NAME: &str = "localhost";
pub const ALPN: &[u8] = b"palyra-quic-v1";

/// How large datagrams of QUIC become unless a contender says otherwise: Ethernet's MTU without the headers.
pub const DATAGRAM_BYTES: u16 = 1452;
/// What docs/payloads.md recommends for loopback.
pub const LARGE_DATAGRAM_BYTES: u16 = 32_768;

/// What is echoed.
pub const SMALL: [u8; 64] = [7; 64];
pub const EVENT_BYTES: usize = 32;
/// A frame of 512 KiB, with room for what it has beside the payload.
pub const LARGE_BYTES: usize = 512 * 1024 - 64;
pub const MAX_FRAME_BYTES: usize = 512 * 1024;

/// What palyra asks for: one socket receives what is sent to all connections.
pub const RECEIVE_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Where a process finds its keys, and how large it is to be.
pub struct Setup {
    pki: PathBuf,
    /// How many events the log holds from the start.
    pub events: u32,
    /// How many connections are served at a time.
    pub connections: u32,
}

/// All in PEM.
pub struct Credentials {
    pub authority: Vec<u8>,
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

impl Setup {
    /// From the command line of a node: `PKI EVENTS CONNECTIONS`.
    pub fn from_args() -> Result<Self> {
        Self::parse(&env::args().skip(1).collect::<Vec<_>>())
    }

    pub fn parse(args: &[String]) -> Result<Self> {
        let [pki, events, connections] = args else {
            return Err("arguments: PKI EVENTS CONNECTIONS".into());
        };
        Ok(Self { pki: pki.into(), events: events.parse()?, connections: connections.parse()? })
    }

    pub fn credentials(&self, role: &str) -> Result<Credentials> {
        let read = |name: String| fs::read(self.pki.join(name));
        Ok(Credentials {
            authority: read("ca.pem".into())?,
            certificate: read(format!("{role}.pem"))?,
            key: read(format!("{role}.key"))?,
        })
    }

    /// The directory of the keys, which is gone after the run.
    pub fn pki(&self) -> &Path {
        &self.pki
    }

    pub fn event_count(&self) -> usize {
        usize::try_from(self.events).unwrap_or(usize::MAX)
    }
}

/// The large payload that nodes give away, made when it is first asked for: it is no part of an idle node.
pub fn large() -> &'static [u8] {
    static LARGE: LazyLock<Vec<u8>> = LazyLock::new(|| vec![7; LARGE_BYTES]);
    &LARGE
}

/// The payload of the event with this number.
pub fn event(n: usize) -> String {
    format!("{n:0EVENT_BYTES$}")
}

/// A socket for bare QUIC, with the receive buffer that palyra's has.
pub fn udp_socket() -> Result<UdpSocket> {
    let socket = UdpSocket::bind(LOOPBACK)?;
    setsockopt(&socket, RcvBuf, &RECEIVE_BUFFER_BYTES)?;
    Ok(socket)
}

/// Says where the node listens, and has it end when whoever started it does.
pub fn announce(address: SocketAddr) -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let mut output = io::stdout();
    writeln!(output, "{address}")?;
    output.flush()?;
    Ok(())
}
