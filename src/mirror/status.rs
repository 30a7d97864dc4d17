//! How a mirror is doing.

use crate::sync::{Event, Mutex, lock, wait_until};

/// What a [`Mirror`](super::Mirror) does at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MirrorState {
    /// It has no stream of events, because no holder can be reached, or none has what follows. With the
    /// latest reason, if there is one.
    Disconnected(Option<String>),
    /// It receives what the origin publishes.
    Following,
    /// Its own store cannot take the events. It tries again.
    Failing(String),
    /// The origin has another history under the same epoch and numbers. The mirror has stopped for good: it
    /// keeps what it has, and serves it.
    Diverged(String),
    /// It was closed.
    Closed,
}

/// What a [`Mirror`](super::Mirror) has, and what it does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MirrorStatus {
    /// What it does.
    pub state: MirrorState,
    /// The epoch of the origin; `None` before it was first heard of.
    pub epoch: Option<u64>,
    /// The newest event that was received, and that will be served when it is written; 0 before the first.
    pub last_seq: u64,
    /// How many numbers were left out since the process began: gaps of the origin. A gap counts when the
    /// event behind it is durable; before that, a mirror that loses power is sent the gap again.
    pub skipped: u64,
    /// How many events were filled into holes since the process began.
    pub filled: u64,
    /// How many events the mirror knows to be missing between those that it keeps, as of the latest look for
    /// holders that have them.
    pub missing: u64,
    /// Why holes were not filled the last time that holders were asked: one has other events under the
    /// numbers of the mirror, cannot be reached, or the store of the mirror fails. `None` if nothing was in
    /// the way, though no holder may have the events.
    pub fill_error: Option<String>,
    /// Why the origin has refused the latest acknowledgement, so that it may not keep events for this mirror:
    /// it may not speak for its [consumer](super::MirrorBuilder::consumer), or there are too many of them.
    /// `None` if the origin has confirmed one since.
    pub ack_error: Option<String>,
}

/// The status, for those who wait for a change.
pub(super) struct StatusCell {
    status: Mutex<MirrorStatus>,
    changed: Event,
}

impl StatusCell {
    pub(super) fn new() -> Self {
        let state = MirrorState::Disconnected(None);
        let status = MirrorStatus {
            state,
            epoch: None,
            last_seq: 0,
            skipped: 0,
            filled: 0,
            missing: 0,
            fill_error: None,
            ack_error: None,
        };
        Self { status: Mutex::new(status), changed: Event::new() }
    }

    pub(super) fn get(&self) -> MirrorStatus {
        lock(&self.status).clone()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut MirrorStatus)) {
        change(&mut lock(&self.status));
        self.changed.notify(usize::MAX);
    }

    pub(super) async fn wait_for(&self, condition: impl Fn(&MirrorStatus) -> bool) {
        wait_until(&self.changed, || condition(&lock(&self.status))).await;
    }
}
