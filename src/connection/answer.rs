//! How an answer is read, and how a call ends: what calls with one answer and with many share.

#[cfg(feature = "streams")]
use crate::message::CountedResponse;
use std::time::{Duration, Instant};

use tracing::Span;

use crate::{
    code::Code,
    error::{Error, ErrorKind, Result},
    frame::Body,
    link::Link,
    message::{Codec, MessageError, Response, WireError, is_json, printable},
    runtime::Clock,
    span::record,
    stream::{DeadlineFrom, FrameReader},
};

pub(super) type Deadline = Option<Instant>;

/// What was in a frame.
pub(super) type DecodedResponse = std::result::Result<Response, MessageError>;

/// The next response; a frame that was begun has to be complete as soon as a request would.
pub(super) async fn read(
    link: &Link,
    asked: Codec,
    reader: &mut FrameReader,
) -> Result<Option<DecodedResponse>> {
    read_with(link, reader, |body| decode(link, asked, body)).await
}

/// The same, of what `decode` makes of a response.
#[inline]
pub(super) async fn read_with<T>(
    link: &Link,
    reader: &mut FrameReader,
    decode: impl FnMut(Body<'_>) -> T,
) -> Result<Option<T>> {
    let limit = link.limits().request_read_timeout();
    let next = reader.next_within(link.clock(), limit, DeadlineFrom::FirstByte, decode).await;
    // From here on, the caller accounts for the memory of the response.
    reader.forget_last_body();
    next.map_err(|error| link.explain(violated(reader, error)))
}

/// Reads a response to a request in the codec `asked`, and remembers if it shows that the peer is a node of
/// the tokio implementation: that alone answers CBOR in JSON, and always with this error.
pub(super) fn decode(link: &Link, asked: Codec, body: Body<'_>) -> DecodedResponse {
    let other_codec = asked == Codec::Cbor && is_json(body.bytes());
    let response = Response::read(body);
    if other_codec && is_invalid_request(&response) {
        link.note_json_only();
    }
    response
}

/// Reads a response to a request with items, and notes how many of them the peer says that it has taken.
#[cfg(feature = "streams")]
pub(super) fn decode_counted(body: Body<'_>, items_taken: &mut Option<u64>) -> DecodedResponse {
    let CountedResponse { response, items } = CountedResponse::read(body)?;
    *items_taken = items.or(*items_taken);
    Ok(response)
}

fn is_invalid_request(response: &DecodedResponse) -> bool {
    match response {
        Ok(response) => matches!(response, Response::Error { error: WireError::InvalidRequest, .. }),
        // What it says cannot be read.
        Err(_) => cfg!(not(feature = "json")),
    }
}

/// Tells a peer immediately that nothing more will be read, and one that broke the protocol so.
pub(super) fn violated(reader: &mut FrameReader, error: Error) -> Error {
    match error.kind() {
        ErrorKind::FrameTooLarge => reader.stop(Code::FRAME_TOO_LARGE),
        ErrorKind::Protocol | ErrorKind::Truncated => reader.stop(Code::PROTOCOL_VIOLATION),
        ErrorKind::DeadlineExceeded => reader.stop(Code::CANCELLED),
        _ => {}
    }
    error
}

pub(super) fn remote_error(
    error: WireError,
    detail: Option<Box<str>>,
    retry_after: Option<Duration>,
    not_run: bool,
) -> Error {
    let remote = Error::new(ErrorKind::Remote(error)).after(retry_after);
    let remote = if not_run { remote.not_run() } else { remote };
    match detail {
        Some(detail) => remote.detail(printable(&detail, detail.len())),
        None => remote,
    }
}

/// Tells how a call ended.
pub(super) fn record_end(span: &Span, error: Option<&Error>) {
    match error {
        Some(error) => record(span, "outcome", error.kind()),
        None => record(span, "outcome", "ok"),
    }
}

/// The first of two, of which either may be none.
pub(super) fn earlier(one: Deadline, other: Deadline) -> Deadline {
    one.into_iter().chain(other).min()
}

pub(super) fn timed_out(clock: &Clock) -> Error {
    clock.timed_out(ErrorKind::DeadlineExceeded)
}
