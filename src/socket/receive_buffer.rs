//! The buffer in which the system keeps datagrams until the endpoint receives them.

use std::net::UdpSocket;

use socket2::SockRef;

/// Linux counts its own overhead for each datagram, and therefore reports twice the size that it was asked
/// for.
const REPORTED_PER_ASKED: usize = if cfg!(any(target_os = "linux", target_os = "android")) { 2 } else { 1 };
/// The largest size that the system call can state.
const LARGEST: usize = 0x3fff_ffff;

/// Asks the system for a receive buffer of `bytes`, or of the largest part of that which it allows. A buffer
/// that is as large already stays as it is. Returns the size that the system reports then; 0 if it reports
/// none.
pub(crate) fn enlarge_receive_buffer(socket: &UdpSocket, bytes: u32) -> u64 {
    let system = SockRef::from(socket);
    let asked = usize::try_from(bytes).unwrap_or(LARGEST).min(LARGEST);
    let reported = || system.recv_buffer_size().unwrap_or(0);
    let before = reported();
    let enough = asked.saturating_mul(REPORTED_PER_ASKED);
    if before < enough {
        ask_for_less_until_allowed(asked, before, |size| system.set_recv_buffer_size(size).is_ok());
    }
    let obtained = reported();
    if obtained < enough {
        tracing::info!(asked, obtained, "the system allows the socket a smaller receive buffer");
    }
    u64::try_from(obtained).unwrap_or(u64::MAX)
}

/// Linux grants what it allows of any size; the BSDs and macOS refuse a size that is too large.
fn ask_for_less_until_allowed(asked: usize, present: usize, mut set: impl FnMut(usize) -> bool) {
    let mut size = asked;
    while size.saturating_mul(REPORTED_PER_ASKED) > present && !set(size) {
        size /= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> UdpSocket {
        UdpSocket::bind(("127.0.0.1", 0)).unwrap()
    }

    fn reported(socket: &UdpSocket) -> usize {
        SockRef::from(socket).recv_buffer_size().unwrap()
    }

    #[test]
    fn a_larger_buffer_is_obtained_and_reported() {
        let socket = socket();
        SockRef::from(&socket).set_recv_buffer_size(16 * 1024).unwrap();
        assert!(reported(&socket) < 64 * 1024);
        let obtained = enlarge_receive_buffer(&socket, 64 * 1024);
        assert_eq!(obtained, u64::try_from(64 * 1024 * REPORTED_PER_ASKED).unwrap());
        assert_eq!(obtained, u64::try_from(reported(&socket)).unwrap());
    }

    #[test]
    fn a_buffer_that_is_large_enough_stays_as_it_is() {
        let socket = socket();
        SockRef::from(&socket).set_recv_buffer_size(64 * 1024).unwrap();
        let before = reported(&socket);
        for bytes in [0, 1, 4096, 64 * 1024] {
            assert_eq!(enlarge_receive_buffer(&socket, bytes), u64::try_from(before).unwrap(), "{bytes}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_bounds_what_is_obtained() {
        let socket = socket();
        let allowed: u64 =
            std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap().trim().parse().unwrap();
        assert!(enlarge_receive_buffer(&socket, u32::MAX) <= allowed.saturating_mul(2));
    }

    #[test]
    fn a_system_that_refuses_large_buffers_is_asked_for_less_until_it_agrees() {
        let asked = |limit: usize, present: usize| {
            let mut sizes = Vec::new();
            ask_for_less_until_allowed(4096, present, |size| {
                sizes.push(size);
                size <= limit
            });
            sizes
        };
        assert_eq!(asked(5000, 100), [4096]);
        assert_eq!(asked(1100, 100), [4096, 2048, 1024]);
        let last = asked(0, 512 * REPORTED_PER_ASKED).pop();
        assert_eq!(last, Some(1024), "never below what the socket has");
    }
}
