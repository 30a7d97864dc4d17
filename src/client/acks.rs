//! Acknowledges what the reader of a subscription has processed.

use std::{sync::Arc, time::Duration};

use futures_lite::future;

use super::{policy::MAX_RETRY_AFTER, reconnecting::Client};
use crate::{
    connection::Connection,
    error::{Error, ErrorKind, Result},
    events::Cursor,
    protocol::ACK_EVENTS,
    runtime::Elapsed,
    sync::{Event, Mutex, MutexGuard, lock, wait_until},
    value::Raw,
};

/// An acknowledgement that is not answered within this time is sent again.
const TIMEOUT: Duration = Duration::from_secs(10);
/// When to try again after a failure that does not say when.
const PAUSE: Duration = Duration::from_secs(1);

/// Sends the newest cursor that was acknowledged, one request at a time, in a task of the client's endpoint.
pub(super) struct Acks(Arc<Sending>);

/// What the task shares with the subscription.
struct Sending {
    client: Client,
    log: Box<str>,
    consumer: Box<str>,
    state: Mutex<State>,
    changed: Event,
}

#[derive(Default)]
struct State {
    /// What is to be sent next.
    wanted: Option<Cursor>,
    /// What the reader has acknowledged last.
    newest: Option<Cursor>,
    /// Whether a peer has confirmed or refused `newest`.
    is_answered: bool,
    /// What the peer has confirmed last.
    confirmed: Option<Cursor>,
    /// Why the peer has refused the latest one.
    refused: Option<Error>,
    /// Whether the task runs, which it does until nothing is wanted; or it has ended with the endpoint, and
    /// does not come back.
    has_task: bool,
    /// Whether the subscription has connected since the latest one was sent.
    has_connected: bool,
    /// Whether the subscription is gone.
    ends: bool,
}

impl Acks {
    pub(super) fn new(client: Client, log: Box<str>, consumer: Box<str>) -> Self {
        let (state, changed) = (Mutex::default(), Event::new());
        Self(Arc::new(Sending { client, log, consumer, state, changed }))
    }

    pub(super) fn acknowledge(&self, cursor: Cursor) {
        let Self(sending) = self;
        if cursor.epoch().is_none() {
            // Not sent: a node without epochs does not know the method either.
            let unsupported = Error::new(ErrorKind::Unsupported).of_method(ACK_EVENTS);
            sending.state().refused = Some(unsupported.detail("the cursor is of a peer without epochs"));
            return;
        }
        let mut state = sending.state();
        (state.wanted, state.newest, state.is_answered) = (Some(cursor), Some(cursor), false);
        self.send(state);
    }

    /// The subscription has connected: to a node that may not have heard of the latest acknowledgement, or
    /// may have forgotten it with a crash. One that refuses events until it is acknowledged would wait for
    /// ever, if the reader waits for the next event.
    pub(super) fn repeat(&self) {
        let mut state = self.0.state();
        if state.newest.is_none() {
            return;
        }
        state.has_connected = true;
        state.wanted = state.wanted.or(state.newest);
        self.send(state);
    }

    /// Sends what is wanted.
    fn send(&self, mut state: MutexGuard<'_, State>) {
        let Self(sending) = self;
        let begins = !std::mem::replace(&mut state.has_task, true);
        drop(state);
        sending.changed.notify(usize::MAX);
        if begins {
            let task = Arc::clone(sending);
            sending.client.clock().spawn(async move { task.run().await });
        }
    }

    pub(super) fn confirmed(&self) -> Option<Cursor> {
        self.0.state().confirmed
    }

    /// Resolves when an acknowledgement was answered.
    #[cfg(all(feature = "durable", unix))]
    pub(super) fn listen(&self) -> crate::sync::EventListener {
        self.0.changed.listen()
    }

    pub(super) fn take_refused(&self) -> Option<Error> {
        self.0.state().refused.take()
    }
}

impl Drop for Acks {
    /// What was acknowledged is sent once more, if it is not confirmed.
    fn drop(&mut self) {
        self.0.state().ends = true;
        self.0.changed.notify(usize::MAX);
    }
}

impl Sending {
    async fn run(&self) {
        while let Some((cursor, ends)) = self.next() {
            let sent = match self.client.connection().await {
                Ok(connection) => self.send(&connection, cursor).await,
                // Not the connection's end, which this side may have closed, but the endpoint's.
                Err(error) if *error.kind() == ErrorKind::Closed => return,
                Err(error) => Err(error),
            };
            let pause = match sent {
                Ok(()) => {
                    self.answered(cursor, Ok(()));
                    continue;
                }
                Err(error) if is_refusal(&error) => {
                    tracing::debug!(log = &*self.log, %error, "an acknowledgement was refused");
                    self.answered(cursor, Err(error));
                    continue;
                }
                Err(_) if ends => return,
                Err(error) => error.retry_after().unwrap_or(PAUSE).min(MAX_RETRY_AFTER),
            };
            // Unless there is a newer one.
            self.state().wanted.get_or_insert(cursor);
            // What one peer asks for does not hold for the next, nor once the subscription is gone.
            let is_over = || {
                let state = self.state();
                state.has_connected || state.ends
            };
            let is_over = async {
                wait_until(&self.changed, is_over).await;
                Ok(())
            };
            let next_attempt = self.client.clock().deadline(pause);
            if future::or(self.client.wait_until(next_attempt), is_over).await.is_err() {
                return;
            }
        }
    }

    /// What to send, and whether the subscription is gone. `None` if nothing is wanted, and the task ends.
    fn next(&self) -> Option<(Cursor, bool)> {
        let mut state = self.state();
        state.has_connected = false;
        let wanted = state.wanted.take();
        state.has_task = wanted.is_some();
        wanted.map(|cursor| (cursor, state.ends))
    }

    /// The reader learns of a refusal once, and not of those by the nodes that are connected later.
    fn answered(&self, cursor: Cursor, answer: Result<()>) {
        {
            let mut state = self.state();
            let was_answered = state.is_answered;
            state.is_answered |= state.newest == Some(cursor);
            match answer {
                Ok(()) => (state.confirmed, state.refused) = (Some(cursor), None),
                Err(_) if was_answered => return,
                Err(error) => state.refused = Some(error),
            }
        }
        self.changed.notify(usize::MAX);
    }

    async fn send(&self, connection: &Connection, cursor: Cursor) -> Result<()> {
        let clock = self.client.clock();
        let sent = connection.ack_events::<Raw>(&*self.log, &self.consumer, cursor);
        match clock.timeout_at(Some(clock.deadline(TIMEOUT)), sent).await {
            Ok(sent) => sent,
            Err(Elapsed) => Err(Error::new(ErrorKind::DeadlineExceeded)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Whether the peer would answer the same again.
fn is_refusal(error: &Error) -> bool {
    let was_answered = matches!(error.kind(), ErrorKind::Remote(_) | ErrorKind::Unsupported);
    was_answered && !error.is_retryable() || *error.kind() == ErrorKind::InvalidConfig
}
