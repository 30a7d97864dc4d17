//! `node.ack_events`, asked.

use bytes::Bytes;

use super::Connection;
use crate::{
    error::{Error, ErrorKind, Result},
    events::Cursor,
    message::{AckEvents, WireError},
    method::{LogMethod, MethodName},
    protocol::{ACK_EVENTS, STREAM_EVENTS},
};

impl Connection {
    /// Tells the peer that a consumer has processed all events of a log up to this cursor, so that the peer
    /// need not keep them for it any longer. `consumer` has 1 to 64 bytes; the peer decides who may speak for
    /// it. An acknowledgement behind an earlier one changes nothing.
    ///
    /// [`Subscription::ack`](crate::Subscription::ack) does this for a subscription, and repeats it on the
    /// next connection where need be.
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call): [`Remote`](crate::ErrorKind::Remote) with `invalid_request` if the cursor
    /// is of another epoch or ahead of the log, or the log keeps nothing for consumers; with
    /// `permission_denied` for a consumer that this side may not speak for; with `unsupported_method` from
    /// nodes without consumers, and those of earlier versions.
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the peer is a node of the tokio implementation;
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for a cursor without an epoch.
    ///
    /// # Cancellation
    ///
    /// The acknowledgement may count or not.
    pub async fn ack_events<T>(
        &self,
        log: impl MethodName<LogMethod<T>>,
        consumer: &str,
        cursor: Cursor,
    ) -> Result<()> {
        let params = ack_params(log.method_name(), consumer, cursor)?;
        let acknowledged = self.request_raw(ACK_EVENTS, params).send_raw().await;
        acknowledged.map(drop).map_err(|error| {
            // It has not read the request, so that the cursor is not what is wrong.
            let was_not_read =
                *error.kind() == ErrorKind::Remote(WireError::InvalidRequest) && self.is_json_only();
            if was_not_read {
                let unsupported = Error::new(ErrorKind::Unsupported).detail("the peer speaks JSON alone");
                return self.link().name(unsupported, ACK_EVENTS);
            }
            error
        })
    }
}

fn ack_params(log: &str, consumer: &str, cursor: Cursor) -> Result<Bytes> {
    let epoch = cursor
        .epoch()
        .ok_or_else(|| Error::invalid_config("a cursor without an epoch cannot be acknowledged"))?;
    let log = (log != STREAM_EVENTS).then(|| log.into());
    let mut params = Vec::new();
    AckEvents { consumer: consumer.into(), epoch, seq: cursor.seq(), log }.encode(&mut params)?;
    Ok(params.into())
}
