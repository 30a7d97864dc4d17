mod rate;

use std::time::Duration;

pub(crate) use self::rate::{Bucket, Rate};

pub(crate) const CONNECTION_RESERVE_BYTES: usize = 8 * 1024;
pub(crate) const MEAN_PIECE_BYTES: usize = 32;

#[derive(Clone, Debug)]
pub(crate) struct TransportLimits {
    pub(crate) max_connections: u32,
    pub(crate) max_handshakes: u32,
    pub(crate) max_connections_per_address: u32,
    pub(crate) frame_budget_bytes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressValidation {
    WhenBusy,
    Always,
}

impl Default for TransportLimits {
    fn default() -> Self {
        Self {
            max_connections: 10,
            max_handshakes: 10,
            max_connections_per_address: 10,
            frame_budget_bytes: 1 << 20,
        }
    }
}

impl TransportLimits {
    pub(crate) fn max_connections(&self) -> u32 {
        self.max_connections
    }

    pub(crate) fn max_handshakes(&self) -> u32 {
        self.max_handshakes
    }

    pub(crate) fn max_connections_per_address(&self) -> u32 {
        self.max_connections_per_address
    }

    pub(crate) fn max_connections_per_identity(&self) -> u32 {
        self.max_connections
    }

    pub(crate) fn frame_budget_bytes(&self) -> u32 {
        self.frame_budget_bytes
    }

    pub(crate) fn max_concurrent_bidi_streams(&self) -> u32 {
        16
    }

    pub(crate) fn request_read_timeout(&self) -> Duration {
        Duration::from_secs(10)
    }

    pub(crate) fn connection_rate(&self) -> Rate {
        Rate::UNLIMITED
    }

    pub(crate) fn request_rate(&self) -> Rate {
        Rate::UNLIMITED
    }

    pub(crate) fn fault_rate(&self) -> Rate {
        Rate::UNLIMITED
    }

    pub(crate) fn address_validation(&self) -> AddressValidation {
        AddressValidation::WhenBusy
    }

    pub(crate) fn event_log_bytes(&self) -> u32 {
        1 << 20
    }

    pub(crate) fn max_frame_len(&self) -> usize {
        1 << 16
    }
}
