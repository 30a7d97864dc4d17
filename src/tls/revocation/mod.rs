//! Certificates that are no longer valid, whatever signed them: one by one, or by the lists of authorities.

mod crl;
mod list;
mod revoked;

pub(super) use self::list::PathCertificate;
pub use self::{list::RevocationList, revoked::Revoked};
