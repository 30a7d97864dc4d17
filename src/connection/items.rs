//! Opens a request that items follow, at a peer that takes them.

use tracing::Instrument;

use super::{
    Connection,
    answer::{Deadline, record_end, timed_out},
    item_sink::ItemSink,
    outgoing::OutgoingRequest,
    reader::ResponseReader,
    responses::Responses,
};
use crate::{
    error::{Error, ErrorKind, Result},
    link::OutstandingGuard,
    message::{Response, WireError},
    method::MethodKind,
    protocol::HEALTH,
};

impl OutgoingRequest {
    /// Sends the request, and gives where its items go and what reads the answers.
    pub(crate) async fn items<I, T>(
        &self,
        connection: &Connection,
        kind: MethodKind,
    ) -> Result<(ItemSink<I>, Responses<T>)> {
        let mut request = self.clone();
        request.request.set_more(true);
        let link = connection.link();
        let opened = if link.call_interceptors().is_empty() {
            let deadline = self.timeout.map(|timeout| link.clock().deadline(timeout));
            request.begin(connection, deadline).await
        } else {
            let intercepted = self.interceptors(connection, kind);
            let deadline = intercepted.deadline();
            Box::pin(intercepted.stream(request.begin(connection, deadline))).await
        };
        opened.map_err(|error| self.name(connection, error))
    }

    async fn begin<I, T>(
        &self,
        connection: &Connection,
        deadline: Deadline,
    ) -> Result<(ItemSink<I>, Responses<T>)> {
        let link = connection.link();
        let outstanding = OutstandingGuard::new(link);
        let span = self.span(connection);
        let begin = async {
            check_peer_takes_items(connection, deadline).await?;
            // What is left of its time is what the peer is told.
            self.with_time_left(connection, deadline).open(connection, &span, deadline).await
        };
        let begun = link.clock().timeout_at(deadline, begin.instrument(span.clone())).await;
        let begun = begun.unwrap_or_else(|_elapsed| Err(timed_out(link.clock())));
        let (writer, reader) = begun.inspect_err(|error| record_end(&span, Some(error)))?;
        let (method, codec) = (&*self.request.method, self.codec);
        let sink = ItemSink::new(connection, method, codec, writer, deadline);
        let streams = (None, reader);
        let reader = ResponseReader::new(
            connection.clone(),
            method.into(),
            codec,
            streams,
            deadline,
            span,
            Some(outstanding),
        );
        Ok((sink, Responses::new(reader.beside_items())))
    }
}

/// Asks the peer whether it takes items, once for each connection: an earlier node would keep a request that
/// items follow until its time for reading is over.
async fn check_peer_takes_items(connection: &Connection, deadline: Deadline) -> Result<()> {
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
    let health = health.with_time_left(connection, deadline);
    let span = health.span(connection);
    let answer = health.exchange(connection, &span).instrument(span.clone()).await;
    record_end(&span, answer.as_ref().err());
    match answer {
        Ok(Response::Health { .. }) => Ok(true),
        Ok(_) => Err(Error::protocol("the answer is not about health").before_request()),
        Err(error) => match error.kind() {
            ErrorKind::Remote(WireError::InvalidRequest) => Ok(false),
            // It has read the request without a fault.
            ErrorKind::Remote(WireError::PermissionDenied) => Ok(true),
            _ => Err(error.before_request()),
        },
    }
}
