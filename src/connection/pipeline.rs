//! Many calls of one method on one stream.

use std::{fmt, marker::PhantomData, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use minicbor::{Decode, Encode};

use super::{
    Connection,
    answer::{Deadline, record_end, remote_error},
    call_stream::{Answer, CallStream, EndedStream},
    intercepted::Intercepted,
    outgoing::payload,
    pipelined_call,
};
use crate::{
    code::Code,
    error::{Error, ErrorKind, Result},
    message::{Codec, Response},
    method::{Method, MethodKind, MethodName},
    span,
    value::{self, Raw},
};

impl Connection {
    /// Prepares many calls of a method with one answer, on a stream of their own: such a call costs less than
    /// half of one by [`call`](Self::call), which opens a stream for each. The method is a [`Method`] or a
    /// string.
    ///
    /// The peer serves the calls one after another and answers them in this order, so a slow call delays
    /// those behind it, and no others. Any number may be in flight: callers share the pipeline, or a
    /// clone of it.
    ///
    /// ```
    /// # async fn example(connection: palyra_quic::Connection) -> palyra_quic::Result<()> {
    /// use palyra_quic::Method;
    ///
    /// const ADD: Method<(u32, u32), u64> = Method::new("demo.add");
    ///
    /// let add = connection.pipeline(ADD);
    /// let (first, second) = (add.call(&(40, 2)), add.call(&(1, 1)));
    /// let sums = futures_lite::future::try_zip(first, second).await?;
    /// assert_eq!(sums, (42, 2));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The stream is opened with the first call, and once more after it has ended: a node ends it when
    /// nothing has happened on it for as long as its handlers may take, and may end it after any number of
    /// calls. Those that it has not run go on the next stream.
    ///
    /// The calls carry no [trace](crate::TraceContext), also with
    /// [`inject_trace`](crate::EndpointBuilder::inject_trace).
    #[must_use]
    pub fn pipeline<P: ?Sized, T>(&self, method: impl MethodName<Method<P, T>>) -> Pipeline<P, T> {
        Pipeline::new(self, method.method_name())
    }

    /// The same with parameters and results of plain bytes.
    #[must_use]
    pub fn pipeline_raw(&self, method: impl AsRef<str>) -> Pipeline {
        Pipeline::new(self, method.as_ref())
    }
}

/// Many calls of one method on one stream; see [`Connection::pipeline`].
///
/// Cloning gives another handle to the same stream. It ends with the last handle.
pub struct Pipeline<P: ?Sized = Raw, T = Raw> {
    shared: Arc<Shared>,
    timeout: Option<Duration>,
    types: PhantomData<fn(&P) -> T>,
}

struct Shared {
    connection: Connection,
    stream: Arc<CallStream>,
}

impl<P: ?Sized, T> Pipeline<P, T> {
    fn new(connection: &Connection, method: &str) -> Self {
        let shared = Shared { connection: connection.clone(), stream: CallStream::new(connection, method) };
        Self { shared: Arc::new(shared), timeout: None, types: PhantomData }
    }

    /// How long each call waits for its answer. Default: for as long as the connection lives.
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
        let params = params.into();
        let Shared { connection, stream } = &*self.shared;
        let (link, method) = (connection.link(), stream.method());
        let span = span::call(|| link.remote_address(), link.peer(), method, Codec::Cbor);
        let answered = pin!(async {
            let deadline = self.timeout.map(|timeout| link.clock().deadline(timeout));
            let calling = self.shared.call(&params, deadline);
            if link.call_interceptors().is_empty() {
                return calling.await;
            }
            let sent = (!params.is_empty()).then_some(&params);
            let intercepted = Intercepted::new(link, MethodKind::Unary, method, sent, None, deadline);
            let answer = intercepted.answer(async { Ok(Response::result(Some(calling.await?))) });
            payload(Box::pin(answer).await?)
        });
        let answered = span::within(&span, answered).await;
        record_end(&span, answered.as_ref().err());
        answered.map_err(|error| link.name(error, method))
    }
}

impl<P: Encode<()> + ?Sized, T: for<'b> Decode<'b, ()>> Pipeline<P, T> {
    /// Calls the method. Waits while the peer does not read the calls before, and while 1,024 answers are
    /// missing that nobody waits for any more.
    ///
    /// # Errors
    ///
    /// As for [`Connection::call`]; [`DeadlineExceeded`](ErrorKind::DeadlineExceeded) if
    /// [`timeout`](Self::timeout) has passed;
    /// [`Unsupported`](ErrorKind::Unsupported) if the peer does not take streams of calls;
    /// [`StreamReset`](ErrorKind::StreamReset) with NO_ERROR, which is [worth another
    /// attempt](Error::is_retryable), if it has ended two streams without an answer. An error of one call
    /// ends no other.
    ///
    /// # Cancellation
    ///
    /// A call that was not sent yet is not sent. Otherwise its handler runs all the same, and the answer is
    /// dropped when it comes.
    pub async fn call(&self, params: &P) -> Result<T> {
        let name = |error| self.shared.connection.link().name(error, self.shared.stream.method());
        let params = value::encode(params).map_err(name)?;
        let result = self.call_raw(params).await?;
        value::decode(&result).map_err(|error| name(error.after_request()))
    }
}

impl Shared {
    async fn call(&self, params: &[u8], deadline: Deadline) -> Result<Bytes> {
        let mut repeated = false;
        loop {
            let answer = pipelined_call::call(&self.stream, params, deadline).await?;
            return match answer {
                Answer::Response(Response::Error { error, detail, retry_after, not_run }) => {
                    Err(remote_error(error, detail, retry_after, not_run).after_request())
                }
                Answer::Response(response) => payload(response).map_err(Error::after_request),
                Answer::Failed(error) => Err(error),
                // A peer that ends its streams after some calls gets on with each of them.
                Answer::NotTaken(EndedStream::WithAnswers) => continue,
                // It may end a stream for another reason than these calls.
                Answer::NotTaken(EndedStream::WithoutAnswers(_)) if !repeated => {
                    repeated = true;
                    continue;
                }
                // What was said about the first call of two streams is said about their method.
                Answer::NotTaken(EndedStream::WithoutAnswers(refusal)) => {
                    Err(refusal.unwrap_or_else(takes_no_calls))
                }
            };
        }
    }
}

/// The peer has ended two streams in good order, and answered no call on them.
fn takes_no_calls() -> Error {
    let stopped = Error::new(ErrorKind::StreamReset(Code::NO_ERROR)).temporary().not_run();
    stopped.detail("the peer ends the streams of calls without an answer")
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stream.finish();
    }
}

impl<P: ?Sized, T> Clone for Pipeline<P, T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), timeout: self.timeout, types: PhantomData }
    }
}

impl<P: ?Sized, T> fmt::Debug for Pipeline<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { connection, stream } = &*self.shared;
        f.debug_struct("Pipeline")
            .field("connection", connection)
            .field("method", &stream.method())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
