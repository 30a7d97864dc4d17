//! UDP sockets that the thread itself waits for.

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll, Waker},
    time::Instant,
};

use quinn::{
    AsyncTimer, AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use rustix::event::PollFlags;

use super::{Shared, timers::Timer};
use crate::{
    runtime::socket_core::{Core, FalseReports, Offload, Received},
    sync::lock,
};

/// A socket, and who waits for it.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) io: UdpSocket,
    core: Core,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// quinn's endpoint, whose waker stays, since it is always the same.
    reader: Option<Waker>,
    reading: bool,
    /// The last look took everything that there was.
    drained: bool,
    /// The system has reported the socket readable, or broken, and nobody has looked since.
    reported: bool,
    false_reports: FalseReports,
    /// Until when the receiver leaves the socket alone.
    rest: Option<Timer>,
    writers: Vec<Waker>,
}

impl Source {
    /// What to wait for on behalf of those who wait; empty where nobody does.
    pub(super) fn interest(&self) -> PollFlags {
        let waiting = lock(&self.waiting);
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN, waiting.reading);
        interest.set(PollFlags::OUT, !waiting.writers.is_empty());
        interest
    }

    /// Wakes whom these events concern, which the system has reported; an error concerns all.
    pub(super) fn happened(&self, events: PollFlags) {
        let error = events.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL);
        self.wake(error || events.contains(PollFlags::IN), error || events.contains(PollFlags::OUT), true);
    }

    /// Wakes everybody who waits, to see for themselves: the system does not say.
    pub(super) fn may_have_happened(&self) {
        self.wake(true, true, false);
    }

    fn wake(&self, readable: bool, writable: bool, reported: bool) {
        let mut waiting = lock(&self.waiting);
        let reads = waiting.reading && readable;
        let reader = if reads { waiting.reader.clone() } else { None };
        waiting.reading &= !reads;
        waiting.reported |= reads && reported;
        let writers = if writable {
            self.core.unblock_send();
            std::mem::take(&mut waiting.writers)
        } else {
            Vec::new()
        };
        drop(waiting);
        reader.into_iter().chain(writers).for_each(Waker::wake);
    }
}

/// The sockets of a runtime, which are others' to keep.
pub(super) type Sources = Mutex<Vec<Weak<Source>>>;

/// A socket, as quinn knows it.
#[derive(Debug)]
pub(super) struct Socket {
    source: Arc<Source>,
    home: Arc<Shared>,
}

impl Socket {
    pub(super) fn new(home: Arc<Shared>, io: UdpSocket, offload: Offload) -> io::Result<Self> {
        let core = Core::new(&io, offload)?;
        io.set_nonblocking(true)?;
        let source = Arc::new(Source { io, core, waiting: Mutex::default() });
        let mut sources = lock(&home.sources);
        sources.retain(|source| source.strong_count() > 0);
        sources.push(Arc::downgrade(&source));
        drop(sources);
        Ok(Self { source, home })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The thread may hold the socket while it waits, and is to let go of it.
        self.home.bell.ring();
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(WritePoller(self))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.source.core.try_send((&self.source.io).into(), transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let Source { io, core, waiting } = &*self.source;
        let (drained, reported) = {
            let mut waiting = lock(waiting);
            if let Some(rest) = &mut waiting.rest {
                if Pin::new(rest).poll(cx).is_pending() {
                    return Poll::Pending;
                }
                waiting.rest = None;
            }
            (std::mem::take(&mut waiting.drained), std::mem::take(&mut waiting.reported))
        };
        let received = if drained { Received::Nothing } else { core.try_recv(io, bufs, meta)? };
        match received {
            Received::Datagrams(count) => {
                // Waiting reports immediately what has come since, so that the look which would find
                // nothing is spared.
                let mut waiting = lock(waiting);
                waiting.drained = core.is_drained_by(count, bufs.len());
                waiting.false_reports.forget();
                Poll::Ready(Ok(count))
            }
            Received::Nothing => {
                let mut waiting = lock(waiting);
                if reported && let Some(rest) = waiting.false_reports.record() {
                    let rest = waiting.rest.insert(Timer::new(Arc::clone(&self.home), Instant::now() + rest));
                    // It has just been set, and wakes the task when it is over.
                    let _ = Pin::new(rest).poll(cx);
                    return Poll::Pending;
                }
                match &mut waiting.reader {
                    Some(known) => known.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                waiting.reading = true;
                drop(waiting);
                self.home.bell.ring();
                Poll::Pending
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.source.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.source.core.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.source.core.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.source.core.may_fragment()
    }
}

/// Lets one task wait until the socket takes datagrams again.
struct WritePoller(Arc<Socket>);

impl UdpPoller for WritePoller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Socket { source, home } = &*self.0;
        home.sender.note();
        if !source.core.is_send_blocked() {
            return Poll::Ready(Ok(()));
        }
        let mut waiting = lock(&source.waiting);
        if !waiting.writers.iter().any(|known| known.will_wake(cx.waker())) {
            waiting.writers.push(cx.waker().clone());
        }
        drop(waiting);
        home.bell.ring();
        Poll::Pending
    }
}

impl fmt::Debug for WritePoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WritePoller").finish_non_exhaustive()
    }
}
