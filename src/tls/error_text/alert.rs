//! TLS alerts: out of the codes of QUIC, and by their names in the standard.

use quinn::TransportErrorCode;
use rustls::AlertDescription as Alert;

use super::variant_names::words_of_variant;

/// RFC 9001, section 4.8: the alert is added to 0x0100, which gives the range reserved for
/// CRYPTO_ERROR.
pub(crate) fn alert_of(code: TransportErrorCode) -> Option<Alert> {
    let alert = u64::from(code).checked_sub(0x100)?;
    u8::try_from(alert).ok().map(Alert::from)
}

/// An alert's name, as in [RFC 8446, section 6](https://www.rfc-editor.org/rfc/rfc8446#section-6).
pub(crate) fn alert_name(alert: Alert) -> String {
    match alert {
        Alert::UnknownCA => "unknown_ca".into(),
        Alert::UnknownPSKIdentity => "unknown_psk_identity".into(),
        Alert::UnrecognisedName => "unrecognized_name".into(),
        Alert::EncryptedClientHelloRequired => "ech_required".into(),
        Alert::Unknown(number) => number.to_string(),
        known => words_of_variant(&known).join("_"),
    }
}
