//! Deadlines of calls and handlers, any number of them on one timer of the runtime.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, Weak},
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

use pin_project_lite::pin_project;
use quinn::{AsyncTimer, Runtime};

use crate::sync::lock;

/// The runtime, and one timer that stands for every deadline of an endpoint.
///
/// A timer of its own for each call would go to the reactor and wake its thread. Nearly all deadlines are cancelled
/// before they pass, and later ones are usually set later; so they queue here, and the one timer is armed for the
/// first alone.
#[derive(Clone)]
pub(crate) struct Clock {
    runtime: Arc<dyn Runtime>,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    sleepers: BTreeMap<(Instant, u64), Waker>,
    next_id: u64,
    /// When the driver will look again; `None` while no driver runs.
    alarm: Option<Instant>,
    driver: Option<Waker>,
}

/// The time limit passed first.
#[derive(Debug)]
pub(crate) struct Elapsed;

impl Clock {
    pub(crate) fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self { runtime, queue: Arc::default() }
    }

    pub(crate) fn now(&self) -> Instant {
        self.runtime.now()
    }

    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.spawn_boxed(Box::pin(future));
    }

    pub(crate) fn spawn_boxed(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.runtime.spawn(future);
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

    /// Awaits `future` until `deadline`; a future that is ready at once costs no timer.
    pub(crate) fn timeout_at<F: Future>(&self, deadline: Option<Instant>, future: F) -> Timeout<'_, F> {
        let limit = deadline.map_or(Limit::Never, Limit::Until);
        Timeout { clock: self, limit, sleep: None, future }
    }

    /// Awaits `future` for as long as `limit`, from the first time that it is not ready; one that is ready at once costs no look at
    /// the time either.
    pub(crate) fn timeout<F: Future>(&self, limit: Duration, future: F) -> Timeout<'_, F> {
        Timeout { clock: self, limit: Limit::For(limit), sleep: None, future }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    /// Sees to it that the driver looks no later than `deadline`.
    fn set_alarm(&self, mut queue: MutexGuard<'_, Queue>, deadline: Instant) {
        match queue.alarm {
            Some(alarm) if alarm <= deadline => {}
            Some(_) => {
                queue.alarm = Some(deadline);
                let driver = queue.driver.take();
                drop(queue);
                if let Some(driver) = driver {
                    driver.wake();
                }
            }
            None => {
                queue.alarm = Some(deadline);
                drop(queue);
                let timer = self.runtime.new_timer(deadline);
                let queue = Arc::downgrade(&self.queue);
                self.runtime.spawn(Box::pin(Driver {
                    runtime: Arc::clone(&self.runtime),
                    queue,
                    timer,
                    armed: Some(deadline),
                }));
            }
        }
    }
}

/// Beyond any deadline that the limits allow.
const FAR: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("runtime", &self.runtime).finish_non_exhaustive()
    }
}

/// Wakes sleepers, and ends when none is left.
struct Driver {
    runtime: Arc<dyn Runtime>,
    queue: Weak<Mutex<Queue>>,
    timer: Pin<Box<dyn AsyncTimer>>,
    /// `None` once the timer has fired: not every timer fires twice without being set again.
    armed: Option<Instant>,
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            let Some(queue) = this.queue.upgrade() else {
                return Poll::Ready(());
            };
            let (due, first) = {
                let mut queue = lock(&queue);
                let now = this.runtime.now();
                let later = queue.sleepers.split_off(&(now, u64::MAX));
                let due = std::mem::replace(&mut queue.sleepers, later);
                let first = queue.sleepers.keys().next().map(|(deadline, _)| *deadline);
                queue.alarm = first;
                queue.driver = first.map(|_| cx.waker().clone());
                (due, first)
            };
            due.into_values().for_each(Waker::wake);
            // Whoever goes to sleep from now on starts a driver of its own.
            let Some(first) = first else {
                return Poll::Ready(());
            };
            if this.armed != Some(first) {
                this.timer.as_mut().reset(first);
                this.armed = Some(first);
            }
            ready!(this.timer.as_mut().poll(cx));
            this.armed = None;
        }
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
        Pin::new(sleep).poll(cx).map(|()| Err(Elapsed))
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
        let mut queue = this.clock.queue();
        let id = *this.id.get_or_insert_with(|| {
            queue.next_id += 1;
            queue.next_id
        });
        queue
            .sleepers
            .entry((this.deadline, id))
            .and_modify(|waker| waker.clone_from(cx.waker()))
            .or_insert_with(|| cx.waker().clone());
        this.clock.set_alarm(queue, this.deadline);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let waker = self.clock.queue().sleepers.remove(&(self.deadline, id));
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

    /// A runtime whose time stands still until the test moves it, and whose tasks run when the test says so.
    struct Virtual {
        now: Mutex<Instant>,
        executor: Executor<'static>,
        alarms: Mutex<Vec<Weak<Alarm>>>,
        timers: AtomicUsize,
        spawned: AtomicUsize,
        resets: AtomicUsize,
        /// The next timer that is asked says that it has expired.
        hasty: AtomicBool,
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
                executor: Executor::new(),
                alarms: Mutex::default(),
                timers: AtomicUsize::new(0),
                spawned: AtomicUsize::new(0),
                resets: AtomicUsize::new(0),
                hasty: AtomicBool::new(false),
            });
            (Arc::clone(&runtime), Clock::new(Arc::new(Handle(runtime))))
        }

        fn now(&self) -> Instant {
            *self.now.lock().unwrap()
        }

        /// Runs every task as far as it gets.
        fn settle(&self) {
            while self.executor.try_tick() {}
        }

        fn advance(&self, by: Duration) {
            self.settle();
            let now = {
                let mut now = self.now.lock().unwrap();
                *now += by;
                *now
            };
            for alarm in self.alarms.lock().unwrap().iter().filter_map(Weak::upgrade) {
                let state = &mut *alarm.0.lock().unwrap();
                if state.deadline <= now || self.hasty.load(Ordering::Relaxed) {
                    state.waker.take().into_iter().for_each(Waker::wake);
                }
            }
            self.settle();
        }

        fn has_driver(&self) -> bool {
            !self.executor.is_empty()
        }

        /// Timers made, drivers spawned, timers moved.
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
            self.0.executor.spawn(future).detach();
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
        assert_eq!(time.costs(), (1, 1, 0), "later deadlines must not touch the timer");
        for passed in 1..=sleeps.len() {
            time.advance(SECOND);
            assert!(sleeps[passed - 1].woken() && sleeps[passed - 1].poll().is_ready());
            assert!(sleeps[passed..].iter().all(|sleep| !sleep.woken()), "woken early");
        }
        let (timers, drivers, _) = time.costs();
        assert_eq!((timers, drivers), (1, 1));
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
    fn the_driver_wakes_for_a_deadline_that_comes_earlier() {
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
        let (timers, drivers, _) = time.costs();
        assert_eq!((timers, drivers), (1, 1));
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
    fn an_earlier_deadline_counts_even_before_the_driver_first_ran() {
        let (time, clock) = Virtual::clock();
        let _late = Polled::begun(clock.sleep(60 * SECOND));
        let mut early = Polled::begun(clock.sleep(SECOND));
        time.advance(SECOND);
        assert!(early.woken() && early.poll().is_ready());
    }

    #[test]
    fn a_dropped_sleep_is_forgotten() {
        let (time, clock) = Virtual::clock();
        let dropped = Polled::begun(clock.sleep(SECOND));
        let kept = Polled::begun(clock.sleep(2 * SECOND));
        time.settle();
        let flag = Arc::clone(&dropped.woken);
        drop(dropped);
        assert_eq!(clock.queue().sleepers.len(), 1);
        assert_eq!(Arc::strong_count(&flag), 1, "its waker is kept");
        time.advance(SECOND);
        assert!(!flag.0.load(Ordering::Relaxed) && !kept.woken());
        time.advance(SECOND);
        assert!(kept.woken());
    }

    #[test]
    fn the_driver_ends_when_nobody_sleeps_and_a_new_one_starts() {
        let (time, clock) = Virtual::clock();
        for round in 1..=3 {
            assert!(!time.has_driver());
            let mut sleep = Polled::begun(clock.sleep(SECOND));
            assert!(time.has_driver());
            time.advance(SECOND);
            assert!(sleep.woken() && sleep.poll().is_ready());
            assert!(!time.has_driver(), "nobody sleeps");
            assert_eq!(time.costs(), (round, round, 0));
        }
    }

    #[test]
    fn the_driver_of_a_forgotten_deadline_serves_the_next_one() {
        let (time, clock) = Virtual::clock();
        let forgotten = Polled::begun(clock.sleep(SECOND));
        time.settle();
        drop(forgotten);
        let mut next = Polled::begun(clock.sleep(3 * SECOND));
        time.advance(SECOND);
        assert!(!next.woken() && time.has_driver());
        time.advance(2 * SECOND);
        assert!(next.woken() && next.poll().is_ready());
        assert!(!time.has_driver());
        assert_eq!(time.costs(), (1, 1, 1));
    }

    #[test]
    fn the_driver_ends_with_the_last_clock() {
        let (time, clock) = Virtual::clock();
        let sleep = Polled::begun(clock.sleep(SECOND));
        time.settle();
        drop((sleep, clock));
        time.advance(SECOND);
        assert!(!time.has_driver());
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
    fn a_sleep_that_was_polled_late_is_over_without_the_driver() {
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
        assert!(clock.queue().sleepers.is_empty());
        time.advance(SECOND);
        assert!(!time.has_driver());
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
