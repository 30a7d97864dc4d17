//! Calls of the application's methods.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_lite::future;

#[cfg(feature = "streams")]
use super::items::{ItemsMethod, call_without_items};
use super::{
    exchange_result::{ExchangeResult, expired},
    exchange_state::ExchangeState,
    run_handler::{Outcome, ShutdownWaits, run_handler},
    writer_loan::take_back,
};
use crate::{
    admission::Charge,
    message::{Additions, Response},
    router::{
        Context, ExchangeGuard, Handler, Lender, MethodError, Registration, ResponseSink, ResponseSize,
    },
    runtime::{Clock, Elapsed},
    stream::FrameWriter,
};

/// Runs the handler of a method. The room for its response is added to `charge`.
pub(super) async fn call(
    exchange: &ExchangeState<'_>,
    registered: &Registration,
    params: Bytes,
    timeout_ms: Option<u64>,
    additions: Option<Box<Additions>>,
    charge: &mut Charge,
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
    if !charge.try_reserve(response_size.expected()) {
        let turn = wait_for_room(exchange, charge, response_size.expected(), deadline, &writer);
        if let Err(outcome) = Box::pin(turn).await {
            return ExchangeResult::conclude(exchange, outcome, writer, None);
        }
    }
    let trace = additions.and_then(|additions| additions.trace);
    let context = Context::traced(Arc::clone(link), Some(deadline), trace);
    match handler {
        Handler::Unary(handler) => {
            let guard = context.guard();
            let outcome = {
                let stopped = pin!(writer.given_up());
                let running = handler(context, params);
                run_handler(node, ShutdownWaits::ForHandler, Some(deadline), stopped, running).await
            };
            if let Outcome::Returned(Ok(payload)) = &outcome {
                response_size.observe(payload.len());
            }
            let outcome = outcome.map(|payload| Some(Response::result(Some(payload))));
            ExchangeResult::conclude(exchange, outcome, writer, Some(guard))
        }
        Handler::Streaming(handler) => {
            let guard = context.guard();
            let handle = |sink| handler(context, params, sink);
            Box::pin(stream(exchange, handle, Arc::clone(response_size), deadline, writer, guard)).await
        }
        #[cfg(feature = "streams")]
        Handler::Items(handler) => {
            let method = ItemsMethod { handler, response_size, timeout: *timeout };
            Box::pin(call_without_items(exchange, method, params, context, writer)).await
        }
    }
}

/// Waits for room for a response, unless the deadline comes first or the caller leaves.
pub(super) async fn wait_for_room(
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
    match take_back(exchange, lender).await {
        Some(writer) => ExchangeResult::conclude(exchange, outcome.map(|()| None), writer, Some(guard)),
        None => ExchangeResult::WriterNotReturned,
    }
}
