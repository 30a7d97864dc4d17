//! Deadlines of calls and handlers, any number of them on one timer of the runtime.

use std::{
    collections::BTreeMap,
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use quinn::{AsyncTimer, Runtime};

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
        self.runtime.spawn(Box::pin(future));
    }

    /// The instant `after` from now, or as far away as an instant can be.
    pub(crate) fn deadline(&self, after: Duration) -> Instant {
        let now = self.now();
        now.checked_add(after).unwrap_or_else(|| now + FAR)
    }

    pub(crate) fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep { clock: self.clone(), deadline, id: None }
    }

    pub(crate) fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.deadline(duration))
    }

    /// Awaits `future` until `deadline`; a future that is ready at once costs no timer.
    pub(crate) async fn timeout_at<F: Future>(
        &self,
        deadline: Option<Instant>,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        let Some(deadline) = deadline else {
            return Ok(future.await);
        };
        let mut sleep = None;
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            let sleep = sleep.get_or_insert_with(|| self.sleep_until(deadline));
            Pin::new(sleep).poll(cx).map(|()| Err(Elapsed))
        })
        .await
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
                    armed: deadline,
                }));
            }
        }
    }
}

/// Beyond any deadline that the limits allow.
const FAR: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    // Nothing in here panics halfway through a change.
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

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
    armed: Instant,
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            let Some(queue) = this.queue.upgrade() else {
                return Poll::Ready(());
            };
            let due = {
                let mut queue = lock(&queue);
                let now = this.runtime.now();
                let later = queue.sleepers.split_off(&(now, u64::MAX));
                let due = std::mem::replace(&mut queue.sleepers, later);
                let first = queue.sleepers.keys().next().map(|(deadline, _)| *deadline);
                queue.alarm = first;
                queue.driver = first.map(|_| cx.waker().clone());
                if let Some(first) = first.filter(|first| *first != this.armed) {
                    this.timer.as_mut().reset(first);
                    this.armed = first;
                }
                due
            };
            let idle = lock(&queue).alarm.is_none();
            due.into_values().for_each(Waker::wake);
            if idle {
                return Poll::Ready(());
            }
            if this.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
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
