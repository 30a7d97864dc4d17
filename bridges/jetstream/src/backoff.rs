//! Pauses between attempts.

use std::time::Duration;

/// The first pause: longer than a reconnection on the same machine takes.
const FIRST: Duration = Duration::from_millis(20);
/// The longest pause: a server that is back is used within this time.
const LONGEST: Duration = Duration::from_secs(2);

/// Doubles the pause with every attempt that brought nothing.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    /// An attempt succeeded: the next pause is the shortest again.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = self.next.saturating_mul(2).min(LONGEST);
    }
}
