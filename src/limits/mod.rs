//! What a node allows its peers: time, streams, connections, rates, memory.

mod chain;
mod check;
mod datagrams;
mod interface_fit;
mod memory;
mod quinn_config;
mod rate;
mod transport;

pub(crate) use self::{
    chain::{ChainLimit, Oversized},
    memory::{CONNECTION_RESERVE_BYTES, MEAN_PIECE_BYTES, max_unread_pieces},
    quinn_config::PeerStreams,
    rate::Bucket,
};
pub use self::{
    rate::Rate,
    transport::{AddressValidation, TransportLimits, TransportLimitsBuilder},
};
