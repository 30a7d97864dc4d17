//! The calls of a pipeline that are not over: those that wait to be written, those that wait for their
//! answers, and the answers that their callers have not taken yet.

use std::{
    collections::VecDeque,
    mem,
    task::{Context, Poll, Waker},
};

use slab::Slab;

use crate::{
    error::{Error, Result},
    frame,
    message::encode_item,
};

/// Callers wait while this many bytes of calls wait to be written: enough for large packets.
const MAX_UNWRITTEN: usize = 64 * 1024;
/// Callers wait while the peer owes this many answers that nobody waits for. Otherwise a peer that never
/// answers would make this side remember ever more calls.
pub(super) const MAX_ABANDONED: usize = 1024;
/// Memory for more calls than this is given back when no call is left.
const KEPT_SLOTS: usize = 1024;

/// The calls of one stream, whose callers get answers of the type `A`.
pub(super) struct PendingCalls<A> {
    /// By the key that each caller has.
    slots: Slab<Slot<A>>,
    /// How many callers wait.
    callers: usize,
    /// The frames of the calls that wait to be written, one after another.
    frames: Vec<u8>,
    unsent: Vec<Unsent>,
    /// The calls that were taken to be written and have no answer, in their order.
    unanswered: VecDeque<usize>,
}

enum Slot<A> {
    Waiting {
        caller: Waker,
        sent: bool,
    },
    Answered(A),
    /// The caller has left. A call that was not sent is not sent any more.
    Abandoned,
}

/// A call that waits to be written.
struct Unsent {
    key: usize,
    frame_len: usize,
}

impl<A> PendingCalls<A> {
    /// Whether further callers are to wait.
    pub(super) fn is_full(&self) -> bool {
        self.frames.len() >= MAX_UNWRITTEN || self.unanswered.len() >= self.callers + MAX_ABANDONED
    }

    /// Whether a caller waits.
    pub(super) fn has_callers(&self) -> bool {
        self.callers > 0
    }

    /// Whether no call waits for its answer from the peer.
    pub(super) fn all_answered(&self) -> bool {
        self.unanswered.is_empty()
    }

    /// Adds a call to those that wait to be written, and gives the key for its answer.
    ///
    /// # Errors
    ///
    /// `MessageTooLarge` if the parameters do not fit a frame.
    pub(super) fn add(&mut self, params: &[u8], max_frame_len: usize, caller: &Waker) -> Result<usize> {
        let before = self.frames.len();
        frame::append(&mut self.frames, max_frame_len, |out| {
            encode_item(params, out);
            Ok::<_, Error>(())
        })?;
        let key = self.slots.insert(Slot::Waiting { caller: caller.clone(), sent: false });
        self.unsent.push(Unsent { key, frame_len: self.frames.len() - before });
        self.callers += 1;
        Ok(key)
    }

    /// The answer to a call, which is over then.
    pub(super) fn poll_answer(&mut self, key: usize, cx: &Context<'_>) -> Poll<A> {
        if let Some(Slot::Waiting { caller, .. }) = self.slots.get_mut(key) {
            caller.clone_from(cx.waker());
            return Poll::Pending;
        }
        match self.remove(key) {
            Some(Slot::Answered(answer)) => {
                self.callers -= 1;
                Poll::Ready(answer)
            }
            // A caller asks no more once it has its answer or has left.
            Some(Slot::Waiting { .. } | Slot::Abandoned) | None => Poll::Pending,
        }
    }

    /// The caller leaves before its answer was taken. Says whether the call was sent, and what would wake the
    /// caller, which must be dropped without a lock on this.
    pub(super) fn leave(&mut self, key: usize) -> (bool, Option<Waker>) {
        let Some(slot) = self.slots.get_mut(key) else { return (true, None) };
        self.callers -= 1;
        match mem::replace(slot, Slot::Abandoned) {
            Slot::Waiting { caller, sent } => (sent, Some(caller)),
            Slot::Answered(_) | Slot::Abandoned => {
                self.remove(key);
                (true, None)
            }
        }
    }

    /// The frames of the calls that somebody waits for, which count as sent from now on; and how many these
    /// are.
    pub(super) fn take_unsent(&mut self) -> (Vec<u8>, usize) {
        let Self { slots, unsent, unanswered, .. } = self;
        let mut frames = mem::take(&mut self.frames);
        let (mut start, mut kept) = (0, 0);
        let before = unanswered.len();
        for Unsent { key, frame_len } in unsent.drain(..) {
            let frame = start..start + frame_len;
            start = frame.end;
            let Some(Slot::Waiting { sent, .. }) = slots.get_mut(key) else {
                slots.try_remove(key);
                continue;
            };
            *sent = true;
            if kept < frame.start {
                frames.copy_within(frame, kept);
            }
            kept += frame_len;
            unanswered.push_back(key);
        }
        frames.truncate(kept);
        (frames, unanswered.len() - before)
    }

    /// The first of the calls that were sent, which is to be [answered](Self::answer).
    pub(super) fn next_unanswered(&mut self) -> Option<usize> {
        self.unanswered.pop_front()
    }

    /// Answers a call, and gives what wakes its caller.
    pub(super) fn answer(&mut self, key: usize, answer: A) -> Option<Waker> {
        match self.slots.get_mut(key) {
            Some(slot @ Slot::Waiting { .. }) => match mem::replace(slot, Slot::Answered(answer)) {
                Slot::Waiting { caller, .. } => Some(caller),
                Slot::Answered(_) | Slot::Abandoned => None,
            },
            _ => {
                self.remove(key);
                None
            }
        }
    }

    /// Answers all calls, by whether they were sent. Gives what wakes their callers.
    pub(super) fn answer_all(&mut self, answer: impl Fn(bool) -> A) -> Vec<Waker> {
        self.frames = Vec::new();
        let sent = mem::take(&mut self.unanswered).into_iter().map(|key| (key, true));
        let unsent = mem::take(&mut self.unsent).into_iter().map(|unsent| (unsent.key, false));
        sent.chain(unsent).filter_map(|(key, sent)| self.answer(key, answer(sent))).collect()
    }

    fn remove(&mut self, key: usize) -> Option<Slot<A>> {
        let slot = self.slots.try_remove(key);
        if self.slots.is_empty() && self.slots.capacity() > KEPT_SLOTS {
            self.slots = Slab::new();
        }
        slot
    }
}

impl<A> Default for PendingCalls<A> {
    fn default() -> Self {
        Self {
            slots: Slab::new(),
            callers: 0,
            frames: Vec::new(),
            unsent: Vec::new(),
            unanswered: VecDeque::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
    };

    use super::*;

    const MAX: usize = 1000;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn add(calls: &mut PendingCalls<u32>, params: &[u8]) -> usize {
        calls.add(params, MAX, Waker::noop()).unwrap()
    }

    fn answer_of(calls: &mut PendingCalls<u32>, key: usize) -> Poll<u32> {
        calls.poll_answer(key, &Context::from_waker(Waker::noop()))
    }

    #[test]
    fn answers_go_to_the_calls_in_the_order_of_their_frames() {
        let mut calls = PendingCalls::default();
        let keys = [b"a", b"b"].map(|params| add(&mut calls, params));
        let frames = b"\0\0\0\x04\xa1\x03\x41a\0\0\0\x04\xa1\x03\x41b".to_vec();
        assert_eq!(calls.take_unsent(), (frames, 2));
        for answer in [1, 2] {
            let key = calls.next_unanswered().unwrap();
            calls.answer(key, answer);
        }
        assert!(calls.all_answered() && calls.next_unanswered().is_none());
        assert_eq!(keys.map(|key| answer_of(&mut calls, key)), [Poll::Ready(1), Poll::Ready(2)]);
        assert!(!calls.has_callers() && calls.slots.is_empty());
    }

    #[test]
    fn a_call_whose_caller_has_left_is_sent_only_if_it_was_before() {
        let mut calls = PendingCalls::default();
        let sent = add(&mut calls, b"sent");
        assert_eq!(calls.take_unsent().1, 1);
        let [first, kept] = [b"first", b"kept!"].map(|params| add(&mut calls, params));
        assert!(calls.leave(sent).0);
        assert!(!calls.leave(first).0);
        let (frames, count) = calls.take_unsent();
        assert_eq!((frames.as_slice(), count), (&b"\0\0\0\x08\xa1\x03\x45kept!"[..], 1));
        for answer in [1, 2] {
            let key = calls.next_unanswered().unwrap();
            calls.answer(key, answer);
        }
        assert_eq!(answer_of(&mut calls, kept), Poll::Ready(2));
        assert!(calls.slots.is_empty(), "nothing is left of the others");
    }

    #[test]
    fn the_end_answers_all_calls_by_whether_they_were_sent_and_wakes_their_callers() {
        let (mut calls, wakes) = (PendingCalls::default(), Arc::<Wakes>::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let sent = calls.add(b"sent", MAX, &waker).unwrap();
        assert_eq!(calls.take_unsent().1, 1);
        let unsent = calls.add(b"unsent", MAX, &waker).unwrap();
        let left = calls.add(b"left", MAX, &waker).unwrap();
        calls.leave(left);
        calls.answer_all(u32::from).into_iter().for_each(Waker::wake);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 2);
        assert_eq!([sent, unsent].map(|key| answer_of(&mut calls, key)), [Poll::Ready(1), Poll::Ready(0)]);
        assert!(calls.slots.is_empty() && calls.take_unsent().0.is_empty());
    }

    #[test]
    fn an_answer_that_nobody_takes_is_dropped_with_its_caller() {
        let mut calls = PendingCalls::default();
        let key = add(&mut calls, b"x");
        calls.take_unsent();
        let first = calls.next_unanswered().unwrap();
        calls.answer(first, 1);
        assert!(calls.has_callers());
        assert!(calls.leave(key).0);
        assert!(!calls.has_callers() && calls.slots.is_empty());
    }

    #[test]
    fn callers_wait_while_many_answers_are_missing_that_nobody_waits_for() {
        let mut calls = PendingCalls::default();
        for _ in 0..MAX_ABANDONED {
            assert!(!calls.is_full());
            let key = add(&mut calls, b"x");
            calls.take_unsent();
            assert!(calls.leave(key).0);
        }
        assert!(calls.is_full());
        let key = calls.next_unanswered().unwrap();
        calls.answer(key, 1);
        assert!(!calls.is_full());
        for _ in 0..2 * MAX_ABANDONED {
            add(&mut calls, b"x");
            calls.take_unsent();
        }
        assert!(!calls.is_full(), "somebody waits for these");
    }

    #[test]
    fn memory_of_many_calls_is_given_back() {
        let mut calls = PendingCalls::default();
        let keys: Vec<_> = (0..10 * KEPT_SLOTS).map(|_| add(&mut calls, b"x")).collect();
        calls.answer_all(u32::from);
        for key in keys {
            assert_eq!(answer_of(&mut calls, key), Poll::Ready(0));
        }
        assert!(calls.slots.capacity() <= KEPT_SLOTS);
    }
}
