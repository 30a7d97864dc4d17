//! Calls and notifications of a client, repeated where they were certainly not processed.

use std::time::{Duration, Instant};

use bytes::Bytes;
use minicbor::{Decode, Encode};

use super::reconnecting::Client;
use crate::{
    connection::Connection,
    error::{Error, ErrorKind, Result},
    message::WireError,
    runtime::{Elapsed, runtime_is_gone},
    value,
};

impl Client {
    /// Calls a method, as [`Connection::call`] does, within the client's time limit for calls.
    ///
    /// # Errors
    ///
    /// As for [`Connection::call`] and [`Endpoint::connect`](crate::Endpoint::connect). Failures that
    /// another attempt may mend are reported when the time limit has passed, or immediately where the call
    /// [may have run](Error::may_have_run). What the peer answers is reported immediately,
    /// `resource_exhausted` included, save for `unavailable`, after which the client tries elsewhere.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the handler at the peer, which may have run. The connection stays.
    pub async fn call<P, T>(&self, method: &str, params: &P) -> Result<T>
    where
        P: Encode<()> + ?Sized,
        T: for<'b> Decode<'b, ()>,
    {
        let params = value::encode(params).map_err(|error| self.name(error, method))?;
        let result = self.call_raw(method, params).await?;
        value::decode(&result).map_err(|error| self.name(error.after_request(), method))
    }

    /// Calls a method with parameters and a result of plain bytes, as [`Connection::call_raw`] does.
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call).
    pub async fn call_raw(&self, method: &str, params: impl Into<Bytes>) -> Result<Bytes> {
        let params = params.into();
        // Between attempts, too.
        let _work = self.shared.endpoint.accept_work();
        let mut attempts = Attempts::new(self);
        loop {
            let (connection, left) = attempts.next().await.map_err(|error| self.name(error, method))?;
            let call = connection.request_raw(method, params.clone()).timeout(left);
            let outcome = call.send_raw().await;
            if let Some(outcome) = attempts.conclude(&connection, outcome) {
                return outcome;
            }
        }
    }

    /// Sends a notification, as [`Connection::notify_raw`] does, once there is a connection, within the
    /// client's time limit for calls. It is sent again only where the connection ended before QUIC had
    /// taken all of it, and so handled at most once.
    ///
    /// # Errors
    ///
    /// As for [`Connection::notify`] and [`Endpoint::connect`](crate::Endpoint::connect);
    /// [`DeadlineExceeded`](ErrorKind::DeadlineExceeded).
    ///
    /// # Cancellation
    ///
    /// The notification may arrive, or not.
    pub async fn notify_raw(&self, method: &str, params: impl Into<Bytes>) -> Result<()> {
        let params = params.into();
        // Between attempts, too.
        let _work = self.shared.endpoint.accept_work();
        let mut attempts = Attempts::new(self);
        loop {
            let (connection, left) = attempts.next().await.map_err(|error| self.name(error, method))?;
            let clock = self.clock();
            let sent =
                clock.timeout_at(Some(clock.deadline(left)), connection.notify_raw(method, params.clone()));
            let outcome = sent.await.unwrap_or_else(|Elapsed| {
                Err(connection.link().name(clock.timed_out(ErrorKind::DeadlineExceeded), method))
            });
            if let Some(outcome) = attempts.conclude(&connection, outcome) {
                return outcome;
            }
        }
    }

    /// Says which method failed, and where, if there is but one address where it can have.
    fn name(&self, error: Error, method: &str) -> Error {
        let error = error.of_method(method);
        match &*self.shared.addresses {
            [sole] => match sole.socket_addr() {
                Some(address) => error.at(address),
                None => error,
            },
            _ => error,
        }
    }
}

/// The attempts at one call, within its time limit.
struct Attempts<'a> {
    client: &'a Client,
    deadline: Instant,
    /// Why the latest attempt failed.
    failure: Option<Error>,
}

impl<'a> Attempts<'a> {
    fn new(client: &'a Client) -> Self {
        Self { client, deadline: client.clock().deadline(client.shared.call_timeout), failure: None }
    }

    /// The connection for the next attempt, and how long that may take.
    async fn next(&mut self) -> Result<(Connection, Duration)> {
        let clock = self.client.clock();
        loop {
            match clock.timeout_at(Some(self.deadline), self.client.connection()).await {
                Ok(Ok(connection)) => {
                    return Ok((connection, self.deadline.saturating_duration_since(clock.now())));
                }
                Ok(Err(error)) if error.is_terminal() || *error.kind() == ErrorKind::Closed => {
                    return Err(error);
                }
                Ok(Err(error)) => self.failure = Some(error),
                Err(Elapsed) if clock.is_runtime_dropped() => return Err(runtime_is_gone()),
                Err(Elapsed) => {
                    let failure = self.failure.take();
                    return Err(failure.unwrap_or_else(|| Error::new(ErrorKind::DeadlineExceeded)));
                }
            }
        }
    }

    /// What the caller gets, or `None` where another attempt is due.
    fn conclude<T>(&mut self, connection: &Connection, outcome: Result<T>) -> Option<Result<T>> {
        match outcome {
            Ok(value) => {
                self.client.succeeded();
                Some(Ok(value))
            }
            Err(error) if error.may_have_run() || error.is_terminal() => Some(Err(error)),
            // The node turns work away, and the connection will not get better.
            Err(error) if *error.kind() == ErrorKind::Remote(WireError::Unavailable) => {
                self.client.retire(connection, &error);
                self.failure = Some(error);
                None
            }
            // What the peer answered is for the caller to decide about.
            Err(error) if matches!(error.kind(), ErrorKind::Remote(_)) => Some(Err(error)),
            Err(error) if connection.close_reason().is_some() => {
                self.failure = Some(error);
                None
            }
            Err(error) => Some(Err(error)),
        }
    }
}
