//! The calling half of a node: dial, call, subscribe, notify.

mod call;
mod dial;
mod events;
mod health;
mod notify;
mod responses;

pub(crate) use self::dial::{Dialler, dial};
pub use self::{
    call::Call,
    events::{EventItem, Events, EventsRequest},
    health::Health,
    notify::Notifier,
    responses::Responses,
};
