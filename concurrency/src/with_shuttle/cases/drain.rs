//! A shutdown waits for everything that was accepted, and for nothing else.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use super::{Task, run_all};
use crate::{
    drain::{Drain, ExchangeId, Phase},
    sync::AtomicUsize,
};

/// Work is accepted until the shutdown begins, and is done when the shutdown finds the node idle.
pub(crate) fn drain() {
    let drain = Arc::new(Drain::default());
    let working = Arc::new(AtomicUsize::new(0));
    let worker = || {
        let (drain, working) = (Arc::clone(&drain), Arc::clone(&working));
        let task = drain.task();
        Box::pin(async move {
            for _ in 0..2 {
                let work = drain.accept();
                if drain.has_begun() {
                    break;
                }
                working.fetch_add(1, SeqCst);
                assert!(!drain.has_reached(Phase::Closing), "connections are closed under work");
                working.fetch_sub(1, SeqCst);
                drop(work);
            }
            drop(task);
            drain.reached(Phase::Closing).await;
        }) as Task
    };
    let shutdown = {
        let (drain, working) = (Arc::clone(&drain), Arc::clone(&working));
        Box::pin(async move {
            drain.advance(Phase::Draining);
            drain.idle().await;
            assert_eq!(working.load(SeqCst), 0, "the node is not idle");
            drain.advance(Phase::Closing);
            drain.tasks_ended().await;
            drain.advance(Phase::Aborting);
        }) as Task
    };
    run_all([worker(), worker(), shutdown]);
    assert!(drain.has_reached(Phase::Aborting));
}

/// Handlers that shut their own node down do not wait for themselves, nor for each other.
pub(crate) fn drain_in_handlers() {
    let drain = Arc::new(Drain::default());
    let handler = |place: Box<u8>| {
        let drain = Arc::clone(&drain);
        let work = drain.accept();
        Box::pin(async move {
            let own = ExchangeId::new(&drain, &*place, true);
            own.poll(|| assert_eq!(drain.handling(), Some(own)));
            drain.advance(Phase::Draining);
            drain.idle_beside(own).await;
            drop(work);
        }) as Task
    };
    let other = {
        let drain = Arc::clone(&drain);
        let work = drain.accept();
        Box::pin(async move {
            drain.awaited_in_a_handler().await;
            assert_eq!(drain.handling(), None);
            drop(work);
            drain.idle().await;
        }) as Task
    };
    run_all([handler(Box::new(0)), handler(Box::new(1)), other]);
}
