//! How far commits have come, for callers that wait for them.

use std::sync::Arc;

use crate::sync::{Event, Mutex, lock};

/// Apart from the committer: the committing task reports its progress only after it has released the
/// committer. Callers that learn that their event is on disk may drop their handles, and expect that to
/// release the file.
#[derive(Default)]
pub(super) struct Progress {
    state: Mutex<CommitState>,
    changed: Event,
}

#[derive(Clone, Copy, Default)]
pub(super) struct CommitState {
    /// The number of the newest event on disk.
    pub(super) committed: u64,
    pub(super) failed: bool,
}

impl Progress {
    pub(super) fn starting_at(committed: u64) -> Arc<Self> {
        let state = Mutex::new(CommitState { committed, failed: false });
        Arc::new(Self { state, changed: Event::new() })
    }

    /// Reports the state after a commit. The task of an earlier commit may report later.
    pub(super) fn report(&self, CommitState { committed, failed }: CommitState) {
        {
            let mut state = lock(&self.state);
            state.committed = state.committed.max(committed);
            state.failed |= failed;
        }
        self.changed.notify(usize::MAX);
    }

    /// Resolves when the event with this number is on disk, to `true`; or when a commit has failed, to
    /// `false`.
    pub(super) async fn reached(&self, seq: u64) -> bool {
        loop {
            let changed = self.changed.listen();
            let CommitState { committed, failed } = *lock(&self.state);
            if committed >= seq {
                return true;
            }
            if failed {
                return false;
            }
            changed.await;
        }
    }
}

/// Reports a state when it is dropped, even by an executor that drops the task.
pub(super) struct ReportOnDrop {
    pub(super) progress: Arc<Progress>,
    pub(super) state: CommitState,
}

impl Drop for ReportOnDrop {
    fn drop(&mut self) {
        self.progress.report(self.state);
    }
}
