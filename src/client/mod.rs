//! A client that stays connected and subscribed, whatever happens to its connections.

mod acks;
mod attempts;
mod backoff;
mod builder;
mod call;
mod calls;
mod connector;
#[cfg(feature = "streams")]
mod items;
mod pending_dial;
#[cfg(feature = "streams")]
mod pipeline;
mod policy;
mod reconnecting;
mod resumed_stream;
mod subscribe;
mod subscription;
mod subscription_item;

#[cfg(feature = "streams")]
pub use self::pipeline::ClientPipeline;
pub use self::{
    backoff::Backoff, builder::ClientBuilder, call::ClientCall, reconnecting::Client, subscribe::Subscribe,
    subscription::Subscription, subscription_item::SubscriptionItem,
};
