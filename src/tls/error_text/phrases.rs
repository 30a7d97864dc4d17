//! What is said in one way whichever library finds it.

use rustls::pki_types::UnixTime;

use crate::tls::describe;

pub(super) const REVOKED: &str = "revoked";

pub(super) const UNKNOWN_ISSUER: &str = "not issued by a trusted authority";

pub(super) const NOT_VALID_FOR_NAME: &str = "not valid for the server name";

pub(super) const WRONG_PURPOSE: &str = "not made for this use";

/// Nearly always, an authority was made anew under its old name.
pub(super) const BAD_SIGNATURE: &str = "a signature does not verify (another authority of the same name?)";

pub(super) const UNKNOWN_EXTENSION: &str =
    "it has a critical extension that is not known here, and must not be ignored";

pub(super) const BAD_LIST_SIGNATURE: &str = "its signature does not verify";

pub(super) const BAD_LIST_NUMBER: &str = "its number is malformed";

pub(super) const BAD_LIST_ISSUER: &str = "its issuer may not sign revocation lists";

pub(crate) const AUTHORITY_AS_NODE: &str =
    "it is the certificate of an authority: give the node one of its own, with `basicConstraints=CA:FALSE`";

pub(crate) const OLD_CERTIFICATE: &str =
    "X.509 version 1 or 2, which has no extensions: have it issued as version 3, with alternative names";

pub(crate) const OLD_LIST: &str = "version 1, which has no number: have it made as version 2, \
                        with a number (in openssl's configuration: `crlnumber` and `crl_extensions`)";

pub(super) const NOT_VALID_YET: &str = "not valid yet (or this node's clock is behind)";

pub(super) fn expired(time: UnixTime, not_after: UnixTime) -> String {
    format!(
        "expired: it was valid until {}, and this node's clock says {}",
        describe::time(not_after),
        describe::time(time)
    )
}

pub(super) fn not_valid_yet(time: UnixTime, not_before: UnixTime) -> String {
    format!(
        "{NOT_VALID_YET}: it is valid from {} on, and the clock says {}",
        describe::time(not_before),
        describe::time(time)
    )
}

/// The names are those that the certificate is valid for, if any.
pub(crate) fn not_valid_for(expected: &str, names: Option<String>) -> String {
    let expected = describe::name(expected);
    match names {
        Some(names) => format!("not valid for {expected}, but for {names}"),
        None => {
            format!("not valid for {expected}: it has no alternative names, and a common name does not count")
        }
    }
}

pub(crate) fn unsupported_signature(algorithm: &[u8]) -> String {
    let name = describe::signature(algorithm);
    if describe::is_broken(algorithm) {
        format!("signed with {name}, which can be forged: have it issued anew with SHA-256")
    } else {
        format!("signed with {name}, which is not supported")
    }
}

pub(super) fn unsupported_key(signature: &[u8], key: &[u8]) -> String {
    format!(
        "its issuer has {}, whose signatures ({}) are not supported",
        describe::key_of(key),
        describe::signature(signature)
    )
}
