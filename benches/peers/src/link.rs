//! What a client has to be able to do to be measured.

use std::{fmt, future::Future};

use bytes::Bytes;

use crate::{Error, setup::Setup};

/// Why there is no figure.
#[derive(Debug)]
pub enum Failure {
    /// The contender has no such thing.
    NotOffered(&'static str),
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOffered(why) => write!(f, "n/a {why}"),
            Self::Failed(error) => write!(f, "failed {error}"),
        }
    }
}

pub type Measured<T> = Result<T, Failure>;

/// A client's library, and the executor that it runs on.
pub trait Stack: Clone + Send + Sync + Sized + 'static {
    type Link: Link;

    fn new(setup: &Setup, address: &str) -> crate::Result<Self>;

    /// Runs the whole of the process, as a task like any other.
    fn block_on<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T;

    fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static;

    fn connect(&self) -> impl Future<Output = Measured<Self::Link>> + Send;
}

/// A connection.
pub trait Link: Clone + Send + Sync + 'static {
    type Events: Events;

    /// The smallest exchange: 64 bytes, and the same back.
    fn echo(&self) -> impl Future<Output = Measured<()>> + Send;

    /// A large payload to the server.
    fn take(&self, payload: Bytes) -> impl Future<Output = Measured<()>> + Send;

    /// A large payload from the server; gives its length.
    fn give(&self) -> impl Future<Output = Measured<usize>> + Send;

    /// The whole log; gives the number of events.
    fn replay(&self) -> impl Future<Output = Measured<u64>> + Send;

    fn publish(&self) -> impl Future<Output = Measured<()>> + Send;

    /// The events after the one with this number.
    fn follow(&self, resume_from: u64) -> impl Future<Output = Measured<Self::Events>> + Send;

    fn close(self);
}

pub trait Events: Send + 'static {
    fn next(&mut self) -> impl Future<Output = Measured<()>> + Send;
}

/// The events of who has none.
pub enum NoEvents {}

impl Events for NoEvents {
    async fn next(&mut self) -> Measured<()> {
        match *self {}
    }
}
