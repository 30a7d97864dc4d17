//! What this node checks of a server that it dials, in the handshake.

use std::{collections::BTreeSet, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use super::{
    certificate_check::unverifiable,
    describe, error_text,
    fingerprint::{Fingerprint, Pin},
    handshake_failure::HandshakeFailure,
    path::{NoPath, PathFinder, Times},
    report::HandshakeReport,
    revocation::RevocationCheck,
};
use crate::limits::ChainLimit;

/// Looks for a path on which nothing is revoked, then checks the name and the pins. All of them happen here,
/// and not after the handshake, because rustls sends the client's certificate only once this has passed.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    /// Says why there is no path, and checks signatures.
    pub(super) chain: Arc<WebPkiServerVerifier>,
    pub(super) paths: PathFinder,
    pub(super) pins: Arc<BTreeSet<Pin>>,
    pub(super) revocations: Option<Arc<dyn RevocationCheck>>,
    pub(super) chain_limit: ChainLimit,
    pub(super) report: HandshakeReport,
}

impl ServerVerifier {
    fn recording<T>(
        &self,
        result: Result<T, rustls::Error>,
        certificate: &CertificateDer<'_>,
    ) -> Result<T, rustls::Error> {
        result.inspect_err(|error| {
            let words = unverifiable(certificate).unwrap_or_else(|| error_text::tls(error));
            self.report.refuse_server(error, words);
        })
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // First, since what it takes to look for a path grows with the chain.
        self.chain_limit
            .check(std::iter::once(end_entity).chain(intermediates))
            .map_err(|oversized| self.report.record_oversized(oversized))?;
        let revocations = self.revocations.as_deref();
        let path = match self.paths.find(end_entity, intermediates, revocations, Times::now(now)) {
            Ok(path) => Ok(path),
            Err(NoPath::Refused(error)) => Err(error.into()),
            Err(NoPath::Invalid) => self
                .chain
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                .and(Err(CertificateError::UnknownIssuer.into())),
        };
        let path = path.inspect_err(|error| {
            let words = match error {
                rustls::Error::InvalidCertificate(error) => {
                    self.paths.explain(error, end_entity, intermediates)
                }
                error => error_text::tls(error),
            };
            self.report.refuse_server(error, words);
        })?;
        let named = ParsedCertificate::try_from(end_entity)
            .and_then(|certificate| verify_server_name(&certificate, server_name));
        named.inspect_err(|error| {
            let names = describe::names_of_server(end_entity);
            self.report.refuse_server(error, error_text::not_valid_for(&server_name.to_str(), names));
        })?;
        let presented = Fingerprint::of(end_entity);
        let key_is_pinned = || Pin::of_public_key(end_entity).is_ok_and(|pin| self.pins.contains(&pin));
        if self.pins.is_empty() || self.pins.contains(&Pin::from(presented)) || key_is_pinned() {
            self.report.record_verified(path);
            return Ok(ServerCertVerified::assertion());
        }
        self.report.record(HandshakeFailure::PinMismatch(presented));
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.recording(self.chain.verify_tls12_signature(message, cert, dss), cert)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.recording(self.chain.verify_tls13_signature(message, cert, dss), cert)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.chain.requires_raw_public_keys()
    }

    /// None: the names of many authorities do not fit a handshake, and a node has one certificate to show.
    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}
