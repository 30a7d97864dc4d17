//! Responses that the peer has not acknowledged yet, and the streams that it is granted for them.

use std::{collections::VecDeque, sync::Mutex};

use crate::{
    drain::{Drain, WorkGuard},
    link::Link,
    quinn_compat::grant_bi_streams,
    stream::FrameWriter,
    sync::lock,
};

/// The responses on a connection that are written and may not be acknowledged. Closing the connection would
/// take them back, so that a shutdown waits for them.
///
/// Their exchanges have finished, but for QUIC their streams are open until they are acknowledged ([RFC 9000,
/// section 3.1](https://www.rfc-editor.org/rfc/rfc9000#section-3.1)). A peer with as many calls open as its
/// limit allows would spend half of its time waiting for its own acknowledgements to arrive, so it is granted
/// additional streams for these responses.
///
/// To be told of each acknowledgement would cost a wakeup for each response. So this checks which have been
/// acknowledged only when another response is written, when no request is waiting, or when the node shuts
/// down.
#[derive(Debug)]
pub(super) struct UnackedResponses {
    queue: Mutex<State>,
    thresholds: Thresholds,
}

#[derive(Debug, Default)]
struct State {
    responses: Queue<FrameWriter>,
    /// Keeps a shutdown waiting.
    work: Option<WorkGuard>,
    /// The connection has ended, so that nothing is kept any more.
    ended: bool,
}

/// A response that is not kept: its exchange has to wait for the acknowledgement itself.
pub(super) type Unkept = (FrameWriter, WorkGuard);

impl UnackedResponses {
    /// For a peer that may have `max_exchanges` open.
    pub(super) fn new(max_exchanges: u32) -> Self {
        Self { queue: Mutex::default(), thresholds: Thresholds::new(max_exchanges) }
    }

    /// Keeps a finished response, and grants the peer more streams when it is time for that. Rejects the
    /// response if the shutdown has begun or the connection has ended.
    pub(super) fn keep(
        &self,
        writer: FrameWriter,
        work: WorkGuard,
        drain: &Drain,
        link: &Link,
    ) -> Result<(), Unkept> {
        // Not dropped under the lock: the end of work may wake a shutdown.
        let mut surplus = None;
        let granted = {
            let mut state = lock(&self.queue);
            if state.ended || drain.has_begun() {
                return Err((writer, work));
            }
            match &state.work {
                Some(_) => surplus = Some(work),
                None => state.work = Some(work),
            }
            state.responses.push(writer);
            state.responses.grant(self.thresholds, self.thresholds.step, FrameWriter::is_delivered)
        };
        drop(surplus);
        self.grant_streams(link, granted);
        Ok(())
    }

    /// Grants streams for all responses that are kept, since no request is waiting and none may come before
    /// the peer has them.
    pub(super) fn grant_while_idle(&self, link: &Link) {
        let granted =
            lock(&self.queue).responses.grant_while_idle(self.thresholds, FrameWriter::is_delivered);
        self.grant_streams(link, granted);
    }

    fn grant_streams(&self, link: &Link, granted: Option<usize>) {
        if let Some(streams) = granted {
            grant_bi_streams(link.quinn(), link.limits().max_concurrent_bidi_streams(), streams);
        }
    }

    /// Resolves when the shutdown has begun and all responses that were kept before it are acknowledged.
    pub(super) async fn delivered(&self, drain: &Drain) {
        drain.begun().await;
        // Boxed, so that a connection needs no room for it before a shutdown.
        Box::pin(self.all_delivered()).await;
    }

    async fn all_delivered(&self) {
        let State { responses, work, .. } = std::mem::take(&mut *lock(&self.queue));
        for writer in responses.unacked {
            // An error is the end of the connection, and of waiting for it.
            let _ = writer.stopped().await;
        }
        drop(work);
    }

    /// The connection has ended, which takes back what is not acknowledged. Notifications that came on it may
    /// be handled for a long time yet.
    pub(super) fn end(&self) {
        let ended = State { ended: true, ..State::default() };
        let State { responses, work, .. } = std::mem::replace(&mut *lock(&self.queue), ended);
        drop((responses, work));
    }
}

/// When to check for acknowledgements and to grant streams.
#[derive(Clone, Copy, Debug)]
struct Thresholds {
    /// The exchanges that the peer may have open, and the most streams that it is granted in addition.
    max: usize,
    /// Up to this many responses are kept without a check, and without a grant for them.
    check_threshold: usize,
    /// A grant covers at least this many responses more than the one before, unless the connection is idle.
    /// Each grant costs a MAX_STREAMS frame.
    step: usize,
}

/// A peer with the default limit of 100 exchanges loses less than a tenth of them to responses that are not
/// checked. With a low limit, the threshold is a quarter of it.
const MAX_CHECK_THRESHOLD: usize = 8;

impl Thresholds {
    fn new(max_exchanges: u32) -> Self {
        let max = usize::try_from(max_exchanges).unwrap_or(usize::MAX);
        // quinn announces streams that end in groups of an eighth of the limit as well.
        Self { max, check_threshold: MAX_CHECK_THRESHOLD.min(max.div_ceil(4)), step: max / 8 + 1 }
    }
}

#[derive(Debug)]
struct Queue<R> {
    /// Oldest first.
    unacked: VecDeque<R>,
    /// For how many of them the peer has been granted a stream, at most: streams that were granted for
    /// responses which are acknowledged by now may be among these.
    granted: usize,
    /// How many responses were kept since the last grant.
    since_grant: usize,
}

impl<R> Default for Queue<R> {
    fn default() -> Self {
        Self { unacked: VecDeque::new(), granted: 0, since_grant: 0 }
    }
}

impl<R> Queue<R> {
    fn push(&mut self, response: R) {
        self.unacked.push_back(response);
        self.since_grant = self.since_grant.saturating_add(1);
    }

    /// As `grant`, but grants streams also for a few responses, once for each `step` of them: this
    /// MAX_STREAMS frame leaves with the last responses. quinn would send it in a datagram of its own as soon
    /// as the peer acknowledges them, before the responses to the requests that come with the
    /// acknowledgement are written.
    fn grant_while_idle(&mut self, thresholds: Thresholds, is_acked: impl Fn(&R) -> bool) -> Option<usize> {
        let granted = self.grant(thresholds, 1, &is_acked);
        if granted.is_some() || self.since_grant < thresholds.step {
            return granted;
        }
        self.remove_acked(thresholds.max, is_acked);
        self.since_grant = 0;
        self.granted = self.unacked.len().min(thresholds.max);
        (self.granted > 0).then_some(self.granted)
    }

    /// Removes what is acknowledged. Returns how many streams the peer is to be granted altogether, if
    /// responses outnumber the threshold, and the grant before by at least `step`.
    fn grant(
        &mut self,
        Thresholds { max, check_threshold, .. }: Thresholds,
        step: usize,
        is_acked: impl Fn(&R) -> bool,
    ) -> Option<usize> {
        if self.unacked.len() <= check_threshold || self.unacked.len() < self.granted + step {
            return None;
        }
        self.remove_acked(max, is_acked);
        let Self { unacked, granted, since_grant } = self;
        let covered = unacked.len().min(max);
        // Streams that were granted for responses which are acknowledged now have been used.
        *granted = covered.min(*granted);
        if covered <= check_threshold || covered - *granted < step {
            return None;
        }
        *granted = covered;
        *since_grant = 0;
        Some(covered)
    }

    fn remove_acked(&mut self, max: usize, is_acked: impl Fn(&R) -> bool) {
        // Nearly always they are acknowledged in their order.
        while self.unacked.front().is_some_and(&is_acked) {
            self.unacked.pop_front();
        }
        if self.unacked.len() > max.saturating_mul(2) {
            self.unacked.retain(|response| !is_acked(response));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Event {
        /// The node finishes an exchange.
        Respond,
        /// Acknowledgements arrive for `count` responses, from a place between the oldest (0) and the newest
        /// (100) on.
        Ack { from: usize, count: usize },
        /// No request is waiting.
        Idle,
    }

    /// What quinn's accounting lets the peer do, without any of the above.
    struct Peer {
        max: usize,
        /// Streams that it may have opened altogether.
        allowed: usize,
        /// Streams that it has opened and that have ended, which takes an acknowledgement.
        closed: usize,
        /// Of each response, whether it is acknowledged; oldest first.
        responses: Vec<Rc<Cell<bool>>>,
    }

    impl Peer {
        fn new(max: usize) -> Self {
            Self { max, allowed: max, closed: 0, responses: Vec::new() }
        }

        fn unacked(&self) -> usize {
            self.responses.iter().filter(|acked| !acked.get()).count()
        }

        /// How many exchanges it may have open that are not answered.
        fn usable(&self) -> usize {
            self.allowed - self.closed - self.unacked()
        }

        fn granted(&mut self, streams: usize) {
            self.allowed = self.allowed.max(self.closed + self.max + streams);
        }

        fn ack(&mut self, from: usize, count: usize) {
            let unacked: Vec<_> = self.responses.iter().filter(|acked| !acked.get()).collect();
            let from = from * unacked.len() / 100;
            for acked in unacked.into_iter().skip(from).take(count) {
                acked.set(true);
                self.closed += 1;
            }
            self.allowed = self.allowed.max(self.closed + self.max);
        }
    }

    /// Grants a peer streams as [`UnackedResponses`] does, with `grant` made of each grant, and checks what
    /// the peer gets.
    fn check(max: u32, events: &[Event], grant: impl Fn(usize) -> usize) -> Result<(), TestCaseError> {
        let thresholds @ Thresholds { max, check_threshold, step } = Thresholds::new(max);
        let (mut peer, mut queue) = (Peer::new(max), Queue::default());
        let mut in_order = true;
        for event in events {
            let granted = match *event {
                Event::Respond if peer.usable() == 0 => continue,
                Event::Respond => {
                    let acked = Rc::new(Cell::new(false));
                    peer.responses.push(Rc::clone(&acked));
                    queue.push(acked);
                    queue.grant(thresholds, step, |acked| acked.get())
                }
                Event::Idle => queue.grant_while_idle(thresholds, |acked| acked.get()),
                Event::Ack { from, count } => {
                    in_order &= from == 0;
                    peer.ack(from, count);
                    continue;
                }
            };
            if let Some(granted) = granted {
                peer.granted(grant(granted));
            }
            let open = peer.allowed - peer.closed;
            prop_assert!(open <= 2 * max, "{open} streams, so that memory has no bound");
            let kept = queue.unacked.iter().filter(|acked| !acked.get()).count();
            prop_assert_eq!(kept, peer.unacked(), "a response was forgotten, or kept twice");
            prop_assert!(queue.unacked.len() <= 2 * max + 1, "acknowledged responses are kept for ever");
            if in_order {
                prop_assert!(peer.usable() <= max, "{} exchanges", peer.usable());
            }
            if peer.closed == 0 && peer.unacked() <= max {
                let least = max.saturating_sub(check_threshold.max(2 * step));
                prop_assert!(peer.usable() >= least, "{} of {max} exchanges", peer.usable());
            }
        }
        Ok(())
    }

    fn events(from: impl Strategy<Value = usize> + Clone + 'static) -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            20 => Just(Event::Respond),
            2 => (from, 1..30_usize).prop_map(|(from, count)| Event::Ack { from, count }),
            1 => Just(Event::Idle),
        ];
        vec(event, 0..600)
    }

    proptest! {
        #[test]
        fn a_peer_has_its_exchanges_beside_what_it_has_not_acknowledged(
            max in 1..200_u32,
            events in prop_oneof![events(Just(0)), events(0..100_usize)],
        ) {
            check(max, &events, |granted| granted)?;
        }
    }

    /// The twin: grants that are wrong in either way are found.
    #[test]
    fn the_check_finds_grants_that_are_too_large_and_too_small() {
        let events = [Event::Respond; 100];
        check(64, &events, |granted| granted).unwrap();
        let found = |grant: fn(usize) -> usize| check(64, &events, grant).unwrap_err().to_string();
        assert!(found(|granted| granted + 1).contains("exchanges"));
        assert!(found(|_| 0).contains("of 64 exchanges"));
        assert!(found(|_| 65).contains("memory"));
    }

    #[test]
    fn a_few_responses_need_no_streams() {
        let mut queue = Queue::default();
        let thresholds = Thresholds::new(100);
        for _ in 0..MAX_CHECK_THRESHOLD {
            queue.push(());
            assert_eq!(queue.grant(thresholds, 1, |()| panic!("looked at")), None);
        }
        queue.push(());
        assert_eq!(queue.grant(thresholds, 1, |()| false), Some(9));
    }

    #[test]
    fn a_peer_with_two_calls_in_flight_is_granted_streams_with_every_third_pair_of_responses() {
        let mut queue = Queue::default();
        let thresholds = Thresholds::new(32);
        let grants: Vec<_> = (0..12)
            .map(|_| {
                // Acknowledged when the next requests come.
                queue.unacked.iter().for_each(|acked: &Cell<bool>| acked.set(true));
                queue.push(Cell::new(false));
                queue.push(Cell::new(false));
                queue.grant_while_idle(thresholds, Cell::get)
            })
            .collect();
        assert_eq!(grants, [None, None, Some(2)].repeat(4));
    }
}
