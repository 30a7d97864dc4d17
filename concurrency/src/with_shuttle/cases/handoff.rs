//! Work is done when its result is wanted, and given up when nobody wants it any more.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering::SeqCst},
    task::Poll,
};

use futures_lite::future::poll_once;
use shuttle::rand::{Rng, thread_rng};

use super::{Task, run_all};
use crate::{
    handoff::{Handoff, Wish},
    sync::AtomicUsize,
};

/// An interceptor hands its rest to another task, which may leave before the result is there.
pub(crate) fn handoff() {
    let (handoff, mut handed_off) = Handoff::new();
    let done = Arc::new(AtomicUsize::new(0));
    let waits = {
        let done = Arc::clone(&done);
        Box::pin(async move {
            let result = match thread_rng().gen_range(0..3) {
                0 => poll_once(&mut handed_off).await.flatten(),
                1 => return drop(handed_off),
                _ => Some(handed_off.await.expect("it was wanted in time")),
            };
            assert!(result.is_none_or(|result| result == 7 && done.load(SeqCst) == 1));
        }) as Task
    };
    let works = Box::pin(async move {
        let wish = async |until: fn(Wish) -> bool| {
            poll_fn(|cx| {
                let wish = handoff.wish(cx);
                if until(wish) { Poll::Ready(wish) } else { Poll::Pending }
            })
            .await
        };
        if wish(|wish| wish != Wish::Wait).await == Wish::Work {
            done.fetch_add(1, SeqCst);
            handoff.finish(7);
            wish(|wish| wish == Wish::GiveUp).await;
        }
    }) as Task;
    run_all([waits, works]);
}
