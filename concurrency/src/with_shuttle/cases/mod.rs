//! What has to hold, whatever the order in which threads run.

use std::pin::Pin;

mod admission;
mod budget;
mod drain;
mod handoff;
mod loan;
mod log;

pub(crate) use self::{
    admission::{accounts, handshakes, pieces},
    budget::{cancellation, exemption, room_for_small, room_that_shrinks, turns},
    drain::{drain, drain_in_handlers},
    handoff::handoff,
    loan::loan,
    log::{subscribers, wakeups},
};

pub(crate) const CASES: &[(&str, fn())] = &[
    ("turns", turns),
    ("exemption", exemption),
    ("room_for_small", room_for_small),
    ("room_that_shrinks", room_that_shrinks),
    ("cancellation", cancellation),
    ("pieces", pieces),
    ("handshakes", handshakes),
    ("accounts", accounts),
    ("drain", drain),
    ("drain_in_handlers", drain_in_handlers),
    ("wakeups", wakeups),
    ("subscribers", subscribers),
    ("loan", loan),
    ("handoff", handoff),
];

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs the tasks, each on a thread of its own, until all are done.
fn run_all<const N: usize>(tasks: [Task; N]) {
    let threads = tasks.map(|task| shuttle::thread::spawn(|| shuttle::future::block_on(task)));
    threads.into_iter().for_each(|thread| thread.join().expect("a thread that does not panic"));
}
