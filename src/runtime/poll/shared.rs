//! The state of a runtime that its handles, tasks, wakers, timers and sockets share.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use async_task::WithInfo;

use super::{
    bell::Bell,
    source::Sources,
    tasks::{DriverMark, Tasks},
    timer_queue::TimerQueue,
};
use crate::sync::{Mutex, lock};

pub(super) struct Shared {
    pub(super) tasks: Mutex<Tasks>,
    pub(super) timers: Mutex<TimerQueue>,
    pub(super) sources: Sources,
    pub(super) driver_mark: DriverMark,
    pub(super) bell: Bell,
}

impl Shared {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            tasks: Mutex::default(),
            timers: Mutex::default(),
            sources: Mutex::default(),
            driver_mark: DriverMark::default(),
            bell: Bell::new()?,
        }))
    }

    pub(super) fn spawn(self: &Arc<Self>, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let mut tasks = lock(&self.tasks);
        let Some(key) = tasks.vacant_key() else {
            drop(tasks);
            return; // The future goes with it.
        };
        let shared = Arc::clone(self);
        let schedule = WithInfo(move |runnable, info| {
            lock(&shared.tasks).schedule(key, runnable, info);
            shared.bell.ring();
        });
        let task = Task { future, shared: Arc::clone(self), key, is_driver: false };
        let (runnable, task) = async_task::spawn(task, schedule);
        task.detach();
        tasks.insert(runnable);
        drop(tasks);
        self.bell.ring();
    }

    /// Drops every task, and whatever is spawned from now on. Tasks that wait for a timer are woken, to see
    /// that it never fires.
    pub(super) fn close(&self) {
        let wakers = lock(&self.tasks).close();
        wakers.into_iter().for_each(Waker::wake);
        // Not in one statement with what follows: a task that is woken may poll a timer.
        let sleepers = lock(&self.timers).close();
        sleepers.into_iter().for_each(Waker::wake);
        // Dropping a task may wake others, which are in the queue already or gone.
        loop {
            let runnables = lock(&self.tasks).drain();
            if runnables.is_empty() {
                return;
            }
        }
    }
}

// quinn wants `Debug` of timers and sockets, which few programs ever print: a derived one would bring that of
// every collection in here into each of them.
impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// A spawned future, which is on the runtime's list of tasks while it lives.
struct Task {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    shared: Arc<Shared>,
    key: usize,
    is_driver: bool,
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let polled = this.future.as_mut().poll(cx);
        // Taken after known drivers, too, or the next task would be taken for one.
        if this.shared.driver_mark.take() && !this.is_driver {
            this.is_driver = true;
            lock(&this.shared.tasks).mark_driver(this.key);
        }
        polled
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let waker = lock(&self.shared.tasks).remove(self.key);
        drop(waker);
    }
}

/// Wakes the future given to `block_on`.
#[derive(Debug)]
pub(super) struct MainWaker(pub(super) Arc<Shared>);

impl Wake for MainWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        lock(&self.0.tasks).wake_main();
        self.0.bell.ring();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        future::{pending, poll_fn},
        sync::Mutex,
    };

    use futures_lite::future::yield_now;

    use super::*;
    use crate::runtime::{PollRuntime, poll::tasks::TASKS_PER_CHECK};

    /// A task that is woken by its name, and what it wakes each time that it runs.
    #[derive(Clone, Default)]
    struct Stage {
        wakers: Arc<Mutex<HashMap<&'static str, Waker>>>,
        ran: Arc<Mutex<Vec<&'static str>>>,
    }

    impl Stage {
        fn spawn(&self, shared: &Arc<Shared>, name: &'static str, wakes: &'static [&'static str]) {
            let (stage, runtime) = (self.clone(), Arc::clone(shared));
            let task = poll_fn(move |cx| {
                lock(&stage.wakers).entry(name).or_insert_with(|| cx.waker().clone());
                lock(&stage.ran).push(name);
                if name == "driver" {
                    runtime.driver_mark.set();
                }
                for name in wakes {
                    stage.wake(name);
                }
                Poll::Pending
            });
            shared.spawn(Box::pin(task));
        }

        fn wake(&self, name: &str) {
            if let Some(waker) = lock(&self.wakers).get(name) {
                waker.wake_by_ref();
            }
        }
    }

    #[test]
    fn a_task_woken_by_a_batch_joins_it_and_one_that_yields_waits_for_the_next() {
        let mut runtime = PollRuntime::new().unwrap();
        let shared = Arc::clone(&runtime.shared);
        let stage = Stage::default();
        stage.spawn(&shared, "driver", &[]);
        stage.spawn(&shared, "reader", &["driver"]);
        stage.spawn(&shared, "writer", &["reader", "driver"]);
        let settle = async {
            for _ in 0..10 {
                yield_now().await;
            }
        };
        runtime.block_on(settle);
        lock(&stage.ran).clear();
        runtime.block_on(async {
            // Yields each time that it runs.
            stage.spawn(&shared, "yielder", &["yielder", "driver"]);
            stage.wake("writer");
            for _ in 0..2 {
                yield_now().await;
            }
        });
        let ran = lock(&stage.ran);
        assert_eq!(*ran, ["yielder", "writer", "reader", "driver", "yielder", "driver"]);
    }

    #[test]
    fn many_ready_tasks_all_run_before_a_driver_sends() {
        let mut runtime = PollRuntime::new().unwrap();
        let shared = Arc::clone(&runtime.shared);
        let stage = Stage::default();
        let settle = || async {
            for _ in 0..10 {
                yield_now().await;
            }
        };
        stage.spawn(&shared, "driver", &[]);
        runtime.block_on(settle());
        let count = 3 * TASKS_PER_CHECK;
        for _ in 0..count {
            stage.spawn(&shared, "caller", &["driver"]);
        }
        lock(&stage.ran).clear();
        runtime.block_on(settle());
        let before = lock(&stage.ran).iter().take_while(|name| **name == "caller").count();
        assert_eq!(before, count);
    }

    #[test]
    fn only_a_task_that_asks_whether_it_may_send_is_a_driver() {
        let mut runtime = PollRuntime::new().unwrap();
        let shared = Arc::clone(&runtime.shared);
        let task = |asks: bool| {
            let shared = Arc::clone(&shared);
            Box::pin(async move {
                for _ in 0..3 {
                    poll_fn(|_| {
                        if asks {
                            shared.driver_mark.set();
                        }
                        Poll::Ready(())
                    })
                    .await;
                    yield_now().await;
                }
                pending().await
            })
        };
        for asks in [false, true, false, true, false] {
            shared.spawn(task(asks));
        }
        runtime.block_on(async {
            for _ in 0..10 {
                yield_now().await;
            }
        });
        assert_eq!(lock(&shared.tasks).are_drivers(), [false, true, false, true, false]);
    }
}
