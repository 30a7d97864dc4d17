//! A runtime that waits for its own sockets, on one thread.

mod bell;
mod busy;
mod sockets;
mod tasks;
mod timers;

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    hint, io,
    net::UdpSocket,
    pin::{Pin, pin},
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use async_task::Runnable;
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use self::{
    bell::Bell,
    busy::Busy,
    sockets::{Socket, Source, Sources},
    tasks::{MainWaker, Queue, Sender, Tasks},
    timers::{Timer, Timers},
};
use super::{
    Turns,
    socket_core::{Offload, doubled},
};
use crate::{error::Result, sync::lock};

/// Tasks run in a row before sockets and deadlines are looked at, though there is still something to do.
const TASKS_PER_LOOK: usize = 128;

/// How long the thread sleeps instead of waiting, at first and at most, while the system refuses to wait.
/// Nothing wakes it meanwhile, so that everything takes up to this much longer; shorter pauses would take the
/// processor, and a refusal may last.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// How long the thread looks again and again before it sleeps: as long as to be woken takes, or a little
/// longer.
const PATIENCE: Duration = Duration::from_micros(50);

/// Runs nodes on one thread, without a reactor: everything happens within [`block_on`](Self::block_on).
///
/// The thread that calls it waits for its UDP sockets by one `ppoll`, whose time limit is the next deadline;
/// so a request at a time costs three system calls on each side, where an
/// [`AsyncIoRuntime`](crate::AsyncIoRuntime) needs about nine and the help of a second thread. What several
/// tasks in a row write leaves in common packets, and then come the next, where it turns out to be quicker
/// that the peer works on the first while this side works on the last. Where waits are short, it does not
/// sleep in them: [`busy_poll`](Self::busy_poll).
///
/// Endpoints are bound with [`handle`](Self::handle), before or within `block_on`. Their futures can be
/// awaited on any thread and any executor, as always; but they make progress only while `block_on` runs, and
/// so do their time limits: the thread fires the timers itself. Never block it. While a task or the future of
/// `block_on` does, or while nobody is in `block_on`, no call ends, not even one whose time has passed.
/// Futures of other reactors can be awaited within it, since whatever wakes the thread wakes it immediately.
///
/// Where the system refuses to wait, since the limit of file descriptors was lowered below those that are
/// open, say, or for want of memory, the thread goes on at a slower pace: it looks at its sockets every 10
/// ms, says so once at warn, and waits again as soon as it may.
///
/// Dropping it drops all that runs here: connections are lost without a word, and whatever is awaited of its
/// endpoints, on whichever thread, ends with [`Closed`](crate::ErrorKind::Closed): calls, streams, events,
/// dials, [`Connection::closed`] and [`Endpoint::shutdown`]. Timers that were taken from the
/// [`handle`](Self::handle) itself never fire then. [`Endpoint::shutdown`] comes first, within `block_on`.
///
/// [`Connection::closed`]: crate::Connection::closed
/// [`Endpoint::shutdown`]: crate::Endpoint::shutdown
///
/// ```
/// use palyra_quic::{Endpoint, PollRuntime};
///
/// let mut runtime = PollRuntime::new()?;
/// let endpoint = Endpoint::builder().runtime(runtime.handle()).bind(([127, 0, 0, 1], 0).into())?;
/// runtime.block_on(async {
///     // Calls are made here, and peers served for as long as this lasts.
/// # endpoint.shutdown(std::time::Duration::ZERO).await;
/// });
/// # Ok::<(), palyra_quic::Error>(())
/// ```
pub struct PollRuntime {
    shared: Arc<Shared>,
    main: Waker,
    offload: Offload,
    batch: VecDeque<Runnable>,
    due: Vec<Waker>,
    sources: Vec<(Arc<Source>, PollFlags)>,
    /// Empty; its memory is used again.
    fds: Vec<PollFd<'static>>,
    /// Tasks run since the last look at the sockets.
    unseen: usize,
    turns: Turns,
    busy: Busy,
    /// When there was something to do again.
    woke: Instant,
    /// Waits in a row that the system refused.
    refused_waits: u32,
}

/// What handles, wakers, timers and sockets have of the runtime.
#[derive(Debug)]
struct Shared {
    tasks: Mutex<Tasks>,
    timers: Mutex<Timers>,
    sources: Sources,
    sender: Sender,
    bell: Bell,
}

impl PollRuntime {
    /// Takes one file descriptor, besides those of the sockets to come.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) where the process has no more file descriptors.
    pub fn new() -> Result<Self> {
        let shared = Arc::new(Shared {
            tasks: Mutex::default(),
            timers: Mutex::default(),
            sources: Mutex::default(),
            sender: Sender::default(),
            bell: Bell::new()?,
        });
        Ok(Self {
            main: Waker::from(Arc::new(MainWaker(Arc::clone(&shared)))),
            shared,
            offload: Offload { gso: true, gro: true },
            batch: VecDeque::new(),
            due: Vec::new(),
            sources: Vec::new(),
            fds: Vec::new(),
            unseen: 0,
            turns: Turns::new(),
            busy: Busy::new(patience()),
            woke: Instant::now(),
            refused_waits: 0,
        })
    }

    /// As [`AsyncIoRuntime::without_gso`](crate::AsyncIoRuntime::without_gso), for endpoints bound with
    /// handles that are taken from here on.
    #[must_use]
    pub fn without_gso(mut self) -> Self {
        self.offload.gso = false;
        self
    }

    /// As [`AsyncIoRuntime::without_gro`](crate::AsyncIoRuntime::without_gro), for endpoints bound with
    /// handles that are taken from here on.
    #[must_use]
    pub fn without_gro(mut self) -> Self {
        self.offload.gro = false;
        self
    }

    /// Looks at its sockets again and again, for up to so long, before it lets the thread sleep. Zero is not
    /// at all. Default: 50 µs; zero where the process has one processor alone.
    ///
    /// To be woken takes a thread tens of microseconds, most of all in virtual machines; that is half of what
    /// a call at a time over a local link takes, and `docs/benchmarks` has the figures of both. In return
    /// the thread takes the processor for that long where it would have slept. Where waits turn out to be
    /// longer, as on slow links or when there is little to do, it tries one of 64.
    #[must_use]
    pub fn busy_poll(mut self, patience: Duration) -> Self {
        self.busy = Busy::new(patience);
        self
    }

    /// For [`EndpointBuilder::runtime`](crate::EndpointBuilder::runtime), and for tasks of the caller's own.
    #[must_use]
    pub fn handle(&self) -> Arc<dyn Runtime> {
        Arc::new(Handle { shared: Arc::clone(&self.shared), offload: self.offload })
    }

    /// Runs everything on this thread until `future` is ready. What is left then goes on with the next call.
    ///
    /// Within another executor, this holds up whatever else runs on the thread.
    ///
    /// # Panics
    ///
    /// As `future` and the tasks that the caller spawned do; the next call goes on with the others.
    pub fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        let main = self.main.clone();
        main.wake_by_ref();
        loop {
            if let Some(output) = self.run_ready(&main, future.as_mut()) {
                return output;
            }
            self.run(Queue::Senders, usize::MAX);
            self.look();
        }
    }

    /// Runs what is ready, for one turn.
    fn run_ready<F: Future>(&mut self, main: &Waker, future: Pin<&mut F>) -> Option<F::Output> {
        if lock(&self.shared.tasks).take_main() {
            self.unseen += 1;
            if let Poll::Ready(output) = future.poll(&mut Context::from_waker(main)) {
                return Some(output);
            }
        }
        let length = self.turns.length();
        let (mut ran, mut all) = self.run(Queue::NextTurn, length);
        // Those that are woken meanwhile belong to the turn, so that what all of them write leaves together.
        let mut more = ran;
        while more > 0 && ran < length {
            (more, all) = self.run(Queue::Ready, length - ran);
            ran += more;
        }
        self.turns.end(ran, all);
        None
    }

    /// Runs at most this many tasks of a queue once. Says how many that were, and whether they were all.
    fn run(&mut self, queue: Queue, most: usize) -> (usize, bool) {
        // What a panic left of a batch comes first.
        let all = self.batch.is_empty() && lock(&self.shared.tasks).take(queue, most, &mut self.batch);
        let count = self.batch.len();
        while let Some(runnable) = self.batch.pop_front() {
            self.unseen += 1;
            runnable.run();
        }
        (count, all)
    }

    /// Wakes those whose time has come; `false` where there are none.
    fn expire(&mut self, now: Instant) -> bool {
        lock(&self.shared.timers).expire(now, &mut self.due);
        let any = !self.due.is_empty();
        self.due.drain(..).for_each(Waker::wake);
        any
    }

    /// Waits for sockets, deadlines and other threads where there is nothing else to do; glances at them now
    /// and then where there is.
    fn look(&mut self) {
        let mut idle = lock(&self.shared.tasks).is_idle();
        if !idle && self.unseen < TASKS_PER_LOOK {
            return;
        }
        self.unseen = 0;
        let now = Instant::now();
        idle &= !self.expire(now);
        if !idle {
            self.poll(Some(Duration::ZERO));
            return;
        }
        if !self.stay_awake(now) {
            self.sleep();
        }
        let woke = Instant::now();
        self.turns.pause(woke.saturating_duration_since(now), now.saturating_duration_since(self.woke));
        self.woke = woke;
    }

    /// Looks again and again while that may be worth it; `true` as soon as there is something to do.
    fn stay_awake(&mut self, since: Instant) -> bool {
        let patience = self.busy.begin();
        // Where the system does not say whether there is something to do, there always may be.
        if patience.is_zero() || self.refused_waits > 0 {
            return false;
        }
        let found = loop {
            self.poll(Some(Duration::ZERO));
            let now = Instant::now();
            if self.expire(now) || !lock(&self.shared.tasks).is_idle() {
                break true;
            }
            if now.saturating_duration_since(since) >= patience {
                break false;
            }
            hint::spin_loop();
        };
        self.busy.end(found);
        found
    }

    /// Waits for sockets, deadlines and other threads.
    fn sleep(&mut self) {
        let Shared { tasks, timers, bell, .. } = &*self.shared;
        bell.sleep();
        // Others may have been quick; from here on they ring.
        let timeout = if lock(tasks).is_idle() {
            let next = lock(timers).next();
            next.map(|deadline| deadline.saturating_duration_since(Instant::now()))
        } else {
            Some(Duration::ZERO)
        };
        self.poll(timeout);
    }

    fn poll(&mut self, timeout: Option<Duration>) {
        let Shared { sources, bell, .. } = &*self.shared;
        // One that nobody waits for would report its errors again and again.
        let awaited = |source: Arc<Source>| {
            Some(source.interest()).filter(|interest| !interest.is_empty()).map(|interest| (source, interest))
        };
        self.sources.extend(lock(sources).iter().filter_map(Weak::upgrade).filter_map(awaited));
        let mut fds = recycle(std::mem::take(&mut self.fds));
        fds.push(PollFd::from_borrowed_fd(bell.wire(), PollFlags::IN));
        fds.extend(self.sources.iter().map(|(source, interest)| PollFd::new(&source.io, *interest)));
        let limit = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let ready = poll(&mut fds, limit.as_ref());
        let refused = match ready {
            Ok(_) | Err(Errno::INTR) => None,
            Err(errno) => Some(errno),
        };
        if let Some(errno) = refused {
            pause(&mut self.refused_waits, timeout, errno);
        }
        // Before anything is woken, which would ring otherwise.
        bell.wake();
        if refused.is_some() {
            self.sources.iter().for_each(|(source, _)| source.may_have_happened());
        }
        if ready.is_ok() {
            let mut events = fds.iter().map(PollFd::revents);
            let rung = events.next().is_some_and(|events| !events.is_empty());
            for ((source, _), events) in self.sources.iter().zip(events) {
                if !events.is_empty() {
                    source.happened(events);
                }
            }
            if rung && !bell.hush() {
                // The next wait would end immediately, and so would every other.
                pause(&mut self.refused_waits, timeout, Errno::IO);
            } else if std::mem::take(&mut self.refused_waits) > 0 {
                tracing::debug!("the system lets the thread wait for its sockets again");
            }
        }
        self.fds = recycle(fds);
        self.sources.clear();
    }
}

/// Sleeps in place of a wait that the system refused, for no longer than that would have lasted.
fn pause(refused_in_a_row: &mut u32, timeout: Option<Duration>, errno: Errno) {
    let earlier = *refused_in_a_row;
    *refused_in_a_row = earlier.saturating_add(1);
    if earlier == 0 {
        tracing::warn!(
            error = %io::Error::from(errno),
            "the system does not let the thread wait for its sockets; it looks at them every {LONGEST_PAUSE:?}"
        );
    }
    let pause = doubled(FIRST_PAUSE, earlier, LONGEST_PAUSE);
    let pause = timeout.map_or(pause, |timeout| timeout.min(pause));
    if !pause.is_zero() {
        thread::sleep(pause);
    }
}

/// Nobody can answer while the only processor is taken.
fn patience() -> Duration {
    if thread::available_parallelism().is_ok_and(|threads| threads.get() > 1) {
        PATIENCE
    } else {
        Duration::ZERO
    }
}

/// Empties a list for descriptors of another lifetime, and keeps its memory.
fn recycle<'to>(mut fds: Vec<PollFd<'_>>) -> Vec<PollFd<'to>> {
    fds.clear();
    fds.into_iter().map_while(|_| None).collect()
}

impl Drop for PollRuntime {
    fn drop(&mut self) {
        self.batch.clear();
        self.shared.close();
    }
}

impl fmt::Debug for PollRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            shared: _,
            main: _,
            offload,
            batch: _,
            due: _,
            sources: _,
            fds: _,
            unseen: _,
            turns: _,
            busy,
            woke: _,
            refused_waits: _,
        } = self;
        f.debug_struct("PollRuntime").field("offload", offload).field("busy", busy).finish_non_exhaustive()
    }
}

/// What quinn has of the runtime.
struct Handle {
    shared: Arc<Shared>,
    offload: Offload,
}

impl Runtime for Handle {
    fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(Timer::new(Arc::clone(&self.shared), deadline))
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.shared.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(Socket::new(Arc::clone(&self.shared), socket, self.offload)?))
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollRuntime").field("offload", &self.offload).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, io::IoSliceMut, net::Ipv4Addr, sync::atomic::Ordering};

    use quinn::udp::{RecvMeta, Transmit};

    use super::*;

    async fn receive(socket: &Arc<dyn AsyncUdpSocket>) {
        let (mut buffer, mut meta) = ([0; 2048], [RecvMeta::default()]);
        poll_fn(|cx| socket.poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta)).await.unwrap();
    }

    #[test]
    fn a_thread_that_waits_for_its_own_sockets_and_timers_is_not_rung_up() {
        let mut runtime = PollRuntime::new().unwrap();
        let (handle, shared) = (runtime.handle(), Arc::clone(&runtime.shared));
        let rung = || shared.bell.rung.load(Ordering::Relaxed);
        let socket = handle.wrap_udp_socket(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).unwrap();
        let destination = socket.local_addr().unwrap();
        runtime.block_on(async {
            for _ in 0..10 {
                let mut timer = handle.new_timer(Instant::now() + Duration::from_millis(1));
                poll_fn(|cx| timer.as_mut().poll(cx)).await;
                let contents = b"to itself";
                let transmit =
                    Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None };
                socket.try_send(&transmit).unwrap();
                receive(&socket).await;
            }
        });
        assert_eq!(rung(), 0, "the thread woke itself by system calls");

        let mut polled = false;
        runtime.block_on(poll_fn(|cx| {
            if std::mem::replace(&mut polled, true) {
                return Poll::Ready(());
            }
            let (waker, shared) = (cx.waker().clone(), Arc::clone(&shared));
            thread::spawn(move || {
                while !shared.bell.is_asleep() {
                    thread::yield_now();
                }
                waker.wake();
            });
            Poll::Pending
        }));
        assert_eq!(rung(), 1);
    }

    #[test]
    fn a_thread_that_polls_busily_does_not_sleep_before_its_patience_ends() {
        let slept = |patience| {
            let mut runtime = PollRuntime::new().unwrap().busy_poll(patience);
            let handle = runtime.handle();
            runtime.block_on(async {
                let mut timer = handle.new_timer(Instant::now() + Duration::from_millis(5));
                poll_fn(|cx| timer.as_mut().poll(cx)).await;
            });
            runtime.shared.bell.slept.load(Ordering::Relaxed) > 0
        };
        assert!(!slept(Duration::from_secs(60)));
        assert!(slept(Duration::from_micros(1)));
        assert!(slept(Duration::ZERO));
    }

    #[test]
    fn by_default_a_thread_polls_busily_where_another_can_answer() {
        let others = thread::available_parallelism().is_ok_and(|threads| threads.get() > 1);
        let patience = PollRuntime::new().unwrap().busy.begin();
        assert_eq!(patience, Duration::from_micros(if others { 50 } else { 0 }));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_socket_that_stays_readable_and_has_nothing_is_left_alone_now_and_then() {
        use nix::sys::socket::{setsockopt, sockopt::Ipv4RecvErr};

        let mut runtime = PollRuntime::new().unwrap();
        let handle = runtime.handle();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        // Errors of ICMP are kept in a queue, which makes the system report an error while nobody empties it.
        setsockopt(&socket, Ipv4RecvErr, &true).unwrap();
        let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        socket.send_to(b"?", nobody).unwrap();
        let socket = handle.wrap_udp_socket(socket).unwrap();
        // Of the time that so many polls take, a busy machine can only make more.
        let (begun, mut polls) = (Instant::now(), 0);
        let mut timer = handle.new_timer(begun + Duration::from_secs(20));
        runtime.block_on(poll_fn(|cx| {
            polls += 1;
            let (mut buffer, mut meta) = ([0; 64], [RecvMeta::default()]);
            while socket.poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta).is_ready() {}
            if polls < 100 { timer.as_mut().poll(cx) } else { Poll::Ready(()) }
        }));
        assert_eq!(polls, 100, "the socket was not reported");
        let took = begun.elapsed();
        assert!(took > Duration::from_millis(30), "100 polls in {took:?}");

        // It is left alone, and not forgotten.
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        sender.send_to(b"still there?", socket.local_addr().unwrap()).unwrap();
        runtime.block_on(receive(&socket));
    }

    #[test]
    fn a_list_of_descriptors_keeps_its_memory() {
        let bell = Bell::new().unwrap();
        let mut fds = recycle(Vec::with_capacity(7));
        let memory = fds.as_ptr();
        fds.push(PollFd::from_borrowed_fd(bell.wire(), PollFlags::IN));
        let fds = recycle(fds);
        assert_eq!((fds.as_ptr(), fds.len(), fds.capacity()), (memory, 0, 7));
    }
}
