//! The serving half of a node: which peers it lets in, what they ask, and how each connection ends.
//!
//! `accept` takes connections and `serve` runs one; `dispatch` decides where each exchange runs; `exchange`
//! is one request with its answers, and `items` one whose request continues.

mod accept;
mod authorize;
mod call;
mod connection_state;
mod describe;
mod dispatch;
mod events;
mod exchange;
mod exchange_result;
mod exchange_state;
mod future_slot;
mod health;
mod inline_policy;
#[cfg(feature = "streams")]
mod items;
mod node;
mod notification;
#[cfg(feature = "streams")]
mod pipeline;
mod request;
mod run_handler;
mod serve;
mod stream_credit;
mod unread_watch;
mod writer_loan;

pub(crate) use self::{
    accept::accept_connections,
    node::Node,
    serve::{attend, serve_connection},
};
