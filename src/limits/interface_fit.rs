//! How large a datagram the interface of an endpoint takes.

use std::{fmt, net::SocketAddr};

/// How large a datagram the interface of a local address takes. A function, so that programs which do not ask
/// for it do not contain it.
#[derive(Clone, Copy)]
pub(super) struct InterfaceFit(fn(SocketAddr) -> u16);

impl InterfaceFit {
    pub(super) fn by(function: fn(SocketAddr) -> u16) -> Self {
        Self(function)
    }

    pub(super) fn largest_datagram(self, local: SocketAddr) -> u16 {
        (self.0)(local)
    }
}

/// There is one such function, of which a program may have several copies.
impl PartialEq for InterfaceFit {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for InterfaceFit {}

impl fmt::Debug for InterfaceFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InterfaceFit")
    }
}
