//! The calling half of a node: dial, call, subscribe, notify.

mod backoff;
mod call;
mod dial;
mod events;
mod health;
mod notify;
mod reconnecting;
mod responses;
mod subscription;

pub(crate) use self::dial::{Dialler, Handshake, dial};
pub use self::{
    backoff::Backoff,
    call::Call,
    events::{EventItem, Events, EventsRequest},
    health::Health,
    notify::Notifier,
    reconnecting::{Client, ClientBuilder},
    responses::Responses,
    subscription::{Subscribe, Subscription, SubscriptionItem},
};
