//! A subscriber gets every event, and sleeps only when it has them all.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use super::{Task, run_all};
use crate::{events::Log, sync::AtomicUsize};

/// Two threads publish, and a subscriber follows as `server::events` does.
pub(crate) fn wakeups() {
    let log = Log::new(1);
    let publisher = || {
        let log = log.clone();
        Box::pin(async move {
            for _ in 0..2 {
                log.publish("event");
            }
        }) as Task
    };
    let subscriber = {
        let log = log.clone();
        Box::pin(async move {
            let mut position = log.subscribe();
            let mut events = Vec::new();
            while events.len() < 4 {
                let published = log.listen();
                let before = events.len();
                assert!(log.read(&mut position, &mut events).is_none());
                if events.len() == before {
                    published.await;
                }
            }
            assert!(events.iter().map(|(seq, _)| *seq).eq(1..=4), "out of order");
        }) as Task
    };
    run_all([publisher(), publisher(), subscriber]);
    assert_eq!(log.last_seq(), 4);
}

/// No more subscribe than may, and each that leaves makes room.
pub(crate) fn subscribers() {
    let log = Log::new(1);
    let holder = Arc::new(AtomicUsize::new(0));
    let subscriber = || {
        let (log, holder) = (log.clone(), Arc::clone(&holder));
        Box::pin(async move {
            for _ in 0..2 {
                if let Some(slot) = log.admit_subscriber() {
                    let others = holder.fetch_add(1, SeqCst);
                    assert_eq!(others, 0, "two have a place");
                    holder.fetch_sub(1, SeqCst);
                    drop(slot);
                }
            }
        }) as Task
    };
    run_all([subscriber(), subscriber(), subscriber()]);
    assert_eq!(log.subscribers(), 0);
    assert!(log.admit_subscriber().is_some());
}
