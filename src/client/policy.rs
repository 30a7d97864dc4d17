//! When and where a client dials, and how long it waits before: decided without a clock and without a socket.
//!
//! The client tells the policy what happened and when; the policy names the address to dial next and the
//! instant to wait for.

use std::time::{Duration, Instant};

use super::backoff::Failures;
use crate::{
    code::Code,
    error::{AttemptErrors, Error, ErrorKind},
    runtime::Clock,
};

/// A peer may ask for more time than this, but does not get it.
pub(super) const MAX_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// The addresses of a client, by index, and what the latest failures mean for the next attempt.
///
/// Objective: reach the peer soon where one of its addresses works, and leave alone what does not: pauses
/// between rounds grow by [`Backoff`](super::Backoff), and an address that said when to come back is not
/// dialled sooner while another one is left.
pub(super) struct ConnectPolicy {
    failures: Failures,
    /// No round begins before this.
    not_before: Option<Instant>,
    /// The address to dial next, or that the connection is to.
    current: usize,
    /// For each address, when it asked to be dialled again.
    retry_at: Vec<Option<Instant>>,
}

/// One attempt at each address at most.
#[derive(Default)]
pub(super) struct Round {
    dialled: Vec<usize>,
    errors: AttemptErrors,
}

/// The address to dial, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) address: usize,
    pub(super) not_before: Option<Instant>,
}

impl ConnectPolicy {
    pub(super) fn new(failures: Failures, addresses: usize) -> Self {
        Self { failures, not_before: None, current: 0, retry_at: vec![None; addresses] }
    }

    /// When the next round may begin; `None` for immediately.
    pub(super) fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    /// The next attempt of the round: at the address whose turn it is, or the first after it that has not
    /// asked to be left alone. Where all have, the one that asked for the shortest time, and only if the
    /// round has dialled none. `None` when the round is over.
    pub(super) fn next_attempt(&mut self, round: &mut Round, now: Instant) -> Option<Attempt> {
        let attempt = self.soonest(&round.dialled, now)?;
        if attempt.not_before.is_some() && !round.errors.is_empty() {
            return None;
        }
        round.dialled.push(attempt.address);
        // Before the attempt, so that callers whose time limits end during each handshake do not dial the
        // same address for ever.
        self.current = self.following(attempt.address);
        Some(attempt)
    }

    /// Whether the round has an address left that may be dialled now.
    pub(super) fn has_another(&self, round: &Round, now: Instant) -> bool {
        self.soonest(&round.dialled, now).is_some_and(|attempt| attempt.not_before.is_none())
    }

    /// The attempt at `address` failed.
    pub(super) fn failed(&mut self, round: &mut Round, address: usize, error: Error, now: Instant) {
        self.pass_over(address, &error, now);
        round.errors.push(error);
    }

    /// No address could be reached. Returns the failure to report.
    pub(super) fn round_failed(&mut self, round: Round, now: Instant) -> Error {
        self.put_off(now);
        let Round { dialled, errors } = round;
        let error = errors.into_error();
        let error = error.unwrap_or_else(|| Error::invalid_config("the client has no address"));
        let Some(left_out) = self.soonest(&dialled, now) else { return error };
        // What the round left out had asked for time before. It may be dialled sooner than what was dialled.
        let left_out = left_out.not_before.map(|until| until.saturating_duration_since(now));
        let retry_after = error.retry_after().zip(left_out).map(|(dialled, left_out)| dialled.min(left_out));
        error.after(retry_after)
    }

    pub(super) fn connected(&mut self, address: usize) {
        self.current = address;
    }

    /// The connection was lost, or is not to be used any more: the next round begins after a pause, and the
    /// connection's address is dialled again when it said, and last if it shuts down.
    pub(super) fn lost(&mut self, error: &Error, now: Instant) {
        self.put_off(now);
        // A node that shuts down does not answer for a while, and another address may.
        let shuts_down = *error.kind() == ErrorKind::ConnectionClosed(Code::SHUTTING_DOWN);
        if shuts_down || error.retry_after().is_some() {
            self.pass_over(self.current, error, now);
        }
    }

    /// A stream failed on a connection that lives on. Returns when to open another.
    pub(super) fn stream_failed(&mut self, error: &Error, now: Instant) -> Instant {
        let retry_after = error.retry_after().unwrap_or_default().min(MAX_RETRY_AFTER);
        self.put_off(now).max(Clock::after(now, retry_after))
    }

    /// The peer works: the next failure is the first again.
    pub(super) fn succeeded(&mut self) {
        self.failures.forget();
        self.not_before = None;
    }

    /// The connection that is lost now has lasted for this long. A peer that keeps connections for as long as
    /// the longest pause is not dialled more often than that pause allows, though it may never have answered:
    /// notifications have no answers.
    pub(super) fn lasted(&mut self, duration: Duration) {
        if duration >= self.failures.longest_pause() {
            self.succeeded();
        }
    }

    fn put_off(&mut self, now: Instant) -> Instant {
        let until = Clock::after(now, self.failures.pause());
        self.not_before = Some(until);
        until
    }

    /// Gives the turn to the address after this one, and remembers when this one asked to be dialled again.
    fn pass_over(&mut self, address: usize, error: &Error, now: Instant) {
        self.current = self.following(address);
        if let (Some(retry_at), Some(after)) = (self.retry_at.get_mut(address), error.retry_after()) {
            *retry_at = now.checked_add(after.min(MAX_RETRY_AFTER));
        }
    }

    /// The attempt that may begin first, in the order of addresses from the current one.
    fn soonest(&self, dialled: &[usize], now: Instant) -> Option<Attempt> {
        let count = self.retry_at.len();
        let retry_at =
            |address: usize| self.retry_at.get(address).copied().flatten().filter(|until| *until > now);
        let attempts = || {
            (0..count)
                .map(|n| (self.current + n) % count)
                .filter(|address| !dialled.contains(address))
                .map(|address| Attempt { address, not_before: retry_at(address) })
        };
        attempts()
            .find(|attempt| attempt.not_before.is_none())
            .or_else(|| attempts().min_by_key(|attempt| attempt.not_before))
    }

    fn following(&self, address: usize) -> usize {
        (address + 1) % self.retry_at.len().max(1)
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::{super::Backoff, *};
    use crate::fallback::{FallbackPolicy, PathPrivilege};

    const SECOND: Duration = Duration::from_secs(1);

    fn policy(addresses: usize) -> ConnectPolicy {
        let backoff = Backoff::new().first(SECOND).cap(8 * SECOND);
        ConnectPolicy::new(Failures::new(backoff, Rng::with_seed(7)), addresses)
    }

    fn refused() -> Error {
        Error::new(ErrorKind::Refused)
    }

    fn busy(retry_after: Duration) -> Error {
        refused().after(Some(retry_after))
    }

    /// Runs a round in which every attempt fails, and returns what was dialled.
    fn failing_round(
        policy: &mut ConnectPolicy,
        now: Instant,
        error: impl Fn(usize) -> Error,
    ) -> Vec<Attempt> {
        let (mut round, mut attempts) = (Round::default(), Vec::new());
        while let Some(attempt) = policy.next_attempt(&mut round, now) {
            policy.failed(&mut round, attempt.address, error(attempt.address), now);
            attempts.push(attempt);
        }
        policy.round_failed(round, now);
        attempts
    }

    fn addresses(attempts: &[Attempt]) -> Vec<usize> {
        attempts.iter().map(|attempt| attempt.address).collect()
    }

    #[test]
    fn a_peer_that_shuts_down_is_dialled_last() {
        let (mut policy, now) = (policy(3), Instant::now());
        policy.connected(1);
        policy.lost(&Error::new(ErrorKind::ConnectionLost), now);
        assert_eq!(addresses(&failing_round(&mut policy, now, |_| refused())), [1, 2, 0]);
        policy.connected(1);
        policy.lost(&Error::new(ErrorKind::ConnectionClosed(Code::SHUTTING_DOWN)), now);
        assert_eq!(addresses(&failing_round(&mut policy, now, |_| refused())), [2, 0, 1]);
    }

    #[test]
    fn a_round_dials_each_address_once_beginning_with_the_one_after_the_latest() {
        let (mut policy, now) = (policy(3), Instant::now());
        assert_eq!(addresses(&failing_round(&mut policy, now, |_| refused())), [0, 1, 2]);
        policy.connected(1);
        let mut round = Round::default();
        assert_eq!(policy.next_attempt(&mut round, now).unwrap().address, 1, "where the connection was");
        // The caller gave up in the middle of the handshake.
        assert_eq!(addresses(&failing_round(&mut policy, now, |_| refused())), [2, 0, 1]);
    }

    #[test]
    fn an_address_that_asked_for_time_is_left_alone_while_another_is_left() {
        let (mut policy, now) = (policy(3), Instant::now());
        let first =
            failing_round(&mut policy, now, |address| if address == 1 { busy(SECOND) } else { refused() });
        assert_eq!(addresses(&first), [0, 1, 2]);
        assert_eq!(addresses(&failing_round(&mut policy, now, |_| refused())), [0, 2]);
        assert_eq!(addresses(&failing_round(&mut policy, now + SECOND, |_| refused())), [0, 1, 2]);
    }

    #[test]
    fn a_connection_that_lasted_for_the_longest_pause_is_a_success() {
        let now = Instant::now();
        let most_failures = || {
            let mut policy = policy(1);
            (0..10).for_each(|_| policy.lost(&refused(), now));
            policy
        };
        let longest_of = |lasted: Duration| {
            let mut policy = most_failures();
            policy.lasted(lasted);
            policy.lost(&refused(), now);
            policy.not_before().unwrap() - now
        };
        assert!(longest_of(8 * SECOND) < SECOND);
        assert!(longest_of(7 * SECOND) > SECOND);
    }

    #[test]
    fn where_all_ask_for_time_one_is_dialled_when_it_said() {
        let (mut policy, now) = (policy(3), Instant::now());
        let seconds = [5, 2, 3];
        failing_round(&mut policy, now, |address| busy(seconds[address] * SECOND));
        let attempts = failing_round(&mut policy, now, |_| refused());
        assert_eq!(attempts, [Attempt { address: 1, not_before: Some(now + 2 * SECOND) }]);
    }

    #[test]
    fn nobody_can_ask_for_more_than_an_hour() {
        let (mut policy, now) = (policy(1), Instant::now());
        failing_round(&mut policy, now, |_| busy(Duration::MAX));
        let attempts = failing_round(&mut policy, now, |_| refused());
        assert_eq!(attempts, [Attempt { address: 0, not_before: Some(now + 3600 * SECOND) }]);
        assert_eq!(policy.stream_failed(&busy(Duration::MAX), now), now + 3600 * SECOND);
    }

    #[test]
    fn pauses_grow_with_failures_and_a_success_ends_them() {
        let (mut policy, now) = (policy(1), Instant::now());
        assert_eq!(policy.not_before(), None);
        let mut ceiling = SECOND;
        for _ in 0..6 {
            policy.lost(&refused(), now);
            assert!(policy.not_before().is_some_and(|until| until <= now + ceiling));
            ceiling = (2 * ceiling).min(8 * SECOND);
        }
        // Pauses are chosen at random below the ceiling: of many, one exceeds the first ceiling.
        let longest = (0..100).map(|_| policy.stream_failed(&refused(), now)).max().unwrap();
        assert!(longest > now + SECOND, "the pauses do not grow");
        policy.succeeded();
        assert_eq!(policy.not_before(), None);
        policy.lost(&refused(), now);
        assert!(
            policy.not_before().is_some_and(|until| until <= now + SECOND),
            "the count was not forgotten"
        );
    }

    #[test]
    fn the_failure_to_report_is_one_after_which_another_attempt_may_help() {
        let (terminal, now) = (|| Error::new(ErrorKind::PinMismatch), Instant::now());
        assert!(terminal().is_terminal() && !refused().is_terminal());
        for hopeful in 0..3 {
            let mut policy = policy(3);
            let mut round = Round::default();
            while let Some(Attempt { address, .. }) = policy.next_attempt(&mut round, now) {
                let error = if address == hopeful { refused() } else { terminal() };
                policy.failed(&mut round, address, error, now);
            }
            assert_eq!(*policy.round_failed(round, now).kind(), ErrorKind::Refused);
        }
    }

    /// The failure of a round in which these are the errors.
    fn reported(policy: &mut ConnectPolicy, now: Instant, error: impl Fn(usize) -> Error) -> Error {
        let mut round = Round::default();
        while let Some(Attempt { address, .. }) = policy.next_attempt(&mut round, now) {
            policy.failed(&mut round, address, error(address), now);
        }
        policy.round_failed(round, now)
    }

    #[test]
    fn an_impostor_at_one_address_and_silence_at_another_allow_no_fallback() {
        let now = Instant::now();
        let silence = || Error::new(ErrorKind::HandshakeTimeout);
        let allowed = |impostor: Option<usize>| {
            let error = reported(&mut policy(3), now, |address| {
                if impostor == Some(address) { Error::new(ErrorKind::PeerCertificate) } else { silence() }
            });
            assert_eq!(*error.kind(), ErrorKind::HandshakeTimeout);
            FallbackPolicy::AllowExplicit.decide(&error, PathPrivilege::Unprivileged).is_some()
        };
        assert!(allowed(None));
        assert_eq!([0, 1, 2].map(|impostor| allowed(Some(impostor))), [false; 3]);
    }

    #[test]
    fn a_round_reports_when_the_first_address_may_be_dialled_again() {
        let (mut policy, now) = (policy(3), Instant::now());
        let seconds = [5, 2, 3];
        let error = reported(&mut policy, now, |address| busy(seconds[address] * SECOND));
        assert_eq!(error.retry_after(), Some(2 * SECOND));
        // Only the second is dialled when its time is over, and asks for more than is left of the third's.
        let later = now + 2 * SECOND;
        let error = reported(&mut policy, later, |_| busy(9 * SECOND));
        assert_eq!(error.retry_after(), Some(SECOND));
        let error = reported(&mut policy, later + SECOND, |_| refused());
        assert_eq!(error.retry_after(), None, "the third did not ask");
    }

    #[test]
    fn a_lost_connection_whose_peer_asks_for_time_gives_the_turn_to_the_next_address() {
        let (mut policy, now) = (policy(2), Instant::now());
        policy.connected(0);
        policy.lost(&refused(), now);
        let mut round = Round::default();
        assert_eq!(policy.next_attempt(&mut round, now).unwrap().address, 0);
        policy.connected(0);
        policy.lost(&busy(SECOND), now);
        let mut round = Round::default();
        assert_eq!(policy.next_attempt(&mut round, now).unwrap().address, 1);
    }
}
