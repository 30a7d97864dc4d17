//! `node.describe`, asked.

use bytes::Bytes;

use super::{Connection, call::Call, outgoing::OutgoingRequest};
use crate::{error::Result, message::Description, protocol::DESCRIBE};

impl Connection {
    /// Asks the peer for its methods and limits. It tells only of methods that this side may call.
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call): [`Remote`](crate::ErrorKind::Remote) with `unsupported_method` from nodes
    /// of earlier versions and of the tokio implementation.
    pub async fn describe(&self) -> Result<Description> {
        Call::new(self, OutgoingRequest::new(DESCRIBE, Bytes::new())).send().await
    }
}
