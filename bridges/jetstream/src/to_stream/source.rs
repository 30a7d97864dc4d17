//! Reads the log of a node.

use palyra_quic::{Cursor, Raw, Subscription, SubscriptionItem};
use tokio::sync::mpsc;

use super::SourceLog;
use crate::{
    error::{BridgeError, chain},
    message::Outgoing,
};

/// What came from the log with this index: something to publish, or the failure that ends it.
pub(super) type Arrival = (usize, Result<Outgoing, BridgeError>);

/// Follows a log from behind the cursor, until it fails or nobody receives.
pub(super) async fn follow(
    index: usize,
    source: SourceLog,
    cursor: Option<Cursor>,
    arrivals: mpsc::Sender<Arrival>,
) {
    let mut source = Source { subscription: subscribe(&source, cursor), subject: source.subject, cursor };
    loop {
        let arrival = source.next().await;
        let ended = arrival.is_err();
        if arrivals.send((index, arrival)).await.is_err() || ended {
            return;
        }
    }
}

struct Source {
    subscription: Subscription,
    subject: String,
    cursor: Option<Cursor>,
}

fn subscribe(source: &SourceLog, cursor: Option<Cursor>) -> Subscription {
    let subscribe = source.client.subscribe::<Raw>(source.log.as_str());
    // From before the first event: so the node must announce the events that it no longer holds.
    subscribe.resume(cursor.unwrap_or(Cursor::new(None, 0))).open()
}

impl Source {
    async fn next(&mut self) -> Result<Outgoing, BridgeError> {
        loop {
            let item = self.subscription.next_raw().await;
            let item = item.map_err(|source| BridgeError::Node { subject: self.subject.clone(), source })?;
            let outgoing = match item {
                SubscriptionItem::Event { seq, epoch, payload } => {
                    let epoch = epoch.ok_or_else(|| BridgeError::NoEpoch(self.subject.clone()))?;
                    Outgoing::event(epoch, seq, payload)
                }
                SubscriptionItem::Gap(gap) => {
                    let outgoing = Outgoing::gap(gap);
                    self.check_direction(outgoing.cursor)?;
                    tracing::warn!("{}: gap {gap:?}", self.subject);
                    outgoing
                }
                SubscriptionItem::Connected { address } => {
                    tracing::info!("{}: following the node at {address}", self.subject);
                    continue;
                }
                SubscriptionItem::Disconnected { error } => {
                    tracing::warn!("{}: {}", self.subject, chain(&error));
                    continue;
                }
            };
            self.cursor = Some(outgoing.cursor);
            return Ok(outgoing);
        }
    }

    /// Within an epoch, a gap leads forward, unless the log has lost its newest events.
    fn check_direction(&self, behind: Cursor) -> Result<(), BridgeError> {
        match self.cursor {
            Some(cursor) if cursor.epoch() == behind.epoch() && behind.seq() < cursor.seq() => {
                Err(BridgeError::Diverged { subject: self.subject.clone(), published: cursor.seq() })
            }
            _ => Ok(()),
        }
    }
}
