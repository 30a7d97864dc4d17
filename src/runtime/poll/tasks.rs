//! The tasks of a runtime on one thread, and the order in which they run.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use async_task::{Runnable, ScheduleInfo, WithInfo};
use slab::Slab;

use super::Shared;
use crate::sync::lock;

/// Which tasks there are, and which of them are ready.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    ready: VecDeque<Runnable>,
    /// Tasks that were woken while they ran, and so gave way to others: ready in the next turn.
    yielded: VecDeque<Runnable>,
    /// The drivers of quinn's connections, which run after a few of the others: what those write leaves in
    /// common packets.
    senders: VecDeque<Runnable>,
    /// The future that the thread was given is ready, too.
    main: bool,
    live: Slab<Live>,
    closed: bool,
}

#[derive(Debug)]
struct Live {
    waker: Waker,
    sends: bool,
}

/// Which of the ready tasks to take.
#[derive(Clone, Copy, Debug)]
pub(super) enum Queue {
    /// With those that gave way in the last turn.
    NextTurn,
    Ready,
    Senders,
}

impl Tasks {
    /// Moves at most this many ready tasks into an empty queue. Says whether they were all.
    pub(super) fn take(&mut self, queue: Queue, most: usize, into: &mut VecDeque<Runnable>) -> bool {
        let queue = match queue {
            Queue::NextTurn => {
                self.ready.append(&mut self.yielded);
                &mut self.ready
            }
            Queue::Ready => &mut self.ready,
            Queue::Senders => &mut self.senders,
        };
        let all = queue.len() <= most;
        if all {
            std::mem::swap(queue, into);
        } else {
            into.extend(queue.drain(..most));
        }
        all
    }

    /// Whether the thread's own future is ready, for the first who asks.
    pub(super) fn take_main(&mut self) -> bool {
        std::mem::take(&mut self.main)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.yielded.is_empty() && self.senders.is_empty() && !self.main
    }

    fn schedule(&mut self, key: usize, runnable: Runnable, info: ScheduleInfo) {
        let queue = if self.live.get(key).is_some_and(|live| live.sends) {
            &mut self.senders
        } else if info.woken_while_running {
            &mut self.yielded
        } else {
            &mut self.ready
        };
        queue.push_back(runnable);
    }
}

impl Shared {
    pub(super) fn spawn(self: &Arc<Self>, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let mut tasks = lock(&self.tasks);
        if tasks.closed {
            drop(tasks);
            return; // The future goes with it.
        }
        let entry = tasks.live.vacant_entry();
        let key = entry.key();
        let home = Arc::clone(self);
        let schedule = WithInfo(move |runnable, info| {
            lock(&home.tasks).schedule(key, runnable, info);
            home.bell.ring();
        });
        let task = Task { future, home: Arc::clone(self), key, sends: false };
        let (runnable, task) = async_task::spawn(task, schedule);
        task.detach();
        entry.insert(Live { waker: runnable.waker(), sends: false });
        tasks.ready.push_back(runnable);
        drop(tasks);
        self.bell.ring();
    }

    /// Drops every task, and whatever is spawned from now on. Those that wait for a timer are woken, to see
    /// that it never fires.
    pub(super) fn close(&self) {
        let wakers: Vec<Waker> = {
            let mut tasks = lock(&self.tasks);
            tasks.closed = true;
            tasks.live.iter().map(|(_, live)| live.waker.clone()).collect()
        };
        wakers.into_iter().for_each(Waker::wake);
        // Not in one statement with what follows: a task that is woken may ask a timer.
        let sleepers = lock(&self.timers).close();
        sleepers.into_iter().for_each(Waker::wake);
        // What a task leaves behind may wake others, which are in the queue already or gone.
        loop {
            let left = {
                let mut tasks = lock(&self.tasks);
                let mut left = std::mem::take(&mut tasks.ready);
                left.append(&mut tasks.yielded);
                left.append(&mut tasks.senders);
                left
            };
            if left.is_empty() {
                return;
            }
        }
    }
}

/// A task that is on the list while it lives.
struct Task {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    home: Arc<Shared>,
    key: usize,
    sends: bool,
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let polled = this.future.as_mut().poll(cx);
        // Taken even of those that are known, or the next task would be taken for one.
        if this.home.sender.take() && !this.sends {
            this.sends = true;
            if let Some(live) = lock(&this.home.tasks).live.get_mut(this.key) {
                live.sends = true;
            }
        }
        polled
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let live = lock(&self.home.tasks).live.try_remove(self.key);
        drop(live);
    }
}

/// Set while a task runs that asks whether it may send, as only the driver of a connection does.
#[derive(Debug, Default)]
pub(super) struct Sender(AtomicBool);

impl Sender {
    pub(super) fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn take(&self) -> bool {
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}

/// Wakes the thread's own future.
#[derive(Debug)]
pub(super) struct MainWaker(pub(super) Arc<Shared>);

impl Wake for MainWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        lock(&self.0.tasks).main = true;
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

    use super::super::PollRuntime;

    use super::*;

    /// A task that is woken by its name, and what it wakes each time that it runs.
    #[derive(Clone, Default)]
    struct Stage {
        wakers: Arc<Mutex<HashMap<&'static str, Waker>>>,
        ran: Arc<Mutex<Vec<&'static str>>>,
    }

    impl Stage {
        fn spawn(&self, shared: &Arc<Shared>, name: &'static str, wakes: &'static [&'static str]) {
            let (stage, home) = (self.clone(), Arc::clone(shared));
            shared.spawn(Box::pin(poll_fn(move |cx| {
                lock(&stage.wakers).entry(name).or_insert_with(|| cx.waker().clone());
                lock(&stage.ran).push(name);
                if name == "driver" {
                    home.sender.note();
                }
                for name in wakes {
                    stage.wake(name);
                }
                Poll::Pending
            })));
        }

        fn wake(&self, name: &str) {
            if let Some(waker) = lock(&self.wakers).get(name) {
                waker.wake_by_ref();
            }
        }
    }

    #[test]
    fn those_that_are_woken_in_a_turn_join_it_and_those_that_give_way_do_not() {
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
            // Gives way each time that it runs.
            stage.spawn(&shared, "patient", &["patient", "driver"]);
            stage.wake("writer");
            for _ in 0..2 {
                yield_now().await;
            }
        });
        let ran = lock(&stage.ran);
        assert_eq!(*ran, ["patient", "writer", "reader", "driver", "patient", "driver"]);
    }

    #[test]
    fn only_who_asks_whether_it_may_send_is_a_sender() {
        let mut runtime = PollRuntime::new().unwrap();
        let shared = Arc::clone(&runtime.shared);
        let task = |asks: bool| {
            let shared = Arc::clone(&shared);
            Box::pin(async move {
                for _ in 0..3 {
                    poll_fn(|_| {
                        if asks {
                            shared.sender.note();
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
        let sends: Vec<_> = lock(&shared.tasks).live.iter().map(|(_, live)| live.sends).collect();
        assert_eq!(sends, [false, true, false, true, false]);
    }
}
