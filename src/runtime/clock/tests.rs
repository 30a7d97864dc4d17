//! The clock on a runtime whose time and tasks only the test moves.

use std::{
    fmt,
    future::poll_fn,
    io,
    net::UdpSocket,
    sync::{
        Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use async_executor::Executor;
use futures_lite::future::{self, pending};
use quinn::{AsyncTimer, AsyncUdpSocket};

use super::{shared::MAX_ROUNDS, *};

const SECOND: Duration = Duration::from_secs(1);

/// A runtime whose time stands still until the test moves it, and whose tasks run when the test says so. The
/// clock spawns no task but a sentinel.
struct Virtual {
    now: Mutex<Instant>,
    executor: Mutex<Executor<'static>>,
    alarms: Mutex<Vec<Weak<Alarm>>>,
    timers: AtomicUsize,
    spawned: AtomicUsize,
    resets: AtomicUsize,
    /// The next timer that is polled fires early.
    fires_early: AtomicBool,
    /// How many times a timer that is polled only asks to be polled again, as tokio's timers do when their
    /// task must yield.
    wants_repoll: AtomicUsize,
    /// A sleep that is polled while a timer is polled, as by another thread.
    during_poll: Mutex<Option<Polled<Sleep>>>,
}

struct Alarm(Mutex<AlarmState>);

struct AlarmState {
    deadline: Instant,
    /// Has fired, and does not fire again until it is reset.
    fired_once: bool,
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
            fires_early: AtomicBool::new(false),
            wants_repoll: AtomicUsize::new(0),
            during_poll: Mutex::default(),
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
                let due = state.deadline <= now || self.fires_early.load(Ordering::Relaxed);
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
        let state = AlarmState { deadline, fired_once: false, waker: None };
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
        (state.deadline, state.fired_once) = (deadline, false);
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(other) = &mut *self.runtime.during_poll.lock().unwrap() {
            assert!(other.poll().is_pending());
        }
        let wants_repoll = |left: usize| left.checked_sub(1);
        if self.runtime.wants_repoll.fetch_update(Ordering::Relaxed, Ordering::Relaxed, wants_repoll).is_ok()
        {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let state = &mut *self.alarm.0.lock().unwrap();
        let due =
            state.deadline <= self.runtime.now() || self.runtime.fires_early.swap(false, Ordering::Relaxed);
        if due && !state.fired_once {
            state.fired_once = true;
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A future that is polled by hand, and whether it was woken.
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

    /// A future that was polled once and is pending.
    fn pending(future: F) -> Self {
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
    let mut sleep = Polled::pending(clock.sleep(SECOND));
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
    let mut sleeps: Vec<_> = (1..=100).map(|n| Polled::pending(clock.sleep(n * SECOND))).collect();
    time.settle();
    assert_eq!(time.costs(), (1, 0, 0), "later deadlines must not move the timer");
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
    let mut sleeps = [(); 10].map(|()| Polled::pending(clock.sleep_until(deadline)));
    time.advance(SECOND);
    assert!(sleeps.iter_mut().all(|sleep| sleep.woken() && sleep.poll().is_ready()));
}

#[test]
fn the_timer_is_moved_for_a_deadline_that_comes_earlier() {
    let (time, clock) = Virtual::clock();
    let mut late = Polled::pending(clock.sleep(60 * SECOND));
    time.settle();
    let mut early = Polled::pending(clock.sleep(2 * SECOND));
    let mut earliest = Polled::pending(clock.sleep(SECOND));
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
    let mut sleep = Polled::pending(clock.sleep(2 * SECOND));
    time.settle();
    time.fires_early.store(true, Ordering::Relaxed);
    time.advance(SECOND);
    assert!(!time.fires_early.load(Ordering::Relaxed), "the timer was not polled");
    assert!(!sleep.woken());
    time.advance(SECOND);
    assert!(sleep.woken() && sleep.poll().is_ready());
}

#[test]
fn a_dropped_sleep_is_removed() {
    let (time, clock) = Virtual::clock();
    let dropped = Polled::pending(clock.sleep(SECOND));
    let kept = Polled::pending(clock.sleep(2 * SECOND));
    time.settle();
    let flag = Arc::clone(&dropped.woken);
    drop(dropped);
    assert_eq!(clock.shared.sleepers(), 1);
    assert_eq!(Arc::strong_count(&flag), 1, "its waker is kept");
    time.advance(SECOND);
    assert!(!flag.0.load(Ordering::Relaxed) && !kept.woken());
    time.advance(SECOND);
    assert!(kept.woken());
}

#[test]
fn the_timer_is_unarmed_while_nobody_sleeps_and_is_used_again() {
    let (time, clock) = Virtual::clock();
    for round in 0..3 {
        assert!(!time.is_armed());
        let mut sleep = Polled::pending(clock.sleep(SECOND));
        assert!(time.is_armed());
        time.advance(SECOND);
        assert!(sleep.woken() && sleep.poll().is_ready());
        assert!(!time.is_armed(), "nobody sleeps");
        assert_eq!(time.costs(), (1, 0, round));
    }
}

#[test]
fn a_timer_that_fires_for_a_dropped_sleep_is_armed_for_the_next() {
    let (time, clock) = Virtual::clock();
    drop(Polled::pending(clock.sleep(SECOND)));
    let mut next = Polled::pending(clock.sleep(3 * SECOND));
    time.advance(SECOND);
    assert!(!next.woken() && time.is_armed());
    time.advance(2 * SECOND);
    assert!(next.woken() && next.poll().is_ready());
    assert!(!time.is_armed());
    assert_eq!(time.costs(), (1, 0, 1));
}

#[test]
fn the_timer_is_dropped_with_the_last_clock() {
    let (time, clock) = Virtual::clock();
    let sleep = Polled::pending(clock.sleep(SECOND));
    assert!(time.is_armed());
    drop((sleep, clock));
    assert_eq!(time.alarms.lock().unwrap().iter().filter_map(Weak::upgrade).count(), 0);
    time.advance(SECOND);
}

/// As tokio's timers do, which a task may poll a limited number of times before it must yield.
#[test]
fn a_timer_that_cannot_be_armed_is_armed_by_the_sleeping_task() {
    for refusals in [1, 2, MAX_ROUNDS, MAX_ROUNDS + 1, 3 * MAX_ROUNDS] {
        let (time, clock) = Virtual::clock();
        time.wants_repoll.store(refusals, Ordering::Relaxed);
        let mut sleep = Polled::pending(clock.sleep(SECOND));
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
fn a_timer_that_cannot_be_armed_when_it_fires_is_armed_by_the_sleepers() {
    let (time, clock) = Virtual::clock();
    let mut sleeps = [1, 2, 3].map(|n| Polled::pending(clock.sleep(n * SECOND)));
    time.wants_repoll.store(MAX_ROUNDS, Ordering::Relaxed);
    time.advance(SECOND);
    assert!(sleeps[0].woken() && sleeps[0].poll().is_ready());
    for sleep in &mut sleeps[1..] {
        assert!(sleep.woken() && sleep.poll().is_pending(), "the timer is not armed");
    }
    time.advance(SECOND);
    assert!(sleeps[1].woken() && sleeps[1].poll().is_ready());
    assert!(!sleeps[2].woken());
    time.advance(SECOND);
    assert!(sleeps[2].woken() && sleeps[2].poll().is_ready());
}

#[test]
fn a_sleeper_that_left_arming_to_another_thread_is_woken_if_that_fails() {
    let (time, clock) = Virtual::clock();
    time.wants_repoll.store(MAX_ROUNDS, Ordering::Relaxed);
    *time.during_poll.lock().unwrap() = Some(Polled::new(clock.sleep(SECOND)));
    drop(Polled::pending(clock.sleep(2 * SECOND)));
    let mut other = time.during_poll.lock().unwrap().take().unwrap();
    assert!(other.woken() && other.poll().is_pending(), "the timer is not armed");
    time.advance(SECOND);
    assert!(other.woken() && other.poll().is_ready());
}

/// Polls a sleeping future inside the waker's call, so that it sleeps again.
struct Resleeper(Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>, AtomicUsize);

impl Wake for Resleeper {
    fn wake(self: Arc<Self>) {
        let mut future = self.0.lock().unwrap().take().expect("woken while it is polled");
        let waker = Waker::from(Arc::clone(&self));
        if future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            *self.0.lock().unwrap() = Some(future);
        }
    }
}

#[test]
fn a_waker_that_polls_inline_may_sleep_again() {
    let (time, clock) = Virtual::clock();
    let resleeper = Arc::new(Resleeper(Mutex::default(), AtomicUsize::new(0)));
    let (weak, clock_of_it) = (Arc::downgrade(&resleeper), clock.clone());
    *resleeper.0.lock().unwrap() = Some(Box::pin(async move {
        loop {
            clock_of_it.sleep(SECOND).await;
            weak.upgrade().unwrap().1.fetch_add(1, Ordering::Relaxed);
        }
    }));
    Arc::clone(&resleeper).wake();
    for slept in 1..=5 {
        time.advance(SECOND);
        assert_eq!(resleeper.1.load(Ordering::Relaxed), slept);
    }
    drop(resleeper.0.lock().unwrap().take());
}

#[test]
fn sleepers_on_several_threads_lose_no_wakeup() {
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
        all_done.recv_timeout(Duration::from_secs(20)).expect("a sleeper was not woken");
    }
}

#[test]
fn a_timeout_on_a_dropped_runtime_says_so() {
    let (time, clock) = Virtual::clock();
    let watch = clock.watch_runtime();
    time.settle();
    let mut timeout = Polled::pending(clock.timeout(3600 * SECOND, pending::<()>()));
    let mut pause = Polled::pending(clock.timeout(SECOND, clock.runtime_dropped()));
    let mut sleep = Polled::pending(clock.sleep(SECOND));
    let mut dropped = Polled::pending(clock.runtime_dropped());
    assert_eq!(*clock.timed_out(ErrorKind::DeadlineExceeded).kind(), ErrorKind::DeadlineExceeded);
    let executor = std::mem::replace(&mut *time.executor.lock().unwrap(), Executor::new());
    drop(executor);
    assert!(timeout.woken() && matches!(timeout.poll(), Poll::Ready(Err(Elapsed))));
    assert!(pause.woken() && matches!(pause.poll(), Poll::Ready(Ok(()))));
    assert!(dropped.woken() && dropped.poll().is_ready());
    assert!(sleep.poll().is_pending(), "loops that sleep must not spin");
    assert_eq!(*clock.timed_out(ErrorKind::DeadlineExceeded).kind(), ErrorKind::Closed);
    let mut late = Polled::new(clock.timeout(3600 * SECOND, pending::<()>()));
    assert!(matches!(late.poll(), Poll::Ready(Err(Elapsed))), "started after the end");
    drop(watch);
}

#[test]
fn the_task_that_watches_the_runtime_ends_when_the_watch_is_dropped() {
    let (time, clock) = Virtual::clock();
    let watch = clock.watch_runtime();
    time.settle();
    assert!(!time.executor.lock().unwrap().is_empty());
    drop(watch);
    time.settle();
    assert!(time.executor.lock().unwrap().is_empty());
    assert!(!clock.is_runtime_dropped(), "it was the endpoint that ended");
    let mut pause = Polled::pending(clock.timeout(SECOND, clock.runtime_dropped()));
    time.advance(SECOND);
    assert!(matches!(pause.poll(), Poll::Ready(Err(Elapsed))));
}

#[test]
fn a_sleep_that_moves_to_another_task_wakes_that_one() {
    let (time, clock) = Virtual::clock();
    let mut sleep = Polled::pending(clock.sleep(SECOND));
    let before = std::mem::take(&mut sleep.woken);
    assert!(sleep.poll().is_pending());
    time.advance(SECOND);
    assert!(sleep.woken());
    assert!(!before.0.load(Ordering::Relaxed));
}

#[test]
fn a_sleep_first_polled_after_its_deadline_needs_no_timer() {
    let (time, clock) = Virtual::clock();
    let mut sleep = Polled::new(clock.sleep(SECOND));
    *time.now.lock().unwrap() += SECOND;
    assert!(sleep.poll().is_ready());
    assert_eq!(time.costs(), (0, 0, 0));
}

#[test]
fn a_future_that_is_ready_costs_no_timer() {
    let (time, clock) = Virtual::clock();
    let mut timeout = Polled::new(clock.timeout_at(Some(clock.deadline(SECOND)), future::ready(7)));
    assert!(matches!(timeout.poll(), Poll::Ready(Ok(7))));
    let passed = Some(time.now());
    let mut timeout = Polled::new(clock.timeout_at(passed, future::ready(7)));
    assert!(matches!(timeout.poll(), Poll::Ready(Ok(7))), "a ready future wins, however late");
    assert_eq!(time.costs(), (0, 0, 0));
}

#[test]
fn a_timeout_elapses_while_its_future_is_pending() {
    let (time, clock) = Virtual::clock();
    let deadline = Some(clock.deadline(SECOND));
    let mut timeout = Polled::pending(clock.timeout_at(deadline, pending::<()>()));
    time.advance(SECOND - Duration::from_nanos(1));
    assert!(!timeout.woken());
    time.advance(Duration::from_nanos(1));
    assert!(timeout.woken());
    assert!(matches!(timeout.poll(), Poll::Ready(Err(Elapsed))));
}

#[test]
fn a_future_that_is_ready_before_its_deadline_leaves_no_sleeper() {
    let (time, clock) = Virtual::clock();
    let done = Arc::new(AtomicBool::new(false));
    let waiting = poll_fn({
        let done = Arc::clone(&done);
        move |_| if done.load(Ordering::Relaxed) { Poll::Ready(7) } else { Poll::Pending }
    });
    let mut timeout = Polled::pending(clock.timeout_at(Some(clock.deadline(SECOND)), waiting));
    done.store(true, Ordering::Relaxed);
    assert!(matches!(timeout.poll(), Poll::Ready(Ok(7))));
    drop(timeout);
    assert_eq!(clock.shared.sleepers(), 0);
    time.advance(SECOND);
    assert!(!time.is_armed());
}

#[test]
fn without_a_deadline_there_is_no_timer() {
    let (time, clock) = Virtual::clock();
    let mut timeout = Polled::pending(clock.timeout_at(None, pending::<()>()));
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
