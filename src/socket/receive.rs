//! Receiving from a socket whose errors may pass.

use std::{
    io::{self, IoSliceMut},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, udp::RecvMeta};

use super::{health::SocketHealth, size::DatagramSize};
use crate::{
    error::{Error, Result},
    sync::lock,
};

/// Receive errors in a row after which the receiver pauses. An error that was only queued on the socket, as
/// ICMP causes it, is cleared by the attempt that reports it, and the next attempt receives what has
/// arrived.
const ATTEMPTS: usize = 32;
/// The first pause is short, because an error that stays for 32 attempts is mostly a lack of kernel memory,
/// which is over soon.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// With this, a link that recovers is used again within a second, at the cost of 32 system calls per second.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// An error that is over sooner is not worth a warning.
const WARN_AFTER: Duration = Duration::from_millis(100);
/// Connections with the default `idle_timeout` of 30 s outlive an interface that comes back within this
/// time. A process that is not allowed to receive at all learns of it before its peers have given up.
const FATAL_AFTER: Duration = Duration::from_secs(10);

/// Receives for quinn, and retries after errors.
#[derive(Debug)]
pub(super) struct Receiver {
    runtime: Arc<dyn Runtime>,
    /// Whether the state is another than [`ReceiverState::Working`].
    interrupted: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: ReceiverState,
    next_pause: Duration,
    /// When the last pause ended, or will end.
    paused_until: Option<Instant>,
}

#[derive(Debug)]
enum ReceiverState {
    Working,
    /// The attempt at bind has received this, and nobody has read it yet.
    Buffered(Datagrams),
    /// Nothing was received since the first error, and the next attempt comes after a pause.
    Retrying {
        since: Instant,
        pause: Pin<Box<dyn AsyncTimer>>,
        warned: bool,
    },
    /// The endpoint was told that its socket has failed.
    Failed,
}

/// One buffer of datagrams that were received together.
#[derive(Debug)]
struct Datagrams {
    bytes: Box<[u8]>,
    meta: RecvMeta,
}

impl Receiver {
    /// Tries to receive once, so that a socket that can never receive fails now. What this attempt receives
    /// is returned by the first [`poll_recv_interrupted`](Self::poll_recv_interrupted).
    ///
    /// # Errors
    ///
    /// `Io` if receiving fails, and not only because of an error that was queued on the socket.
    pub(super) fn new(
        socket: &dyn AsyncUdpSocket,
        runtime: Arc<dyn Runtime>,
        size: DatagramSize,
    ) -> Result<Self> {
        let buffered = try_receive(socket, size)?;
        let interrupted = AtomicBool::new(buffered.is_some());
        let state = buffered.map_or(ReceiverState::Working, ReceiverState::Buffered);
        let inner = Mutex::new(Inner { state, next_pause: FIRST_PAUSE, paused_until: None });
        Ok(Self { runtime, interrupted, inner })
    }

    /// Whether to receive by [`poll_recv_interrupted`](Self::poll_recv_interrupted).
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Receives after an error, or what is buffered.
    #[cold]
    pub(super) fn poll_recv_interrupted(
        &self,
        (socket, health): (&dyn AsyncUdpSocket, &SocketHealth),
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inner = lock(&self.inner);
        match &mut inner.state {
            ReceiverState::Working => {}
            ReceiverState::Buffered(datagrams) => {
                let count = datagrams.copy_to(bufs, meta);
                self.resume(&mut inner);
                return Poll::Ready(Ok(count));
            }
            ReceiverState::Retrying { pause, .. } => {
                if pause.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
            ReceiverState::Failed => return Poll::Pending,
        }
        let mut failure = None;
        for _ in 0..ATTEMPTS {
            match socket.poll_recv(cx, bufs, meta) {
                Poll::Ready(Err(error)) => {
                    health.record_receive_error(&error);
                    failure = Some(error);
                }
                received => {
                    if received.is_ready() {
                        inner.next_pause = FIRST_PAUSE;
                    }
                    self.resume(&mut inner);
                    return received;
                }
            }
        }
        if let Some(error) = failure {
            self.pause(inner, error, health, cx);
        }
        Poll::Pending
    }

    fn resume(&self, inner: &mut Inner) {
        if let ReceiverState::Retrying { warned: true, .. } = inner.state {
            tracing::debug!("the socket receives again");
        }
        inner.state = ReceiverState::Working;
        self.interrupted.store(false, Ordering::Relaxed);
    }

    /// Begins a pause, longer than the last one; or gives up if the socket has failed for [`FATAL_AFTER`].
    fn pause(
        &self,
        mut inner: MutexGuard<'_, Inner>,
        error: io::Error,
        health: &SocketHealth,
        cx: &mut Context<'_>,
    ) {
        let now = self.runtime.now();
        let Inner { state, next_pause, paused_until } = &mut *inner;
        self.interrupted.store(true, Ordering::Relaxed);
        // A failure right after another one is the same failure.
        if paused_until.is_none_or(|until| now.saturating_duration_since(until) > MAX_PAUSE) {
            *next_pause = FIRST_PAUSE;
        }
        let since = if let ReceiverState::Retrying { since, .. } = state { *since } else { now };
        let lasted = now.saturating_duration_since(since);
        if lasted >= FATAL_AFTER {
            *state = ReceiverState::Failed;
            // The endpoint that is told may call the socket.
            drop(inner);
            tracing::error!(
                %error,
                "the endpoint ends, because its socket has not received for {FATAL_AFTER:?}"
            );
            health.fail(error);
            return;
        }
        let until = now + (*next_pause).min(FATAL_AFTER.saturating_sub(lasted));
        *paused_until = Some(until);
        *next_pause = next_pause.saturating_mul(2).min(MAX_PAUSE);
        if !matches!(state, ReceiverState::Retrying { .. }) {
            *state = ReceiverState::Retrying { since, pause: self.runtime.new_timer(until), warned: false };
        }
        let ReceiverState::Retrying { pause, warned, .. } = state else { return };
        if lasted >= WARN_AFTER && !*warned {
            *warned = true;
            tracing::warn!(
                %error,
                "the socket does not receive; the endpoint ends if this lasts for {FATAL_AFTER:?}"
            );
        }
        pause.as_mut().reset(until);
        if pause.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

/// Receives once; `None` if nothing has arrived.
fn try_receive(socket: &dyn AsyncUdpSocket, size: DatagramSize) -> Result<Option<Datagrams>> {
    let segments = size.receive_segments(socket.max_receive_segments());
    // As large as quinn's, since the kernel truncates what does not fit.
    let mut buffer = vec![0; usize::from(size.max_received()).saturating_mul(segments)];
    let mut meta = [RecvMeta::default()];
    // No task has to be woken: quinn polls the socket again.
    let mut cx = Context::from_waker(Waker::noop());
    let mut failure = None;
    for _ in 0..ATTEMPTS {
        match socket.poll_recv(&mut cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta) {
            Poll::Pending | Poll::Ready(Ok(0)) => return Ok(None),
            Poll::Ready(Ok(_)) => {
                let [meta] = meta;
                buffer.truncate(meta.len);
                return Ok(Some(Datagrams { bytes: buffer.into_boxed_slice(), meta }));
            }
            Poll::Ready(Err(error)) => failure = Some(error),
        }
    }
    failure.map_or(Ok(None), |error| Err(Error::from(error).detail("the socket cannot receive")))
}

impl Datagrams {
    /// Copies into the first buffer. Returns how many buffers that has filled.
    fn copy_to(&self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> usize {
        let (Some(buf), Some(meta)) = (bufs.first_mut(), meta.first_mut()) else { return 0 };
        buf.iter_mut().zip(&self.bytes).for_each(|(to, from)| *to = *from);
        *meta = RecvMeta { len: self.bytes.len().min(buf.len()), ..self.meta };
        1
    }
}
