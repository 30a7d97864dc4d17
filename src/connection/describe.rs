//! `node.describe`, asked.

use bytes::Bytes;

use super::{Connection, call::Call, outgoing::OutgoingRequest};
use crate::{
    error::{Error, ErrorKind, Result},
    message::{Description, WireError},
    protocol::DESCRIBE,
};

impl Connection {
    /// Asks the peer for its methods and limits. It tells only of methods that this side may call.
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call): [`Remote`](crate::ErrorKind::Remote) with `unsupported_method` from nodes
    /// of earlier versions, and [`Unsupported`](crate::ErrorKind::Unsupported) if the peer is a node of the
    /// tokio implementation.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels the request.
    pub async fn describe(&self) -> Result<Description> {
        let described = Call::new(self, OutgoingRequest::new(DESCRIBE, Bytes::new())).send().await;
        described.map_err(|error| match not_described(&error) {
            Some(error) => self.link().name(error, DESCRIBE),
            None => error,
        })
    }
}

/// What it means that the peer refuses a request without parameters as invalid: it cannot read it.
pub(crate) fn not_described(error: &Error) -> Option<Error> {
    (*error.kind() == ErrorKind::Remote(WireError::InvalidRequest))
        .then(|| Error::new(ErrorKind::Unsupported).detail("the peer does not describe its methods"))
}
