//! What a client has to be able to do to be measured.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::Stream;

use crate::{
    Error,
    setup::{SMALL, Setup},
};

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
    type Pipeline: Echo + Clone;
    type Bidi: Echo;

    /// Waits until the server has accepted the certificate of this side, which is not before an answer.
    fn accepted(&self) -> impl Future<Output = Measured<()>> + Send {
        self.echo()
    }

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

    /// What makes many of the smallest exchanges on one stream.
    fn pipeline(&self) -> impl Future<Output = Measured<Self::Pipeline>> + Send {
        async { Err(Failure::NotOffered("has a stream for each call")) }
    }

    /// A request that takes items and answers each.
    fn bidi(&self) -> impl Future<Output = Measured<Self::Bidi>> + Send {
        async { Err(Failure::NotOffered(NO_ITEMS)) }
    }

    /// A request with these items and one answer; gives how many have arrived.
    fn upload(&self, _items: Items) -> impl Future<Output = Measured<u64>> + Send {
        async { Err(Failure::NotOffered(NO_ITEMS)) }
    }

    fn close(self);
}

const NO_ITEMS: &str = "has no request streams";

/// Sends 64 bytes, and waits for the same.
pub trait Echo: Send + 'static {
    fn echo(&mut self) -> impl Future<Output = Measured<()>> + Send;
}

/// The streams of a contender that has none.
#[derive(Clone)]
pub enum NoStreams {}

impl Echo for NoStreams {
    async fn echo(&mut self) -> Measured<()> {
        match *self {}
    }
}

/// Items of 64 bytes, as fast as they are taken, for a time.
pub struct Items {
    end: Instant,
    count: u64,
}

impl Items {
    /// The clock is read once for this number of items.
    const BETWEEN_CLOCKS: u64 = 64;

    pub fn during(duration: Duration) -> Self {
        Self { end: Instant::now() + duration, count: 0 }
    }
}

impl Stream for Items {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.count.is_multiple_of(Self::BETWEEN_CLOCKS) && Instant::now() >= self.end {
            return Poll::Ready(None);
        }
        self.count += 1;
        Poll::Ready(Some(Bytes::from_static(&SMALL)))
    }
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
