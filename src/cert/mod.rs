//! A small certificate authority, and two endpoints that it connects, for development, tests and trying
//! things out.

mod authority;
mod connected_pair;
mod issued;
mod params;
mod stored;
#[cfg(test)]
mod tests;
mod window;

pub use self::{
    authority::CertificateAuthority,
    connected_pair::{ConnectedPair, connected_pair},
    issued::IssuedCertificate,
};
