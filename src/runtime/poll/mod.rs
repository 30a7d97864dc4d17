//! A runtime that waits for its own sockets, on one thread.

mod bell;
mod busy;
mod poller;
mod shared;
mod socket;
mod source;
mod tasks;
mod timer;
mod timer_queue;

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    hint, io,
    net::UdpSocket,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use async_task::Runnable;
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime};

use self::{
    busy::BusyPoll,
    poller::Poller,
    shared::{MainWaker, Shared},
    socket::Socket,
    tasks::{Ready, TASKS_PER_CHECK},
    timer::Timer,
};
use super::{BatchSizer, socket_core::Offload};
use crate::{error::Result, sync::lock};

/// How long the thread polls busily before it sleeps, by default: a little longer than it takes to be woken.
const BUSY_POLL: Duration = Duration::from_micros(50);

/// Runs nodes on one thread, without a reactor: everything happens within [`block_on`](Self::block_on).
///
/// The thread that calls it waits for its UDP sockets by one `ppoll`, whose time limit is the next
/// deadline. So each of several sequential requests costs three system calls on each side, whereas an
/// [`AsyncIoRuntime`](crate::AsyncIoRuntime) needs about nine and a second thread. Tasks run in batches,
/// and what a batch writes leaves in common packets. In short waits, the thread does not sleep:
/// [`busy_poll`](Self::busy_poll).
///
/// Endpoints are bound with [`handle`](Self::handle), before or within `block_on`. Their futures can be
/// awaited on any thread and any executor, as always; but they make progress only while `block_on` runs,
/// and so do their time limits: the thread fires the timers itself. Never block it. While a task or the
/// future of `block_on` blocks, or while no thread is in `block_on`, no call ends, not even one whose time
/// limit has passed. Futures of other reactors can be awaited within it, since every waker wakes the thread
/// immediately.
///
/// If the system refuses to wait, because the limit of file descriptors was lowered below those that are
/// open, for example, or because memory is short, the thread goes on at a slower pace: it checks its
/// sockets every 10 ms, logs this once at `warn`, and waits again as soon as the system allows it.
///
/// Dropping it drops all of its tasks: connections are lost without a close, and every future of its
/// endpoints, on any thread, ends with [`Closed`](crate::ErrorKind::Closed): calls, streams, events, dials,
/// [`Connection::closed`] and [`Endpoint::shutdown`]. Timers that were taken from the
/// [`handle`](Self::handle) itself never fire then. [`Endpoint::shutdown`] comes first, within `block_on`.
///
/// [`Connection::closed`]: crate::Connection::closed
/// [`Endpoint::shutdown`]: crate::Endpoint::shutdown
///
/// ```
/// use palyra_quic::{Endpoint, PollRuntime};
///
/// let mut runtime = PollRuntime::new()?;
/// let endpoint = Endpoint::builder().shared_runtime(runtime.handle()).bind(([127, 0, 0, 1], 0).into())?;
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
    /// The tasks that run next. Empty unless a task has panicked.
    batch: VecDeque<Runnable>,
    /// Empty; its memory is used again.
    expired: Vec<Waker>,
    poller: Poller,
    /// Tasks run since the sockets were last checked.
    unchecked: usize,
    batch_sizer: BatchSizer,
    busy: BusyPoll,
    /// When the last wait ended.
    woke: Instant,
}

impl PollRuntime {
    /// Takes one file descriptor, besides those of the sockets to come.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) where the process has no more file descriptors.
    pub fn new() -> Result<Self> {
        let shared = Shared::new()?;
        Ok(Self {
            main: Waker::from(Arc::new(MainWaker(Arc::clone(&shared)))),
            shared,
            offload: Offload { gso: true, gro: true },
            batch: VecDeque::new(),
            expired: Vec::new(),
            poller: Poller::new(),
            unchecked: 0,
            batch_sizer: BatchSizer::new(),
            busy: BusyPoll::new(default_busy_poll()),
            woke: Instant::now(),
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

    /// Polls its sockets busily for up to `limit` before the thread sleeps; zero turns this off. Default:
    /// 50 µs; zero if the process may use only one processor.
    ///
    /// Waking a thread takes tens of microseconds, most of all in virtual machines; that is half the
    /// duration of one call over a local link, and `docs/benchmarks` has the figures of both. In return,
    /// the thread uses the processor for that long when it would have slept. If waits turn out to be longer
    /// than `limit`, as on slow links or on an idle node, it polls busily in one wait of 64.
    #[must_use]
    pub fn busy_poll(mut self, limit: Duration) -> Self {
        self.busy = BusyPoll::new(limit);
        self
    }

    /// For [`EndpointBuilder::shared_runtime`](crate::EndpointBuilder::shared_runtime), and for tasks of the
    /// caller's own.
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
            if let Some(output) = self.run_batch(&main, future.as_mut()) {
                return output;
            }
            self.run(Ready::Drivers, usize::MAX);
            self.check();
        }
    }

    /// Runs one batch of the tasks that are ready. Returns the output of `future` if it has one.
    fn run_batch<F: Future>(&mut self, main: &Waker, future: Pin<&mut F>) -> Option<F::Output> {
        if lock(&self.shared.tasks).take_main() {
            self.unchecked += 1;
            if let Poll::Ready(output) = future.poll(&mut Context::from_waker(main)) {
                return Some(output);
            }
        }
        let length = self.batch_sizer.size();
        let (mut ran, mut all) = self.run(Ready::NextBatch, length);
        // Tasks that the batch wakes belong to it, so that what all of them write leaves together.
        let mut more = ran;
        while more > 0 && ran < length {
            (more, all) = self.run(Ready::Woken, length - ran);
            ran += more;
        }
        self.batch_sizer.end_batch(ran, !all);
        None
    }

    /// Runs at most `max` ready tasks once. Returns how many, and whether they were all.
    fn run(&mut self, which: Ready, max: usize) -> (usize, bool) {
        // Tasks that a panic has left in the batch run first.
        let all = self.batch.is_empty() && lock(&self.shared.tasks).take(which, max, &mut self.batch);
        let count = self.batch.len();
        while let Some(runnable) = self.batch.pop_front() {
            self.unchecked += 1;
            runnable.run();
            if self.unchecked >= TASKS_PER_CHECK {
                self.unchecked = 0;
                self.fire_timers(Instant::now());
                self.poll(Some(Duration::ZERO));
            }
        }
        (count, all)
    }

    /// Waits for sockets, timers and other threads if no task is ready; otherwise checks them now and then.
    fn check(&mut self) {
        let mut idle = lock(&self.shared.tasks).is_idle();
        if !idle && self.unchecked < TASKS_PER_CHECK {
            return;
        }
        self.unchecked = 0;
        let now = Instant::now();
        idle &= !self.fire_timers(now);
        if !idle {
            self.poll(Some(Duration::ZERO));
            return;
        }
        if !self.poll_busily(now) {
            self.sleep();
        }
        let woke = Instant::now();
        self.batch_sizer
            .record_idle(woke.saturating_duration_since(now), now.saturating_duration_since(self.woke));
        self.woke = woke;
    }

    /// Fires the timers whose deadline has passed; `false` if there are none.
    fn fire_timers(&mut self, now: Instant) -> bool {
        lock(&self.shared.timers).expire(now, &mut self.expired);
        let any = !self.expired.is_empty();
        self.expired.drain(..).for_each(Waker::wake);
        any
    }

    /// Polls again and again for as long as [`BusyPoll`] allows; `true` as soon as a task is ready.
    fn poll_busily(&mut self, since: Instant) -> bool {
        let limit = self.busy.begin();
        // While the system refuses to wait, polling cannot tell whether there is something to do.
        if limit.is_zero() || self.poller.is_refused() {
            return false;
        }
        let found = loop {
            self.poll(Some(Duration::ZERO));
            let now = Instant::now();
            if self.fire_timers(now) || !lock(&self.shared.tasks).is_idle() {
                break true;
            }
            if now.saturating_duration_since(since) >= limit {
                break false;
            }
            hint::spin_loop();
        };
        self.busy.record(found);
        found
    }

    /// Waits for sockets, timers and other threads.
    fn sleep(&mut self) {
        let Shared { tasks, timers, bell, .. } = &*self.shared;
        bell.sleep();
        // Another thread may have woken a task before; from here on it rings.
        let timeout = if lock(tasks).is_idle() {
            let next = lock(timers).next();
            next.map(|deadline| deadline.saturating_duration_since(Instant::now()))
        } else {
            Some(Duration::ZERO)
        };
        self.poll(timeout);
    }

    fn poll(&mut self, timeout: Option<Duration>) {
        self.poller.poll(&self.shared.sources, &self.shared.bell, timeout);
    }
}

/// Zero on a single processor, since nobody can answer while this thread uses it.
fn default_busy_poll() -> Duration {
    if thread::available_parallelism().is_ok_and(|threads| threads.get() > 1) {
        BUSY_POLL
    } else {
        Duration::ZERO
    }
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
            expired: _,
            poller: _,
            unchecked: _,
            batch_sizer: _,
            busy,
            woke: _,
        } = self;
        f.debug_struct("PollRuntime").field("offload", offload).field("busy", busy).finish_non_exhaustive()
    }
}

/// The runtime as quinn knows it.
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
    fn a_thread_polls_busily_up_to_the_limit_before_it_sleeps() {
        // Whether it has slept when this many timers have fired.
        let slept = |limit, timers| {
            let mut runtime = PollRuntime::new().unwrap().busy_poll(limit);
            let (handle, shared) = (runtime.handle(), Arc::clone(&runtime.shared));
            let has_slept = || shared.bell.slept.load(Ordering::Relaxed) > 0;
            runtime.block_on(async {
                for _ in 0..timers {
                    let mut timer = handle.new_timer(Instant::now() + Duration::from_millis(5));
                    poll_fn(|cx| timer.as_mut().poll(cx)).await;
                    if has_slept() {
                        break;
                    }
                }
            });
            has_slept()
        };
        assert!(!slept(Duration::from_secs(60), 1));
        // On a busy machine, a timer may fire before the thread gets to wait for it.
        assert!(slept(Duration::from_micros(1), 1000));
        assert!(slept(Duration::ZERO, 1000));
    }

    #[test]
    fn by_default_a_thread_polls_busily_where_another_can_answer() {
        let others = thread::available_parallelism().is_ok_and(|threads| threads.get() > 1);
        let limit = PollRuntime::new().unwrap().busy.begin();
        assert_eq!(limit, Duration::from_micros(if others { 50 } else { 0 }));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_socket_that_stays_readable_and_has_nothing_is_left_alone_now_and_then() {
        use nix::sys::socket::{setsockopt, sockopt::Ipv4RecvErr};

        let mut runtime = PollRuntime::new().unwrap();
        let handle = runtime.handle();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        // Errors of ICMP are kept in a queue, which makes the system report an error while nobody empties
        // it.
        setsockopt(&socket, Ipv4RecvErr, &true).unwrap();
        let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        socket.send_to(b"?", nobody).unwrap();
        let socket = handle.wrap_udp_socket(socket).unwrap();
        // A busy machine can only make the polls take longer.
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
}
