//! Exchanges of methods that take items, and requests with items for other methods.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_lite::future;

use super::{
    connection_state::ConnectionState,
    exchange_result::{ExchangeResult, expired},
    exchange_state::ExchangeState,
    request::record_unread,
    run_handler::{Outcome, ShutdownWaits, run_handler},
    writer_loan::take_back,
};
use crate::{
    code::Code,
    error::Error,
    message::{Response, TraceContext, WireError},
    protocol::{DESCRIBE, HEALTH},
    router::{
        Context, ExchangeGuard, Handler, ItemFault, ItemSource, Items, ItemsHandler, Lender, MethodError,
        Registration, ResponseSink, ResponseSize, Router,
    },
    runtime::Clock,
    stream::{FrameReader, FrameWriter, counted_frame},
};

/// When a peer that has all the exchanges with items that it may have can try again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A method that takes items.
#[derive(Clone, Copy)]
pub(super) struct ItemsMethod<'a> {
    pub(super) handler: &'a ItemsHandler,
    pub(super) response_size: &'a Arc<ResponseSize>,
    /// Instead of the node's `handler_timeout`.
    pub(super) timeout: Option<Duration>,
}

/// Keeps what a request came from, for the items behind it. Dropping it before the answer is written tells
/// the caller to send no more.
#[cold]
pub(super) fn keep(reader: FrameReader) -> Box<FrameReader> {
    Box::new(reader.until_answered())
}

/// The method of a request that items follow.
pub(super) fn method_of<'a>(router: &'a Router, name: &str) -> Result<ItemsMethod<'a>, MethodError> {
    let is_without_handler = matches!(name, HEALTH | DESCRIBE) || router.event_log(name).is_some();
    match router.method(name) {
        Some(Registration { handler: Handler::Items(handler), response_size, timeout, .. }) => {
            Ok(ItemsMethod { handler, response_size, timeout: *timeout })
        }
        None if !is_without_handler => Err(MethodError::new(WireError::UnsupportedMethod)),
        _ => Err(MethodError::invalid_request("the method takes no items")),
    }
}

/// Serves a request that items follow, unless the peer has too many of those.
pub(super) async fn call_with_items(
    state: &ConnectionState,
    exchange: &ExchangeState<'_>,
    method: ItemsMethod<'_>,
    params: Bytes,
    trace: Option<TraceContext>,
    reader: Option<Box<FrameReader>>,
    writer: FrameWriter,
) -> ExchangeResult {
    let Some(_permit) = state.item_permits.try_acquire_arc() else {
        drop(reader);
        return ExchangeResult::respond(exchange, &too_many_item_exchanges(), writer);
    };
    let context = Context::traced(Arc::clone(exchange.link), exchange.expires, trace);
    let source = ItemSource::new(exchange.link, reader.map(|reader| *reader));
    call(exchange, method, params, context, &source, writer).await
}

/// The response to a request with items that its peer may not have beside those that are served.
pub(super) fn too_many_item_exchanges() -> Response {
    let full = MethodError::resource_exhausted("the peer has all the requests with items that it may have");
    full.retry_after(RETRY_AFTER).not_run().into_response()
}

/// Serves a request without items for a method that takes them.
pub(super) async fn call_without_items(
    exchange: &ExchangeState<'_>,
    method: ItemsMethod<'_>,
    params: Bytes,
    context: Context,
    writer: FrameWriter,
) -> ExchangeResult {
    let source = ItemSource::new(exchange.link, None);
    call(exchange, method, params, context, &source, writer).await
}

/// Runs the handler of a method.
async fn call(
    exchange: &ExchangeState<'_>,
    method: ItemsMethod<'_>,
    params: Bytes,
    context: Context,
    source: &Arc<ItemSource>,
    writer: FrameWriter,
) -> ExchangeResult {
    // No response can reach the caller in time.
    if exchange.expires_within_a_round_trip() {
        source.close(Code::NO_ERROR);
        return ExchangeResult::respond(exchange, &expired(), writer);
    }
    let (deadline, guard) = (context.deadline(), context.guard());
    let items = Items::new(Arc::clone(source));
    match method.handler {
        ItemsHandler::Once(handler) => {
            let outcome = {
                let given_up = pin!(given_up(exchange, source, method.timeout, writer.given_up()));
                let handling = handler(context, params, items);
                run_handler(exchange.node, ShutdownWaits::ForHandler, deadline, given_up, handling).await
            };
            let outcome = outcome.map(|payload| Some(Response::result(Some(payload))));
            conclude(exchange, outcome, source, writer, guard)
        }
        ItemsHandler::Bidi(handler) => {
            let given_up = pin!(given_up(exchange, source, method.timeout, writer.given_up()));
            let (lender, borrower) = Lender::new_loan(writer);
            let (codec, max_frame_len) = (exchange.codec, exchange.node.max_frame_len());
            let charge = exchange.link.allowance().charge();
            let sink =
                ResponseSink::new(borrower, codec, max_frame_len, charge, Arc::clone(method.response_size));
            let handling = handler(context, params, items, sink.beside(Arc::clone(source)));
            let outcome =
                run_handler(exchange.node, ShutdownWaits::ForHandler, deadline, given_up, handling).await;
            match take_back(exchange, lender).await {
                Some(writer) => conclude(exchange, outcome.map(|()| None), source, writer, guard),
                None => ExchangeResult::WriterNotReturned,
            }
        }
    }
}

/// Resolves when a handler is not to go on: the caller has stopped the answers or reset the items, or there
/// is a fault, which the source has.
async fn given_up(
    exchange: &ExchangeState<'_>,
    source: &ItemSource,
    timeout: Option<Duration>,
    stopped: impl Future<Output = Code>,
) -> Code {
    let stopped = async {
        let code = stopped.await;
        source.close(Code::CANCELLED);
        code
    };
    let faulty = async {
        poll_fn(|cx| source.poll_fault(cx)).await;
        Code::CANCELLED
    };
    let idle = async {
        idle(exchange, source, timeout).await;
        source.fail(ItemFault::Idle);
        Code::CANCELLED
    };
    future::or(stopped, future::or(faulty, idle)).await
}

/// Resolves when nothing has been received and nothing answered for as long as a handler may run.
async fn idle(exchange: &ExchangeState<'_>, source: &ItemSource, timeout: Option<Duration>) {
    let clock = &exchange.node.clock;
    let limit = timeout.unwrap_or(exchange.node.limits.handler_timeout());
    loop {
        let deadline = Clock::after(source.last_active(), limit);
        if clock.now() >= deadline {
            return;
        }
        clock.sleep_until(deadline).await;
    }
}

fn conclude(
    exchange: &ExchangeState<'_>,
    outcome: Outcome<Option<Response>>,
    source: &ItemSource,
    writer: FrameWriter,
    guard: ExchangeGuard,
) -> ExchangeResult {
    // Whatever the handler has made of it.
    let outcome = match source.take_fault() {
        None => outcome,
        Some(ItemFault::Reset) => Outcome::GivenUp(Code::CANCELLED),
        Some(ItemFault::Idle) => Outcome::TimedOut,
        Some(ItemFault::TooFast) => return ExchangeResult::reset(exchange, writer, Code::RATE_LIMITED),
        Some(ItemFault::Unreadable(error)) => return unreadable(exchange, &error, writer),
    };
    // Before the answer, so that the caller sends no more than it has to.
    source.close(Code::NO_ERROR);
    let items = source.handed();
    ExchangeResult::conclude_with(exchange, outcome, writer, Some(guard), |response, codec, max| {
        counted_frame(response.clone(), items, codec, max)
    })
}

/// Resets the stream for items that could not be read.
fn unreadable(
    ExchangeState { node, link, span, .. }: &ExchangeState<'_>,
    error: &Error,
    mut writer: FrameWriter,
) -> ExchangeResult {
    writer.reset(record_unread(node, link, span, "item", error));
    ExchangeResult::Reset
}
