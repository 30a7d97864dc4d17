//! Many calls of one method on one stream, of a client.

use std::{
    fmt,
    marker::PhantomData,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use minicbor::{Decode, Encode};

use super::{attempts::Attempts, reconnecting::Client};
use crate::{
    connection::{Connection, Pipeline},
    error::Result,
    method::{Method, MethodName},
    sync::lock,
    value::{self, Raw},
};

impl Client {
    /// Prepares many calls of a method with one answer, which share a stream as those of
    /// [`Connection::pipeline`] do. The stream is opened on the connection that the client has or dials, and
    /// on the next one after that was lost. The method is a [`Method`] or a string.
    ///
    /// ```
    /// # async fn example(client: palyra_quic::Client) -> palyra_quic::Result<()> {
    /// use palyra_quic::Method;
    ///
    /// const ADD: Method<(u32, u32), u64> = Method::new("demo.add");
    ///
    /// let add = client.pipeline(ADD);
    /// let (first, second) = (add.call(&(40, 2)), add.call(&(1, 1)));
    /// let sums = futures_lite::future::try_zip(first, second).await?;
    /// assert_eq!(sums, (42, 2));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn pipeline<P: ?Sized, T>(&self, method: impl MethodName<Method<P, T>>) -> ClientPipeline<P, T> {
        ClientPipeline::new(self, method.method_name())
    }

    /// The same with parameters and results of plain bytes.
    #[must_use]
    pub fn pipeline_raw(&self, method: impl AsRef<str>) -> ClientPipeline {
        ClientPipeline::new(self, method.as_ref())
    }
}

/// Many calls of one method on one stream of a [`Client`]; see [`Client::pipeline`].
///
/// Cloning gives another handle to the same stream. It ends with the last handle, or with its connection.
pub struct ClientPipeline<P: ?Sized = Raw, T = Raw> {
    shared: Arc<Shared>,
    timeout: Option<Duration>,
    types: PhantomData<fn(&P) -> T>,
}

struct Shared {
    client: Client,
    method: Box<str>,
    current: Mutex<Option<CurrentPipeline>>,
}

/// The pipeline of the latest connection. It keeps that connection allocated, so that no other one can have
/// the same id, but does not keep it open.
struct CurrentPipeline {
    connection_id: usize,
    pipeline: Pipeline,
}

impl<P: ?Sized, T> ClientPipeline<P, T> {
    fn new(client: &Client, method: &str) -> Self {
        let shared = Shared { client: client.clone(), method: method.into(), current: Mutex::default() };
        Self { shared: Arc::new(shared), timeout: None, types: PhantomData }
    }

    /// How long each call may take, dialling and repeating included. Default: the client's
    /// [`call_timeout`](super::ClientBuilder::call_timeout), 30 s unless it was set.
    ///
    /// The peer is not told, and serves calls whose time is up.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Calls the method with parameters of plain bytes, for a result of plain bytes. See
    /// [`call`](Self::call).
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call).
    pub async fn call_raw(&self, params: impl Into<Bytes>) -> Result<Bytes> {
        let Shared { client, method, .. } = &*self.shared;
        let params = params.into();
        let mut attempts = Attempts::new(client, self.timeout.unwrap_or(client.shared.call_timeout));
        loop {
            let next = attempts.next().await;
            let (connection, left) = next.map_err(|error| client.name(error, method))?;
            let outcome = self.shared.pipeline(&connection).timeout(left).call_raw(params.clone()).await;
            if outcome.is_ok() {
                client.succeeded();
            }
            let ended = connection.close_reason().is_some();
            let concluded = attempts.conclude(&connection, outcome);
            if ended || concluded.is_none() {
                self.shared.forget(&connection);
            }
            if let Some(outcome) = concluded {
                return outcome;
            }
        }
    }
}

impl<P: Encode<()> + ?Sized, T: for<'b> Decode<'b, ()>> ClientPipeline<P, T> {
    /// Calls the method. Waits while there is no connection, and while the peer does not read the calls
    /// before.
    ///
    /// The call is repeated as one by [`Client::call`] is: on another connection if the first was lost before
    /// the call was sent, or if the peer answered `unavailable`; never if it [may have
    /// run](crate::Error::may_have_run), as any call may have that was sent and is not answered when its
    /// connection is lost.
    ///
    /// # Errors
    ///
    /// As for [`Client::call`]; [`Unsupported`](crate::ErrorKind::Unsupported) if the peer does not take
    /// streams of calls. An error of one call ends no other.
    ///
    /// # Cancellation
    ///
    /// A call that was not sent yet is not sent. Otherwise its handler runs all the same, and the answer is
    /// dropped when it comes.
    pub async fn call(&self, params: &P) -> Result<T> {
        let name = |error| self.shared.client.name(error, &self.shared.method);
        let params = value::encode(params).map_err(name)?;
        let result = self.call_raw(params).await?;
        value::decode(&result).map_err(|error| name(error.after_request()))
    }
}

impl Shared {
    /// The pipeline on this connection.
    fn pipeline(&self, connection: &Connection) -> Pipeline {
        let mut current = lock(&self.current);
        let connection_id = connection.stable_id();
        if let Some(current) = &*current
            && current.connection_id == connection_id
        {
            return current.pipeline.clone();
        }
        // The client decides how long its connections stay open.
        let borrowed = Connection::borrowed(Arc::clone(connection.link()));
        let pipeline = borrowed.pipeline_raw(&self.method);
        let before = current.replace(CurrentPipeline { connection_id, pipeline: pipeline.clone() });
        // In this order: the end of the one before wakes its task.
        drop(current);
        drop(before);
        pipeline
    }

    /// The client uses another connection from now on.
    fn forget(&self, connection: &Connection) {
        let connection_id = connection.stable_id();
        let forgotten = lock(&self.current).take_if(|current| current.connection_id == connection_id);
        // Dropping it ends a stream, for which nobody needs to wait.
        drop(forgotten);
    }
}

impl<P: ?Sized, T> Clone for ClientPipeline<P, T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), timeout: self.timeout, types: PhantomData }
    }
}

impl<P: ?Sized, T> fmt::Debug for ClientPipeline<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { client, method, current: _ } = &*self.shared;
        f.debug_struct("ClientPipeline")
            .field("client", client)
            .field("method", method)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
