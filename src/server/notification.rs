//! Streams of notifications, each handled in its order.
//!
//! A sender takes an acknowledgement for a promise: what it has sent whole is handled, even if it leaves or
//! this node shuts down. So streams are accepted, and read, until nothing that has arrived is left, whatever
//! becomes of the connection. quinn gives out what has arrived before it says that the connection has ended.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_lite::future;
use quinn::RecvStream;
use tracing::{Instrument, Span};

use super::{
    connection_state::{ConnectionState, semaphore},
    node::Node,
    request::record_unread,
    run_handler::{Outcome, ShutdownWaits, run_handler},
};
use crate::{
    code::Code,
    drain::{Phase, WorkGuard},
    error::Result,
    link::Link,
    message::{Notification, PROTOCOL_VERSION, WireError},
    router::{Context, MethodError},
    runtime::OwnWaker,
    span::{self, record},
    stream::{DeadlineFrom, FrameReader},
};

/// Gives each stream of notifications that the peer opens a task, until the connection has ended and none is
/// left.
pub(super) async fn serve_each(state: &Arc<ConnectionState>) {
    let ConnectionState { node, link, .. } = &**state;
    let max = node.limits.max_concurrent_uni_streams();
    let places = semaphore(max);
    let mut work = AcceptedBefore::new(node, u64::from(max));
    // One for all streams: to listen takes longer than to accept.
    let mut begun = pin!(OwnWaker::new(node.drain.begun()));
    loop {
        let Ok(recv) = accept(link, &mut work, begun.as_mut()).await else { return };
        // A handler that awaits the shutdown keeps its place until it returns, and the shutdown waits for
        // what this has accepted: without a place, then.
        let place = async { Some(places.acquire_arc().await) };
        let place = future::or(place, async {
            node.drain.awaited_in_a_handler().await;
            None
        })
        .await;
        if link.is_rejected() {
            return;
        }
        let span = span::notifications(link.span(), recv.id());
        let (state, before) = (Arc::clone(state), work.for_stream(node));
        node.spawn(async move {
            serve(&state, recv, span.clone(), before).instrument(span).await;
            drop(place);
        });
        work.taken(node, 1);
    }
}

/// The next stream. If the shutdown has begun and there is none, what comes later is not work that was
/// accepted before it.
async fn accept(
    link: &Link,
    work: &mut AcceptedBefore,
    begun: Pin<&mut impl Future<Output = ()>>,
) -> Result<RecvStream, quinn::ConnectionError> {
    let mut accept = pin!(link.quinn().accept_uni());
    if work.is_held() {
        let accepted = async { Some(accept.as_mut().await) };
        let begun = async {
            begun.await;
            None
        };
        if let Some(accepted) = future::or(accepted, begun).await {
            return accepted;
        }
        work.release();
    }
    accept.await
}

/// Keeps a shutdown waiting until this node has taken all streams, or all bytes of a stream, that it may have
/// received when the shutdown began.
///
/// What is received later is handled, too, but does not keep the connections open: a peer that goes on
/// sending could otherwise make a shutdown take all of its grace.
struct AcceptedBefore {
    work: Option<WorkGuard>,
    /// How many streams or bytes there may have been when the shutdown began.
    left: u64,
}

impl AcceptedBefore {
    fn new(node: &Node, most: u64) -> Self {
        Self { work: Some(node.drain.accept()), left: most }
    }

    fn is_held(&self) -> bool {
        self.work.is_some()
    }

    /// The same for the bytes of one stream, which quinn and a [`FrameReader`] hold.
    fn for_stream(&self, node: &Node) -> Self {
        let window = u64::from(node.limits.stream_receive_window());
        Self { work: self.is_held().then(|| node.drain.accept()), left: window.saturating_mul(2) }
    }

    /// Streams or bytes were taken. Until the shutdown begins, others may take their place, and none are
    /// counted.
    fn taken(&mut self, node: &Node, amount: usize) {
        if self.is_held() && node.drain.has_begun() {
            self.left = self.left.saturating_sub(u64::try_from(amount).unwrap_or(u64::MAX));
            if self.left == 0 {
                self.release();
            }
        }
    }

    fn release(&mut self) {
        self.work = None;
    }
}

/// What came of waiting for a notification.
enum Next {
    Read(Result<Option<Bytes>>),
    /// While the node shuts down.
    Silence,
    /// The peer is rejected, or the grace of the shutdown is over.
    GivenUp,
}

async fn serve(state: &ConnectionState, recv: RecvStream, span: Span, mut before: AcceptedBefore) {
    let ConnectionState { node, link, .. } = state;
    let charge = link.allowance().charge().outlasting();
    let mut reader = FrameReader::new(recv, node.max_frame_len(), charge);
    let mut pace = DeadlineFrom::Now;
    loop {
        let code = match next(node, link, &mut reader, pace, &mut before).await {
            Next::Read(Ok(Some(body))) => {
                let holds = if before.is_held() { ShutdownWaits::ForHandler } else { ShutdownWaits::No };
                let handled = notify(node, link, &body, holds).await;
                before.taken(node, body.len());
                handled.err()
            }
            Next::Read(Ok(None)) => {
                if pace == DeadlineFrom::Now {
                    node.record_fault(link);
                }
                return record(&span, "outcome", "ok");
            }
            Next::Read(Err(error)) => {
                return reader.stop(record_unread(node, link, &span, "notification", &error));
            }
            Next::Silence => Some(Code::SHUTTING_DOWN),
            Next::GivenUp => Some(Code::CANCELLED),
        };
        if let Some(code) = code {
            node.counters.streams_reset.count(code);
            record(&span, "outcome", code);
            return reader.stop(code);
        }
        pace = DeadlineFrom::FirstByte;
    }
}

async fn next(
    node: &Node,
    link: &Link,
    reader: &mut FrameReader,
    pace: DeadlineFrom,
    before: &mut AcceptedBefore,
) -> Next {
    if link.is_rejected() {
        return Next::GivenUp;
    }
    if !node.drain.has_begun() {
        let next = async { Some(Next::Read(read(node, reader, pace).await)) };
        let begun = async {
            node.drain.begun().await;
            None
        };
        if let Some(next) = future::or(next, begun).await {
            return next;
        }
    }
    loop {
        let received = reader.received();
        // What cannot be read now was not received before the shutdown began.
        if let Some(next) = future::poll_once(read(node, reader, pace)).await {
            return Next::Read(next);
        }
        if !reader.waits_for_room() {
            before.release();
        }
        let next = async { Some(Next::Read(read(node, reader, pace).await)) };
        let given_up = async {
            future::or(link.rejected(), node.drain.reached(Phase::Aborting)).await;
            Some(Next::GivenUp)
        };
        let silence = async {
            node.clock.sleep(silence(link)).await;
            None
        };
        if let Some(next) = future::or(next, future::or(given_up, silence)).await {
            return next;
        }
        if reader.received() == received && !reader.waits_for_room() {
            return Next::Silence;
        }
    }
}

/// Reads the next notification. Dropped and called again, it goes on where it was.
fn read(
    node: &Node,
    reader: &mut FrameReader,
    pace: DeadlineFrom,
) -> impl Future<Output = Result<Option<Bytes>>> {
    reader.next_within(&node.clock, node.limits.request_read_timeout(), pace, |body| body.into_bytes())
}

/// For how long a stream must bring nothing before this side, which shuts down, stops it.
///
/// quinn drops what arrives on a stream that was stopped, and acknowledges it. To the sender it then looks
/// received, if the acknowledgement is there before the news that the stream was stopped. So nothing should
/// be in flight: this is longer than it takes to send a lost packet again, more than once.
fn silence(link: &Link) -> Duration {
    (8 * link.quinn().rtt()).max(SHORTEST_SILENCE)
}

const SHORTEST_SILENCE: Duration = Duration::from_millis(250);

/// Waits until the peer's rate allows a notification; otherwise gives the code to stop its stream with.
async fn wait_for_rate(node: &Node, link: &Link) -> Result<(), Code> {
    let allowed = async {
        let allowed = link.allowance().notification(&node.clock).await;
        allowed.then_some(()).ok_or(Code::RATE_LIMITED)
    };
    // A notification that was received before the shutdown is handled without a wait.
    let stopping = async {
        node.drain.begun().await;
        Ok(())
    };
    let rejected = async {
        link.rejected().await;
        Err(Code::CANCELLED)
    };
    future::or(future::or(allowed, stopping), rejected).await
}

/// Handles one notification, or gives the code to stop its stream with.
async fn notify(node: &Node, link: &Arc<Link>, body: &Bytes, holds: ShutdownWaits) -> Result<(), Code> {
    wait_for_rate(node, link).await?;
    let notification = Notification::decode(body).map_err(|error| violation(node, link, &error))?;
    if notification.protocol_version != PROTOCOL_VERSION {
        return Err(violation(node, link, &"another protocol version"));
    }
    node.counters.notifications.add();
    link.counters().notifications.add();
    if !node.router.allows(link.peer(), &notification.method) {
        node.counters.notifications_denied.add();
        tracing::debug!(
            remote = %link.remote_address(),
            method = %span::method(&notification.method),
            "a notification that the peer may not send"
        );
        return Err(Code::IDENTITY_REJECTED);
    }
    let Some(handler) = node.router.notification_handler(&notification.method) else {
        node.counters.notifications_unhandled.add();
        // At debug, since a peer may send any number of them.
        tracing::debug!(
            remote = %link.remote_address(),
            method = %span::method(&notification.method),
            "no handler for a notification"
        );
        return Ok(());
    };
    let deadline = node.clock.deadline(node.limits.handler_timeout());
    let context = Context::traced(Arc::clone(link), Some(deadline), notification.trace());
    let _guard = context.guard();
    let Notification { method, params, .. } = notification;
    let running = handler(context, params.unwrap_or_default());
    // Nobody waits, so nobody gives up: a sender may notify and leave.
    let aborted = pin!(async {
        node.drain.reached(Phase::Aborting).await;
        Code::CANCELLED
    });
    match run_handler(node, holds, Some(deadline), aborted, running).await {
        Outcome::Returned(Ok(())) => Ok(()),
        Outcome::Returned(Err(error)) => Err(refused(node, link, &method, &error)),
        Outcome::Panicked => {
            let (remote, method) = (link.remote_address(), span::method(&method));
            tracing::warn!(%remote, %method, "a notification handler panicked");
            Err(Code::INTERNAL)
        }
        Outcome::GivenUp(code) => Err(code),
        Outcome::TimedOut => Err(Code::DEADLINE_EXCEEDED),
    }
}

/// The code for a notification that its handler did not take, or that an interceptor refused.
fn refused(node: &Node, link: &Link, method: &str, error: &MethodError) -> Code {
    // At debug, since a peer may send any number of notifications that end so.
    let (remote, method) = (link.remote_address(), span::method(method));
    tracing::debug!(%remote, %method, %error, "a notification was not handled");
    match error.error() {
        WireError::InvalidRequest => {
            node.record_fault(link);
            Code::PROTOCOL_VIOLATION
        }
        WireError::PermissionDenied => {
            node.counters.notifications_denied.add();
            Code::IDENTITY_REJECTED
        }
        WireError::ResourceExhausted => Code::RATE_LIMITED,
        _ => Code::INTERNAL,
    }
}

fn violation(node: &Node, link: &Link, fault: &dyn std::fmt::Display) -> Code {
    node.record_fault(link);
    tracing::debug!(remote = %link.remote_address(), %fault, "notification refused");
    Code::PROTOCOL_VIOLATION
}
