//! The receive buffer of an endpoint's socket, as the system has it.

use std::net::UdpSocket;

use palyra_quic::{Endpoint, TransportLimits};
use socket2::SockRef;

use crate::common::loopback;

const KIB: u32 = 1024;

fn reported(socket: &UdpSocket) -> u64 {
    u64::try_from(SockRef::from(socket).recv_buffer_size().unwrap()).unwrap()
}

/// An endpoint on a socket that was given a receive buffer of `before`, and a second handle to that socket.
fn bind(before: u32, limits: TransportLimits) -> (Endpoint, UdpSocket) {
    let socket = UdpSocket::bind(loopback()).unwrap();
    SockRef::from(&socket).set_recv_buffer_size(usize::try_from(before).unwrap()).unwrap();
    let same = socket.try_clone().unwrap();
    (Endpoint::builder().limits(limits).bind_socket(socket).unwrap(), same)
}

fn asking_for(bytes: u32) -> TransportLimits {
    TransportLimits::builder().socket_receive_buffer_bytes(bytes).build().unwrap()
}

#[test]
fn an_endpoint_asks_for_the_receive_buffer_of_its_limits_and_reports_what_it_has() {
    let (small, socket_of_small) = bind(16 * KIB, asking_for(32 * KIB));
    let (large, socket_of_large) = bind(16 * KIB, asking_for(128 * KIB));
    assert_eq!(small.stats().receive_buffer_bytes, reported(&socket_of_small));
    assert_eq!(large.stats().receive_buffer_bytes, reported(&socket_of_large));
    assert_eq!(reported(&socket_of_large), 4 * reported(&socket_of_small));
}

#[test]
fn a_socket_with_a_larger_receive_buffer_keeps_it() {
    for bytes in [0, 32 * KIB] {
        let plain = UdpSocket::bind(loopback()).unwrap();
        SockRef::from(&plain).set_recv_buffer_size(64 * 1024).unwrap();
        let (endpoint, socket) = bind(64 * KIB, asking_for(bytes));
        assert_eq!(reported(&socket), reported(&plain), "{bytes}");
        assert_eq!(endpoint.stats().receive_buffer_bytes, reported(&plain), "{bytes}");
    }
}

#[test]
fn without_a_limit_of_its_own_an_endpoint_has_at_least_the_buffer_of_the_system() {
    let plain = UdpSocket::bind(loopback()).unwrap();
    let endpoint = Endpoint::builder().bind(loopback()).unwrap();
    assert!(endpoint.stats().receive_buffer_bytes >= reported(&plain));
    // What a process may have by asking for it, the endpoint has.
    SockRef::from(&plain).set_recv_buffer_size(4 * 1024 * 1024).unwrap();
    assert_eq!(endpoint.stats().receive_buffer_bytes, reported(&plain));
}
