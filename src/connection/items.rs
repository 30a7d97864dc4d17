//! Opens a request that items follow, at a peer that takes them.

use tracing::{Instrument, Span};

use super::{
    Connection,
    answer::{Deadline, earlier, record_end, timed_out},
    item_sink::ItemSink,
    outgoing::OutgoingRequest,
    reader::ResponseReader,
    responses::Responses,
    takes_items,
};
use crate::{error::Result, link::OutstandingGuard, method::MethodKind};

impl OutgoingRequest {
    /// Sends the request within its time limit, and until `limit` at the latest. Gives where its items go and
    /// what reads the answers.
    pub(crate) async fn items<I, T>(
        &self,
        connection: &Connection,
        kind: MethodKind,
        limit: Deadline,
    ) -> Result<(ItemSink<I>, Responses<T>)> {
        let mut request = self.clone();
        request.request.set_more(true);
        let span = self.span(connection);
        request.tell_trace(connection, &span);
        let link = connection.link();
        let opened = if link.call_interceptors().is_empty() {
            let deadline = self.timeout.map(|timeout| link.clock().deadline(timeout));
            request.begin(connection, &span, deadline, limit).await
        } else {
            let intercepted = request.interceptors(connection, kind).until(limit);
            let deadline = intercepted.deadline();
            let begin = request.begin(connection, &span, deadline, limit);
            Box::pin(intercepted.stream(begin)).instrument(span.clone()).await
        };
        opened.map_err(|error| {
            record_end(&span, Some(&error));
            self.name(connection, error)
        })
    }

    async fn begin<I, T>(
        &self,
        connection: &Connection,
        span: &Span,
        deadline: Deadline,
        limit: Deadline,
    ) -> Result<(ItemSink<I>, Responses<T>)> {
        let link = connection.link();
        let outstanding = OutstandingGuard::new(link);
        let begin = async {
            takes_items::ensure(connection, deadline).await?;
            // What is left of its time is what the peer is told.
            self.with_time_left(connection, deadline).open(connection, span, deadline).await
        };
        let limit = earlier(deadline, limit);
        let begun = link.clock().timeout_at(limit, begin.instrument(span.clone())).await;
        let (writer, reader) = begun.unwrap_or_else(|_elapsed| Err(timed_out(link.clock())))?;
        let (method, codec) = (&*self.request.method, self.codec);
        let sink = ItemSink::new(connection, method, codec, writer, deadline);
        let streams = (None, reader);
        let reader = ResponseReader::new(
            connection.clone(),
            method.into(),
            codec,
            streams,
            deadline,
            span.clone(),
            Some(outstanding),
        );
        Ok((sink, Responses::new(reader.beside_items())))
    }
}
