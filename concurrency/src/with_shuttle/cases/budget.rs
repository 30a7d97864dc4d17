//! The memory for frames of all peers: everybody gets on, whoever is first.

use std::{
    future::ready,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use super::{Task, run_all};
use crate::{
    admission::{Admission, Allowance, Charge},
    limits::{CONNECTION_RESERVE_BYTES as RESERVE, TransportLimits},
    runtime::Clock,
    sync::{AtomicBool, Event, wait_until},
};
use futures_lite::future;

const LIMIT: usize = 4 * RESERVE;

fn admission() -> Arc<Admission> {
    let frame_budget_bytes = u32::try_from(LIMIT).expect("a small number");
    let limits = TransportLimits { frame_budget_bytes, ..TransportLimits::default() };
    Arc::new(Admission::new(Arc::new(limits), Clock::stepping(Duration::ZERO)))
}

/// What other threads wait for.
#[derive(Default)]
struct Flag {
    is_set: AtomicBool,
    changed: Event,
}

impl Flag {
    fn set(&self) {
        self.is_set.store(true, SeqCst);
        self.changed.notify(usize::MAX);
    }

    async fn wait(&self) {
        wait_until(&self.changed, || self.is_set.load(SeqCst)).await;
    }
}

fn peer(admission: &Admission) -> Arc<Allowance> {
    Arc::new(admission.accepted(None, IpAddr::V4(Ipv4Addr::LOCALHOST)))
}

/// A connection that holds this much.
fn holding(admission: &Admission, bytes: usize) -> Charge {
    let mut charge = peer(admission).charge();
    charge.add(bytes);
    charge
}

/// Goes beyond the budget, or is small, until the flag is set.
fn exempt_until(charge: Charge, flag: &Arc<Flag>) -> Task {
    let flag = Arc::clone(flag);
    Box::pin(async move {
        charge.while_there_is_room(ready(())).await;
        flag.wait().await;
        drop(charge);
    })
}

/// Connections whose messages do not fit the budget together take turns, and leave nothing behind.
pub(crate) fn turns() {
    let admission = admission();
    let connection = |sizes: [usize; 2]| {
        let allowance = peer(&admission);
        Box::pin(async move {
            for size in sizes {
                let mut charge = allowance.charge();
                charge.reserve(size).await;
                // The rest of the message, and its answer.
                charge.while_there_is_room(ready(())).await;
                charge.add(RESERVE);
                charge.settle(RESERVE);
            }
            allowance.abandon();
        }) as Task
    };
    run_all([connection([LIMIT, 1]), connection([2 * RESERVE, LIMIT]), connection([1, 3 * RESERVE])]);
    assert_eq!(admission.frame_bytes(), 0);
}

/// Two streams of a connection wait for each other's bytes, beyond the budget; another connection waits.
pub(crate) fn exemption() {
    let admission = admission();
    let allowance = peer(&admission);
    let (mut waiting, mut other) = (allowance.charge(), allowance.charge());
    waiting.add(LIMIT);
    let stranger = holding(&admission, LIMIT);
    let came = Arc::new(Flag::default());
    let first = exempt_until(waiting, &came);
    let second = Box::pin(async move {
        other.while_there_is_room(ready(())).await;
        other.add(1);
        came.set();
    });
    let stranger = Box::pin(async move { stranger.while_there_is_room(ready(())).await });
    run_all([stranger, first, second]);
    assert_eq!(admission.frame_bytes(), 0);
}

/// A connection that there is room for does not wait for another that needs more than there is.
pub(crate) fn room_for_small() {
    let admission = admission();
    let [mut large, mut small, exempt] = [(); 3].map(|()| holding(&admission, RESERVE));
    let filling = holding(&admission, LIMIT);
    let served = Arc::new(Flag::default());
    let exempt = exempt_until(exempt, &served);
    let filling = Box::pin(async move { drop(filling) });
    let large = Box::pin(async move { large.reserve(LIMIT - 2 * RESERVE).await });
    let small = Box::pin(async move {
        small.reserve(1).await;
        served.set();
    });
    run_all([exempt, filling, large, small]);
    assert_eq!(admission.frame_bytes(), 0);
}

/// Whoever is woken and finds too little, since others were quicker, wakes another that it is enough for.
pub(crate) fn room_that_shrinks() {
    let admission = admission();
    let [mut large, mut small, exempt, mut quick] = [(); 4].map(|()| holding(&admission, RESERVE / 2));
    [&mut large, &mut small].map(|charge| charge.add(RESERVE / 2));
    let filling = holding(&admission, LIMIT);
    let served = Arc::new(Flag::default());
    let exempt = {
        let mut exempt = exempt;
        exempt.add(RESERVE / 2);
        exempt_until(exempt, &served)
    };
    let filling = Box::pin(async move { drop(filling) });
    let quick = {
        let served = Arc::clone(&served);
        Box::pin(async move {
            quick.add(RESERVE / 4);
            served.wait().await;
        })
    };
    let large = Box::pin(async move { large.reserve(RESERVE / 3).await });
    let small = Box::pin(async move {
        small.reserve(1).await;
        served.set();
    });
    run_all([exempt, filling, quick, large, small]);
    assert_eq!(admission.frame_bytes(), 0);
}

/// Whoever is woken and leaves without looking wakes the next.
pub(crate) fn cancellation() {
    let admission = admission();
    let [mut leaving, mut staying, exempt] = [(); 3].map(|()| holding(&admission, RESERVE));
    let filling = holding(&admission, LIMIT);
    let (served, left) = (Arc::new(Flag::default()), Arc::new(Flag::default()));
    let exempt = exempt_until(exempt, &served);
    let filling = {
        let left = Arc::clone(&left);
        Box::pin(async move {
            drop(filling);
            left.set();
        })
    };
    let leaving = {
        let served = Arc::clone(&served);
        Box::pin(async move {
            future::or(left.wait(), leaving.reserve(1)).await;
            // Its bytes would wake the other.
            served.wait().await;
        })
    };
    let staying = Box::pin(async move {
        staying.reserve(1).await;
        served.set();
    });
    run_all([exempt, filling, leaving, staying]);
    assert_eq!(admission.frame_bytes(), 0);
}
