//! One exchange: reads the request, admits it, has it answered, and ends the stream.

use std::sync::Arc;

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use tracing::Span;

use super::{
    call::call,
    connection_state::ConnectionState,
    describe::describe,
    events,
    exchange_result::ExchangeResult,
    exchange_state::ExchangeState,
    health::health,
    request::{DecodedRequest, read_request, record_unread, refuse, take_request},
};
#[cfg(feature = "streams")]
use super::{
    items::{self, ItemsMethod},
    pipeline::{self, UnaryMethod},
};
#[cfg(feature = "streams")]
use crate::protocol::RESERVED_PREFIX;
use crate::{
    code::Code,
    error::{Error, Result},
    events::EventLog,
    message::{Additions, MessageError, PROTOCOL_VERSION, Request, Response, WireError},
    protocol::{DESCRIBE, HEALTH},
    router::{MethodError, Registration},
    span::{method, record},
    stream::{FrameReader, FrameWriter},
};

/// Serves one bidirectional stream that the peer has opened.
pub(super) async fn serve(state: Arc<ConnectionState>, send: SendStream, recv: RecvStream, span: Span) {
    let ConnectionState { node, link, unacked, .. } = &*state;
    let mut writer = FrameWriter::new(send, Code::INTERNAL);
    #[cfg(feature = "streams")]
    let mut items = None;
    let (DecodedRequest { codec, request }, mut charge) = {
        let mut reader = FrameReader::new(recv, node.max_frame_len(), link.allowance().charge());
        let mut decoded = None;
        let read = read_request(node, &mut reader, &mut decoded).await;
        match read.and_then(|()| decoded.ok_or_else(|| Error::protocol("a stream without a request"))) {
            Ok(decoded) => {
                let charge = reader.take_charge();
                // Without items, the end has come.
                #[cfg(feature = "streams")]
                if reader.is_open() {
                    items = Some(items::keep(reader));
                }
                (decoded, charge)
            }
            Err(error) => return not_read(&state, &error, &mut reader, &mut writer, &span),
        }
    };
    let request_len = charge.bytes();
    let work = node.drain.accept();
    let timeout_ms = request.as_ref().ok().and_then(|request| request.timeout_ms);
    let exchange = ExchangeState::begin(node, link, codec, span, timeout_ms);
    let result = match route(&exchange, admit(&exchange, request)) {
        Route::Method { method, params, timeout_ms, additions } => {
            call(&exchange, method, params, timeout_ms, additions, &mut charge, writer).await
        }
        Route::Events { log, request } => {
            charge.settle(0);
            // Boxed, so that a unary exchange needs no room for it.
            Box::pin(events::stream(&exchange, &log, &request, writer)).await
        }
        #[cfg(feature = "streams")]
        Route::WithItems(method, request) => {
            charge.settle(request.params.as_ref().map_or(0, Bytes::len));
            Box::pin(with_items(&state, &exchange, method, request, items.take(), writer)).await
        }
        Route::Respond(response) => ExchangeResult::respond(&exchange, &response, writer),
    };
    #[cfg(feature = "streams")]
    drop(items);
    let writer = match result {
        ExchangeResult::Respond { frame, mut writer, guard: _guard } => {
            frame.write(&exchange, request_len, &mut charge, &mut writer).await;
            writer
        }
        ExchangeResult::Finished(writer) => writer,
        ExchangeResult::Reset | ExchangeResult::WriterNotReturned => return,
    };
    drop(charge);
    if writer.is_finished()
        && let Err((writer, _work)) = unacked.keep(writer, work, &node.drain, link)
    {
        // Closing the connection would take the response back, and that is what comes next.
        let _ = writer.stopped().await;
    }
}

/// Resets both directions of a stream whose request could not be read.
fn not_read(
    ConnectionState { node, link, .. }: &ConnectionState,
    error: &Error,
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
    span: &Span,
) {
    let code = record_unread(node, link, span, "request", error);
    reader.stop(code);
    writer.reset(code);
}

fn admit(
    exchange: &ExchangeState<'_>,
    request: Result<Request, MessageError>,
) -> Result<Request, MethodError> {
    let ExchangeState { node, link, span, .. } = exchange;
    take_request(exchange)?;
    let request = request.map_err(|error| MethodError::invalid_request(error.to_string()))?;
    record(span, "method", method(&request.method));
    if request.protocol_version != PROTOCOL_VERSION {
        return Err(MethodError::new(WireError::ProtocolMismatch)
            .detail(format!("this node speaks version {PROTOCOL_VERSION}")));
    }
    if node.drain.has_begun() {
        return Err(MethodError::unavailable("the node is shutting down"));
    }
    if !node.router.allows(link.peer(), &request.method) {
        // No word about who may: that would be a list of whom to pretend to be.
        return Err(MethodError::new(WireError::PermissionDenied));
    }
    Ok(request)
}

/// Where a request goes.
enum Route<'a> {
    Method {
        method: &'a Registration,
        params: Bytes,
        timeout_ms: Option<u64>,
        additions: Option<Box<Additions>>,
    },
    /// Boxed, because a subscription may last for days and needs few of the fields.
    Events { log: EventLog, request: Box<Request> },
    /// With a request that items follow.
    #[cfg(feature = "streams")]
    WithItems(MethodWithItems<'a>, Box<Request>),
    /// It is answered without a handler.
    Respond(Response),
}

/// What items are for a method.
#[cfg(feature = "streams")]
enum MethodWithItems<'a> {
    /// It takes them.
    Takes(ItemsMethod<'a>),
    /// Each is another call of it.
    Calls(UnaryMethod<'a>),
}

#[cfg(feature = "streams")]
async fn with_items(
    state: &ConnectionState,
    exchange: &ExchangeState<'_>,
    method: MethodWithItems<'_>,
    request: Box<Request>,
    reader: Option<Box<FrameReader>>,
    writer: FrameWriter,
) -> ExchangeResult {
    let trace = request.trace();
    let params = request.params;
    match method {
        MethodWithItems::Takes(method) => {
            let params = params.unwrap_or_default();
            items::call_with_items(state, exchange, method, params, trace, reader, writer).await
        }
        MethodWithItems::Calls(method) => {
            pipeline::serve(state, exchange, method, (params, trace), reader, writer).await
        }
    }
}

/// Not a part of the future that waits for the response: a request that is moved into one costs two copies.
fn route<'a>(exchange: &ExchangeState<'a>, admitted: Result<Request, MethodError>) -> Route<'a> {
    let ExchangeState { node, link, .. } = exchange;
    let request = match admitted {
        Ok(request) => request,
        Err(refusal) => return Route::Respond(refuse(exchange, refusal)),
    };
    #[cfg(feature = "streams")]
    if request.more() == Some(true) {
        let of_application = !request.method.starts_with(RESERVED_PREFIX);
        let method = node.router.method(&request.method).filter(|_| of_application);
        if let Some(method) = method.and_then(UnaryMethod::of) {
            return Route::WithItems(MethodWithItems::Calls(method), Box::new(request));
        }
        return match items::method_of(&node.router, &request.method) {
            Ok(method) => Route::WithItems(MethodWithItems::Takes(method), Box::new(request)),
            Err(refusal) => Route::Respond(refuse(exchange, refusal)),
        };
    }
    match &*request.method {
        HEALTH => Route::Respond(health(node)),
        DESCRIBE => Route::Respond(describe(node, link.peer(), exchange.codec)),
        name => match node.router.method(name) {
            Some(method) => {
                let Request { params, timeout_ms, additions, .. } = request;
                Route::Method { method, params: params.unwrap_or_default(), timeout_ms, additions }
            }
            None => match node.router.event_log(name) {
                // A subscription has no use for parameters.
                Some(log) => match log.current() {
                    Some(log) => {
                        Route::Events { log, request: Box::new(Request { params: None, ..request }) }
                    }
                    None => Route::Respond(events::nothing_yet()),
                },
                None => Route::Respond(unsupported()),
            },
        },
    }
}

fn unsupported() -> Response {
    MethodError::new(WireError::UnsupportedMethod).not_run().into_response()
}
