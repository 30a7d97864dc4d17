//! What rustls, webpki and quinn report, in plain words.
//!
//! Their own texts are made for programmers: they show names of variants, and quote what the peer sent.
//! Variants that do not exist yet, and the many that only say how a peer broke TLS, are spelled out by rule.

use std::{error::Error as StdError, fmt};

use quinn::{ConnectionError, TransportErrorCode};
use rustls::{
    AlertDescription as Alert, CertRevocationListError, CertificateError, ExtendedKeyPurpose,
    InconsistentKeys,
};

use super::describe;
use crate::message::printable;

/// The longest text of a peer, or of a library, that is kept, in characters: enough for a sentence, too
/// little to flood a log.
const MAX_CHARS: usize = 256;

/// The cause of an error, with plain words in the place of its own text. [`Debug`] shows what it was.
pub(crate) enum Cause {
    Connection(ConnectionError),
    /// A connection that this side has ended for a reason that the error tells already.
    Refused(ConnectionError),
    Tls(rustls::Error),
    Other(Box<dyn StdError + Send + Sync>),
}

impl Cause {
    pub(crate) fn other(error: impl StdError + Send + Sync + 'static) -> Self {
        Self::Other(Box::new(error))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&match self {
            Self::Connection(error) => connection(error),
            Self::Refused(ConnectionError::TransportError(error)) => code(error.code),
            Self::Refused(error) => connection(error),
            Self::Tls(error) => tls(error),
            Self::Other(error) => foreign(&**error),
        })
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(error) | Self::Refused(error) => fmt::Debug::fmt(error, f),
            Self::Tls(error) => fmt::Debug::fmt(error, f),
            Self::Other(error) => fmt::Debug::fmt(error, f),
        }
    }
}

impl StdError for Cause {}

/// Why a connection ended.
fn connection(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TransportError(error) => {
            let place = error.frame.map_or_else(String::new, |frame| format!(" in a frame of type {frame}"));
            with_reason(format!("{}{place}", code(error.code)), &error.reason)
        }
        ConnectionError::ConnectionClosed(close) => with_reason(
            format!("closed by the peer: {}", code(close.error_code)),
            &String::from_utf8_lossy(&close.reason),
        ),
        ConnectionError::ApplicationClosed(close) => with_reason(
            format!("closed by the peer with code {:#x}", close.error_code.into_inner()),
            &String::from_utf8_lossy(&close.reason),
        ),
        other => spelled_out(&other.to_string()),
    }
}

fn with_reason(what: String, reason: &str) -> String {
    if reason.is_empty() { what } else { format!("{what}: {}", spelled_out(reason)) }
}

fn code(code: TransportErrorCode) -> String {
    match alert_of(code) {
        Some(alert) => format!("TLS alert {}", self::alert(alert)),
        None => code.to_string(),
    }
}

/// RFC 9001, section 4.8: the alert is added to 0x0100, which gives the range reserved for
/// CRYPTO_ERROR.
pub(super) fn alert_of(code: TransportErrorCode) -> Option<Alert> {
    let alert = u64::from(code).checked_sub(0x100)?;
    u8::try_from(alert).ok().map(Alert::from)
}

/// An alert's name, as in [RFC 8446, section 6](https://www.rfc-editor.org/rfc/rfc8446#section-6).
pub(super) fn alert(alert: Alert) -> String {
    match alert {
        Alert::UnknownCA => "unknown_ca".into(),
        Alert::UnknownPSKIdentity => "unknown_psk_identity".into(),
        Alert::UnrecognisedName => "unrecognized_name".into(),
        Alert::EncryptedClientHelloRequired => "ech_required".into(),
        Alert::Unknown(number) => number.to_string(),
        known => words_of_variant(&known).join("_"),
    }
}

/// What rustls reports, of a handshake or of what it was configured with.
pub(super) fn tls(error: &rustls::Error) -> String {
    use rustls::Error as E;
    match error {
        E::InvalidCertificate(error) => certificate(error),
        E::InvalidCertRevocationList(error) => revocation_list(error),
        E::PeerIncompatible(why) => format!("the peer is not compatible: {}", variant(why)),
        E::PeerMisbehaved(why) => format!("the peer broke the rules of TLS: {}", variant(why)),
        E::InvalidMessage(why) => format!("a TLS message of the peer is malformed: {}", variant(why)),
        E::InappropriateMessage { got_type, .. } => {
            format!("the peer sent a TLS message out of turn: {}", variant(got_type))
        }
        E::InappropriateHandshakeMessage { got_type, .. } => {
            format!("the peer sent a TLS message out of turn: {}", variant(got_type))
        }
        E::AlertReceived(received) => format!("the peer sent TLS alert {}", alert(*received)),
        E::NoCertificatesPresented => "the peer showed no certificate".into(),
        E::UnsupportedNameType => "names of this kind cannot be verified".into(),
        E::DecryptError => "a message of the peer cannot be decrypted".into(),
        E::EncryptError => "a message cannot be encrypted".into(),
        E::InvalidEncryptedClientHello(why) => format!("encrypted client hello: {}", variant(why)),
        E::FailedToGetCurrentTime => "the wall clock has failed".into(),
        E::FailedToGetRandomBytes => "the system gives no random numbers".into(),
        E::HandshakeNotComplete => "the handshake is not complete".into(),
        E::PeerSentOversizedRecord => "the peer sent a TLS record that is too large".into(),
        E::NoApplicationProtocol => "no application protocol (ALPN) in common".into(),
        E::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            "the private key does not belong to the certificate".into()
        }
        E::InconsistentKeys(_) => "the private key does not tell its public key".into(),
        E::General(text) => spelled_out(text),
        E::Other(error) => foreign(&*error.0),
        other => spelled_out(&other.to_string()),
    }
}

/// Why a certificate is not acceptable.
pub(super) fn certificate(error: &CertificateError) -> String {
    use CertificateError as E;
    match error {
        E::Expired => "expired".into(),
        E::ExpiredContext { time, not_after } => format!(
            "expired: it was valid until {}, and this node's clock says {}",
            describe::time(*not_after),
            describe::time(*time)
        ),
        E::NotValidYet => NOT_VALID_YET.into(),
        E::NotValidYetContext { time, not_before } => format!(
            "{NOT_VALID_YET}: it is valid from {} on, and the clock says {}",
            describe::time(*not_before),
            describe::time(*time)
        ),
        E::Revoked => "revoked".into(),
        E::ExpiredRevocationList => "the revocation list of its authority is out of date".into(),
        E::ExpiredRevocationListContext { next_update, .. } => format!(
            "the revocation list of its authority is out of date since {}",
            describe::time(*next_update)
        ),
        E::UnknownRevocationStatus => "no revocation list says whether it is revoked".into(),
        E::UnknownIssuer => "not issued by a trusted authority".into(),
        E::NotValidForName => "not valid for the server name".into(),
        E::NotValidForNameContext { expected, presented } => {
            let names = describe::list_of_names(presented.iter().map(|name| bare_name(name)));
            not_valid_for(&expected.to_str(), names)
        }
        E::InvalidPurpose => "not made for this use".into(),
        E::InvalidPurposeContext { required, presented } => wrong_purpose(required, presented),
        E::BadEncoding => "malformed".into(),
        // Nearly always, an authority was made anew under its old name.
        E::BadSignature => "a signature does not verify (another authority of the same name?)".into(),
        #[allow(deprecated, reason = "older verifiers may return it")]
        E::UnsupportedSignatureAlgorithm => "signed with an algorithm that is not supported".into(),
        E::UnsupportedSignatureAlgorithmContext { signature_algorithm_id, .. } => {
            unsupported_signature(signature_algorithm_id)
        }
        E::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id,
            public_key_algorithm_id,
        } => unsupported_key(signature_algorithm_id, public_key_algorithm_id),
        E::UnhandledCriticalExtension => {
            "it has a critical extension that is not known here, and must not be ignored".into()
        }
        E::InvalidOcspResponse => "the proof of its status (OCSP) is not valid".into(),
        E::ApplicationVerificationFailure => "refused by the application".into(),
        E::Other(error) => foreign(&*error.0),
        other => format!("not acceptable, for another reason: {}", variant(other)),
    }
}

const NOT_VALID_YET: &str = "not valid yet (or this node's clock is behind)";

/// The names are those that the certificate is valid for, if any.
pub(super) fn not_valid_for(expected: &str, names: Option<String>) -> String {
    let expected = describe::name(expected);
    match names {
        Some(names) => format!("not valid for {expected}, but for {names}"),
        None => {
            format!("not valid for {expected}: it has no alternative names, and a common name does not count")
        }
    }
}

/// webpki shows names as `DnsName("gateway.example")` and `IpAddress(192.0.2.1)`.
fn bare_name(shown: &str) -> &str {
    let bare = shown.split_once('(').and_then(|(_kind, name)| name.strip_suffix(')'));
    bare.unwrap_or(shown).trim_matches('"')
}

fn wrong_purpose(required: &ExtendedKeyPurpose, presented: &[ExtendedKeyPurpose]) -> String {
    let required = purpose(required);
    match presented.iter().map(purpose).find(|other| *other != required && *other != OTHER_PURPOSE) {
        Some(other) => format!("not made for {required}, but for {other}"),
        None => format!("not made for {required}"),
    }
}

fn purpose(purpose: &ExtendedKeyPurpose) -> &'static str {
    match purpose {
        ExtendedKeyPurpose::ClientAuth => "clients",
        ExtendedKeyPurpose::ServerAuth => "servers",
        ExtendedKeyPurpose::Other(_) => OTHER_PURPOSE,
    }
}

const OTHER_PURPOSE: &str = "this use";

pub(super) fn unsupported_signature(algorithm: &[u8]) -> String {
    let name = describe::signature(algorithm);
    if describe::is_broken(algorithm) {
        format!("signed with {name}, which can be forged: have it issued anew with SHA-256")
    } else {
        format!("signed with {name}, which is not supported")
    }
}

fn unsupported_key(signature: &[u8], key: &[u8]) -> String {
    format!(
        "its issuer has {}, whose signatures ({}) are not supported",
        describe::key_of(key),
        describe::signature(signature)
    )
}

/// Why a revocation list is not acceptable.
fn revocation_list(error: &CertRevocationListError) -> String {
    use CertRevocationListError as E;
    match error {
        E::BadSignature => "its signature does not verify".into(),
        E::UnsupportedSignatureAlgorithmContext { signature_algorithm_id, .. } => {
            unsupported_signature(signature_algorithm_id)
        }
        E::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id,
            public_key_algorithm_id,
        } => unsupported_key(signature_algorithm_id, public_key_algorithm_id),
        E::InvalidCrlNumber => "its number is malformed".into(),
        E::InvalidRevokedCertSerialNumber => "the serial number of an entry is malformed".into(),
        E::IssuerInvalidForCrl => "its issuer may not sign revocation lists".into(),
        E::ParseError => "it is malformed".into(),
        E::UnsupportedCrlVersion => OLD_LIST.into(),
        E::Other(error) => foreign(&*error.0),
        other => spelled_out(&variant(other)),
    }
}

/// What webpki finds in certificates and revocation lists.
pub(super) fn webpki(error: &webpki::Error) -> String {
    use webpki::Error as E;
    match error {
        E::BadDer | E::BadDerTime | E::TrailingData(_) => "malformed: no valid DER".into(),
        // Of these, rustls has variants of its own.
        E::CertExpired { time, not_after } => {
            certificate(&CertificateError::ExpiredContext { time: *time, not_after: *not_after })
        }
        E::CertNotValidYet { time, not_before } => {
            certificate(&CertificateError::NotValidYetContext { time: *time, not_before: *not_before })
        }
        E::CertRevoked => certificate(&CertificateError::Revoked),
        E::UnknownIssuer => certificate(&CertificateError::UnknownIssuer),
        E::CertNotValidForName(_) => certificate(&CertificateError::NotValidForName),
        E::RequiredEkuNotFoundContext(_) => certificate(&CertificateError::InvalidPurpose),
        E::InvalidSignatureForPublicKey => certificate(&CertificateError::BadSignature),
        E::InvalidCrlSignatureForPublicKey => revocation_list(&CertRevocationListError::BadSignature),
        E::CaUsedAsEndEntity => AUTHORITY_AS_NODE.into(),
        E::EndEntityUsedAsCa => {
            "issued by a certificate that is not an authority's (its basic constraints do not say so)".into()
        }
        E::InvalidCertValidity => "malformed: it ends before it begins".into(),
        E::UnsupportedCertVersion => OLD_CERTIFICATE.into(),
        E::UnsupportedCriticalExtension => {
            "it has a critical extension that is not known here, and must not be ignored".into()
        }
        E::MalformedExtensions | E::ExtensionValueInvalid => "an extension is malformed".into(),
        E::EmptyEkuExtension => "made for no use at all: its extended key usage is empty".into(),
        E::SignatureAlgorithmMismatch => "malformed: it names two algorithms of its signature".into(),
        E::NameConstraintViolation => {
            "an authority on its path may not issue certificates for such names (name constraints)".into()
        }
        E::PathLenConstraintViolated => {
            "an authority on its path may not make others authorities (path length)".into()
        }
        E::MaximumPathDepthExceeded => "the path to the authority is too long".into(),
        E::MaximumSignatureChecksExceeded
        | E::MaximumPathBuildCallsExceeded
        | E::MaximumNameConstraintComparisonsExceeded => {
            "the search for a path to an authority was given up: too many certificates, or names".into()
        }
        E::InvalidCrlNumber => "its number is malformed".into(),
        E::InvalidSerialNumber => "a serial number is malformed".into(),
        E::IssuerNotCrlSigner => "its issuer may not sign revocation lists".into(),
        E::UnsupportedCrlVersion => OLD_LIST.into(),
        E::UnsupportedDeltaCrl => "a delta list, and only complete ones are supported".into(),
        E::UnsupportedIndirectCrl => {
            "an indirect list, with entries of other authorities, which is not supported".into()
        }
        E::UnsupportedRevocationReason => "an entry has a reason that is not known here".into(),
        E::UnsupportedRevocationReasonsPartitioning => {
            "a list for certain reasons only, and only complete ones are supported".into()
        }
        E::UnsupportedCrlIssuingDistributionPoint => {
            "its issuing distribution point is of a kind that is not supported".into()
        }
        E::UnsupportedSignatureAlgorithmContext(context)
        | E::UnsupportedCrlSignatureAlgorithmContext(context) => {
            unsupported_signature(&context.signature_algorithm_id)
        }
        E::UnsupportedSignatureAlgorithmForPublicKeyContext(context)
        | E::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(context) => {
            unsupported_key(&context.signature_algorithm_id, &context.public_key_algorithm_id)
        }
        other => variant(other),
    }
}

pub(super) const AUTHORITY_AS_NODE: &str =
    "it is the certificate of an authority: give the node one of its own, with `basicConstraints=CA:FALSE`";

pub(super) const OLD_CERTIFICATE: &str =
    "X.509 version 1 or 2, which has no extensions: have it issued as version 3, with alternative names";

pub(super) const OLD_LIST: &str = "version 1, which has no number: have it made as version 2, \
                        with a number (in openssl's configuration: `crlnumber` and `crl_extensions`)";

/// An error of somebody else's.
fn foreign(error: &(dyn StdError + Send + Sync + 'static)) -> String {
    if let Some(error) = error.downcast_ref::<webpki::Error>() {
        return webpki(error);
    }
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return tls(error);
    }
    spelled_out(&error.to_string())
}

/// The name of a variant as words: `no_cipher_suites_in_common` of `NoCipherSuitesInCommon`, with blanks.
/// What the variant holds is left out.
fn variant(variant: &impl fmt::Debug) -> String {
    words_of_variant(variant).join(" ")
}

fn words_of_variant(variant: &impl fmt::Debug) -> Vec<String> {
    let shown = format!("{variant:?}");
    let end = shown.find(|char: char| !char.is_ascii_alphanumeric() && char != '_').unwrap_or(shown.len());
    words(shown.get(..end).unwrap_or_default())
}

/// Divides a name before each capital that begins a word: the first, or one after or before a small letter.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut chars = name.chars().peekable();
    let mut previous = '_';
    while let Some(char) = chars.next() {
        let begins = char.is_ascii_uppercase()
            && (!previous.is_ascii_uppercase() || chars.peek().is_some_and(char::is_ascii_lowercase));
        match words.last_mut() {
            Some(word) if !begins => word.push(char.to_ascii_lowercase()),
            _ => words.push(char.to_ascii_lowercase().into()),
        }
        previous = char;
    }
    words
}

/// A text of a library or of a peer's, on one line, with the names of variants in it spelled out.
fn spelled_out(text: &str) -> String {
    let text = printable(text, MAX_CHARS);
    let mut shown = String::with_capacity(text.len());
    let mut rest = &*text;
    while !rest.is_empty() {
        let is_part = |char: char| char.is_ascii_alphanumeric();
        let name = rest.find(|char| !is_part(char)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(name);
        if is_name_of_variant(word) {
            shown.push_str(&words(word).join(" "));
        } else {
            shown.push_str(word);
        }
        let gap = after.find(is_part).unwrap_or(after.len());
        let (between, after) = after.split_at(gap);
        shown.push_str(between);
        rest = after;
    }
    shown
}

/// Such as `UnknownIssuer`: two capitals, each before a small letter.
fn is_name_of_variant(word: &str) -> bool {
    let mut pairs = word.bytes().zip(word.bytes().skip(1));
    let humps = pairs.by_ref().filter(|(a, b)| a.is_ascii_uppercase() && b.is_ascii_lowercase()).count();
    humps >= 2
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use quinn::{ApplicationClose, ConnectionClose};
    use quinn_proto::TransportError;
    use rustls::{
        EncryptedClientHelloError, InvalidMessage, OtherError, PeerIncompatible, PeerMisbehaved,
        pki_types::{ServerName, UnixTime},
    };

    use super::*;

    /// Words of several capitals, as programs name things: of two capitals that stand before small letters.
    fn name_of_variant(text: &str) -> Option<&str> {
        text.split(|char: char| !char.is_ascii_alphanumeric()).find(|word| is_name_of_variant(word))
    }

    #[test]
    fn names_of_variants_are_seen() {
        for seen in ["UnknownIssuer", "a CaUsedAsEndEntity", "OtherError(BadDer)"] {
            assert!(name_of_variant(seen).is_some(), "{seen}");
        }
        for passed_over in ["PKCS #8", "SHA-256", "unknown_ca", "CN=ca", "Ed25519 and X25519", "TLS alert"] {
            assert_eq!(name_of_variant(passed_over), None);
        }
    }

    fn assert_plain(words: &str, what: &dyn fmt::Debug) {
        assert_eq!(name_of_variant(words), None, "{what:?}: {words}");
        assert!(words.len() > 4, "{what:?}: {words}");
        assert!(!words.contains(['{', '[', '"']), "{what:?}: {words}");
    }

    #[expect(deprecated, reason = "verifiers of callers may return it")]
    fn certificate_errors() -> Vec<CertificateError> {
        use CertificateError as E;
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let (expected, purpose) =
            (ServerName::try_from("a.example").unwrap(), ExtendedKeyPurpose::ServerAuth);
        let other = |error| E::Other(OtherError(error));
        vec![
            E::BadEncoding,
            E::Expired,
            E::ExpiredContext { time: at(2_000_000_000), not_after: at(1_000_000_000) },
            E::NotValidYet,
            E::NotValidYetContext { time: at(1_000_000_000), not_before: at(2_000_000_000) },
            E::Revoked,
            E::UnhandledCriticalExtension,
            E::UnknownIssuer,
            E::UnknownRevocationStatus,
            E::ExpiredRevocationList,
            E::ExpiredRevocationListContext { time: at(2), next_update: at(u64::MAX) },
            E::BadSignature,
            E::UnsupportedSignatureAlgorithm,
            E::UnsupportedSignatureAlgorithmContext {
                signature_algorithm_id: vec![6, 1, 42],
                supported_algorithms: Vec::new(),
            },
            E::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id: Vec::new(),
                public_key_algorithm_id: vec![6, 1, 42],
            },
            E::NotValidForName,
            E::NotValidForNameContext { expected: expected.clone(), presented: Vec::new() },
            E::NotValidForNameContext {
                expected,
                presented: vec!["DnsName(\"b.example\")".into(), "IpAddress(192.0.2.1)".into(), "?".into()],
            },
            E::InvalidPurpose,
            E::InvalidPurposeContext { required: purpose.clone(), presented: Vec::new() },
            E::InvalidPurposeContext {
                required: purpose,
                presented: vec![ExtendedKeyPurpose::Other(vec![1, 2]), ExtendedKeyPurpose::ClientAuth],
            },
            E::InvalidOcspResponse,
            E::ApplicationVerificationFailure,
            other(Arc::new(webpki::Error::CaUsedAsEndEntity)),
            other(Arc::new(rustls::Error::from(E::UnknownIssuer))),
            other(Arc::new(std::io::Error::other("OtherError(BadDer) of somebody's"))),
        ]
    }

    fn revocation_list_errors() -> Vec<CertRevocationListError> {
        use CertRevocationListError as E;
        vec![
            E::BadSignature,
            E::UnsupportedSignatureAlgorithmContext {
                signature_algorithm_id: Vec::new(),
                supported_algorithms: Vec::new(),
            },
            E::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id: Vec::new(),
                public_key_algorithm_id: Vec::new(),
            },
            E::InvalidCrlNumber,
            E::InvalidRevokedCertSerialNumber,
            E::IssuerInvalidForCrl,
            E::Other(OtherError(Arc::new(webpki::Error::UnsupportedCrlVersion))),
            E::ParseError,
            E::UnsupportedCrlVersion,
            E::UnsupportedCriticalExtension,
            E::UnsupportedDeltaCrl,
            E::UnsupportedIndirectCrl,
            E::UnsupportedRevocationReason,
        ]
    }

    fn misbehaviours() -> Vec<PeerMisbehaved> {
        use PeerMisbehaved::*;
        vec![
            AttemptedDowngradeToTls12WhenTls13IsSupported,
            BadCertChainExtensions,
            CipherSuiteDifferedOnRetry,
            DisallowedEncryptedExtension,
            DuplicateClientHelloExtensions,
            DuplicateEncryptedExtensions,
            DuplicateHelloRetryRequestExtensions,
            DuplicateNewSessionTicketExtensions,
            DuplicateServerHelloExtensions,
            DuplicateServerNameTypes,
            EarlyDataAttemptedInSecondClientHello,
            EarlyDataExtensionWithoutResumption,
            EarlyDataOfferedWithVariedCipherSuite,
            EchAcceptanceVariedAfterRetry,
            HandshakeHashVariedAfterRetry,
            IllegalHelloRetryRequestWithEmptyCookie,
            IllegalHelloRetryRequestWithNoChanges,
            IllegalHelloRetryRequestWithOfferedGroup,
            IllegalHelloRetryRequestWithUnofferedCipherSuite,
            IllegalHelloRetryRequestWithUnofferedNamedGroup,
            IllegalHelloRetryRequestWithUnsupportedVersion,
            IllegalHelloRetryRequestWithWrongSessionId,
            IllegalHelloRetryRequestWithInvalidEch,
            IllegalMiddleboxChangeCipherSpec,
            IllegalTlsInnerPlaintext,
            IncorrectBinder,
            InvalidCertCompression,
            InvalidMaxEarlyDataSize,
            InvalidKeyShare,
            KeyEpochWithPendingFragment,
            KeyUpdateReceivedInQuicConnection,
            MessageInterleavedWithHandshakeMessage,
            MissingBinderInPskExtension,
            MissingKeyShare,
            MissingPskExtensionInSecondClientHello,
            MissingPskModesExtension,
            MissingQuicTransportParameters,
            OfferedDuplicateCertificateCompressions,
            OfferedDuplicateKeyShares,
            OfferedEarlyDataWithOldProtocolVersion,
            OfferedEmptyApplicationProtocol,
            OfferedIncorrectCompressions,
            PskExtensionMustBeLast,
            PskExtensionWithMismatchedIdsAndBinders,
            RefusedToFollowHelloRetryRequest,
            RejectedEarlyDataInterleavedWithHandshakeMessage,
            ResumptionAttemptedWithVariedEms,
            ResumptionOfferedWithVariedCipherSuite,
            ResumptionOfferedWithVariedEms,
            ResumptionOfferedWithIncompatibleCipherSuite,
            SelectedDifferentCipherSuiteAfterRetry,
            SelectedInvalidPsk,
            SelectedTls12UsingTls13VersionExtension,
            SelectedUnofferedApplicationProtocol,
            SelectedUnofferedCertCompression,
            SelectedUnofferedCipherSuite,
            SelectedUnofferedCompression,
            SelectedUnofferedKxGroup,
            SelectedUnofferedPsk,
            SelectedUnusableCipherSuiteForVersion,
            ServerEchoedCompatibilitySessionId,
            ServerHelloMustOfferUncompressedEcPoints,
            ServerNameDifferedOnRetry,
            ServerNameMustContainOneHostName,
            SignedKxWithWrongAlgorithm,
            SignedHandshakeWithUnadvertisedSigScheme,
            TooManyEmptyFragments,
            TooManyKeyUpdateRequests,
            TooManyRenegotiationRequests,
            TooManyWarningAlertsReceived,
            TooMuchEarlyDataReceived,
            UnexpectedCleartextExtension,
            UnsolicitedCertExtension,
            UnsolicitedEncryptedExtension,
            UnsolicitedSctList,
            UnsolicitedServerHelloExtension,
            WrongGroupForKeyShare,
            UnsolicitedEchExtension,
        ]
    }

    fn incompatibilities() -> Vec<PeerIncompatible> {
        use PeerIncompatible::*;
        vec![
            EcPointsExtensionRequired,
            ExtendedMasterSecretExtensionRequired,
            IncorrectCertificateTypeExtension,
            KeyShareExtensionRequired,
            NamedGroupsExtensionRequired,
            NoCertificateRequestSignatureSchemesInCommon,
            NoCipherSuitesInCommon,
            NoEcPointFormatsInCommon,
            NoKxGroupsInCommon,
            NoSignatureSchemesInCommon,
            NullCompressionRequired,
            ServerDoesNotSupportTls12Or13,
            ServerSentHelloRetryRequestWithUnknownExtension,
            ServerTlsVersionIsDisabledByOurConfig,
            SignatureAlgorithmsExtensionRequired,
            SupportedVersionsExtensionRequired,
            Tls12NotOffered,
            Tls12NotOfferedOrEnabled,
            Tls13RequiredForQuic,
            UncompressedEcPointsRequired,
            UnsolicitedCertificateTypeExtension,
            ServerRejectedEncryptedClientHello(None),
        ]
    }

    fn malformed_messages() -> Vec<InvalidMessage> {
        use InvalidMessage::*;
        vec![
            CertificatePayloadTooLarge,
            HandshakePayloadTooLarge,
            InvalidCcs,
            InvalidContentType,
            InvalidCertificateStatusType,
            InvalidCertRequest,
            InvalidDhParams,
            InvalidEmptyPayload,
            InvalidKeyUpdate,
            InvalidServerName,
            MessageTooLarge,
            MessageTooShort,
            MissingKeyExchange,
            NoSignatureSchemes,
            UnknownProtocolVersion,
            UnsupportedCompression,
            UnsupportedCurveType,
            EmptyTicketValue,
            IllegalEmptyValue,
            PreSharedKeyIsNotFinalExtension,
            UnknownHelloRetryRequestExtension,
            UnknownCertificateExtension,
            MissingData("CertificatePayload"),
            TrailingData("ClientHello"),
            UnexpectedMessage("ServerHello"),
            IllegalEmptyList("ProtocolNames"),
            DuplicateExtension(7),
        ]
    }

    fn tls_errors() -> Vec<rustls::Error> {
        use rustls::Error as E;
        let mut all = vec![
            E::InappropriateMessage {
                expect_types: vec![rustls::ContentType::Handshake],
                got_type: rustls::ContentType::ApplicationData,
            },
            E::InappropriateHandshakeMessage {
                expect_types: vec![rustls::HandshakeType::ClientHello],
                got_type: rustls::HandshakeType::CertificateVerify,
            },
            E::InvalidEncryptedClientHello(EncryptedClientHelloError::NoCompatibleConfig),
            E::NoCertificatesPresented,
            E::UnsupportedNameType,
            E::DecryptError,
            E::EncryptError,
            E::General("unexpected BadDer".into()),
            E::FailedToGetCurrentTime,
            E::FailedToGetRandomBytes,
            E::HandshakeNotComplete,
            E::PeerSentOversizedRecord,
            E::NoApplicationProtocol,
            E::BadMaxFragmentSize,
            E::InconsistentKeys(InconsistentKeys::KeyMismatch),
            E::InconsistentKeys(InconsistentKeys::Unknown),
            E::Other(OtherError(Arc::new(webpki::Error::BadDer))),
        ];
        all.extend((0..=u8::MAX).map(|alert| E::AlertReceived(alert.into())));
        all.extend(certificate_errors().into_iter().map(E::from));
        all.extend(revocation_list_errors().into_iter().map(E::from));
        all.extend(misbehaviours().into_iter().map(E::from));
        all.extend(incompatibilities().into_iter().map(E::from));
        all.extend(malformed_messages().into_iter().map(E::from));
        all
    }

    #[test]
    fn what_rustls_reports_is_put_in_plain_words() {
        for error in tls_errors() {
            assert_plain(&tls(&error), &error);
            assert_plain(&Cause::Tls(error.clone()).to_string(), &error);
            assert_plain(&Cause::other(error.clone()).to_string(), &error);
        }
    }

    #[test]
    fn what_webpki_reports_is_put_in_plain_words() {
        use webpki::Error::*;
        let all = [
            BadDer,
            BadDerTime,
            CaUsedAsEndEntity,
            CertRevoked,
            EmptyEkuExtension,
            EndEntityUsedAsCa,
            ExtensionValueInvalid,
            InvalidCertValidity,
            InvalidCrlNumber,
            InvalidNetworkMaskConstraint,
            InvalidSerialNumber,
            InvalidCrlSignatureForPublicKey,
            InvalidSignatureForPublicKey,
            IssuerNotCrlSigner,
            MalformedDnsIdentifier,
            MalformedExtensions,
            MalformedNameConstraint,
            MaximumNameConstraintComparisonsExceeded,
            MaximumPathBuildCallsExceeded,
            MaximumPathDepthExceeded,
            MaximumSignatureChecksExceeded,
            NameConstraintViolation,
            PathLenConstraintViolated,
            SignatureAlgorithmMismatch,
            UnknownIssuer,
            UnknownRevocationStatus,
            UnsupportedCertVersion,
            UnsupportedCriticalExtension,
            UnsupportedCrlIssuingDistributionPoint,
            UnsupportedCrlVersion,
            UnsupportedDeltaCrl,
            UnsupportedIndirectCrl,
            UnsupportedNameType,
            UnsupportedRevocationReason,
            UnsupportedRevocationReasonsPartitioning,
            TrailingData(webpki::DerTypeId::CertificateExtensions),
            CertExpired { time: UnixTime::now(), not_after: UnixTime::now() },
            CertNotValidYet { time: UnixTime::now(), not_before: UnixTime::now() },
            CrlExpired { time: UnixTime::now(), next_update: UnixTime::now() },
        ];
        for error in all {
            assert_plain(&webpki(&error), &error);
            let other = CertificateError::Other(OtherError(Arc::new(error.clone())));
            assert_plain(&certificate(&other), &error);
        }
    }

    /// As quinn makes them of rustls's errors, here and at the peer.
    #[test]
    fn ends_of_connections_are_put_in_plain_words() {
        let alerts = (0..=u8::MAX).map(TransportErrorCode::crypto);
        for code in alerts.chain([TransportErrorCode::PROTOCOL_VIOLATION, TransportErrorCode::NO_ERROR]) {
            for error in tls_errors().into_iter().take(30) {
                let here = TransportError { code, frame: None, reason: error.to_string() };
                let there =
                    ConnectionClose { error_code: code, frame_type: None, reason: error.to_string().into() };
                for end in [ConnectionError::from(here), ConnectionError::ConnectionClosed(there)] {
                    for cause in [Cause::Connection(end.clone()), Cause::Refused(end)] {
                        assert_eq!(name_of_variant(&cause.to_string()), None, "{cause}");
                    }
                }
            }
        }
        let closed =
            ApplicationClose { error_code: 7_u32.into(), reason: "a\u{202e}\u{1b}UnknownIssuer".into() };
        let closed = Cause::Connection(ConnectionError::ApplicationClosed(closed));
        assert_eq!(closed.to_string(), "closed by the peer with code 0x7: a\u{fffd}\u{fffd}unknown issuer");
    }

    #[test]
    fn variants_that_are_not_known_are_spelled_out() {
        #[derive(Debug)]
        #[expect(dead_code, reason = "shown")]
        enum Later {
            SomeTLSThing { of: u8 },
            UnknownCA,
            Plain,
        }
        assert_eq!(variant(&Later::SomeTLSThing { of: 1 }), "some tls thing");
        assert_eq!(variant(&Later::UnknownCA), "unknown ca");
        assert_eq!(variant(&Later::Plain), "plain");
        assert_eq!(spelled_out("é: BadDer(CaUsedAs), TLS"), "é: bad der(ca used as), TLS");
    }

    #[test]
    fn a_peers_names_are_few_short_and_harmless() {
        let many: Vec<_> = (0..5_000).map(|n| format!("{n}.example")).collect();
        let shown = not_valid_for("a.example", describe::list_of_names(many.iter().map(String::as_str)));
        assert!(shown.ends_with("`7.example` and 4992 more") && shown.len() < 200, "{shown}");
        let long = "x".repeat(10_000);
        let shown = describe::list_of_names([&*long, "a\u{1b}[2J\u{202e}b"].into_iter()).unwrap();
        assert!(shown.ends_with("...`, `a\u{fffd}[2J\u{fffd}b`") && shown.len() < 100, "{shown}");
    }

    /// Names as the RFC has them.
    #[test]
    fn alerts_have_the_names_of_the_standard() {
        for (number, name) in [
            (0, "close_notify"),
            (10, "unexpected_message"),
            (20, "bad_record_mac"),
            (22, "record_overflow"),
            (40, "handshake_failure"),
            (48, "unknown_ca"),
            (70, "protocol_version"),
            (80, "internal_error"),
            (112, "unrecognized_name"),
            (113, "bad_certificate_status_response"),
            (115, "unknown_psk_identity"),
            (116, "certificate_required"),
            (120, "no_application_protocol"),
            (200, "200"),
        ] {
            assert_eq!(alert(Alert::from(number)), name);
        }
    }
}
