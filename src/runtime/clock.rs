//! Deadlines of calls and handlers, any number of them on one timer of the runtime; and whether the runtime
//! is still there.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use event_listener::Event;
use pin_project_lite::pin_project;
use quinn::{AsyncTimer, Runtime};

use crate::{
    error::{Error, ErrorKind},
    sync::{lock, wait_until},
};

/// The runtime, and one timer that stands for every deadline of an endpoint.
///
/// A timer of its own for each call would go to the reactor and wake its thread. Nearly all deadlines are
/// cancelled before they pass, and later ones are usually set later; so they queue here, and the one timer is
/// armed for the first alone.
///
/// No task drives the timer: its waker itself wakes the sleepers and arms it again, on the thread that fires
/// it. So a time limit fires while the executor of the endpoint is blocked, or is not driven, as long as
/// something fires the timer.
#[derive(Clone)]
pub(crate) struct Clock {
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Arc<dyn Runtime>,
    queue: Mutex<Queue>,
    /// Locked only by the thread that has set [`Queue::arming`].
    alarm: Mutex<Alarm>,
    /// Calls [`Shared::arm_or_wake`].
    waker: Waker,
    /// One of [`RUNNING`], [`RELEASED`] and [`DROPPED`].
    state: AtomicU8,
    state_changed: Event,
}

#[derive(Default)]
struct Queue {
    sleepers: BTreeMap<(Instant, u64), Waker>,
    next_id: u64,
    /// When the timer fires; `None` while it is not armed.
    alarm: Option<Instant>,
    /// A thread is arming the timer. No other does so meanwhile.
    arming: bool,
    /// Set by those that would arm the timer, were it not for `arming`; the thread that does then looks
    /// again.
    again: bool,
}

#[derive(Default)]
struct Alarm {
    timer: Option<Pin<Box<dyn AsyncTimer>>>,
    /// `None` once the timer has fired: not every timer fires twice without being set again.
    armed: Option<Instant>,
}

/// The endpoint is there, and so is the runtime, as far as is known.
const RUNNING: u8 = 0;
/// The endpoint is gone, and nobody needs to know of the runtime any more.
const RELEASED: u8 = 1;
/// The runtime has dropped its tasks.
const DROPPED: u8 = 2;

/// Each round answers a waker that was called, or a timer that fired, while the timer was being armed. More
/// in a row than a few means a timer that cannot be armed at the moment: tokio's want their task to yield
/// first.
const MAX_ROUNDS: usize = 8;

/// The time limit passed first; or the runtime was dropped, and no limit will ever pass. [`Clock::timed_out`]
/// tells the two apart.
#[derive(Debug)]
pub(crate) struct Elapsed;

impl Clock {
    pub(crate) fn new(runtime: Arc<dyn Runtime>) -> Self {
        let shared = Arc::new_cyclic(|shared| Shared {
            runtime,
            queue: Mutex::default(),
            alarm: Mutex::default(),
            // Weak, since the timer keeps the waker, and the clock the timer.
            waker: Waker::from(Arc::new(AlarmWaker(Weak::clone(shared)))),
            state: AtomicU8::new(RUNNING),
            state_changed: Event::new(),
        });
        Self { shared }
    }

    pub(crate) fn now(&self) -> Instant {
        self.shared.runtime.now()
    }

    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.spawn_boxed(Box::pin(future));
    }

    pub(crate) fn spawn_boxed(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.shared.runtime.spawn(future);
    }

    /// The instant `after` from now, or as far away as an instant can be.
    pub(crate) fn deadline(&self, after: Duration) -> Instant {
        Self::after(self.now(), after)
    }

    /// The same from an instant that is not long ago.
    pub(crate) fn after(instant: Instant, after: Duration) -> Instant {
        instant.checked_add(after).unwrap_or_else(|| instant + FAR)
    }

    pub(crate) fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep { clock: self.clone(), deadline, id: None }
    }

    pub(crate) fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.deadline(duration))
    }

    /// Awaits `future` until `deadline`; a future that is ready immediately costs no timer.
    pub(crate) fn timeout_at<F: Future>(&self, deadline: Option<Instant>, future: F) -> Timeout<'_, F> {
        let limit = deadline.map_or(Limit::Never, Limit::Until);
        Timeout { clock: self, limit, sleep: None, future }
    }

    /// Awaits `future` for as long as `limit`, from the first time that it is not ready; one that is ready at
    /// once costs no look at the time either.
    pub(crate) fn timeout<F: Future>(&self, limit: Duration, future: F) -> Timeout<'_, F> {
        Timeout { clock: self, limit: Limit::For(limit), sleep: None, future }
    }

    /// What a caller gets whose time limit has [elapsed](Elapsed).
    pub(crate) fn timed_out(&self, kind: ErrorKind) -> Error {
        if self.is_runtime_dropped() { runtime_is_gone() } else { Error::new(kind) }
    }

    /// Spawns a task that notices when the runtime drops its tasks. The task ends when what is returned is
    /// dropped.
    pub(crate) fn watch_runtime(&self) -> RuntimeWatch {
        // Made here, so that a runtime that is gone already is noticed, too.
        let sentinel = Sentinel(Arc::clone(&self.shared));
        self.spawn(async move { sentinel.watch().await });
        RuntimeWatch(Arc::clone(&self.shared))
    }

    /// Whether the runtime has dropped its tasks, which it only does at its end.
    pub(crate) fn is_runtime_dropped(&self) -> bool {
        self.shared.state.load(Ordering::SeqCst) == DROPPED
    }

    /// Resolves when the runtime has dropped its tasks.
    pub(crate) async fn runtime_dropped(&self) {
        self.shared.left_running().await;
        if !self.is_runtime_dropped() {
            std::future::pending().await
        }
    }
}

/// What has to be said of everything that a dropped runtime leaves behind.
pub(crate) fn runtime_is_gone() -> Error {
    Error::new(ErrorKind::Closed).detail("the runtime of the endpoint was dropped")
}

/// Beyond any deadline that the limits allow.
const FAR: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("runtime", &self.shared.runtime).finish_non_exhaustive()
    }
}

impl Shared {
    /// Wakes the sleepers whose deadline has passed, and arms the timer for the first of the others. `false`
    /// if the timer cannot be armed here: then a sleeper has to be woken, to try again when it is polled
    /// next.
    fn arm(&self) -> bool {
        {
            let mut queue = lock(&self.queue);
            if queue.arming {
                queue.again = true;
                return true;
            }
            queue.arming = true;
        }
        let mut arming = Arming { shared: self, ended: false };
        let mut due = Vec::new();
        let armed = 'armed: {
            for _ in 0..MAX_ROUNDS {
                let Some(first) = self.take_due(&mut due) else {
                    if arming.end() {
                        break 'armed true;
                    }
                    continue;
                };
                // With nothing locked that the waker locks, which the timer may call here and now.
                if self.poll_timer(first).is_pending() && arming.end() {
                    break 'armed true;
                }
            }
            drop(arming);
            false
        };
        // Last, since a waker may do anything, such as to sleep again.
        due.into_iter().for_each(Waker::wake);
        armed
    }

    /// Takes the wakers of those whose deadline has passed, and returns the first deadline of the others.
    fn take_due(&self, due: &mut Vec<Waker>) -> Option<Instant> {
        let now = self.runtime.now();
        let mut queue = lock(&self.queue);
        queue.again = false;
        if queue.sleepers.first_key_value().is_some_and(|((deadline, _), _)| *deadline <= now) {
            let later = queue.sleepers.split_off(&(now, u64::MAX));
            due.extend(std::mem::replace(&mut queue.sleepers, later).into_values());
        }
        queue.alarm = queue.sleepers.first_key_value().map(|((deadline, _), _)| *deadline);
        queue.alarm
    }

    fn poll_timer(&self, deadline: Instant) -> Poll<()> {
        let Alarm { timer, armed } = &mut *lock(&self.alarm);
        let timer = timer.get_or_insert_with(|| {
            *armed = Some(deadline);
            self.runtime.new_timer(deadline)
        });
        if *armed != Some(deadline) {
            timer.as_mut().reset(deadline);
            *armed = Some(deadline);
        }
        let polled = timer.as_mut().poll(&mut Context::from_waker(&self.waker));
        if polled.is_ready() {
            *armed = None;
        }
        polled
    }

    /// Arms the timer, or has those who sleep try it when they are polled next: all of them, since others may
    /// have left it to this thread.
    fn arm_or_wake(&self) {
        if !self.arm() {
            self.wake_all();
        }
    }

    fn wake_all(&self) {
        let wakers: Vec<_> = lock(&self.queue).sleepers.values().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Resolves when the state is another than [`RUNNING`].
    async fn left_running(&self) {
        wait_until(&self.state_changed, || self.state.load(Ordering::SeqCst) != RUNNING).await;
    }

    /// Changes the state, unless it has changed before.
    fn leave_running(&self, state: u8) -> bool {
        let left = self.state.compare_exchange(RUNNING, state, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if left {
            self.state_changed.notify(usize::MAX);
        }
        left
    }
}

/// Held while the timer is armed. Dropped before its [end](Self::end), it leaves the timer unarmed, for the
/// next who asks.
struct Arming<'a> {
    shared: &'a Shared,
    ended: bool,
}

impl Arming<'_> {
    /// Lets others arm the timer; `false` if one has tried to meanwhile, and everything is to be looked at
    /// again.
    fn end(&mut self) -> bool {
        let mut queue = lock(&self.shared.queue);
        self.ended = !queue.again;
        queue.arming = queue.again;
        self.ended
    }
}

impl Drop for Arming<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let mut queue = lock(&self.shared.queue);
            (queue.arming, queue.again, queue.alarm) = (false, false, None);
        }
    }
}

/// What the timer wakes.
struct AlarmWaker(Weak<Shared>);

impl Wake for AlarmWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(shared) = self.0.upgrade() {
            shared.arm_or_wake();
        }
    }
}

/// In a task that ends only when its [watch](RuntimeWatch) does, unless the runtime drops it before.
struct Sentinel(Arc<Shared>);

impl Sentinel {
    async fn watch(&self) {
        self.0.left_running().await;
    }
}

impl Drop for Sentinel {
    /// The one place that learns that the runtime is gone.
    fn drop(&mut self) {
        if self.0.leave_running(DROPPED) {
            self.0.wake_all();
        }
    }
}

/// Keeps the task of [`Clock::watch_runtime`] for as long as it lives.
pub(crate) struct RuntimeWatch(Arc<Shared>);

impl Drop for RuntimeWatch {
    fn drop(&mut self) {
        self.0.leave_running(RELEASED);
    }
}

pin_project! {
    /// A future that has until a deadline.
    ///
    /// Not an `async fn`, which would keep its argument twice: once as it came, and once where it is polled.
    pub(crate) struct Timeout<'a, F> {
        clock: &'a Clock,
        limit: Limit,
        sleep: Option<Sleep>,
        #[pin]
        future: F,
    }
}

#[derive(Clone, Copy)]
enum Limit {
    Never,
    Until(Instant),
    For(Duration),
}

impl<F: Future> Future for Timeout<'_, F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let sleep = match (this.sleep, *this.limit) {
            (Some(sleep), _) => sleep,
            (none, Limit::Until(deadline)) => none.insert(this.clock.sleep_until(deadline)),
            (none, Limit::For(limit)) => none.insert(this.clock.sleep(limit)),
            (_, Limit::Never) => return Poll::Pending,
        };
        // In this order: a runtime that is dropped wakes those who sleep by then.
        if Pin::new(sleep).poll(cx).is_pending() && !this.clock.is_runtime_dropped() {
            return Poll::Pending;
        }
        Poll::Ready(Err(Elapsed))
    }
}

/// Waits for an instant. Dropping it forgets it.
pub(crate) struct Sleep {
    clock: Clock,
    deadline: Instant,
    id: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.clock.now() >= self.deadline {
            return Poll::Ready(());
        }
        let this = &mut *self;
        let shared = &*this.clock.shared;
        let in_time = {
            let mut queue = lock(&shared.queue);
            let id = *this.id.get_or_insert_with(|| {
                queue.next_id += 1;
                queue.next_id
            });
            queue
                .sleepers
                .entry((this.deadline, id))
                .and_modify(|waker| waker.clone_from(cx.waker()))
                .or_insert_with(|| cx.waker().clone());
            queue.alarm.is_some_and(|alarm| alarm <= this.deadline)
        };
        if !in_time {
            shared.arm_or_wake();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let waker = lock(&self.clock.shared.queue).sleepers.remove(&(self.deadline, id));
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        io,
        net::UdpSocket,
        sync::atomic::{AtomicBool, AtomicUsize, Ordering},
        task::Wake,
    };

    use async_executor::Executor;
    use futures_lite::future::{self, pending};
    use quinn::AsyncUdpSocket;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A runtime whose time stands still until the test moves it, and whose tasks run when the test says so:
    /// of the clock's none but a sentinel.
    struct Virtual {
        now: Mutex<Instant>,
        executor: Mutex<Executor<'static>>,
        alarms: Mutex<Vec<Weak<Alarm>>>,
        timers: AtomicUsize,
        spawned: AtomicUsize,
        resets: AtomicUsize,
        /// The next timer that is asked says that it has expired.
        hasty: AtomicBool,
        /// How often a timer that is asked does nothing but ask to be asked again, as tokio's do while
        /// their task is to yield.
        coy: AtomicUsize,
        /// Is polled, if there is one, in the middle of a call of a timer, as another thread may do.
        meanwhile: Mutex<Option<Polled<Sleep>>>,
    }

    struct Alarm(Mutex<AlarmState>);

    struct AlarmState {
        deadline: Instant,
        /// Has fired, and stays silent until it is set again.
        spent: bool,
        waker: Option<Waker>,
    }

    struct VirtualTimer {
        runtime: Arc<Virtual>,
        alarm: Arc<Alarm>,
    }

    /// The part of [`Virtual`] that quinn's trait can reach by `&self`.
    #[derive(Clone)]
    struct Handle(Arc<Virtual>);

    impl Virtual {
        fn clock() -> (Arc<Self>, Clock) {
            let runtime = Arc::new(Self {
                now: Mutex::new(Instant::now()),
                executor: Mutex::new(Executor::new()),
                alarms: Mutex::default(),
                timers: AtomicUsize::new(0),
                spawned: AtomicUsize::new(0),
                resets: AtomicUsize::new(0),
                hasty: AtomicBool::new(false),
                coy: AtomicUsize::new(0),
                meanwhile: Mutex::default(),
            });
            (Arc::clone(&runtime), Clock::new(Arc::new(Handle(runtime))))
        }

        fn now(&self) -> Instant {
            *self.now.lock().unwrap()
        }

        /// Runs every task as far as it gets.
        fn settle(&self) {
            while self.executor.lock().unwrap().try_tick() {}
        }

        fn advance(&self, by: Duration) {
            self.settle();
            let now = {
                let mut now = self.now.lock().unwrap();
                *now += by;
                *now
            };
            let alarms: Vec<_> = self.alarms.lock().unwrap().iter().filter_map(Weak::upgrade).collect();
            for alarm in alarms {
                let fired = {
                    let state = &mut *alarm.0.lock().unwrap();
                    let due = state.deadline <= now || self.hasty.load(Ordering::Relaxed);
                    if due { state.waker.take() } else { None }
                };
                fired.into_iter().for_each(Waker::wake);
            }
            self.settle();
        }

        fn is_armed(&self) -> bool {
            let alarms = self.alarms.lock().unwrap();
            alarms.iter().filter_map(Weak::upgrade).any(|alarm| alarm.0.lock().unwrap().waker.is_some())
        }

        /// Timers made, tasks spawned, timers moved.
        fn costs(&self) -> (usize, usize, usize) {
            let [timers, spawned, resets] =
                [&self.timers, &self.spawned, &self.resets].map(|count| count.load(Ordering::Relaxed));
            (timers, spawned, resets)
        }
    }

    impl fmt::Debug for Handle {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Virtual")
        }
    }

    impl Runtime for Handle {
        fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn AsyncTimer>> {
            self.0.timers.fetch_add(1, Ordering::Relaxed);
            let state = AlarmState { deadline, spent: false, waker: None };
            let alarm = Arc::new(Alarm(Mutex::new(state)));
            self.0.alarms.lock().unwrap().push(Arc::downgrade(&alarm));
            Box::pin(VirtualTimer { runtime: Arc::clone(&self.0), alarm })
        }

        fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
            self.0.spawned.fetch_add(1, Ordering::Relaxed);
            self.0.executor.lock().unwrap().spawn(future).detach();
        }

        fn wrap_udp_socket(&self, _: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn now(&self) -> Instant {
            self.0.now()
        }
    }

    impl fmt::Debug for VirtualTimer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("VirtualTimer")
        }
    }

    impl AsyncTimer for VirtualTimer {
        fn reset(self: Pin<&mut Self>, deadline: Instant) {
            self.runtime.resets.fetch_add(1, Ordering::Relaxed);
            let state = &mut *self.alarm.0.lock().unwrap();
            (state.deadline, state.spent) = (deadline, false);
        }

        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            if let Some(other) = &mut *self.runtime.meanwhile.lock().unwrap() {
                assert!(other.poll().is_pending());
            }
            let coy = |left: usize| left.checked_sub(1);
            if self.runtime.coy.fetch_update(Ordering::Relaxed, Ordering::Relaxed, coy).is_ok() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let state = &mut *self.alarm.0.lock().unwrap();
            let due =
                state.deadline <= self.runtime.now() || self.runtime.hasty.swap(false, Ordering::Relaxed);
            if due && !state.spent {
                state.spent = true;
                return Poll::Ready(());
            }
            state.waker = Some(cx.waker().clone());
            Poll::Pending
        }
    }

    /// A future that is polled by hand, and whether it has asked for that.
    struct Polled<F> {
        future: Pin<Box<F>>,
        woken: Arc<Flag>,
    }

    #[derive(Default)]
    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    impl<F: Future> Polled<F> {
        fn new(future: F) -> Self {
            Self { future: Box::pin(future), woken: Arc::default() }
        }

        fn poll(&mut self) -> Poll<F::Output> {
            let waker = Waker::from(Arc::clone(&self.woken));
            self.future.as_mut().poll(&mut Context::from_waker(&waker))
        }

        /// Polled once, and found pending.
        fn begun(future: F) -> Self {
            let mut polled = Self::new(future);
            assert!(polled.poll().is_pending());
            polled
        }

        fn woken(&self) -> bool {
            self.woken.0.swap(false, Ordering::Relaxed)
        }
    }

    #[test]
    fn a_sleep_ends_at_its_deadline_and_not_before() {
        let (time, clock) = Virtual::clock();
        let mut sleep = Polled::begun(clock.sleep(SECOND));
        time.advance(SECOND - Duration::from_nanos(1));
        assert!(!sleep.woken());
        assert!(sleep.poll().is_pending());
        time.advance(Duration::from_nanos(1));
        assert!(sleep.woken());
        assert!(sleep.poll().is_ready());
    }

    #[test]
    fn a_deadline_that_has_passed_costs_no_timer() {
        let (time, clock) = Virtual::clock();
        assert!(Polled::new(clock.sleep_until(time.now())).poll().is_ready());
        assert!(Polled::new(clock.sleep(Duration::ZERO)).poll().is_ready());
        drop(clock.sleep(SECOND));
        assert_eq!(time.costs(), (0, 0, 0));
    }

    #[test]
    fn any_number_of_deadlines_shares_one_timer() {
        let (time, clock) = Virtual::clock();
        let mut sleeps: Vec<_> = (1..=100).map(|n| Polled::begun(clock.sleep(n * SECOND))).collect();
        time.settle();
        assert_eq!(time.costs(), (1, 0, 0), "later deadlines must not touch the timer");
        for passed in 1..=sleeps.len() {
            time.advance(SECOND);
            assert!(sleeps[passed - 1].woken() && sleeps[passed - 1].poll().is_ready());
            assert!(sleeps[passed..].iter().all(|sleep| !sleep.woken()), "woken early");
        }
        let (timers, spawned, _) = time.costs();
        assert_eq!((timers, spawned), (1, 0));
    }

    #[test]
    fn deadlines_at_one_instant_all_end_there() {
        let (time, clock) = Virtual::clock();
        let deadline = clock.deadline(SECOND);
        let mut sleeps = [(); 10].map(|()| Polled::begun(clock.sleep_until(deadline)));
        time.advance(SECOND);
        assert!(sleeps.iter_mut().all(|sleep| sleep.woken() && sleep.poll().is_ready()));
    }

    #[test]
    fn the_timer_is_moved_for_a_deadline_that_comes_earlier() {
        let (time, clock) = Virtual::clock();
        let mut late = Polled::begun(clock.sleep(60 * SECOND));
        time.settle();
        let mut early = Polled::begun(clock.sleep(2 * SECOND));
        let mut earliest = Polled::begun(clock.sleep(SECOND));
        time.advance(SECOND);
        assert!(earliest.woken() && earliest.poll().is_ready());
        time.advance(SECOND);
        assert!(early.woken() && early.poll().is_ready());
        assert!(!late.woken());
        time.advance(58 * SECOND);
        assert!(late.woken() && late.poll().is_ready());
        assert_eq!(time.costs(), (1, 0, 4));
    }

    #[test]
    fn a_timer_that_fires_too_early_is_set_again() {
        let (time, clock) = Virtual::clock();
        let mut sleep = Polled::begun(clock.sleep(2 * SECOND));
        time.settle();
        time.hasty.store(true, Ordering::Relaxed);
        time.advance(SECOND);
        assert!(!time.hasty.load(Ordering::Relaxed), "the timer was not asked");
        assert!(!sleep.woken());
        time.advance(SECOND);
        assert!(sleep.woken() && sleep.poll().is_ready());
    }

    #[test]
    fn a_dropped_sleep_is_forgotten() {
        let (time, clock) = Virtual::clock();
        let dropped = Polled::begun(clock.sleep(SECOND));
        let kept = Polled::begun(clock.sleep(2 * SECOND));
        time.settle();
        let flag = Arc::clone(&dropped.woken);
        drop(dropped);
        assert_eq!(lock(&clock.shared.queue).sleepers.len(), 1);
        assert_eq!(Arc::strong_count(&flag), 1, "its waker is kept");
        time.advance(SECOND);
        assert!(!flag.0.load(Ordering::Relaxed) && !kept.woken());
        time.advance(SECOND);
        assert!(kept.woken());
    }

    #[test]
    fn the_timer_rests_while_nobody_sleeps_and_is_used_again() {
        let (time, clock) = Virtual::clock();
        for round in 0..3 {
            assert!(!time.is_armed());
            let mut sleep = Polled::begun(clock.sleep(SECOND));
            assert!(time.is_armed());
            time.advance(SECOND);
            assert!(sleep.woken() && sleep.poll().is_ready());
            assert!(!time.is_armed(), "nobody sleeps");
            assert_eq!(time.costs(), (1, 0, round));
        }
    }

    #[test]
    fn the_shot_of_a_forgotten_deadline_arms_the_timer_for_the_next() {
        let (time, clock) = Virtual::clock();
        drop(Polled::begun(clock.sleep(SECOND)));
        let mut next = Polled::begun(clock.sleep(3 * SECOND));
        time.advance(SECOND);
        assert!(!next.woken() && time.is_armed());
        time.advance(2 * SECOND);
        assert!(next.woken() && next.poll().is_ready());
        assert!(!time.is_armed());
        assert_eq!(time.costs(), (1, 0, 1));
    }

    #[test]
    fn the_timer_goes_with_the_last_clock() {
        let (time, clock) = Virtual::clock();
        let sleep = Polled::begun(clock.sleep(SECOND));
        assert!(time.is_armed());
        drop((sleep, clock));
        assert_eq!(time.alarms.lock().unwrap().iter().filter_map(Weak::upgrade).count(), 0);
        time.advance(SECOND);
    }

    /// As those of tokio do, whose tasks may use a timer only so often before they yield.
    #[test]
    fn a_timer_that_wants_to_be_asked_later_is_asked_by_the_task_that_sleeps() {
        for refusals in [1, 2, MAX_ROUNDS, MAX_ROUNDS + 1, 3 * MAX_ROUNDS] {
            let (time, clock) = Virtual::clock();
            time.coy.store(refusals, Ordering::Relaxed);
            let mut sleep = Polled::begun(clock.sleep(SECOND));
            let mut yields = 0;
            while sleep.woken() {
                assert!(sleep.poll().is_pending());
                yields += 1;
            }
            assert_eq!(yields, refusals / MAX_ROUNDS, "{refusals}");
            assert!(time.is_armed());
            time.advance(SECOND);
            assert!(sleep.woken() && sleep.poll().is_ready(), "{refusals}");
        }
    }

    #[test]
    fn a_timer_that_wants_to_be_asked_later_when_it_fires_is_asked_by_those_who_sleep() {
        let (time, clock) = Virtual::clock();
        let mut sleeps = [1, 2, 3].map(|n| Polled::begun(clock.sleep(n * SECOND)));
        time.coy.store(MAX_ROUNDS, Ordering::Relaxed);
        time.advance(SECOND);
        assert!(sleeps[0].woken() && sleeps[0].poll().is_ready());
        for sleep in &mut sleeps[1..] {
            assert!(sleep.woken() && sleep.poll().is_pending(), "nobody will arm the timer");
        }
        time.advance(SECOND);
        assert!(sleeps[1].woken() && sleeps[1].poll().is_ready());
        assert!(!sleeps[2].woken());
        time.advance(SECOND);
        assert!(sleeps[2].woken() && sleeps[2].poll().is_ready());
    }

    #[test]
    fn who_left_the_timer_to_a_thread_that_could_not_arm_it_is_woken() {
        let (time, clock) = Virtual::clock();
        time.coy.store(MAX_ROUNDS, Ordering::Relaxed);
        *time.meanwhile.lock().unwrap() = Some(Polled::new(clock.sleep(SECOND)));
        drop(Polled::begun(clock.sleep(2 * SECOND)));
        let mut other = time.meanwhile.lock().unwrap().take().unwrap();
        assert!(other.woken() && other.poll().is_pending(), "nobody arms the timer");
        time.advance(SECOND);
        assert!(other.woken() && other.poll().is_ready());
    }

    /// Polls what sleeps right where it is woken, and so sleeps again.
    struct Insomniac(Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>, AtomicUsize);

    impl Wake for Insomniac {
        fn wake(self: Arc<Self>) {
            let mut future = self.0.lock().unwrap().take().expect("woken while it is polled");
            let waker = Waker::from(Arc::clone(&self));
            if future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                *self.0.lock().unwrap() = Some(future);
            }
        }
    }

    #[test]
    fn a_waker_that_polls_at_once_may_sleep_again() {
        let (time, clock) = Virtual::clock();
        let insomniac = Arc::new(Insomniac(Mutex::default(), AtomicUsize::new(0)));
        let (weak, clock_of_it) = (Arc::downgrade(&insomniac), clock.clone());
        *insomniac.0.lock().unwrap() = Some(Box::pin(async move {
            loop {
                clock_of_it.sleep(SECOND).await;
                weak.upgrade().unwrap().1.fetch_add(1, Ordering::Relaxed);
            }
        }));
        Arc::clone(&insomniac).wake();
        for slept in 1..=5 {
            time.advance(SECOND);
            assert_eq!(insomniac.1.load(Ordering::Relaxed), slept);
        }
        drop(insomniac.0.lock().unwrap().take());
    }

    #[test]
    fn sleepers_on_many_threads_lose_no_wakeup() {
        const THREADS: u64 = 4;
        let clock = Clock::new(Arc::new(crate::AsyncIoRuntime::on(Arc::default())));
        let (done, all_done) = std::sync::mpsc::channel();
        for thread in 0..THREADS {
            let (clock, done) = (clock.clone(), done.clone());
            std::thread::spawn(move || {
                let mut rng = fastrand::Rng::with_seed(thread);
                for _ in 0..300 {
                    let pause = Duration::from_micros(rng.u64(0..400));
                    // Neither an executor nor a reactor on this thread.
                    future::block_on(clock.sleep(pause));
                    assert!(Polled::new(clock.sleep(3600 * SECOND)).poll().is_pending());
                }
                done.send(()).unwrap();
            });
        }
        for _ in 0..THREADS {
            all_done.recv_timeout(Duration::from_secs(20)).expect("a sleeper was forgotten");
        }
    }

    #[test]
    fn a_timeout_on_a_runtime_that_was_dropped_says_so() {
        let (time, clock) = Virtual::clock();
        let watch = clock.watch_runtime();
        time.settle();
        let mut timeout = Polled::begun(clock.timeout(3600 * SECOND, pending::<()>()));
        let mut pause = Polled::begun(clock.timeout(SECOND, clock.runtime_dropped()));
        let mut sleep = Polled::begun(clock.sleep(SECOND));
        let mut dropped = Polled::begun(clock.runtime_dropped());
        assert_eq!(*clock.timed_out(ErrorKind::DeadlineExceeded).kind(), ErrorKind::DeadlineExceeded);
        let executor = std::mem::replace(&mut *time.executor.lock().unwrap(), Executor::new());
        drop(executor);
        assert!(timeout.woken() && matches!(timeout.poll(), Poll::Ready(Err(Elapsed))));
        assert!(pause.woken() && matches!(pause.poll(), Poll::Ready(Ok(()))));
        assert!(dropped.woken() && dropped.poll().is_ready());
        assert!(sleep.poll().is_pending(), "loops that sleep must not run free");
        assert_eq!(*clock.timed_out(ErrorKind::DeadlineExceeded).kind(), ErrorKind::Closed);
        let mut late = Polled::new(clock.timeout(3600 * SECOND, pending::<()>()));
        assert!(matches!(late.poll(), Poll::Ready(Err(Elapsed))), "begun after the end");
        drop(watch);
    }

    #[test]
    fn the_task_that_watches_the_runtime_ends_with_the_watch() {
        let (time, clock) = Virtual::clock();
        let watch = clock.watch_runtime();
        time.settle();
        assert!(!time.executor.lock().unwrap().is_empty());
        drop(watch);
        time.settle();
        assert!(time.executor.lock().unwrap().is_empty());
        assert!(!clock.is_runtime_dropped(), "it was the endpoint that ended");
        let mut pause = Polled::begun(clock.timeout(SECOND, clock.runtime_dropped()));
        time.advance(SECOND);
        assert!(matches!(pause.poll(), Poll::Ready(Err(Elapsed))));
    }

    #[test]
    fn a_sleep_that_moves_to_another_task_wakes_that_one() {
        let (time, clock) = Virtual::clock();
        let mut sleep = Polled::begun(clock.sleep(SECOND));
        let before = std::mem::take(&mut sleep.woken);
        assert!(sleep.poll().is_pending());
        time.advance(SECOND);
        assert!(sleep.woken());
        assert!(!before.0.load(Ordering::Relaxed));
    }

    #[test]
    fn a_sleep_that_is_polled_late_is_over_without_the_timer() {
        let (time, clock) = Virtual::clock();
        let mut sleep = Polled::new(clock.sleep(SECOND));
        *time.now.lock().unwrap() += SECOND;
        assert!(sleep.poll().is_ready());
        assert_eq!(time.costs(), (0, 0, 0));
    }

    #[test]
    fn what_is_ready_in_time_costs_no_timer() {
        let (time, clock) = Virtual::clock();
        let mut timeout = Polled::new(clock.timeout_at(Some(clock.deadline(SECOND)), future::ready(7)));
        assert!(matches!(timeout.poll(), Poll::Ready(Ok(7))));
        let passed = Some(time.now());
        let mut timeout = Polled::new(clock.timeout_at(passed, future::ready(7)));
        assert!(matches!(timeout.poll(), Poll::Ready(Ok(7))), "what is ready counts, however late");
        assert_eq!(time.costs(), (0, 0, 0));
    }

    #[test]
    fn a_timeout_ends_what_takes_too_long() {
        let (time, clock) = Virtual::clock();
        let deadline = Some(clock.deadline(SECOND));
        let mut timeout = Polled::begun(clock.timeout_at(deadline, pending::<()>()));
        time.advance(SECOND - Duration::from_nanos(1));
        assert!(!timeout.woken());
        time.advance(Duration::from_nanos(1));
        assert!(timeout.woken());
        assert!(matches!(timeout.poll(), Poll::Ready(Err(Elapsed))));
    }

    #[test]
    fn a_future_that_is_done_before_its_deadline_takes_the_deadline_with_it() {
        let (time, clock) = Virtual::clock();
        let done = Arc::new(AtomicBool::new(false));
        let waiting = poll_fn({
            let done = Arc::clone(&done);
            move |_| if done.load(Ordering::Relaxed) { Poll::Ready(7) } else { Poll::Pending }
        });
        let mut timeout = Polled::begun(clock.timeout_at(Some(clock.deadline(SECOND)), waiting));
        done.store(true, Ordering::Relaxed);
        assert!(matches!(timeout.poll(), Poll::Ready(Ok(7))));
        drop(timeout);
        assert!(lock(&clock.shared.queue).sleepers.is_empty());
        time.advance(SECOND);
        assert!(!time.is_armed());
    }

    #[test]
    fn without_a_deadline_there_is_no_timer() {
        let (time, clock) = Virtual::clock();
        let mut timeout = Polled::begun(clock.timeout_at(None, pending::<()>()));
        time.advance(3600 * SECOND);
        assert!(!timeout.woken() && timeout.poll().is_pending());
        assert_eq!(time.costs(), (0, 0, 0));
    }

    #[test]
    fn a_deadline_beyond_the_end_of_time_is_far_away() {
        let (time, clock) = Virtual::clock();
        assert!(clock.deadline(Duration::MAX) > time.now() + 366 * 24 * 3600 * SECOND);
        assert_eq!(clock.deadline(SECOND), time.now() + SECOND);
    }
}
