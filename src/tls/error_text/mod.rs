//! What rustls, webpki and quinn report, in plain words.
//!
//! Their own texts are made for programmers: they show names of variants, and quote what the peer sent.
//! Variants that do not exist yet, and the many that only say how a peer broke TLS, are spelled out by rule.

mod alert;
mod phrases;
mod readable;
mod rustls_errors;
#[cfg(test)]
mod tests;
mod variant_names;
mod webpki_errors;

pub(crate) use self::readable::ReadableError;
pub(super) use self::{
    alert::{alert_name, alert_of},
    phrases::{AUTHORITY_AS_NODE, OLD_CERTIFICATE, OLD_LIST, not_valid_for, unsupported_signature},
    rustls_errors::{certificate, tls},
    webpki_errors::webpki,
};
