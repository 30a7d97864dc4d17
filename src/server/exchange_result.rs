//! How an exchange finishes: by a final frame and FIN, FIN alone, or a reset.

use std::time::Duration;

use bytes::Bytes;

use super::{exchange_state::ExchangeState, run_handler::Outcome};
use crate::{
    admission::Charge,
    code::Code,
    error::Result,
    message::{Codec, Response, WireError},
    router::{ExchangeGuard, MethodError},
    runtime::Elapsed,
    span::record,
    stream::{FrameWriter, response_frame},
};

/// How an exchange finished. The final frame is written in one place, since a future has room for everything
/// that it may wait for.
pub(super) enum ExchangeResult {
    /// A final frame and FIN have still to be written. The context of the handler is over when the guard is
    /// dropped.
    Respond { frame: FinalFrame, writer: FrameWriter, guard: Option<ExchangeGuard> },
    /// The handler has sent its responses itself, and FIN was written after them.
    Finished(FrameWriter),
    /// The stream was reset.
    Reset,
    /// A task that the handler left its sink to still has the writer, and ends the stream by dropping it.
    WriterNotReturned,
}

/// The last frame of an exchange.
pub(super) struct FinalFrame {
    frame: Vec<u8>,
    payload_len: usize,
    /// Of the response in the frame, which need not be the one that the handler made.
    error: Option<WireError>,
}

/// A call that is cancelled sooner counts as abuse, unless its time was up.
const ABUSIVE_CANCEL: Duration = Duration::from_millis(50);

impl ExchangeResult {
    /// Responds with this, which no handler has made.
    pub(super) fn respond(exchange: &ExchangeState<'_>, response: &Response, writer: FrameWriter) -> Self {
        Self::encode(exchange, response, writer, None, response_frame)
    }

    /// Responds with what the outcome of a handler says, or ends the stream if no response has to follow.
    pub(super) fn conclude(
        exchange: &ExchangeState<'_>,
        outcome: Outcome<Option<Response>>,
        writer: FrameWriter,
        guard: Option<ExchangeGuard>,
    ) -> Self {
        Self::conclude_with(exchange, outcome, writer, guard, response_frame)
    }

    /// The same, with what makes a frame of the response.
    #[inline]
    pub(super) fn conclude_with(
        exchange: &ExchangeState<'_>,
        outcome: Outcome<Option<Response>>,
        mut writer: FrameWriter,
        guard: Option<ExchangeGuard>,
        frame: impl Fn(&Response, Codec, usize) -> Result<Vec<u8>>,
    ) -> Self {
        let ExchangeState { node, link, span, .. } = exchange;
        let response = match outcome {
            Outcome::Returned(Ok(Some(response))) => response,
            Outcome::Returned(Ok(None)) => {
                record(span, "outcome", "ok");
                writer.finish();
                return Self::Finished(writer);
            }
            Outcome::Returned(Err(error)) => error.of_handler().into_response(),
            Outcome::TimedOut => MethodError::new(WireError::DeadlineExceeded).into_response(),
            Outcome::GivenUp(code) => {
                if link.is_open() {
                    node.counters.streams_reset_by_peers.add();
                }
                record(span, "outcome", code);
                writer.reset(code);
                record_given_up(exchange);
                return Self::Reset;
            }
            Outcome::Panicked => {
                tracing::warn!(remote = %link.remote_address(), "a handler panicked");
                return Self::reset(exchange, writer, Code::INTERNAL);
            }
        };
        Self::encode(exchange, &response, writer, guard, frame)
    }

    /// Resets the stream for a reason of this side.
    pub(super) fn reset(exchange: &ExchangeState<'_>, mut writer: FrameWriter, code: Code) -> Self {
        reset_stream(exchange, &mut writer, code);
        Self::Reset
    }

    fn encode(
        exchange: &ExchangeState<'_>,
        response: &Response,
        writer: FrameWriter,
        guard: Option<ExchangeGuard>,
        frame: impl Fn(&Response, Codec, usize) -> Result<Vec<u8>>,
    ) -> Self {
        if !writer.is_between_frames() {
            // The handler was cut off in the middle of a frame; nothing that follows could be read.
            let code = match response {
                Response::Error { error: WireError::DeadlineExceeded, .. } => Code::DEADLINE_EXCEEDED,
                _ => Code::INTERNAL,
            };
            return Self::reset(exchange, writer, code);
        }
        match FinalFrame::encode(exchange, response, frame) {
            Some(frame) => Self::Respond { frame, writer, guard },
            None => Self::reset(exchange, writer, Code::INTERNAL),
        }
    }
}

impl FinalFrame {
    fn encode(
        exchange: &ExchangeState<'_>,
        response: &Response,
        frame: impl Fn(&Response, Codec, usize) -> Result<Vec<u8>>,
    ) -> Option<Self> {
        let max = exchange.node.max_frame_len();
        let encode = |response: &Response| frame(response, exchange.codec, max);
        let (frame, error) = encode_or_internal(exchange, response, encode).ok()?;
        Some(Self { frame, payload_len: payload_len(response), error: error.cloned() })
    }

    /// Writes the frame, and finishes the stream. Meanwhile `charge` counts the request and the response.
    pub(super) async fn write(
        self,
        exchange: &ExchangeState<'_>,
        request_len: usize,
        charge: &mut Charge,
        writer: &mut FrameWriter,
    ) {
        charge.adjust(request_len + self.payload_len);
        let ExchangeState { node, link, span, .. } = exchange;
        // A peer that does not read must not hold the response for ever.
        match node.clock.timeout(node.limits.handler_timeout(), writer.write(self.frame)).await {
            Ok(Ok(())) => {
                match self.error {
                    Some(error) => record(span, "outcome", error),
                    None => record(span, "outcome", "ok"),
                }
                writer.finish();
            }
            Ok(Err(error)) => {
                tracing::debug!(remote = %link.remote_address(), %error, "answer not taken");
                node.counters.unread(&error, Code::CANCELLED);
                record_given_up(exchange);
                record(span, "outcome", Code::CANCELLED);
                writer.reset(Code::CANCELLED);
            }
            Err(Elapsed) => reset_stream(exchange, writer, Code::DEADLINE_EXCEEDED),
        }
    }
}

fn reset_stream(exchange: &ExchangeState<'_>, writer: &mut FrameWriter, code: Code) {
    record(&exchange.span, "outcome", code);
    exchange.node.reset(writer, code);
}

/// Encodes a response, or `internal` if that response cannot be sent. Returns the error of what was encoded,
/// if it is one, and counts it.
pub(super) fn encode_or_internal<'r, T>(
    exchange: &ExchangeState<'_>,
    response: &'r Response,
    mut encode: impl FnMut(&Response) -> Result<T>,
) -> Result<(T, Option<&'r WireError>)> {
    let ExchangeState { node, link, .. } = exchange;
    let failures = &node.counters.requests_failed;
    match (encode(response), response) {
        (Ok(encoded), Response::Error { error, .. }) => {
            failures.count(error);
            Ok((encoded, Some(error)))
        }
        (Ok(encoded), _) => Ok((encoded, None)),
        (Err(error), _) => {
            tracing::debug!(remote = %link.remote_address(), %error, "an answer could not be sent");
            failures.internal.add();
            let failure = MethodError::internal(error.to_string()).into_response();
            Ok((encode(&failure)?, Some(&WireError::Internal)))
        }
    }
}

/// Counts a call that the peer cancelled within [`ABUSIVE_CANCEL`]. If the time of a call is up, neither side
/// is to blame; and callers whose time limits are not in the request cancel calls after a while.
fn record_given_up(exchange: &ExchangeState<'_>) {
    let age = exchange.node.clock.now().saturating_duration_since(exchange.began);
    if age < ABUSIVE_CANCEL && !exchange.expires_within_a_round_trip() {
        exchange.node.record_fault(exchange.link);
    }
}

/// The response to a request whose time has passed before a handler started.
pub(super) fn expired() -> Response {
    MethodError::new(WireError::DeadlineExceeded).not_run().into_response()
}

fn payload_len(response: &Response) -> usize {
    match response {
        Response::Result { payload } => payload.as_ref().map_or(0, Bytes::len),
        _ => 0,
    }
}
