//! The thread of a `PollRuntime` never sleeps while there is something to do.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
};

use loom::{sync::atomic::AtomicUsize, thread};

use super::{
    shared::{MainWaker, Shared},
    tasks::Ready,
};
use crate::{model::wake_fd::Signal, sync::lock};

pub(crate) const CASES: &[(&str, fn())] =
    &[("wakes", wakes), ("spawns", spawns), ("wakes_main", wakes_main), ("closes", closes)];

/// As much of a `PollRuntime` as its tasks see.
struct Runtime {
    shared: Arc<Shared>,
    signal: Arc<Signal>,
}

impl Runtime {
    fn new() -> Self {
        let shared = Shared::new().expect("no system call is made");
        Self { shared, signal: Signal::latest() }
    }

    fn main_waker(&self) -> Waker {
        Waker::from(Arc::new(MainWaker(Arc::clone(&self.shared))))
    }

    /// As `PollRuntime` does when it is dropped; not in a `drop`, since loom cannot go on in a panic.
    fn close(self) {
        self.shared.close();
    }

    /// As `PollRuntime::block_on`, without sockets, timers and waits that are too short to sleep.
    fn block_on(&self, future: impl Future<Output = ()>) {
        let mut future = pin!(future);
        let main = self.main_waker();
        main.wake_by_ref();
        loop {
            let is_main = lock(&self.shared.tasks).take_main();
            if is_main && future.as_mut().poll(&mut Context::from_waker(&main)).is_ready() {
                return;
            }
            self.run_tasks();
            let idle = lock(&self.shared.tasks).is_idle();
            if idle {
                self.sleep();
            }
        }
    }

    fn run_tasks(&self) {
        let mut batch = VecDeque::new();
        lock(&self.shared.tasks).take(Ready::NextBatch, usize::MAX, &mut batch);
        while let Some(runnable) = batch.pop_front() {
            runnable.run();
        }
    }

    fn sleep(&self) {
        self.shared.bell.sleep();
        let idle = lock(&self.shared.tasks).is_idle();
        if idle {
            self.signal.wait();
        }
        self.shared.bell.wake();
        self.shared.bell.clear();
    }
}

/// Resolves when `all` threads have come, each of which wakes it afterwards.
///
/// Reads by changing nothing, which sees the latest value, as a load would by the ordering that async-task
/// gives to a wake; loom does not know of that.
async fn all_came(came: &AtomicUsize, all: usize) {
    let have_come = || came.fetch_add(0, Ordering::AcqRel) == all;
    poll_fn(|_| if have_come() { Poll::Ready(()) } else { Poll::Pending }).await;
}

fn join(threads: [thread::JoinHandle<()>; 2]) {
    threads.into_iter().for_each(|thread| thread.join().expect("a thread that does not panic"));
}

/// Two threads wake a task, which then wakes the thread's own future.
pub(crate) fn wakes() {
    let runtime = Runtime::new();
    let came = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicUsize::new(0));
    let main = runtime.main_waker();
    let wakers = Arc::new(std::sync::Mutex::new(Vec::new()));
    let task = {
        let (came, done, wakers) = (Arc::clone(&came), Arc::clone(&done), Arc::clone(&wakers));
        async move {
            poll_fn(|cx| {
                // Before the other threads begin.
                wakers.lock().expect("nothing panics under the lock").push(cx.waker().clone());
                Poll::Ready(())
            })
            .await;
            all_came(&came, 2).await;
            done.store(1, Ordering::Release);
            main.wake();
        }
    };
    runtime.shared.spawn(Box::pin(task));
    runtime.run_tasks();
    let waker = wakers.lock().expect("nothing panics under the lock").pop().expect("the task has run");
    let threads = [waker.clone(), waker].map(|waker| {
        let came = Arc::clone(&came);
        thread::spawn(move || {
            came.fetch_add(1, Ordering::AcqRel);
            waker.wake();
        })
    });
    runtime.block_on(all_came(&done, 1));
    join(threads);
    runtime.close();
}

/// Two threads spawn a task each.
pub(crate) fn spawns() {
    let runtime = Runtime::new();
    let done = Arc::new(AtomicUsize::new(0));
    let threads = [(); 2].map(|()| {
        let (shared, done, main) = (Arc::clone(&runtime.shared), Arc::clone(&done), runtime.main_waker());
        thread::spawn(move || {
            shared.spawn(Box::pin(async move {
                done.fetch_add(1, Ordering::AcqRel);
                main.wake();
            }));
        })
    });
    runtime.block_on(all_came(&done, 2));
    join(threads);
    runtime.close();
}

/// Two threads wake the thread's own future.
pub(crate) fn wakes_main() {
    let runtime = Runtime::new();
    let came = Arc::new(AtomicUsize::new(0));
    let threads = [(); 2].map(|()| {
        let (came, main) = (Arc::clone(&came), runtime.main_waker());
        thread::spawn(move || {
            came.fetch_add(1, Ordering::AcqRel);
            main.wake();
        })
    });
    runtime.block_on(all_came(&came, 2));
    join(threads);
    runtime.close();
}

/// Tasks that are spawned while the runtime is dropped are dropped, too.
pub(crate) fn closes() {
    let runtime = Runtime::new();
    let held = Arc::new(());
    let threads = [(); 2].map(|()| {
        let (shared, held) = (Arc::clone(&runtime.shared), Arc::clone(&held));
        thread::spawn(move || {
            shared.spawn(Box::pin(async move {
                let _held = held;
                std::future::pending::<()>().await;
            }));
        })
    });
    runtime.close();
    join(threads);
    assert_eq!(Arc::strong_count(&held), 1, "a task outlives its runtime");
}
