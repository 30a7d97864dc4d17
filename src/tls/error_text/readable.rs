//! The source of an error of this crate, whose text is readable.

use std::{error::Error as StdError, fmt};

use quinn::{ConnectionError, TransportErrorCode};

use super::{
    alert::{alert_name, alert_of},
    rustls_errors::{foreign, tls},
    variant_names::spelled_out,
};

/// The cause of an error, with plain words in the place of its own text. [`Debug`] shows what it was.
pub(crate) enum ReadableError {
    Connection(ConnectionError),
    /// A connection that this side has ended for a reason that the error tells already.
    Refused(ConnectionError),
    Tls(rustls::Error),
    Other(Box<dyn StdError + Send + Sync>),
}

impl ReadableError {
    pub(crate) fn other(error: impl StdError + Send + Sync + 'static) -> Self {
        Self::Other(Box::new(error))
    }
}

impl fmt::Display for ReadableError {
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

impl fmt::Debug for ReadableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(error) | Self::Refused(error) => fmt::Debug::fmt(error, f),
            Self::Tls(error) => fmt::Debug::fmt(error, f),
            Self::Other(error) => fmt::Debug::fmt(error, f),
        }
    }
}

impl StdError for ReadableError {}

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
        Some(alert) => format!("TLS alert {}", alert_name(alert)),
        None => code.to_string(),
    }
}
