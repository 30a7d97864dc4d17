//! What names a certificate that is revoked.

use std::fmt;

use der::Tag;
use rustls::pki_types::CertificateDer;

use crate::{
    error::{Error, Result},
    tls::{
        certificate::{CertificateFields, canonical, sole_element},
        fingerprint::Fingerprint,
    },
};

/// One certificate that is no longer believed: by its [`Fingerprint`], or by its issuer and serial number,
/// which authorities know it by.
///
/// ```
/// # #[cfg(feature = "cert")] {
/// use palyra_quic::{CertificateAuthority, RevocationList, Revoked};
///
/// let ca = CertificateAuthority::new("Example CA")?;
/// let stolen = ca.issue_client("sensor-7")?;
///
/// let list = RevocationList::new();
/// list.revoke(Revoked::certificate(&stolen.chain()[0])?);
/// list.revoke(Revoked::issued_by(ca.certificate(), &[0x01, 0xf3])?);
/// assert_eq!(list.len(), 2);
/// assert!(!list.contains(stolen.fingerprint()), "it is there by its serial number");
/// # }
/// # Ok::<(), palyra_quic::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Revoked(pub(super) RevokedBy);

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum RevokedBy {
    Fingerprint(Fingerprint),
    Serial { issuer: Box<[u8]>, serial: Box<[u8]> },
}

impl Revoked {
    /// The certificate with this serial number, big-endian, from the authority with this name: the issuer as
    /// it stands in the certificate, DER. Zeros in front of the number do not count.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for what is no name, or a number of no bytes.
    pub fn serial(issuer: &[u8], serial: &[u8]) -> Result<Self> {
        let name = sole_element(issuer, Tag::Sequence)
            .map_err(|error| Error::invalid_config(format!("not the name of an issuer: {error}")))?;
        Self::by_serial(name, serial)
    }

    /// The same, with the name out of the authority's own certificate.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for what is no certificate, or a number of no
    /// bytes.
    pub fn issued_by(authority: &CertificateDer<'_>, serial: &[u8]) -> Result<Self> {
        Self::by_serial(facts(authority)?.subject, serial)
    }

    /// The issuer and serial number of this certificate.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for what is no certificate.
    pub fn certificate(certificate: &CertificateDer<'_>) -> Result<Self> {
        let facts = facts(certificate)?;
        Ok(Self(RevokedBy::Serial { issuer: facts.issuer.into(), serial: facts.serial.into() }))
    }

    fn by_serial(issuer: &[u8], serial: &[u8]) -> Result<Self> {
        if serial.is_empty() {
            return Err(Error::invalid_config("the serial number is empty"));
        }
        Ok(Self(RevokedBy::Serial { issuer: issuer.into(), serial: canonical(serial).into() }))
    }
}

fn facts<'a>(certificate: &'a CertificateDer<'_>) -> Result<CertificateFields<'a>> {
    CertificateFields::of(certificate)
        .ok_or_else(|| Error::invalid_config("the certificate cannot be parsed"))
}

impl From<Fingerprint> for Revoked {
    fn from(fingerprint: Fingerprint) -> Self {
        Self(RevokedBy::Fingerprint(fingerprint))
    }
}

impl fmt::Debug for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            RevokedBy::Fingerprint(fingerprint) => write!(f, "Revoked({fingerprint})"),
            RevokedBy::Serial { issuer: _, serial } => {
                f.write_str("Revoked(serial ")?;
                serial.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str(")")
            }
        }
    }
}
