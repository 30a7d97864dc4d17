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
    Waiting { caller: Waker, sent: bool },
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
    pub(super) fn is_full(&self) -> bool {
        self.frames.len() >= MAX_UNWRITTEN
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
