//! Certificates that are no longer valid, whatever signed them: one by one, or by the lists of authorities.

mod check;
mod crl;
mod list;
#[cfg(feature = "ecdsa")]
mod other_signature;
mod revoked;

pub(super) use self::check::PathCertificate;
pub(crate) use self::check::RevocationCheck;
pub use self::{list::RevocationList, revoked::Revoked};
