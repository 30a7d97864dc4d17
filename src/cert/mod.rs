//! A small certificate authority for development, tests and trying things out.

mod authority;
mod issued;
mod params;
mod stored;
#[cfg(test)]
mod tests;
mod window;

pub use self::{authority::CertificateAuthority, issued::Issued};
