//! A client that stays connected and subscribed, whatever happens to its connections.

mod backoff;
mod reconnecting;
mod subscription;

pub use self::{
    backoff::Backoff,
    reconnecting::{Client, ClientBuilder},
    subscription::{Subscribe, Subscription, SubscriptionItem},
};
