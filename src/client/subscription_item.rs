//! What a subscription brings.

use std::{fmt, net::SocketAddr};

use bytes::Bytes;
use minicbor::Decode;

use crate::{
    error::{Error, Result},
    events::Gap,
    value,
};

/// What a [`Subscription`](super::Subscription) brings.
pub enum SubscriptionItem<T = Bytes> {
    /// An event.
    Event {
        /// Its place in the log, from 1 by 1 within an epoch.
        seq: u64,
        /// The history that it belongs to; `None` from peers that have no epochs.
        epoch: Option<u64>,
        /// What was published.
        payload: T,
    },
    /// Events that this subscriber will not get.
    Gap(Gap),
    /// The peer was asked for what follows the cursor.
    Connected {
        /// Where it is.
        address: SocketAddr,
    },
    /// Connecting failed, or the connection or stream was lost. The subscription tries again, after a
    /// pause.
    Disconnected {
        /// Why.
        error: Error,
    },
}

impl SubscriptionItem {
    pub(super) fn decode<T: for<'b> Decode<'b, ()>>(self) -> Result<SubscriptionItem<T>> {
        Ok(match self {
            Self::Event { seq, epoch, payload } => {
                SubscriptionItem::Event { seq, epoch, payload: value::decode(&payload)? }
            }
            Self::Gap(gap) => SubscriptionItem::Gap(gap),
            Self::Connected { address } => SubscriptionItem::Connected { address },
            Self::Disconnected { error } => SubscriptionItem::Disconnected { error },
        })
    }
}

impl<T> fmt::Debug for SubscriptionItem<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event { seq, epoch, payload: _ } => {
                f.debug_struct("Event").field("seq", seq).field("epoch", epoch).finish_non_exhaustive()
            }
            Self::Gap(gap) => f.debug_tuple("Gap").field(gap).finish(),
            Self::Connected { address } => f.debug_struct("Connected").field("address", address).finish(),
            Self::Disconnected { error } => f.debug_struct("Disconnected").field("error", error).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EventItem;

    #[test]
    fn items_are_shown_without_their_payloads() {
        let payload = Bytes::from_static(b"secret");
        let item = SubscriptionItem::Event { seq: 41, epoch: Some(5), payload: payload.clone() };
        let of_connection = EventItem::Event { seq: 41, epoch: Some(5), payload };
        for shown in [format!("{item:?}"), format!("{of_connection:?}")] {
            assert_eq!(shown, "Event { seq: 41, epoch: Some(5), .. }");
        }
    }
}
