//! A client that stays connected and subscribed, whatever happens to its connections.

mod backoff;
mod builder;
mod calls;
mod policy;
mod reconnecting;
mod subscription;

pub use self::{
    backoff::Backoff,
    builder::ClientBuilder,
    reconnecting::Client,
    subscription::{Subscribe, Subscription, SubscriptionItem},
};
