//! Many calls of one method on one stream, answered in their order.
//!
//! The calls run one after another, so a slow one delays those behind it on its stream, and none on other
//! streams. What they are answered is gathered while further calls have arrived already, so that many answers
//! are one write.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_lite::future;

use super::{
    call::wait_for_room,
    connection_state::ConnectionState,
    exchange_result::{ExchangeResult, encode_or_internal, expired},
    exchange_state::ExchangeState,
    items::too_many_item_exchanges,
    request::{record_unread, refuse, take_request},
    run_handler::{Outcome, ShutdownWaits, run_handler},
};
use crate::{
    admission::Charge,
    code::Code,
    error::{Error, ErrorKind, Result},
    frame,
    message::{Item, MessageError, Response, TraceContext, WireError},
    router::{Context, ExchangeGuard, Handler, MethodError, Registration, ResponseSize, Unary},
    runtime::Clock,
    span::record,
    stream::{DeadlineFrom, FrameReader, FrameWriter},
};

/// Answers are written when they are this long altogether, though more calls have arrived.
const WRITE_BYTES: usize = 16 * 1024;
/// After this many calls without a wait, other tasks run.
const CALLS_IN_A_ROW: u32 = 32;

/// A method with one answer.
pub(super) struct UnaryMethod<'a> {
    handler: &'a Unary,
    response_size: &'a ResponseSize,
    timeout: Option<Duration>,
}

impl<'a> UnaryMethod<'a> {
    /// `None` for a method of another kind.
    pub(super) fn of(registered: &'a Registration) -> Option<Self> {
        let Registration { handler: Handler::Unary(handler), response_size, timeout, .. } = registered else {
            return None;
        };
        Some(Self { handler, response_size, timeout: *timeout })
    }
}

/// The parameters of the call that the request itself makes, if it makes one, and the trace of the request.
pub(super) type FirstCall = (Option<Bytes>, Option<TraceContext>);

/// Serves the calls of a stream whose request has been read, unless the peer has too many such streams.
pub(super) async fn serve(
    state: &ConnectionState,
    exchange: &ExchangeState<'_>,
    method: UnaryMethod<'_>,
    first: FirstCall,
    reader: Option<Box<FrameReader>>,
    mut writer: FrameWriter,
) -> ExchangeResult {
    let (Some(_permit), Some(mut reader)) = (state.item_permits.try_acquire_arc(), reader) else {
        return ExchangeResult::respond(exchange, &too_many_item_exchanges(), writer);
    };
    let UnaryMethod { handler, response_size, timeout } = method;
    let limit = timeout.unwrap_or(exchange.node.limits.handler_timeout());
    let given_up = writer.given_up();
    let ended = {
        let answers = Answers::new(exchange, &mut writer);
        let context = Context::new(Arc::clone(exchange.link), None).guard();
        let (reader, given_up) = (&mut *reader, pin!(given_up));
        Pipeline { exchange, handler, response_size, limit, reader, answers, context, given_up }
            .serve(first)
            .await
    };
    match ended {
        PipelineEnd::Complete => finish(exchange, writer),
        PipelineEnd::Quiet(code) => {
            reader.stop(code);
            finish(exchange, writer)
        }
        PipelineEnd::GivenUp(code) => {
            reader.stop(Code::CANCELLED);
            ExchangeResult::conclude(exchange, Outcome::GivenUp(code), writer, None)
        }
        PipelineEnd::Unread(code) => {
            reader.stop(code);
            writer.reset(code);
            ExchangeResult::Reset
        }
        PipelineEnd::Broken(code) => {
            reader.stop(code);
            ExchangeResult::reset(exchange, writer, code)
        }
    }
}

/// Everything is answered.
fn finish(exchange: &ExchangeState<'_>, mut writer: FrameWriter) -> ExchangeResult {
    record(&exchange.span, "outcome", "ok");
    writer.finish();
    ExchangeResult::Finished(writer)
}

/// Resolves when the caller has reset its calls, with the code for the answers. The calls behind the running
/// one are read ahead for that, within bounds.
async fn reset(reader: &mut FrameReader) -> Code {
    poll_fn(|cx| match reader.poll_ahead(cx) {
        Poll::Ready(true) => Poll::Ready(Code::CANCELLED),
        Poll::Ready(false) | Poll::Pending => Poll::Pending,
    })
    .await
}

/// How the stream ends.
enum PipelineEnd {
    /// The caller has finished, and everything is answered.
    Complete,
    /// Everything is answered, and no further call is taken.
    Quiet(Code),
    /// The caller has stopped the answers or reset its calls, or is gone.
    GivenUp(Code),
    /// A call could not be read, which is recorded already.
    Unread(Code),
    /// Calls may be without an answer.
    Broken(Code),
}

struct Pipeline<'a, G> {
    exchange: &'a ExchangeState<'a>,
    handler: &'a Unary,
    response_size: &'a ResponseSize,
    /// For each call.
    limit: Duration,
    reader: &'a mut FrameReader,
    answers: Answers<'a>,
    /// Of the latest call.
    context: ExchangeGuard,
    given_up: Pin<&'a mut G>,
}

/// A call that was taken from the stream.
type Call = std::result::Result<Item, MessageError>;

impl<G: Future<Output = Code>> Pipeline<'_, G> {
    async fn serve(mut self, (first, trace): FirstCall) -> PipelineEnd {
        if let Some(params) = first {
            // It was counted and admitted as the request of the exchange.
            if let Err(ended) = self.call(params, trace).await {
                return ended;
            }
        }
        let mut in_a_row = 0;
        loop {
            let call = match self.reader.take_arrived(Item::read) {
                Some(call) => call.map(Some),
                None => {
                    in_a_row = 0;
                    if let Err(ended) = self.flush().await {
                        return ended;
                    }
                    match self.wait().await {
                        Ok(call) => call,
                        Err(ended) => return ended,
                    }
                }
            };
            let served = match call {
                Ok(Some(call)) => self.next(call).await,
                Ok(None) => return PipelineEnd::Complete,
                Err(error) => Err(self.unreadable(&error)),
            };
            if let Err(ended) = served {
                return ended;
            }
            if self.answers.are_many()
                && let Err(ended) = self.flush().await
            {
                return ended;
            }
            in_a_row += 1;
            if in_a_row == CALLS_IN_A_ROW {
                in_a_row = 0;
                future::yield_now().await;
                if let Some(code) = future::poll_once(reset(self.reader)).await {
                    return PipelineEnd::GivenUp(code);
                }
            }
        }
    }

    /// The next call, or `None` at the end of the stream.
    async fn wait(&mut self) -> std::result::Result<Result<Option<Call>>, PipelineEnd> {
        let Self { exchange, given_up, reader, .. } = self;
        let ExchangeState { node, expires, .. } = exchange;
        // Nobody may keep a stream open that nothing happens on.
        let silent = node.clock.deadline(node.limits.handler_timeout());
        let until = expires.map_or(silent, |expires| expires.min(silent));
        let limit = node.limits.request_read_timeout();
        let next = async {
            let next = reader.next_within(&node.clock, limit, DeadlineFrom::FirstByte, Item::read).await;
            Ok(next)
        };
        let given_up = async { Err(PipelineEnd::GivenUp(given_up.as_mut().await)) };
        let shutdown = async {
            node.drain.begun().await;
            Err(PipelineEnd::Quiet(Code::SHUTTING_DOWN))
        };
        let waited = future::or(next, future::or(given_up, shutdown));
        node.clock.timeout_at(Some(until), waited).await.unwrap_or(Err(PipelineEnd::Quiet(Code::NO_ERROR)))
    }

    fn unreadable(&self, error: &Error) -> PipelineEnd {
        let ExchangeState { node, link, span, .. } = self.exchange;
        PipelineEnd::Unread(record_unread(node, link, span, "call", error))
    }

    /// Admits a call as the request of an exchange of its own would be, and serves it.
    async fn next(&mut self, call: Call) -> std::result::Result<(), PipelineEnd> {
        let ExchangeState { node, link, .. } = self.exchange;
        node.counters.requests.add();
        link.counters().requests.add();
        let params = take_request(self.exchange).and_then(|()| {
            let item = call.map_err(|error| MethodError::invalid_request(error.to_string()))?;
            if node.drain.has_begun() {
                return Err(MethodError::unavailable("the node is shutting down"));
            }
            Ok(item.params.unwrap_or_default())
        });
        match params {
            Ok(params) => self.call(params, None).await,
            Err(refusal) => self.answers.add(&refuse(self.exchange, refusal)),
        }
    }

    /// Writes the answers, unless the caller resets its calls.
    async fn flush(&mut self) -> std::result::Result<(), PipelineEnd> {
        let Self { reader, answers, .. } = self;
        let reset = async { Err(PipelineEnd::GivenUp(reset(reader).await)) };
        future::or(answers.flush(), reset).await
    }

    /// Runs the handler, and answers.
    async fn call(
        &mut self,
        params: Bytes,
        trace: Option<TraceContext>,
    ) -> std::result::Result<(), PipelineEnd> {
        let ExchangeState { node, link, expires, .. } = self.exchange;
        if self.exchange.expires_within_a_round_trip() {
            return self.answers.add(&expired());
        }
        let deadline = Clock::after(node.clock.now(), self.limit);
        let deadline = expires.map_or(deadline, |expires| deadline.min(expires));
        if !self.answers.try_reserve(self.response_size.expected()) {
            self.flush().await?;
            let Self { reader, answers, response_size, .. } = self;
            let turn = answers.reserve(response_size.expected(), deadline);
            let reset = async { Err(Outcome::GivenUp(reset(reader).await)) };
            match Box::pin(future::or(turn, reset)).await {
                Ok(()) => {}
                Err(Outcome::GivenUp(code)) => return Err(PipelineEnd::GivenUp(code)),
                Err(_) => return self.answers.add(&expired()),
            }
        }
        let outcome = {
            // Pinned, because what is awaited by value is moved.
            let running = pin!(self.run(params, trace, deadline));
            running.await?
        };
        let response = match outcome {
            Outcome::Returned(Ok(payload)) => Response::result(Some(payload)),
            Outcome::Returned(Err(error)) => error.of_handler().into_response(),
            Outcome::TimedOut => MethodError::new(WireError::DeadlineExceeded).into_response(),
            Outcome::GivenUp(code) => return Err(PipelineEnd::GivenUp(code)),
            Outcome::Panicked => {
                tracing::warn!(remote = %link.remote_address(), "a handler panicked");
                MethodError::internal("the handler failed").into_response()
            }
        };
        self.answers.add(&response)
    }

    async fn run(
        &mut self,
        params: Bytes,
        trace: Option<TraceContext>,
        deadline: Instant,
    ) -> std::result::Result<Outcome<Bytes>, PipelineEnd> {
        let Self { exchange, handler, response_size, reader, answers, context, given_up, .. } = self;
        let given_up = pin!(future::or(given_up.as_mut(), reset(reader)));
        let handling = handler(context.renew(deadline, trace), params);
        let mut running = pin!(async {
            let node = exchange.node;
            match run_handler(node, ShutdownWaits::ForHandler, Some(deadline), given_up, handling).await {
                // The answers before this one need not be written any more.
                Outcome::GivenUp(code) => Err(PipelineEnd::GivenUp(code)),
                outcome => Ok(outcome),
            }
        });
        let outcome = match future::poll_once(&mut running).await {
            Some(outcome) => outcome?,
            // Those who wait for the calls before are not to wait for this one.
            None => future::try_zip(answers.flush(), running).await?.1,
        };
        context.end();
        if let Outcome::Returned(Ok(payload)) = &outcome {
            response_size.observe(payload.len());
        }
        Ok(outcome)
    }
}

/// Answers that are written together.
struct Answers<'a> {
    exchange: &'a ExchangeState<'a>,
    writer: &'a mut FrameWriter,
    frames: Vec<u8>,
    /// For the memory of the frames, and for the answer to come. At least: what a call needed no more is kept
    /// for those after it, until the answers are written.
    charge: Charge,
    /// Of the charge, what is for the answer to come.
    reserved: usize,
    /// How long the frames were that were written last.
    written: usize,
}

impl<'a> Answers<'a> {
    fn new(exchange: &'a ExchangeState<'a>, writer: &'a mut FrameWriter) -> Self {
        let charge = exchange.link.allowance().charge();
        Self { exchange, writer, frames: Vec::new(), charge, reserved: 0, written: 0 }
    }

    /// Whether they are to be written though more calls have arrived.
    fn are_many(&self) -> bool {
        self.frames.len() >= WRITE_BYTES
    }

    /// Counts the bytes of the answer to come, if there is room for them.
    fn try_reserve(&mut self, bytes: usize) -> bool {
        let reserved = self.charge.try_reserve_up_to(self.frames.capacity() + bytes);
        self.reserved = if reserved { bytes } else { 0 };
        reserved
    }

    /// The same once there is room, unless the deadline comes first or the caller leaves.
    async fn reserve(
        &mut self,
        bytes: usize,
        deadline: Instant,
    ) -> std::result::Result<(), Outcome<Option<Response>>> {
        let Self { exchange, writer, charge, .. } = self;
        wait_for_room(exchange, charge, bytes, deadline, writer).await?;
        self.reserved = bytes;
        Ok(())
    }

    fn add(&mut self, response: &Response) -> std::result::Result<(), PipelineEnd> {
        let ExchangeState { node, codec, .. } = self.exchange;
        if self.frames.is_empty() {
            // About as many may follow as did before.
            self.frames.reserve(self.written.min(WRITE_BYTES));
        }
        let max = node.max_frame_len();
        let frames = &mut self.frames;
        let append = |response: &Response| {
            frame::append(frames, max, |out| response.encode(*codec, out).map_err(Error::from))
        };
        if encode_or_internal(self.exchange, response, append).is_err() {
            return Err(PipelineEnd::Broken(Code::INTERNAL));
        }
        self.reserved = 0;
        self.charge.add(self.frames.capacity().saturating_sub(self.charge.bytes()));
        Ok(())
    }

    async fn flush(&mut self) -> std::result::Result<(), PipelineEnd> {
        let written = if self.frames.is_empty() { Ok(()) } else { self.write().await };
        self.charge.settle(self.reserved);
        written
    }

    async fn write(&mut self) -> std::result::Result<(), PipelineEnd> {
        let ExchangeState { node, link, .. } = self.exchange;
        let frames = std::mem::take(&mut self.frames);
        self.written = frames.len();
        // A peer that does not read must not hold the answers for ever.
        match node.clock.timeout(node.limits.handler_timeout(), self.writer.write(frames)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                tracing::debug!(remote = %link.remote_address(), %error, "answers not taken");
                let code =
                    if let ErrorKind::StreamReset(code) = error.kind() { *code } else { Code::CANCELLED };
                Err(PipelineEnd::GivenUp(code))
            }
            Err(_elapsed) => Err(PipelineEnd::Broken(Code::DEADLINE_EXCEEDED)),
        }
    }
}
