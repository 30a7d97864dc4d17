//! The addresses of a host, raced as [RFC 8305](https://www.rfc-editor.org/rfc/rfc8305) (Happy Eyeballs)
//! does for TCP. Without a socket and a clock: the caller supplies the attempts and the delays.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    ops::ControlFlow,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_lite::future;

use crate::error::{AttemptErrors, Error, ErrorKind, Result};

/// How long an attempt runs before the next begins beside it: the default of [RFC 8305, section
/// 5](https://www.rfc-editor.org/rfc/rfc8305#section-5).
pub(super) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Addresses of a host that one connect dials at most. The owner of a name decides which addresses it has,
/// and must not make this side send to any number of them. Popular names have up to 8.
const MAX_ADDRESSES: usize = 8;

/// The addresses to dial, in this order: that of the system, but with both families in turn, so that a family
/// without a way out costs one delay ([RFC 8305, section
/// 4](https://www.rfc-editor.org/rfc/rfc8305#section-4)). Those beyond [`MAX_ADDRESSES`] are left out.
pub(super) fn to_dial(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().copied() else { return addresses };
    let (first_family, other_family): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == first.is_ipv4());
    let (mut first_family, mut other_family) = (first_family.into_iter(), other_family.into_iter());
    let mut ordered = Vec::with_capacity(MAX_ADDRESSES);
    while ordered.len() < MAX_ADDRESSES {
        let before = ordered.len();
        ordered.extend(first_family.next());
        ordered.extend(other_family.next());
        if ordered.len() == before {
            break;
        }
    }
    ordered.truncate(MAX_ADDRESSES);
    ordered
}

/// Begins an attempt with the first candidate, and with the next when the latest has failed or has run for a
/// delay; returns what the first that succeeds returns, and drops the others. An attempt that finds this
/// side [closed](ErrorKind::Closed) ends the race.
///
/// # Errors
///
/// When all have failed, as [`AttemptErrors::into_error`] says, in the order of candidates.
pub(super) async fn race<C, T, A, D>(
    candidates: Vec<C>,
    mut attempt: impl FnMut(C) -> A,
    mut delay: impl FnMut() -> D,
) -> Result<T>
where
    A: Future<Output = Result<T>>,
    D: Future,
{
    let mut race = Race { begun: 0, running: Vec::with_capacity(candidates.len()), failed: Vec::new() };
    for candidate in candidates {
        race.begin(attempt(candidate));
        let delayed = async {
            delay().await;
            ControlFlow::Continue(())
        };
        if let ControlFlow::Break(outcome) = future::or(race.latest_failed(), delayed).await {
            return outcome;
        }
    }
    if let ControlFlow::Break(outcome) = race.all_failed().await {
        return outcome;
    }
    Err(race.into_error())
}

/// The attempts that run and those that have failed, by their numbers.
struct Race<A> {
    begun: usize,
    running: Vec<(usize, Pin<Box<A>>)>,
    failed: Vec<(usize, Error)>,
}

impl<T, A: Future<Output = Result<T>>> Race<A> {
    fn begin(&mut self, attempt: A) {
        self.running.push((self.begun, Box::pin(attempt)));
        self.begun += 1;
    }

    /// Polls all attempts until the one that began last has failed, or the race is over.
    async fn latest_failed(&mut self) -> ControlFlow<Result<T>> {
        let latest = self.begun.saturating_sub(1);
        self.poll_until(|race| race.running.iter().all(|(number, _)| *number != latest)).await
    }

    /// Polls all attempts until none is left, or the race is over.
    async fn all_failed(&mut self) -> ControlFlow<Result<T>> {
        self.poll_until(|race| race.running.is_empty()).await
    }

    async fn poll_until(&mut self, enough: impl Fn(&Self) -> bool) -> ControlFlow<Result<T>> {
        poll_fn(|context| match self.poll_each(context) {
            ControlFlow::Continue(()) if !enough(self) => Poll::Pending,
            polled => Poll::Ready(polled),
        })
        .await
    }

    /// Breaks with the outcome of the race, once there is one that is not the failure of all.
    fn poll_each(&mut self, context: &mut Context<'_>) -> ControlFlow<Result<T>> {
        let mut outcome = ControlFlow::Continue(());
        let failed = &mut self.failed;
        self.running.retain_mut(|(number, attempt)| {
            if outcome.is_break() {
                return true;
            }
            match attempt.as_mut().poll(context) {
                Poll::Pending => return true,
                Poll::Ready(Err(error)) if *error.kind() != ErrorKind::Closed => {
                    failed.push((*number, error))
                }
                Poll::Ready(ended) => outcome = ControlFlow::Break(ended),
            }
            false
        });
        outcome
    }

    fn into_error(mut self) -> Error {
        self.failed.sort_by_key(|(number, _)| *number);
        let mut errors = AttemptErrors::default();
        self.failed.into_iter().for_each(|(_, error)| errors.push(error));
        errors.into_error().unwrap_or_else(|| Error::invalid_config("the host has no address"))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        collections::BTreeMap,
        pin::pin,
    };

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    /// Attempts by number that end when the test says how, and delays that end when it says so.
    #[derive(Default)]
    struct Script {
        outcomes: RefCell<BTreeMap<usize, Result<&'static str>>>,
        begun: Cell<usize>,
        dropped: RefCell<Vec<usize>>,
        delays_over: Cell<usize>,
    }

    /// Runs until its outcome is in the script.
    struct Attempt<'a>(&'a Script, usize);

    impl Future for Attempt<'_> {
        type Output = Result<&'static str>;

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
            let Self(script, number) = &*self;
            script.outcomes.borrow_mut().remove(number).map_or(Poll::Pending, Poll::Ready)
        }
    }

    impl Drop for Attempt<'_> {
        fn drop(&mut self) {
            self.0.dropped.borrow_mut().push(self.1);
        }
    }

    impl Script {
        async fn race(&self, candidates: usize) -> Result<&'static str> {
            let delays = Cell::new(0);
            let attempt = |number| {
                self.begun.set(number + 1);
                Attempt(self, number)
            };
            let delay = || {
                delays.set(delays.get() + 1);
                let own = delays.get();
                poll_fn(move |_| if self.delays_over.get() >= own { Poll::Ready(()) } else { Poll::Pending })
            };
            race((0..candidates).collect(), attempt, delay).await
        }

        fn end_delay(&self) {
            self.delays_over.set(self.delays_over.get() + 1);
        }

        fn end(&self, number: usize, outcome: Result<&'static str, ErrorKind>) {
            self.outcomes.borrow_mut().insert(number, outcome.map_err(Error::new));
        }
    }

    /// Runs the steps one after the other, and compares how many attempts have begun after each.
    fn run(script: &Script, candidates: usize, steps: &[(&dyn Fn(), usize)]) -> Option<Result<&'static str>> {
        let mut racing = pin!(script.race(candidates));
        let mut polled = block_on(poll_once(racing.as_mut()));
        for (step, begun) in steps {
            assert!(polled.is_none(), "the race was over before its last step");
            step();
            polled = block_on(poll_once(racing.as_mut()));
            assert_eq!(script.begun.get(), *begun);
        }
        polled
    }

    #[test]
    fn the_next_attempt_begins_after_a_delay_or_when_the_latest_has_failed() {
        let script = Script::default();
        let refused = Err(ErrorKind::Refused);
        let outcome = run(
            &script,
            4,
            &[
                (&|| {}, 1),
                (&|| script.end_delay(), 2),
                // Not the latest: the second has the rest of its delay.
                (&|| script.end(0, refused.clone()), 2),
                (&|| script.end(1, refused.clone()), 3),
                // That of the second, which failed before it was over, begins no attempt.
                (&|| script.end_delay(), 3),
                (&|| script.end_delay(), 4),
                (&|| script.end_delay(), 4),
            ],
        );
        assert!(outcome.is_none(), "two are running");
    }

    #[test]
    fn the_first_that_succeeds_wins_and_the_others_are_dropped() {
        for winner in 0..3 {
            let script = Script::default();
            let outcome = run(
                &script,
                4,
                &[
                    (&|| script.end_delay(), 2),
                    (&|| script.end_delay(), 3),
                    (&|| script.end(winner, Ok("connected")), 3),
                ],
            );
            assert_eq!(outcome.unwrap().unwrap(), "connected");
            script.dropped.borrow_mut().sort_unstable();
            assert_eq!(*script.dropped.borrow(), [0, 1, 2]);
        }
    }

    #[test]
    fn dropping_the_race_drops_its_attempts() {
        let script = Script::default();
        assert!(run(&script, 2, &[(&|| script.end_delay(), 2)]).is_none());
        assert_eq!(*script.dropped.borrow(), [0, 1]);
    }

    #[test]
    fn when_all_have_failed_the_order_of_candidates_decides_about_the_error() {
        let script = Script::default();
        let outcome = run(
            &script,
            2,
            &[
                (&|| script.end_delay(), 2),
                (&|| script.end(1, Err(ErrorKind::Refused)), 2),
                (&|| script.end(0, Err(ErrorKind::HandshakeTimeout)), 2),
            ],
        );
        assert_eq!(*outcome.unwrap().unwrap_err().kind(), ErrorKind::HandshakeTimeout);
        let error = run(&Script::default(), 0, &[]).unwrap().unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::InvalidConfig);
    }

    #[test]
    fn a_closed_endpoint_ends_the_race() {
        let script = Script::default();
        let outcome = run(&script, 3, &[(&|| script.end(0, Err(ErrorKind::Closed)), 1)]);
        assert_eq!(*outcome.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    }

    #[test]
    fn the_families_take_turns_and_eight_addresses_are_dialled_at_most() {
        let v4 = |last| SocketAddr::from(([192, 0, 2, last], 7443));
        let v6 = |last| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, last], 7443));
        assert_eq!(to_dial(vec![v6(1), v6(2), v6(3), v4(1)]), [v6(1), v4(1), v6(2), v6(3)]);
        assert_eq!(to_dial(vec![v4(2), v4(1), v6(1)]), [v4(2), v6(1), v4(1)]);
        assert_eq!(to_dial(Vec::new()), []);
        let many = to_dial((1..100).map(v6).chain((1..100).map(v4)).collect());
        assert_eq!(many, [v6(1), v4(1), v6(2), v4(2), v6(3), v4(3), v6(4), v4(4)]);
        assert_eq!(to_dial((1..100).map(v4).collect()).len(), 8);
    }
}
