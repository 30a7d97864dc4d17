//! What this node checks of a client that dials it, in the handshake.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{
    certificate_check::unverifiable,
    error_text,
    handshake_failure::HandshakeFailure,
    path::{NoPath, PathFinder, Times},
    report::HandshakeReport,
    revocation::{PathCertificate, RevocationCheck},
};
use crate::limits::ChainLimit;

/// Looks for a path on which nothing is revoked; or asks a verifier of the caller's own, and then the list.
pub(super) struct ClientVerifier {
    /// The caller's own, or one that says why there is no path.
    pub(super) chains: Arc<dyn ClientCertVerifier>,
    pub(super) paths: Option<PathFinder>,
    pub(super) revocations: Option<Arc<dyn RevocationCheck>>,
    pub(super) chain_limit: ChainLimit,
    pub(super) report: HandshakeReport,
}

// For rustls, and short for the size of programs.
impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier").finish_non_exhaustive()
    }
}

impl ClientVerifier {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // First, since what it takes to look for a path grows with the chain.
        self.chain_limit
            .check(std::iter::once(end_entity).chain(intermediates))
            .map_err(|oversized| self.report.record_oversized(oversized))?;
        let revocations = self.revocations.as_deref();
        let path = match &self.paths {
            Some(paths) => match paths.find(end_entity, intermediates, revocations, Times::now(now)) {
                Ok(path) => path,
                // The fault may be this side's own. Its alert would be taken for a verdict on the
                // certificate, so that the handshake is completed, and the connection closed
                // with a code that says so.
                Err(NoPath::Refused(error @ CertificateError::ExpiredRevocationListContext { .. })) => {
                    self.report.record_inconclusive(error);
                    return Ok(ClientCertVerified::assertion());
                }
                Err(NoPath::Invalid) if paths.will_be_found(end_entity, intermediates, revocations, now) => {
                    self.report.record_inconclusive(CertificateError::NotValidYet);
                    return Ok(ClientCertVerified::assertion());
                }
                Err(NoPath::Refused(error)) => return Err(error.into()),
                Err(NoPath::Invalid) => {
                    self.chains.verify_client_cert(end_entity, intermediates, now)?;
                    return Err(CertificateError::UnknownIssuer.into());
                }
            },
            None => {
                self.chains.verify_client_cert(end_entity, intermediates, now)?;
                let leaf = PathCertificate::of_unknown_issuer(end_entity);
                revocations.map_or(Ok(()), |list| list.check(&[leaf], now))?;
                vec![end_entity.clone().into_owned()]
            }
        };
        self.report.record_verified(path);
        Ok(ClientCertVerified::assertion())
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.chains.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chains.client_auth_mandatory()
    }

    /// None. The names of many authorities do not fit a handshake, and a node has one certificate to show at
    /// most.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.verify(end_entity, intermediates, now);
        verified.inspect_err(|error| {
            let words = match (error, &self.paths) {
                (rustls::Error::InvalidCertificate(error), Some(paths)) => {
                    paths.explain(error, end_entity, intermediates)
                }
                (error, _) => error_text::tls(error),
            };
            self.report.record(HandshakeFailure::ClientCertificate(words));
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let verified = self.chains.verify_tls13_signature(message, cert, dss);
        verified.inspect_err(|error| {
            let words = unverifiable(cert).unwrap_or_else(|| error_text::tls(error));
            self.report.record(HandshakeFailure::ClientCertificate(words));
        })
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}
