//! Asks a peer whether it takes requests with items.

use tracing::Instrument;

use super::{
    Connection,
    answer::{Deadline, record_end},
    outgoing::{AnswerKind, OutgoingRequest},
};
use crate::{
    error::{Error, ErrorKind, Result},
    message::WireError,
    protocol::HEALTH,
};

/// Asks the peer once for each connection: an earlier node would keep a request that items follow until its
/// time for reading is over.
///
/// # Errors
///
/// `Unsupported` if the peer takes none, or why it could not be asked.
pub(super) async fn ensure(connection: &Connection, deadline: Deadline) -> Result<()> {
    // Others who would ask wait for the same answer, or ask if this is dropped.
    let mut known = connection.link().takes_items().lock().await;
    let takes_items = match *known {
        Some(takes_items) => takes_items,
        None => *known.insert(ask(connection, deadline).await?),
    };
    if takes_items {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported).detail("the peer does not take streams"))
}

async fn ask(connection: &Connection, deadline: Deadline) -> Result<bool> {
    if connection.is_json_only() {
        return Ok(false);
    }
    let mut health = OutgoingRequest::new(HEALTH, Default::default());
    health.request.set_more(false);
    health.answer_kind = AnswerKind::Health;
    let health = health.with_time_left(connection, deadline);
    let span = health.span(connection);
    let answer = health.exchange(connection, &span).instrument(span.clone()).await;
    record_end(&span, answer.as_ref().err());
    match answer {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            ErrorKind::Remote(WireError::InvalidRequest) => Ok(false),
            // It has read the request without a fault.
            ErrorKind::Remote(WireError::PermissionDenied) => Ok(true),
            _ => Err(error.before_request()),
        },
    }
}
