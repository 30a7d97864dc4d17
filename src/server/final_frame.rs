//! The end of an exchange: a final frame and FIN, FIN alone, or a reset.

use std::time::Duration;

use bytes::Bytes;

use super::{exchange_state::ExchangeState, supervise::Outcome};
use crate::{
    admission::Charge,
    code::Code,
    message::{Response, WireError},
    router::MethodError,
    runtime::Elapsed,
    span::record,
    stream::{FrameWriter, response_frame},
};

/// A call that is cancelled sooner counts as abuse, unless its time was up.
const ABUSIVE_CANCEL: Duration = Duration::from_millis(50);

/// The last frame of an exchange.
pub(super) struct FinalFrame {
    frame: Vec<u8>,
    /// For as long as the frame is being written.
    _charge: Charge,
}

/// Ends the stream, or returns the frame that has to be written first.
pub(super) fn conclude(
    exchange: &ExchangeState<'_>,
    outcome: Outcome<Option<Response>>,
    writer: &mut FrameWriter,
) -> Option<FinalFrame> {
    let ExchangeState { node, link, span, .. } = exchange;
    let response = match outcome {
        Outcome::Returned(Ok(Some(response))) => response,
        Outcome::Returned(Ok(None)) => {
            record(span, "outcome", "ok");
            writer.finish();
            return None;
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
            return None;
        }
        Outcome::Panicked => {
            tracing::warn!(remote = %link.remote_address(), "a handler panicked");
            record(span, "outcome", Code::INTERNAL);
            node.reset(writer, Code::INTERNAL);
            return None;
        }
    };
    if !writer.is_between_frames() {
        // The handler was cut off in the middle of a frame; nothing that follows could be read.
        let code = match response {
            Response::Error { error: WireError::DeadlineExceeded, .. } => Code::DEADLINE_EXCEEDED,
            _ => Code::INTERNAL,
        };
        record(span, "outcome", code);
        node.reset(writer, code);
        return None;
    }
    let frame = FinalFrame::encode(exchange, &response);
    if frame.is_none() {
        node.reset(writer, Code::INTERNAL);
    }
    frame
}

impl FinalFrame {
    fn encode(exchange: &ExchangeState<'_>, response: &Response) -> Option<Self> {
        let ExchangeState { node, link, codec, span, .. } = exchange;
        let failures = &node.counters.requests_failed;
        if let Response::Error { error, .. } = response {
            failures.count(error);
            record(span, "outcome", error);
        } else {
            record(span, "outcome", "ok");
        }
        let mut charge = link.allowance().charge();
        charge.add(payload_len(response));
        let frame = response_frame(response, *codec, node.max_frame_len()).or_else(|error| {
            tracing::debug!(remote = %link.remote_address(), %error, "an answer could not be sent");
            let failure = MethodError::internal(error.to_string()).into_response();
            failures.internal.add();
            response_frame(&failure, *codec, node.max_frame_len())
        });
        Some(Self { frame: frame.ok()?, _charge: charge })
    }

    /// Writes the frame, and finishes the stream.
    pub(super) async fn write(self, exchange: &ExchangeState<'_>, writer: &mut FrameWriter) {
        let Self { frame, _charge } = self;
        let ExchangeState { node, link, .. } = exchange;
        // A peer that does not read must not hold the response for ever.
        match node.clock.timeout(node.limits.handler_timeout(), writer.write(frame)).await {
            Ok(Ok(())) => writer.finish(),
            Ok(Err(error)) => {
                tracing::debug!(remote = %link.remote_address(), %error, "answer not taken");
                node.counters.unread(&error, Code::CANCELLED);
                record_given_up(exchange);
                writer.reset(Code::CANCELLED);
            }
            Err(Elapsed) => node.reset(writer, Code::DEADLINE_EXCEEDED),
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

fn payload_len(response: &Response) -> usize {
    match response {
        Response::Result { payload } => payload.as_ref().map_or(0, Bytes::len),
        _ => 0,
    }
}
