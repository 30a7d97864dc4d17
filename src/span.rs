//! The spans that the events of this crate are in; `docs/observability.md` is about them.
//!
//! Those of exchanges and calls are only made where a subscriber of `tracing` listens at level debug; crate
//! `log` gets the events alone.

use std::{
    fmt::{self, Display, Write as _},
    net::SocketAddr,
    sync::atomic::Ordering,
};

use quinn::{Side, StreamId};
use tracing::{
    Instrument, Level, Span, debug_span,
    field::{Empty, display},
    level_filters::LevelFilter,
};

use crate::{
    address::canonical,
    message::Codec,
    protocol::MAX_METHOD_BYTES,
    sync::AtomicU64,
    tls::{Fingerprint, PeerIdentity},
};

/// One target for all spans, so that a filter finds them whatever module they are made in.
const TARGET: &str = "palyra_quic";

/// Tells connections apart in a log, which addresses do not: those are used again.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// As long as the connection is open or somebody has a handle to it.
pub(crate) fn connection(quinn: &quinn::Connection, peer: Option<&PeerIdentity>) -> Span {
    let side = || match quinn.side() {
        Side::Client => "dialled",
        Side::Server => "accepted",
    };
    let span = debug_span!(
        target: TARGET,
        parent: None,
        "connection",
        id = NEXT_ID.fetch_add(1, Ordering::Relaxed),
        side = side(),
        remote = %canonical(quinn.remote_address()),
        peer = Empty,
    );
    if let Some(fingerprint) = peer.map(PeerIdentity::fingerprint) {
        record(&span, "peer", fingerprint);
    }
    span
}

/// A request that is served.
pub(crate) fn exchange(connection: &Span, stream: StreamId) -> Span {
    where_wanted(|| {
        debug_span!(
            target: TARGET,
            parent: connection,
            "exchange",
            stream = u64::from(stream),
            method = Empty,
            codec = Empty,
            outcome = Empty,
        )
    })
}

/// A handler, if the application connects a tracing system. Within the span of its exchange, unless that
/// system says otherwise.
pub(crate) fn handler(name: &str) -> Span {
    where_wanted(|| debug_span!(target: TARGET, "handler", method = %method(name)))
}

/// A stream of notifications that is served.
pub(crate) fn notifications(connection: &Span, stream: StreamId) -> Span {
    where_wanted(
        || debug_span!(target: TARGET, parent: connection, "notifications", stream = u64::from(stream), outcome = Empty),
    )
}

/// A request of this side, which belongs to what its caller is at, and not to the connection.
pub(crate) fn call(
    remote: impl FnOnce() -> SocketAddr,
    peer: Option<&PeerIdentity>,
    name: &str,
    codec: Codec,
) -> Span {
    where_wanted(|| {
        debug_span!(
            target: TARGET,
            "call",
            remote = %remote(),
            peer = peer.map(PeerIdentity::fingerprint).map(display::<Fingerprint>),
            stream = Empty,
            method = %method(name),
            codec = codec_name(codec),
            outcome = Empty,
        )
    })
}

/// Spans that are made by the thousand cost something though nobody listens, where tracing's feature `log` is
/// on.
fn where_wanted(make: impl FnOnce() -> Span) -> Span {
    if Level::DEBUG <= LevelFilter::current() { make() } else { Span::none() }
}

/// Polls `future` within the span, or by itself if nobody listens: to enter no span costs something, too.
pub(crate) async fn within<F: Future + Unpin>(span: &Span, future: F) -> F::Output {
    if span.is_disabled() { future.await } else { future.instrument(span.clone()).await }
}

/// Fills in a field, without doing anything where nobody listens.
pub(crate) fn record(span: &Span, field: &'static str, value: impl Display) {
    if !span.is_disabled() {
        span.record(field, display(value));
    }
}

pub(crate) fn codec_name(codec: Codec) -> &'static str {
    match codec {
        Codec::Cbor => "cbor",
        Codec::Json => "json",
    }
}

/// The name of a method as a peer may have chosen it: escaped, and then cut to [`MAX_METHOD_BYTES`].
pub(crate) fn method(name: &str) -> impl Display {
    Method(name)
}

struct Method<'a>(&'a str);

impl Display for Method<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = MAX_METHOD_BYTES;
        for char in self.0.chars().flat_map(char::escape_debug) {
            let Some(rest) = left.checked_sub(char.len_utf8()) else { break };
            left = rest;
            f.write_char(char)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shown_on_one_line_and_not_too_long() {
        assert_eq!(method("demo.echo").to_string(), "demo.echo");
        assert_eq!(method("a\n\x1b[31m\"\u{202e}b").to_string(), "a\\n\\u{1b}[31m\\\"\\u{202e}b");
        assert_eq!(method(&"\n".repeat(128)).to_string(), "\\n".repeat(64));
        assert_eq!(method(&"é".repeat(100)).to_string().len(), MAX_METHOD_BYTES);
    }
}
