//! Calls and notifications within the interceptors of the endpoint.

use std::{future::Future, sync::Arc};

use bytes::Bytes;

use super::answer::{Deadline, earlier};
use crate::{
    call_interceptor::OutgoingCall,
    error::{Error, ErrorKind, Result},
    link::{Link, OutstandingGuard},
    message::{Response, TraceContext},
    method::MethodKind,
};

/// The interceptors around one call.
pub(super) struct Intercepted<'a> {
    link: &'a Arc<Link>,
    call: OutgoingCall,
    limit: Deadline,
}

impl<'a> Intercepted<'a> {
    pub(super) fn new(
        link: &'a Arc<Link>,
        kind: MethodKind,
        method: &str,
        params: Option<&Bytes>,
        trace: Option<TraceContext>,
        deadline: Deadline,
    ) -> Self {
        let call = OutgoingCall {
            method: method.into(),
            kind,
            params_len: params.map_or(0, Bytes::len),
            trace,
            deadline,
            peer: link.peer().cloned(),
            remote_address: link.remote_address(),
        };
        Self { link, call, limit: deadline }
    }

    /// The interceptors have to end at `limit`, too. They do not see it: it is for sending the request, and
    /// not for the answers.
    pub(super) fn until(self, limit: Deadline) -> Self {
        Self { limit: earlier(self.limit, limit), ..self }
    }

    pub(super) fn deadline(&self) -> Deadline {
        self.call.deadline
    }

    /// A call with one answer, which `exchange` brings.
    pub(super) async fn answer(self, exchange: impl Future<Output = Result<Response>>) -> Result<Response> {
        let payload = |response: &Response| match response {
            Response::Result { payload } => payload.clone().unwrap_or_default(),
            _ => Bytes::new(),
        };
        let (response, bytes) = self.around(payload, exchange).await?;
        Ok(match response {
            Some(Response::Result { .. }) | None => {
                Response::Result { payload: (!bytes.is_empty()).then_some(bytes) }
            }
            Some(other) => other,
        })
    }

    /// A request with a stream of answers, which `open` opens.
    pub(super) async fn stream<T>(self, open: impl Future<Output = Result<T>>) -> Result<T> {
        let (opened, _) = self.around(|_| Bytes::new(), open).await?;
        let not_opened =
            || Error::new(ErrorKind::Intercepted).detail("an interceptor cannot replace a stream");
        opened.ok_or_else(not_opened)
    }

    /// A notification, which `send` sends.
    pub(super) async fn notification(self, send: impl Future<Output = Result<()>>) -> Result<()> {
        self.around(|()| Bytes::new(), send).await.map(drop)
    }

    async fn around<T>(
        self,
        payload: fn(&T) -> Bytes,
        work: impl Future<Output = Result<T>>,
    ) -> Result<(Option<T>, Bytes)> {
        let Self { link, call, limit } = self;
        let _outstanding = OutstandingGuard::new(link);
        link.call_interceptors().around(link.clock(), call, limit, payload, work).await
    }
}
