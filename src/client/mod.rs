//! A client that stays connected and subscribed, whatever happens to its connections.

mod attempts;
mod backoff;
mod builder;
mod call;
mod calls;
mod policy;
mod reconnecting;
mod subscription;

pub use self::{
    backoff::Backoff,
    builder::ClientBuilder,
    call::ClientCall,
    reconnecting::Client,
    subscription::{Subscribe, Subscription, SubscriptionItem},
};
