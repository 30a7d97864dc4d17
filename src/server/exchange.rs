//! One exchange: a request frame, then the answers.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_lite::future;
use quinn::{RecvStream, SendStream};
use tracing::Span;

use super::{
    connection_state::ConnectionState,
    events,
    health::health,
    node::Node,
    supervise::{Holds, Outcome, supervise},
};
use crate::{
    admission::{Charge, TooMany},
    code::Code,
    drain::Phase,
    error::{Error, ErrorKind, Result},
    frame::Body,
    link::Link,
    message::{Codec, MessageError, PROTOCOL_VERSION, Request, Response, WireError},
    protocol::{HEALTH, STREAM_EVENTS},
    router::{Answers, Context, ExchangeGuard, Lender, Method, MethodError, Registered, ResponseSink},
    runtime::{Clock, Elapsed},
    span::{codec_name, method, record},
    stream::{FrameReader, FrameWriter, response_frame},
};

pub(super) async fn serve(state: Arc<ConnectionState>, send: SendStream, recv: RecvStream, span: Span) {
    let ConnectionState { node, link, unacked, .. } = &*state;
    let mut writer = FrameWriter::new(send, Code::INTERNAL);
    let (Asked { codec, request }, mut charge) = {
        let mut reader = FrameReader::new(recv, node.max_frame_len(), link.allowance().charge());
        let mut asked = None;
        let read = read_request(node, &mut reader, &mut asked).await;
        match read.and_then(|()| asked.ok_or_else(|| Error::protocol("a stream without a request"))) {
            Ok(asked) => (asked, reader.take_charge()),
            Err(error) => {
                let code = fault_code(&error);
                tracing::debug!(remote = %link.remote_address(), %error, %code, "request not read");
                reader.stop(code);
                node.counters.unread(&error, code);
                record(&span, "outcome", code);
                writer.reset(code);
                if is_fault(&error, link) {
                    node.record_fault(link);
                }
                return;
            }
        }
    };
    let work = node.drain.accept();
    node.counters.requests.add();
    link.counters().requests.add();
    let began = node.clock.now();
    let told = request.as_ref().ok().and_then(|request| request.timeout_ms);
    let expires = told.map(|millis| Clock::after(began, Duration::from_millis(millis)));
    let exchange = Exchange { node, link, codec, span, began, expires };
    record(&exchange.span, "codec", codec_name(exchange.codec));
    let admitted = exchange.admit(request);
    let mut writer = Some(writer);
    let ended = exchange.run(admitted, &mut charge, &mut writer).await;
    let Some(mut writer) = writer else { return };
    if let Some(Ended { outcome, guard }) = ended {
        if let Some(last) = exchange.conclude(outcome, &mut writer) {
            exchange.write(last, &mut writer).await;
        }
        drop(guard);
    }
    drop(charge);
    if !writer.is_finished() {
        return;
    }
    if let Err((writer, _work)) = unacked.keep(writer, work, &node.drain, link) {
        // Closing the connection would take the answer back, and that is what comes next.
        let _ = writer.stopped().await;
    }
}

/// What came in the frame of a request.
struct Asked {
    /// Of the request, and so of the answers.
    codec: Codec,
    request: Result<Request, MessageError>,
}

impl Asked {
    fn read(body: Body<'_>) -> Self {
        Self { codec: Codec::of(body.bytes()), request: Request::read(body) }
    }
}

/// One frame, then FIN, all within the time for it; or FIN alone, and then nothing is asked.
///
/// What is read goes where it stays, because results are moved from one future to the next.
async fn read_request(node: &Node, reader: &mut FrameReader, asked: &mut Option<Asked>) -> Result<()> {
    let read = async {
        match reader.next(|body| *asked = Some(Asked::read(body))).await? {
            Some(()) => reader.end().await,
            None => Ok(()),
        }
    };
    let read = node.clock.timeout(node.limits.request_read_timeout(), read).await;
    read.unwrap_or_else(|Elapsed| {
        Err(Error::new(ErrorKind::DeadlineExceeded).detail("the request did not arrive in time"))
    })
}

/// The code for a stream whose frames could not be read.
pub(super) fn fault_code(error: &Error) -> Code {
    match error.kind() {
        ErrorKind::FrameTooLarge => Code::FRAME_TOO_LARGE,
        ErrorKind::DeadlineExceeded => Code::DEADLINE_EXCEEDED,
        ErrorKind::Protocol | ErrorKind::Truncated => Code::PROTOCOL_VIOLATION,
        // The peer reset its half, or the connection is gone.
        _ => Code::CANCELLED,
    }
}

/// Whether a stream was not read because of something that the peer did, and that cost it nothing.
pub(super) fn is_fault(error: &Error, link: &Link) -> bool {
    match error.kind() {
        ErrorKind::StreamReset(_) | ErrorKind::Protocol | ErrorKind::Truncated | ErrorKind::FrameTooLarge => {
            true
        }
        // Where memory is short, the peer may have had to wait.
        ErrorKind::DeadlineExceeded => link.allowance().has_room(),
        _ => false,
    }
}

pub(super) struct Exchange<'a> {
    pub(super) node: &'a Node,
    pub(super) link: &'a Arc<Link>,
    pub(super) codec: Codec,
    pub(super) span: Span,
    /// When the request was there.
    pub(super) began: Instant,
    /// When the caller stops waiting, as far as it said so.
    pub(super) expires: Option<Instant>,
}

/// How what was asked for ended. What is left to say is said in one place, since a future has room for all
/// that it may wait for.
pub(super) struct Ended {
    pub(super) outcome: Outcome<Option<Response>>,
    /// The context of the handler is over when this is dropped.
    pub(super) guard: Option<ExchangeGuard>,
}

impl Ended {
    pub(super) const fn with(answer: Response) -> Self {
        Self { outcome: Outcome::Returned(Ok(Some(answer))), guard: None }
    }
}

/// The last frame of an exchange.
struct Last {
    frame: Vec<u8>,
    /// For as long as the frame is being written.
    _charge: Charge,
}

/// No handshake would succeed on a slower path, by the default limits.
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(10);

/// A call that is cancelled sooner counts as abuse, unless its time was up.
const ABUSIVE_CANCEL: Duration = Duration::from_millis(50);

impl Exchange<'_> {
    /// Does what was asked for, whose memory is `charge`, as an answer may share it. The writer stays away
    /// where a handler did not give it back; nothing is left to say where nothing comes back.
    async fn run(
        &self,
        admitted: Result<Request, MethodError>,
        charge: &mut Charge,
        writer: &mut Option<FrameWriter>,
    ) -> Option<Ended> {
        let request = match admitted {
            Ok(request) => request,
            Err(refusal) => {
                if *refusal.error() == WireError::InvalidRequest {
                    self.node.record_fault(self.link);
                }
                tracing::debug!(remote = %self.link.remote_address(), error = %refusal, "request refused");
                return Some(Ended::with(refusal.not_run().into_response()));
            }
        };
        let answer = match &*request.method {
            HEALTH => health(self.node),
            STREAM_EVENTS => match self.node.router.event_log() {
                Some(log) => {
                    // A subscription has no use for parameters, and may last for days.
                    let request = Request { params: None, ..request };
                    charge.settle(0);
                    // Boxed, so that a unary exchange needs no room for it.
                    return Box::pin(events::stream(self, log, &request, writer)).await;
                }
                None => unsupported(),
            },
            name => match self.node.router.method(name) {
                Some(method) => {
                    let Request { params, timeout_ms, .. } = request;
                    return self.call(method, params.unwrap_or_default(), timeout_ms, writer).await;
                }
                None => unsupported(),
            },
        };
        Some(Ended::with(answer))
    }

    fn admit(&self, request: Result<Request, MessageError>) -> Result<Request, MethodError> {
        self.take_request()?;
        let request = request.map_err(|error| MethodError::invalid_request(error.to_string()))?;
        record(&self.span, "method", method(&request.method));
        if request.protocol_version != PROTOCOL_VERSION {
            return Err(MethodError::new(WireError::ProtocolMismatch)
                .detail(format!("this node speaks version {PROTOCOL_VERSION}")));
        }
        if self.node.drain.has_begun() {
            return Err(MethodError::unavailable("the node is shutting down"));
        }
        if !self.node.router.allows(self.link.peer(), &request.method) {
            // No word about who may: that would be a list of whom to pretend to be.
            return Err(MethodError::new(WireError::PermissionDenied));
        }
        Ok(request)
    }

    /// Counts the request against the peer's rate.
    fn take_request(&self) -> Result<(), MethodError> {
        let wait = match self.link.allowance().take_request(&self.node.clock) {
            Ok(()) => return Ok(()),
            Err(TooMany::Wait(wait)) => wait,
            Err(TooMany::Enough(wait)) => {
                if self.link.is_open() {
                    self.node.counters.excessive.add();
                }
                self.link.close_until(Code::RATE_LIMITED, wait);
                wait
            }
        };
        Err(MethodError::resource_exhausted("requests come too often").retry_after(wait))
    }

    async fn call(
        &self,
        registered: &Registered,
        params: Bytes,
        timeout_ms: Option<u64>,
        writer: &mut Option<FrameWriter>,
    ) -> Option<Ended> {
        let Registered { method, answers } = registered;
        let limit = self.node.limits.handler_timeout();
        let limit = timeout_ms.map_or(limit, |asked| limit.min(Duration::from_millis(asked)));
        let deadline = Clock::after(self.began, limit);
        // No answer can reach the caller in time. So a handler does not start, and a peer that cancels calls
        // which it gave next to no time, for which it is not to blame, makes this node do no more
        // than answer them.
        if self.expires_within_a_round_trip() {
            return Some(Ended::with(expired()));
        }
        let stream = writer.as_ref()?;
        // Where answers are large and memory is short, handlers wait for their turn.
        let mut room = self.link.allowance().charge();
        if !room.try_reserve(answers.expected())
            && let Err(outcome) = Box::pin(self.turn(&mut room, answers.expected(), deadline, stream)).await
        {
            return Some(Ended { outcome, guard: None });
        }
        let context = Context::new(Arc::clone(self.link), Some(deadline));
        let guard = context.guard();
        match method {
            Method::Unary(handler) => {
                let outcome = {
                    let stopped = pin!(stream.given_up());
                    supervise(self.node, Holds::Work, Some(deadline), stopped, handler(context, params)).await
                };
                if let Outcome::Returned(Ok(payload)) = &outcome {
                    answers.observe(payload.len());
                }
                drop(room);
                let outcome = outcome.map(|payload| Some(Response::Result { payload: Some(payload) }));
                Some(Ended { outcome, guard: Some(guard) })
            }
            Method::Streaming(handler) => {
                let handle = |sink| handler(context, params, sink);
                Box::pin(self.stream(handle, Arc::clone(answers), deadline, writer, guard)).await
            }
        }
    }

    /// Waits for room for an answer, unless the deadline comes first or the caller leaves.
    async fn turn(
        &self,
        room: &mut Charge,
        bytes: usize,
        deadline: Instant,
        writer: &FrameWriter,
    ) -> Result<(), Outcome<Option<Response>>> {
        let turn = async {
            room.reserve(bytes).await;
            Ok(())
        };
        let given_up = async { Err(Outcome::GivenUp(writer.given_up().await)) };
        let turn = self.node.clock.timeout_at(Some(deadline), future::or(turn, given_up)).await;
        turn.unwrap_or_else(|Elapsed| Err(Outcome::Returned(Ok(Some(expired())))))
    }

    async fn stream(
        &self,
        handle: impl FnOnce(ResponseSink) -> Pin<Box<dyn Future<Output = Result<(), MethodError>> + Send>>,
        answers: Arc<Answers>,
        deadline: Instant,
        writer: &mut Option<FrameWriter>,
        guard: ExchangeGuard,
    ) -> Option<Ended> {
        let stopped = writer.as_ref()?.given_up();
        let (lender, borrower) = Lender::lend(writer.take()?);
        let sink = ResponseSink::new(
            borrower,
            self.codec,
            self.node.max_frame_len(),
            self.link.allowance().charge(),
            answers,
        );
        let outcome = supervise(self.node, Holds::Work, Some(deadline), pin!(stopped), handle(sink)).await;
        // A task that the handler left its sink to may be in the middle of a frame, but not for ever.
        let patience = self.node.clock.deadline(self.node.limits.handler_timeout());
        let given_back = async { Some(lender.take_back().await) };
        let nobody_waits = async {
            let closed = async {
                self.link.quinn().closed().await;
            };
            future::or(closed, self.node.drain.reached(Phase::Aborting)).await;
            None
        };
        let given_back = future::or(given_back, nobody_waits);
        let Ok(Some(left)) = self.node.clock.timeout_at(Some(patience), given_back).await else {
            lender.abandon();
            return None;
        };
        *writer = left;
        Some(Ended { outcome: outcome.map(|()| None), guard: Some(guard) })
    }

    /// What is left to write on the stream, if anything is.
    fn conclude(&self, outcome: Outcome<Option<Response>>, writer: &mut FrameWriter) -> Option<Last> {
        let answer = match outcome {
            Outcome::Returned(Ok(Some(answer))) => answer,
            Outcome::Returned(Ok(None)) => {
                record(&self.span, "outcome", "ok");
                writer.finish();
                return None;
            }
            Outcome::Returned(Err(error)) => error.of_handler().into_response(),
            Outcome::TimedOut => MethodError::new(WireError::DeadlineExceeded).into_response(),
            Outcome::GivenUp(code) => {
                if self.link.is_open() {
                    self.node.counters.streams_reset_by_peers.add();
                }
                record(&self.span, "outcome", code);
                writer.reset(code);
                self.count_given_up();
                return None;
            }
            Outcome::Panicked => {
                tracing::warn!(remote = %self.link.remote_address(), "a handler panicked");
                record(&self.span, "outcome", Code::INTERNAL);
                self.node.reset(writer, Code::INTERNAL);
                return None;
            }
        };
        if !writer.is_between_frames() {
            // The handler was cut off in the middle of a frame; nothing that follows could be read.
            let code = match answer {
                Response::Error { error: WireError::DeadlineExceeded, .. } => Code::DEADLINE_EXCEEDED,
                _ => Code::INTERNAL,
            };
            record(&self.span, "outcome", code);
            self.node.reset(writer, code);
            return None;
        }
        let last = self.encode(&answer);
        if last.is_none() {
            self.node.reset(writer, Code::INTERNAL);
        }
        last
    }

    fn encode(&self, answer: &Response) -> Option<Last> {
        let failures = &self.node.counters.requests_failed;
        if let Response::Error { error, .. } = answer {
            failures.count(error);
            record(&self.span, "outcome", error);
        } else {
            record(&self.span, "outcome", "ok");
        }
        let mut charge = self.link.allowance().charge();
        charge.add(payload_len(answer));
        let frame = response_frame(answer, self.codec, self.node.max_frame_len()).or_else(|error| {
            tracing::debug!(remote = %self.link.remote_address(), %error, "an answer could not be sent");
            let failure = MethodError::internal(error.to_string()).into_response();
            failures.internal.add();
            response_frame(&failure, self.codec, self.node.max_frame_len())
        });
        Some(Last { frame: frame.ok()?, _charge: charge })
    }

    /// Writes the last frame of the exchange, and finishes it.
    async fn write(&self, last: Last, writer: &mut FrameWriter) {
        let Last { frame, _charge } = last;
        // A peer that does not read must not hold the answer for ever.
        let limit = self.node.limits.handler_timeout();
        match self.node.clock.timeout(limit, writer.write(frame)).await {
            Ok(Ok(())) => writer.finish(),
            Ok(Err(error)) => {
                tracing::debug!(remote = %self.link.remote_address(), %error, "answer not taken");
                self.node.counters.unread(&error, Code::CANCELLED);
                self.count_given_up();
                writer.reset(Code::CANCELLED);
            }
            Err(Elapsed) => self.node.reset(writer, Code::DEADLINE_EXCEEDED),
        }
    }

    /// Counts a call that the peer cancelled sooner than anybody in good faith does. One whose time was up is
    /// nobody's fault, and neither is one that was cancelled after a while, since time limits that a
    /// caller keeps to itself do that.
    fn count_given_up(&self) {
        let age = self.node.clock.now().saturating_duration_since(self.began);
        if age < ABUSIVE_CANCEL && !self.expires_within_a_round_trip() {
            self.node.record_fault(self.link);
        }
    }

    /// Whether no more than one round trip of the time that the caller waits is left.
    fn expires_within_a_round_trip(&self) -> bool {
        self.expires.is_some_and(|expires| {
            let left = expires.saturating_duration_since(self.node.clock.now());
            // Most calls have plenty, and then the connection's lock is spared.
            left <= LONGEST_ROUND_TRIP && left <= self.link.quinn().rtt()
        })
    }
}

fn unsupported() -> Response {
    MethodError::new(WireError::UnsupportedMethod).not_run().into_response()
}

/// The answer to a request whose time has passed before a handler started.
fn expired() -> Response {
    MethodError::new(WireError::DeadlineExceeded).not_run().into_response()
}

fn payload_len(response: &Response) -> usize {
    match response {
        Response::Result { payload } => payload.as_ref().map_or(0, Bytes::len),
        _ => 0,
    }
}
