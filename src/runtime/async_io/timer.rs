//! A timer that touches the reactor only when a deadline moves closer.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use async_io::Timer;
use futures_lite::FutureExt;
use quinn::AsyncTimer;

/// quinn moves its deadline on almost every packet, nearly always further away. Arming the reactor each
/// time costs a lock and a wake-up of its thread; so an armed timer stays, and if it fires too early, it is
/// armed again for the new deadline.
#[derive(Debug)]
pub(super) struct LazyTimer {
    deadline: Instant,
    armed: Option<Instant>,
    timer: Timer,
}

impl LazyTimer {
    pub(super) fn new(deadline: Instant) -> Self {
        Self { deadline, armed: None, timer: Timer::never() }
    }
}

impl AsyncTimer for LazyTimer {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.deadline = deadline;
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            if this.armed.is_none_or(|armed| this.deadline < armed) {
                // A deadline that has already passed is not worth arming the reactor.
                if this.deadline <= Instant::now() {
                    return Poll::Ready(());
                }
                this.timer.set_at(this.deadline);
                this.armed = Some(this.deadline);
            }
            ready!(this.timer.poll(cx));
            let fired = this.armed.take();
            if fired.is_some_and(|fired| this.deadline <= fired) {
                return Poll::Ready(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    async fn expire(timer: &mut LazyTimer) {
        poll_fn(|cx| AsyncTimer::poll(Pin::new(timer), cx)).await;
    }

    #[test]
    fn a_postponed_timer_stays_armed_and_does_not_fire_too_early() {
        block_on(async {
            let (start, hour) = (Instant::now(), Duration::from_secs(3600));
            let mut timer = LazyTimer::new(start + hour);
            assert!(poll_once(expire(&mut timer)).await.is_none());
            let armed = timer.armed;
            Pin::new(&mut timer).reset(start + 2 * hour);
            assert!(poll_once(expire(&mut timer)).await.is_none());
            assert_eq!(timer.armed, armed, "postponing must not touch the reactor");

            // On a busy machine, some of this may have passed when it is looked at.
            let deadline = Instant::now() + Duration::from_millis(20);
            Pin::new(&mut timer).reset(deadline - Duration::from_millis(15));
            let _ = poll_once(expire(&mut timer)).await;
            Pin::new(&mut timer).reset(deadline);
            expire(&mut timer).await;
            assert!(Instant::now() >= deadline);
        });
    }

    #[test]
    fn a_timer_that_moves_closer_is_armed_again() {
        block_on(async {
            let start = Instant::now();
            let mut timer = LazyTimer::new(start + Duration::from_secs(3600));
            assert!(poll_once(expire(&mut timer)).await.is_none());
            Pin::new(&mut timer).reset(start + Duration::from_millis(1));
            expire(&mut timer).await;
            assert!(start.elapsed() < Duration::from_secs(3600));
        });
    }
}
