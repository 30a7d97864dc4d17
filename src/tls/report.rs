//! What happened in a handshake, carried past quinn, which keeps only an alert and a text.

use std::sync::{
    Arc, Mutex, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use rustls::{
    CertificateError, OtherError,
    pki_types::{CertificateDer, UnixTime},
    time_provider::TimeProvider,
};

use super::{
    clock::WallClock,
    error_text,
    handshake_failure::{Refusal, about_certificate},
};
use crate::{
    error::{Error, Result},
    limits::{ChainLimit, Oversized},
    sync::lock,
};

/// One for each connection attempt, on either side: whether the peer's certificate was looked at, and why it
/// was refused. The first refusal stays.
#[derive(Clone, Debug, Default)]
pub(crate) struct HandshakeReport(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    verified: AtomicBool,
    path: Mutex<Option<Vec<CertificateDer<'static>>>>,
    doubt: OnceLock<CertificateError>,
    refusal: OnceLock<Refusal>,
    chain_limit: OnceLock<ChainLimit>,
}

/// The wall clock, for one handshake.
#[derive(Debug)]
pub(super) struct ReportingClock {
    pub(super) wall_clock: WallClock,
    pub(super) report: HandshakeReport,
}

impl TimeProvider for ReportingClock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = self.wall_clock.unix_time();
        if now.is_none() {
            self.report.record(Refusal::NoTime);
        }
        now
    }
}

impl HandshakeReport {
    /// Refuses a connection whose peer has an identity that no verifier saw in this handshake: it was
    /// resumed, which nothing here allows, and so got past every check since.
    pub(crate) fn check_full_handshake(&self) -> Result<()> {
        if self.0.verified.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(Error::protocol("the peer's certificate was not verified in this handshake"))
    }

    pub(super) fn refusal(&self) -> Option<&Refusal> {
        self.0.refusal.get()
    }

    pub(super) fn record(&self, refusal: Refusal) {
        // A handshake ends with its first refusal; were there a second, the first would explain more.
        let _ = self.0.refusal.set(refusal);
    }

    /// The verifier of this attempt is satisfied, by this path.
    pub(super) fn record_verified(&self, path: Vec<CertificateDer<'static>>) {
        *lock(&self.0.path) = Some(path);
        self.0.verified.store(true, Ordering::SeqCst);
    }

    /// Whether the certificate is good cannot be told, for a reason that may be this side's own.
    pub(super) fn record_doubt(&self, doubt: CertificateError) {
        let _ = self.0.doubt.set(doubt);
    }

    /// Why this side could not tell whether the peer's certificate is good. Such a peer must not be served.
    pub(crate) fn doubt(&self) -> Option<Error> {
        self.0.doubt.get().map(|doubt| about_certificate(doubt, error_text::certificate(doubt)))
    }

    /// The path that was found, for the first who asks.
    pub(crate) fn take_path(&self) -> Option<Vec<CertificateDer<'static>>> {
        lock(&self.0.path).take()
    }

    pub(super) fn set_chain_limit(&self, limit: ChainLimit) {
        let _ = self.0.chain_limit.set(limit);
    }

    /// Why the peer's handshake messages could not be held, as long as its certificate was not looked at.
    pub(super) fn overflow(&self) -> Option<Oversized> {
        let limit = *self.0.chain_limit.get()?;
        let verified = self.0.verified.load(Ordering::SeqCst);
        (!verified).then_some(Oversized::Flight { limit })
    }

    /// Refuses the peer for the size of its chain.
    pub(super) fn record_oversized(&self, oversized: Oversized) -> rustls::Error {
        self.record(Refusal::Oversized(oversized));
        CertificateError::Other(OtherError(Arc::new(oversized))).into()
    }

    pub(super) fn oversized(&self) -> Option<Oversized> {
        match self.refusal() {
            Some(Refusal::Oversized(oversized)) => Some(*oversized),
            _ => None,
        }
    }

    /// Remembers why a server was refused, in these words.
    pub(super) fn refuse_server(&self, error: &rustls::Error, words: String) {
        self.record(Refusal::ServerCertificate { error: error.clone(), words });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_report_belongs_to_one_attempt_and_keeps_the_first_refusal() {
        let report = HandshakeReport::default();
        report.refuse_server(&CertificateError::Expired.into(), "expired".into());
        report.refuse_server(&CertificateError::Revoked.into(), "revoked".into());
        assert!(
            matches!(report.refusal(), Some(Refusal::ServerCertificate { words, .. }) if words == "expired")
        );
        assert!(HandshakeReport::default().refusal().is_none());
    }

    #[test]
    fn a_handshake_without_a_look_at_the_certificate_does_not_count() {
        let report = HandshakeReport::default();
        assert_eq!(*report.check_full_handshake().unwrap_err().kind(), ErrorKind::Protocol);
        report.clone().record_verified(Vec::new());
        assert!(report.check_full_handshake().is_ok());
    }
}
