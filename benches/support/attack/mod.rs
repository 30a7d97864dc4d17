//! Hostile peers, and the node that they attack, for `tests/attack.rs` (small) and `benches/attack.rs` (full
//! scale).
//!
//! The node is a process of its own: this same program, started again, so that its memory and processor time
//! can be read from outside. The peers are made of UDP sockets, quinn and rustls, and of nothing of this
//! crate.

#![allow(dead_code, reason = "the tests and the bench each use a part of this")]

mod careless;
pub(crate) mod crowds;
pub(crate) mod forged;
pub(crate) mod half_open;
pub(crate) mod items;
pub(crate) mod logs;
pub(crate) mod meter;
pub(crate) mod peer;
pub(crate) mod probe;
pub(crate) mod revoked;
pub(crate) mod streams;
pub(crate) mod victim;
mod weapon;
pub(crate) mod windows;

use std::{
    error::Error,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
};

use palyra_quic::{CertificateAuthority, ClientTls, IssuedCertificate};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Where the node is, and those who mean no harm.
pub(crate) const HONEST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Returns its parameters.
pub(crate) const ECHO: &str = "attack.echo";
/// Takes items, and answers with their number.
pub(crate) const SUM: &str = "attack.sum";
/// Takes items, receives none, and never answers.
pub(crate) const WAIT: &str = "attack.wait";
/// Takes items, and answers before it has received one.
pub(crate) const ANSWER: &str = "attack.answer";

/// What all nodes and peers of a run share: one authority, which is everybody's.
pub(crate) struct Stage {
    pub(crate) authority: CertificateAuthority,
    server: IssuedCertificate,
    /// What makes this program play the node when it is started again.
    arguments: &'static [&'static str],
}

impl Stage {
    pub(crate) fn new(arguments: &'static [&'static str]) -> Result<Self> {
        let authority = CertificateAuthority::new("Attack CA")?;
        let server = authority.issue_server(&[])?;
        Ok(Self { authority, server, arguments })
    }

    /// The side of mutual TLS of somebody with a certificate of his own.
    pub(crate) fn client_tls(&self, name: &str) -> Result<ClientTls> {
        let issued = self.authority.issue_client(name)?;
        Ok(ClientTls::new(self.authority.trust()).identity(issued.identity()))
    }
}

/// An address for each attacker. All of 127.0.0.0/8 is this host.
pub(crate) fn source(n: u16) -> SocketAddr {
    let [high, low] = n.to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, 100, high, low), 0))
}

/// A socket of an attacker.
pub(crate) fn socket(n: u16) -> Result<UdpSocket> {
    bind(source(n))
}

/// A socket that sends and looks for answers, and waits for neither.
pub(crate) fn bind(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
