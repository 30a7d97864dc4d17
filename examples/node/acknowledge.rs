//! `node events --consumer`: acknowledges events that were printed.

use std::{cell::Cell, time::Duration};

use palyra_quic::{Connection, Cursor, Error, ErrorKind, EventItem, Raw, Subscription, WireError};

use crate::{args::Events, client::in_time, failure::Failure};

/// How long the node may take to confirm the last acknowledgement, before the program ends.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The last event or gap that was written to standard output and flushed.
pub(crate) struct Printed<'a> {
    args: &'a Events,
    cursor: Cell<Option<Cursor>>,
}

impl<'a> Printed<'a> {
    /// Fails if the events could not be acknowledged.
    pub(crate) fn nothing(args: &'a Events) -> Result<Self, Failure> {
        if args.consumer.is_some() && !args.peer.codec.is_cbor() {
            return Err(Failure::new("--consumer needs --codec cbor: in JSON, a node has no epochs"));
        }
        Ok(Self { args, cursor: Cell::new(None) })
    }

    /// Everything up to here was printed.
    pub(crate) fn up_to(&self, cursor: Cursor) {
        self.cursor.set(Some(cursor));
    }

    /// Everything that the subscription has brought was printed.
    pub(crate) fn all_of(&self, subscription: &Subscription) {
        self.cursor.set(subscription.cursor());
        subscription.ack();
        if let Some(error) = subscription.take_ack_error() {
            explained(error).report("not acknowledged");
        }
    }

    /// Resolves when the node has confirmed everything that was printed. `confirmed` is what it has confirmed
    /// before.
    pub(crate) async fn acknowledge(
        &self,
        connection: impl Future<Output = Result<Connection, Error>>,
        confirmed: Option<Cursor>,
    ) -> Result<(), Failure> {
        let printed = self.cursor.get().filter(|cursor| confirmed != Some(*cursor));
        let Some((consumer, cursor)) = self.args.consumer.as_ref().zip(printed) else { return Ok(()) };
        let acknowledged = in_time(TIMEOUT, async {
            let connection = connection.await.map_err(Failure::from)?;
            connection.ack_events::<Raw>(&self.args.log, consumer, cursor).await.map_err(explained)
        });
        acknowledged.await.map_err(|failure| failure.during(format_args!("not acknowledged up to {cursor}")))
    }
}

/// Why the node has refused an acknowledgement, and what helps.
fn explained(error: Error) -> Failure {
    Failure::hinting(error, |kind| {
        let is_unsupported = *kind == ErrorKind::Remote(WireError::UnsupportedMethod);
        is_unsupported
            .then_some("this node keeps nothing for consumers; `node serve --keep-unacknowledged MIB` does")
    })
}

/// Behind an event or a gap.
pub(crate) fn cursor_behind(item: &EventItem) -> Cursor {
    match item {
        EventItem::Event { seq, epoch, .. } => Cursor::new(*epoch, *seq),
        EventItem::Gap(gap) => Cursor::new(Some(gap.epoch), gap.next_seq.saturating_sub(1)),
    }
}
