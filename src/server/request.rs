//! Reads the request of an exchange, and classifies what may go wrong with that.

use tracing::Span;

use super::{exchange_state::ExchangeState, node::Node};
use crate::{
    admission::TooMany,
    code::Code,
    error::{Error, ErrorKind, Result},
    frame::Body,
    link::Link,
    message::{Codec, MessageError, Request, Response, WireError},
    router::MethodError,
    runtime::Elapsed,
    span::record,
    stream::{FrameReader, fault_code},
};

/// What came in the frame of a request.
pub(super) struct DecodedRequest {
    /// Of the request, and so of the responses.
    pub(super) codec: Codec,
    pub(super) request: Result<Request, MessageError>,
}

impl DecodedRequest {
    fn decode(body: Body<'_>) -> Self {
        Self { codec: Codec::of(body.bytes()), request: Request::read(body) }
    }

    /// Whether items follow.
    #[cfg(feature = "streams")]
    fn has_items(&self) -> bool {
        self.request.as_ref().is_ok_and(|request| request.more() == Some(true))
    }
}

/// Reads one frame and FIN within the time for it; or FIN alone, which leaves `decoded` as it is. Only the
/// frame, if items follow.
///
/// The request goes where it stays, because results are moved from one future to the next.
pub(super) async fn read_request(
    node: &Node,
    reader: &mut FrameReader,
    decoded: &mut Option<DecodedRequest>,
) -> Result<()> {
    let read = async {
        match reader.next(|body| *decoded = Some(DecodedRequest::decode(body))).await? {
            #[cfg(feature = "streams")]
            Some(()) if decoded.as_ref().is_some_and(DecodedRequest::has_items) => Ok(()),
            Some(()) => reader.end().await,
            None => Ok(()),
        }
    };
    let read = node.clock.timeout(node.limits.request_read_timeout(), read).await;
    read.unwrap_or_else(|Elapsed| {
        Err(Error::new(ErrorKind::DeadlineExceeded).detail("the request did not arrive in time"))
    })
}

/// Records that `what` could not be read from a stream of the peer. Returns the code to stop and reset the
/// stream with.
pub(super) fn record_unread(node: &Node, link: &Link, span: &Span, what: &str, error: &Error) -> Code {
    let code = fault_code(error);
    tracing::debug!(remote = %link.remote_address(), %error, %code, "{what} not read");
    node.counters.unread(error, code);
    record(span, "outcome", code);
    if is_fault(error, link) {
        node.record_fault(link);
    }
    code
}

/// Counts the request against the peer's rate. Refuses those that arrived before the peer was rejected: their
/// connection is closed.
pub(super) fn take_request(
    ExchangeState { node, link, .. }: &ExchangeState<'_>,
) -> std::result::Result<(), MethodError> {
    if link.is_rejected() {
        return Err(MethodError::unavailable("the peer is rejected"));
    }
    let wait = match link.allowance().take_request(&node.clock) {
        Ok(()) => return Ok(()),
        Err(TooMany::Wait(wait)) => wait,
        Err(TooMany::Enough(wait)) => {
            if link.is_open() {
                node.counters.excessive.add();
            }
            link.close_until(Code::RATE_LIMITED, wait);
            wait
        }
    };
    Err(MethodError::resource_exhausted("requests come too often").retry_after(wait))
}

/// The response to a request or call for which no handler starts.
pub(super) fn refuse(ExchangeState { node, link, .. }: &ExchangeState<'_>, refusal: MethodError) -> Response {
    if *refusal.error() == WireError::InvalidRequest {
        node.record_fault(link);
    }
    tracing::debug!(remote = %link.remote_address(), error = %refusal, "request refused");
    refusal.not_run().into_response()
}

/// Whether a stream was not read because of something that the peer did, and that cost it nothing.
fn is_fault(error: &Error, link: &Link) -> bool {
    match error.kind() {
        ErrorKind::StreamReset(_) | ErrorKind::Protocol | ErrorKind::Truncated | ErrorKind::FrameTooLarge => {
            true
        }
        // If memory is short, the peer may have had to wait.
        ErrorKind::DeadlineExceeded => link.allowance().has_room(),
        _ => false,
    }
}
