//! `node.health`, asked.

use bytes::Bytes;

use super::{Connection, call::Call, outgoing::AnswerKind};
use crate::{
    error::{Error, Result},
    message::Response,
    protocol::HEALTH,
};

/// What a peer says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Whether it considers itself well.
    pub ok: bool,
    /// Whether it refuses clients without a certificate; `None` where it does not say.
    pub node_rpc_mtls_required: Option<bool>,
    /// A CBOR map of text keys with its version, uptime and counters; `None` from peers that keep them to
    /// themselves.
    pub payload: Option<Bytes>,
}

impl Connection {
    /// Asks the peer how it is.
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call).
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the request.
    pub async fn health(&self) -> Result<Health> {
        self.request_raw(HEALTH, Bytes::new()).health().await
    }
}

impl Call {
    /// Sends the request, and gives the `health` that comes back; for `node.health` with a time limit or in
    /// JSON.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the request.
    pub async fn health(mut self) -> Result<Health> {
        let (connection, outgoing) = self.parts();
        outgoing.answer_as(connection, AnswerKind::Health, Health::read).await
    }
}

impl Health {
    pub(crate) fn read(response: Response) -> Result<Self> {
        match response {
            Response::Health { ok, node_rpc_mtls_required, payload } => {
                Ok(Self { ok, node_rpc_mtls_required, payload })
            }
            _ => Err(Error::protocol("the answer is not about health")),
        }
    }
}
