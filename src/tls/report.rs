//! What happened in a handshake, carried past quinn, which keeps only an alert and a text.

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use rustls::{
    CertificateError, OtherError,
    pki_types::{CertificateDer, UnixTime},
    time_provider::TimeProvider,
};

use super::{
    clock::WallClock,
    error_text,
    handshake_failure::{HandshakeFailure, invalid_certificate},
};
use crate::{
    error::{Error, Result},
    limits::{ChainLimit, Oversized},
    sync::lock,
};

/// What the verifiers of one connection attempt found, on either side: whether they checked the peer's
/// certificate, and why they refused it. The first failure stays.
#[derive(Clone, Debug, Default)]
pub(crate) struct HandshakeReport(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    verified: AtomicBool,
    path: Mutex<Option<Vec<CertificateDer<'static>>>>,
    // Boxed, because few handshakes fail, and the report of one that succeeds lives as long as its link.
    inconclusive: OnceLock<Box<CertificateError>>,
    failure: OnceLock<Box<HandshakeFailure>>,
    chain_limit: OnceLock<ChainLimit>,
}

/// The wall clock, for one handshake.
pub(super) struct ReportingClock {
    pub(super) wall_clock: WallClock,
    pub(super) report: HandshakeReport,
}

// For rustls, and short for the size of programs.
impl fmt::Debug for ReportingClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReportingClock").finish_non_exhaustive()
    }
}

impl TimeProvider for ReportingClock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = self.wall_clock.unix_time();
        if now.is_none() {
            self.report.record(HandshakeFailure::NoTime);
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

    pub(super) fn failure(&self) -> Option<&HandshakeFailure> {
        self.0.failure.get().map(Box::as_ref)
    }

    pub(super) fn record(&self, failure: HandshakeFailure) {
        // A handshake ends with its first failure; were there a second, the first would explain more.
        let _ = self.0.failure.set(Box::new(failure));
    }

    /// Records that the verifier accepted the peer by this path.
    pub(super) fn record_verified(&self, path: Vec<CertificateDer<'static>>) {
        *lock(&self.0.path) = Some(path);
        self.0.verified.store(true, Ordering::SeqCst);
    }

    /// Records that this side could not check the certificate, for a reason that may be its own.
    pub(super) fn record_inconclusive(&self, reason: CertificateError) {
        let _ = self.0.inconclusive.set(Box::new(reason));
    }

    /// Why this side could not check the peer's certificate. Such a peer must not be served.
    pub(crate) fn inconclusive(&self) -> Option<Error> {
        self.0.inconclusive.get().map(|reason| invalid_certificate(reason, error_text::certificate(reason)))
    }

    /// The path that was found. Only the first call returns it.
    pub(crate) fn take_path(&self) -> Option<Vec<CertificateDer<'static>>> {
        lock(&self.0.path).take()
    }

    pub(super) fn set_chain_limit(&self, limit: ChainLimit) {
        let _ = self.0.chain_limit.set(limit);
    }

    /// Why the peer's handshake messages did not fit in the buffer, unless its certificate was checked
    /// before.
    pub(super) fn overflow(&self) -> Option<Oversized> {
        let limit = *self.0.chain_limit.get()?;
        let verified = self.0.verified.load(Ordering::SeqCst);
        (!verified).then_some(Oversized::Flight { limit })
    }

    /// Refuses the peer for the size of its chain.
    pub(super) fn record_oversized(&self, oversized: Oversized) -> rustls::Error {
        self.record(HandshakeFailure::Oversized(oversized));
        CertificateError::Other(OtherError(Arc::new(oversized))).into()
    }

    pub(super) fn oversized(&self) -> Option<Oversized> {
        match self.failure() {
            Some(HandshakeFailure::Oversized(oversized)) => Some(*oversized),
            _ => None,
        }
    }

    /// Remembers why a server was refused, in these words.
    pub(super) fn refuse_server(&self, error: &rustls::Error, words: String) {
        self.record(HandshakeFailure::ServerCertificate { error: error.clone(), words });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_report_belongs_to_one_attempt_and_keeps_the_first_failure() {
        let report = HandshakeReport::default();
        report.refuse_server(&CertificateError::Expired.into(), "expired".into());
        report.refuse_server(&CertificateError::Revoked.into(), "revoked".into());
        assert!(
            matches!(report.failure(), Some(HandshakeFailure::ServerCertificate { words, .. }) if words == "expired")
        );
        assert!(HandshakeReport::default().failure().is_none());
    }

    #[test]
    fn a_handshake_without_a_look_at_the_certificate_does_not_count() {
        let report = HandshakeReport::default();
        assert_eq!(*report.check_full_handshake().unwrap_err().kind(), ErrorKind::Protocol);
        report.clone().record_verified(Vec::new());
        assert!(report.check_full_handshake().is_ok());
    }
}
