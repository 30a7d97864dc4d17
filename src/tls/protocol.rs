//! The version of TLS and the application protocol that every connection has.

/// The application protocol of version 1, offered and demanded on both sides
/// ([RFC 9001, section 8.1](https://www.rfc-editor.org/rfc/rfc9001#section-8.1)).
pub const ALPN: &[u8] = b"palyra-quic-v1";

/// QUIC has no earlier version of TLS ([RFC 9001, section
/// 4.2](https://www.rfc-editor.org/rfc/rfc9001#section-4.2)).
pub(super) const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
