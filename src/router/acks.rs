//! `node.ack_events`: the consumers of a node's logs, and who may speak for them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{Context, MethodError, Router, consumer_rule::ConsumerRule};
use crate::{
    events::{Cursor, NotAcknowledged, Refused, ServedLog},
    message::AckEvents,
    protocol::{ACK_EVENTS, STREAM_EVENTS},
    tls::PeerIdentity,
};

/// When to try again where a new consumer could not be written, or there are too many.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Router {
    /// Serves `node.ack_events` for all logs that keep events for
    /// [consumers](crate::EventLogBuilder::keep_unacknowledged), and decides which peer may acknowledge
    /// events as which consumer. Who acknowledges has events discarded that the consumer has not seen, and
    /// who does not has them kept. [`PeerIdentity::has_name`] lets each peer acknowledge under the names in
    /// its certificate.
    ///
    /// A peer without an identity may not acknowledge anything, whatever the rule. Peers that may not are
    /// answered `permission_denied`, as are those that may not use the log by a rule of
    /// [`allow`](Self::allow) or [`allow_by_default`](Self::allow_by_default). `allow` with `node.ack_events`
    /// restricts the method as a whole. Default: `node.ack_events` is not served, and only the owner of a log
    /// [acknowledges](crate::EventLog::acknowledge).
    ///
    /// ```
    /// use palyra_quic::{EventLog, PeerIdentity, Router};
    ///
    /// let log = EventLog::builder().keep_unacknowledged(64 << 20).build()?;
    /// let router = Router::new().events(log).consumers(PeerIdentity::has_name);
    /// # drop(router);
    /// # Ok::<(), palyra_quic::Error>(())
    /// ```
    #[must_use]
    pub fn consumers(mut self, rule: impl Fn(&PeerIdentity, &str) -> bool + Send + Sync + 'static) -> Self {
        self.consumer_rule = Some(Arc::new(rule));
        self.add_acknowledgements = Some(Self::with_acknowledgements);
        self
    }

    /// Serves the acknowledgement of events, if a log keeps any on behalf of consumers.
    pub(super) fn with_acknowledgements(self) -> Self {
        let Some(rule) = self.consumer_rule.clone().filter(|_| self.has_consumers()) else { return self };
        // The logs, and who may use them.
        let router = Arc::new(Self {
            logs: self.logs.clone(),
            rules: self.rules.clone(),
            default_rule: self.default_rule.clone(),
            ..Self::default()
        });
        self.serve_raw(ACK_EVENTS, move |context: Context, params| {
            let (router, rule) = (Arc::clone(&router), Arc::clone(&rule));
            async move { acknowledge(&router, &rule, context.peer(), &params).await }
        })
    }

    pub(super) fn has_consumers(&self) -> bool {
        self.logs.values().any(ServedLog::has_consumers)
    }
}

async fn acknowledge(
    router: &Router,
    rule: &ConsumerRule,
    peer: Option<&PeerIdentity>,
    params: &Bytes,
) -> Result<Bytes, MethodError> {
    let AckEvents { consumer, epoch, seq, log } =
        AckEvents::decode(params).map_err(|error| MethodError::invalid_request(error.to_string()))?;
    // Before anything about logs: who may not speak for a consumer learns nothing of them.
    if !peer.is_some_and(|peer| rule(peer, &consumer)) {
        return Err(MethodError::permission_denied("the peer does not speak for this consumer"));
    }
    let name = log.as_deref().unwrap_or(STREAM_EVENTS);
    // Nor may a consumer have events kept in a log that its peer may not read.
    if !router.allows(peer, name) {
        return Err(MethodError::permission_denied("the peer may not use this log"));
    }
    let log = router.logs.get(name).and_then(ServedLog::current);
    let log = log.ok_or_else(|| MethodError::invalid_request("there is no such log"))?;
    match log.acknowledge_as(&consumer, Cursor::new(Some(epoch), seq)).await {
        Ok(()) => Ok(Bytes::new()),
        Err(NotAcknowledged::NoConsumers) => {
            Err(MethodError::invalid_request("the log keeps no events for consumers"))
        }
        Err(NotAcknowledged::Refused(refused @ Refused::TooMany)) => {
            Err(MethodError::resource_exhausted(refused.reason()).retry_after(RETRY_AFTER))
        }
        Err(NotAcknowledged::Refused(refused)) => Err(MethodError::invalid_request(refused.reason())),
        Err(NotAcknowledged::NotSaved(_)) => {
            Err(MethodError::resource_exhausted("the consumer could not be written").retry_after(RETRY_AFTER))
        }
    }
}
