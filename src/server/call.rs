//! Calls of the application's methods.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_lite::future;

use super::{
    exchange_result::ExchangeResult,
    exchange_state::ExchangeState,
    run_handler::{Outcome, ShutdownWaits, run_handler},
};
use crate::{
    admission::Charge,
    drain::Phase,
    message::{Response, WireError},
    router::{
        Context, ExchangeGuard, Handler, Lender, MethodError, Registration, ResponseSink, ResponseSize,
    },
    runtime::{Clock, Elapsed},
    stream::FrameWriter,
};

/// Runs the handler of a method.
pub(super) async fn call(
    exchange: &ExchangeState<'_>,
    registered: &Registration,
    params: Bytes,
    timeout_ms: Option<u64>,
    writer: FrameWriter,
) -> ExchangeResult {
    let Registration { handler, response_size, timeout, .. } = registered;
    let ExchangeState { node, link, .. } = exchange;
    let limit = timeout.unwrap_or(node.limits.handler_timeout());
    let limit = timeout_ms.map_or(limit, |asked| limit.min(Duration::from_millis(asked)));
    let deadline = Clock::after(exchange.began, limit);
    // No response can reach the caller in time. So a handler does not start: a peer that cancels calls which
    // it gave next to no time is not to blame, and makes this node do no more than respond.
    if exchange.expires_within_a_round_trip() {
        return ExchangeResult::respond(exchange, &expired(), writer);
    }
    // If responses are large and memory is short, handlers wait for their turn.
    let mut room = link.allowance().charge();
    if !room.try_reserve(response_size.expected()) {
        let turn = wait_for_room(exchange, &mut room, response_size.expected(), deadline, &writer);
        if let Err(outcome) = Box::pin(turn).await {
            return ExchangeResult::conclude(exchange, outcome, writer, None);
        }
    }
    let context = Context::new(Arc::clone(link), Some(deadline));
    let guard = context.guard();
    match handler {
        Handler::Unary(handler) => {
            let outcome = {
                let stopped = pin!(writer.given_up());
                run_handler(
                    node,
                    ShutdownWaits::ForHandler,
                    Some(deadline),
                    stopped,
                    handler(context, params),
                )
                .await
            };
            if let Outcome::Returned(Ok(payload)) = &outcome {
                response_size.observe(payload.len());
            }
            drop(room);
            let outcome = outcome.map(|payload| Some(Response::Result { payload: Some(payload) }));
            ExchangeResult::conclude(exchange, outcome, writer, Some(guard))
        }
        Handler::Streaming(handler) => {
            let handle = |sink| handler(context, params, sink);
            Box::pin(stream(exchange, handle, Arc::clone(response_size), deadline, writer, guard)).await
        }
    }
}

/// Waits for room for a response, unless the deadline comes first or the caller leaves.
async fn wait_for_room(
    exchange: &ExchangeState<'_>,
    room: &mut Charge,
    bytes: usize,
    deadline: Instant,
    writer: &FrameWriter,
) -> Result<(), Outcome<Option<Response>>> {
    let reserved = async {
        room.reserve(bytes).await;
        Ok(())
    };
    let given_up = async { Err(Outcome::GivenUp(writer.given_up().await)) };
    let reserved = exchange.node.clock.timeout_at(Some(deadline), future::or(reserved, given_up)).await;
    reserved.unwrap_or_else(|Elapsed| Err(Outcome::Returned(Ok(Some(expired())))))
}

/// The response to a request whose time has passed before a handler started.
fn expired() -> Response {
    MethodError::new(WireError::DeadlineExceeded).not_run().into_response()
}

/// Runs a streaming handler, which gets the writer in its sink.
async fn stream(
    exchange: &ExchangeState<'_>,
    handle: impl FnOnce(ResponseSink) -> Pin<Box<dyn Future<Output = Result<(), MethodError>> + Send>>,
    response_size: Arc<ResponseSize>,
    deadline: Instant,
    writer: FrameWriter,
    guard: ExchangeGuard,
) -> ExchangeResult {
    let ExchangeState { node, link, .. } = exchange;
    let stopped = writer.given_up();
    let (lender, borrower) = Lender::new_loan(writer);
    let sink = ResponseSink::new(
        borrower,
        exchange.codec,
        node.max_frame_len(),
        link.allowance().charge(),
        response_size,
    );
    let outcome =
        run_handler(node, ShutdownWaits::ForHandler, Some(deadline), pin!(stopped), handle(sink)).await;
    // A task that the handler left its sink to may be in the middle of a frame, but not for ever.
    let latest = node.clock.deadline(node.limits.handler_timeout());
    let returned = async { Some(lender.take_back().await) };
    let nobody_waits = async {
        let closed = async {
            link.quinn().closed().await;
        };
        future::or(closed, node.drain.reached(Phase::Aborting)).await;
        None
    };
    let returned = node.clock.timeout_at(Some(latest), future::or(returned, nobody_waits)).await;
    let Ok(Some(returned)) = returned else {
        lender.abandon();
        return ExchangeResult::WriterNotReturned;
    };
    match returned {
        Some(writer) => ExchangeResult::conclude(exchange, outcome.map(|()| None), writer, Some(guard)),
        None => ExchangeResult::WriterNotReturned,
    }
}
