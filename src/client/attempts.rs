//! What a client repeats: where an attempt was certainly not processed, another follows until the time is
//! over.

use std::time::{Duration, Instant};

use super::reconnecting::Client;
use crate::{
    connection::Connection,
    drain::WorkGuard,
    error::{Error, ErrorKind, Result},
    message::WireError,
    runtime::{Elapsed, runtime_is_gone},
};

impl Client {
    /// Awaits what has no time limit of its own, and names the peer where the time is over.
    pub(super) async fn within<T>(
        &self,
        connection: &Connection,
        limit: Duration,
        future: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let clock = self.clock();
        let outcome = clock.timeout_at(Some(clock.deadline(limit)), future).await;
        outcome.unwrap_or_else(|Elapsed| {
            Err(clock.timed_out(ErrorKind::DeadlineExceeded).at(connection.remote_address()))
        })
    }

    /// Says which method failed, and where, if the client has one address only.
    pub(super) fn name(&self, error: Error, method: &str) -> Error {
        self.name_peer(error.of_method(method))
    }

    /// Says where it failed, if the client has one address only.
    pub(super) fn name_peer(&self, error: Error) -> Error {
        match &*self.shared.connector.addresses {
            [sole] => match sole.socket_addr() {
                Some(address) => error.at(address),
                None => error,
            },
            _ => error,
        }
    }
}

/// The attempts at one call, within its time limit.
pub(super) struct Attempts<'a> {
    client: &'a Client,
    deadline: Instant,
    /// Between attempts, too.
    _work: WorkGuard,
    /// Why the latest attempt failed, with what an earlier one has shown about the peer.
    failure: Option<Error>,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(client: &'a Client, limit: Duration) -> Self {
        let (deadline, work) = (client.clock().deadline(limit), client.endpoint().accept_work());
        Self { client, deadline, _work: work, failure: None }
    }

    /// When the time limit passes.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The connection for the next attempt, and how long that may take.
    pub(super) async fn next(&mut self) -> Result<(Connection, Duration)> {
        let clock = self.client.clock();
        loop {
            match clock.timeout_at(Some(self.deadline), self.client.connection()).await {
                Ok(Ok(connection)) => {
                    return Ok((connection, self.deadline.saturating_duration_since(clock.now())));
                }
                Ok(Err(error)) if error.is_terminal() || *error.kind() == ErrorKind::Closed => {
                    return Err(error);
                }
                Ok(Err(error)) => self.failed(error),
                Err(Elapsed) if clock.is_runtime_dropped() => return Err(runtime_is_gone()),
                Err(Elapsed) => {
                    let failure = self.failure.take();
                    return Err(failure.unwrap_or_else(|| Error::new(ErrorKind::DeadlineExceeded)));
                }
            }
        }
    }

    /// What the caller gets, or `None` where another attempt is due.
    pub(super) fn conclude<T>(&mut self, connection: &Connection, outcome: Result<T>) -> Option<Result<T>> {
        match outcome {
            Ok(value) => Some(Ok(value)),
            Err(error) if error.may_have_run() || error.is_terminal() => Some(Err(error)),
            // The node turns work away, and the connection will not get better.
            Err(error) if *error.kind() == ErrorKind::Remote(WireError::Unavailable) => {
                self.client.retire(connection, &error);
                self.failed(error);
                None
            }
            // What the peer answered is for the caller to decide about.
            Err(error) if matches!(error.kind(), ErrorKind::Remote(_)) => Some(Err(error)),
            Err(error) if connection.close_reason().is_some() => {
                self.failed(error);
                None
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// Another attempt is due. That an earlier one was answered stays known: the latest may have met silence.
    fn failed(&mut self, error: Error) {
        self.failure = Some(match self.failure.take() {
            Some(earlier) => error.with_other_attempt(earlier),
            None => error,
        });
    }
}
