//! A UDP socket that the runtime's thread waits for, and the tasks that wait for it.

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::UdpSocket,
    pin::Pin,
    sync::{Mutex, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use quinn::{AsyncTimer, udp::RecvMeta};
use rustix::event::PollFlags;

use crate::{
    runtime::socket_core::{FalseReports, Offload, SocketCore},
    sync::lock,
};

/// A socket, and the tasks that wait for it.
pub(super) struct IoSource {
    pub(super) io: UdpSocket,
    pub(super) core: SocketCore,
    waiters: Mutex<Waiters>,
}

// For quinn, and short for the size of programs.
impl fmt::Debug for IoSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoSource").finish_non_exhaustive()
    }
}

/// The sockets of a runtime, which belong to their endpoints.
pub(super) type Sources = Mutex<Vec<Weak<IoSource>>>;

#[derive(Debug, Default)]
struct Waiters {
    /// The waker of quinn's endpoint driver. It is kept, since it is nearly always the same.
    reader: Option<Waker>,
    /// The reader waits.
    reading: bool,
    /// The last receive took everything that the kernel had.
    drained: bool,
    /// The system has reported the socket readable, or broken, since the last receive.
    reported: bool,
    false_reports: FalseReports,
    /// The receiver leaves the socket alone until this fires.
    pause: Option<Pin<Box<dyn AsyncTimer>>>,
    writers: Vec<Waker>,
}

impl IoSource {
    pub(super) fn new(io: UdpSocket, offload: Offload) -> io::Result<Self> {
        let core = SocketCore::new(&io, offload)?;
        io.set_nonblocking(true)?;
        Ok(Self { io, core, waiters: Mutex::default() })
    }

    /// The events that tasks wait for; empty if no task waits.
    pub(super) fn interest(&self) -> PollFlags {
        let waiters = lock(&self.waiters);
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN, waiters.reading);
        interest.set(PollFlags::OUT, !waiters.writers.is_empty());
        interest
    }

    /// Wakes the tasks that wait for these events, which the system has reported. An error wakes all.
    pub(super) fn report(&self, events: PollFlags) {
        let error = events.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL);
        self.wake(error || events.contains(PollFlags::IN), error || events.contains(PollFlags::OUT), true);
    }

    /// Wakes every task that waits, to try for itself, since the system reports nothing.
    pub(super) fn wake_all(&self) {
        self.wake(true, true, false);
    }

    fn wake(&self, readable: bool, writable: bool, reported: bool) {
        let mut waiters = lock(&self.waiters);
        let reads = waiters.reading && readable;
        let reader = if reads { waiters.reader.clone() } else { None };
        waiters.reading &= !reads;
        waiters.reported |= reads && reported;
        let writers = if writable {
            self.core.unblock_send();
            std::mem::take(&mut waiters.writers)
        } else {
            Vec::new()
        };
        drop(waiters);
        reader.into_iter().chain(writers).for_each(Waker::wake);
    }

    /// Receives, unless the socket is paused or the kernel has nothing; then the reader is woken later.
    ///
    /// `new_timer` makes a timer that fires after a pause.
    pub(super) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
        new_timer: impl FnOnce(Duration) -> Pin<Box<dyn AsyncTimer>>,
    ) -> Poll<io::Result<usize>> {
        let (drained, reported) = {
            let mut waiters = lock(&self.waiters);
            if let Some(pause) = &mut waiters.pause {
                if pause.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                waiters.pause = None;
            }
            (std::mem::take(&mut waiters.drained), std::mem::take(&mut waiters.reported))
        };
        let received = if drained { None } else { self.core.try_recv(&self.io, bufs, meta)? };
        let mut waiters = lock(&self.waiters);
        if let Some(count) = received {
            // The next wait reports immediately what has arrived since. This saves a receive that would find
            // nothing.
            waiters.drained = self.core.is_drained_by(count, bufs.len());
            waiters.false_reports.reset();
            return Poll::Ready(Ok(count));
        }
        if reported && let Some(pause) = waiters.false_reports.record() {
            // Just set, so it is not over; it wakes the task when it is.
            let _ = waiters.pause.insert(new_timer(pause)).as_mut().poll(cx);
            return Poll::Pending;
        }
        match &mut waiters.reader {
            Some(known) => known.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        waiters.reading = true;
        Poll::Pending
    }

    /// Ready unless the last send would have blocked and the socket has not been reported writable since.
    pub(super) fn poll_writable(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.core.is_send_blocked() {
            return Poll::Ready(());
        }
        let mut waiters = lock(&self.waiters);
        if !waiters.writers.iter().any(|known| known.will_wake(cx.waker())) {
            waiters.writers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}
