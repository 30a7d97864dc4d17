//! The bridge with a real nats-server, which must be installed: without it, the tests say that they are
//! skipped.

#![allow(clippy::unwrap_used)]

mod check;
mod faults;
mod from_stream;
mod kills;
mod nats_server;
mod node;
mod to_stream;
mod wait;
