//! Whether limits can work, and agree with each other.

use std::time::Duration;

use super::{
    chain::{LARGEST_CHAIN_BYTES, SMALLEST_CHAIN_BYTES},
    transport::{TransportLimits, TransportLimitsBuilder},
};
use crate::{
    error::{Error, Result},
    socket::{LARGEST_DATAGRAM_BYTES, SMALLEST_DATAGRAM_BYTES},
};

impl TransportLimitsBuilder {
    /// Checks the limits against each other.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) where a limit is zero, too small or too
    /// large to work, or contradicts another; the text names it.
    pub fn build(self) -> Result<TransportLimits> {
        let limits = self.0;
        check_rates(&limits)?;
        check_durations(&limits)?;
        check_counts(&limits)?;
        check_frames_and_windows(&limits)?;
        Ok(limits)
    }
}

fn check_rates(limits: &TransportLimits) -> Result<()> {
    for (name, rate) in [
        ("connection_rate", limits.connection_rate),
        ("request_rate", limits.request_rate),
        ("fault_rate", limits.fault_rate),
    ] {
        check(!rate.is_never() && rate.period() <= LONGEST, || {
            format!("{name} is zero, or once in more than a year")
        })?;
    }
    Ok(())
}

fn check_durations(limits: &TransportLimits) -> Result<()> {
    for (name, duration) in [
        ("handshake_timeout", limits.handshake_timeout),
        ("idle_timeout", limits.idle_timeout),
        ("keep_alive_interval", limits.keep_alive_interval),
        ("request_read_timeout", limits.request_read_timeout),
        ("handler_timeout", limits.handler_timeout),
        ("heartbeat_interval", limits.heartbeat_interval),
    ] {
        check(!duration.is_zero(), || format!("{name} is zero"))?;
        check(duration <= LONGEST, || format!("{name} is longer than a year"))?;
    }
    check(limits.idle_timeout >= Duration::from_millis(1), || {
        "idle_timeout is below the millisecond that QUIC counts in".into()
    })?;
    check(limits.keep_alive_interval < limits.idle_timeout, || {
        "keep_alive_interval is not below idle_timeout, so an idle connection would be lost".into()
    })
}

fn check_counts(limits: &TransportLimits) -> Result<()> {
    let streams = [
        ("max_concurrent_bidi_streams", limits.max_concurrent_bidi_streams),
        ("max_concurrent_uni_streams", limits.max_concurrent_uni_streams),
    ];
    let others = [
        ("max_connections", limits.max_connections),
        ("max_handshakes", limits.max_handshakes),
        ("max_connections_per_address", limits.max_connections_per_address),
        ("max_connections_per_identity", limits.max_connections_per_identity),
        ("event_log_bytes", limits.event_log_bytes),
    ];
    for (name, count) in streams.into_iter().chain(others) {
        check(count > 0, || format!("{name} is zero"))?;
    }
    #[cfg(feature = "streams")]
    check(limits.max_concurrent_item_exchanges() > 0, || "max_concurrent_item_exchanges is zero".into())?;
    for (name, count) in streams {
        check(count <= MAX_STREAMS, || format!("{name} is above {MAX_STREAMS}"))?;
    }
    Ok(())
}

fn check_frames_and_windows(limits: &TransportLimits) -> Result<()> {
    check(limits.max_frame_bytes >= SMALLEST_FRAME_BYTES, || {
        format!("max_frame_bytes is below {SMALLEST_FRAME_BYTES}")
    })?;
    let chains = SMALLEST_CHAIN_BYTES..=LARGEST_CHAIN_BYTES;
    check(chains.contains(&limits.max_certificate_chain_bytes), || {
        format!("max_certificate_chain_bytes is not in {SMALLEST_CHAIN_BYTES} to {LARGEST_CHAIN_BYTES}")
    })?;
    let datagrams = SMALLEST_DATAGRAM_BYTES..=LARGEST_DATAGRAM_BYTES;
    check(datagrams.contains(&limits.max_datagram_bytes), || {
        format!("max_datagram_bytes is not in {SMALLEST_DATAGRAM_BYTES} to {LARGEST_DATAGRAM_BYTES}")
    })?;
    check(limits.frame_budget_bytes >= limits.max_frame_bytes, || {
        "frame_budget_bytes is below max_frame_bytes".into()
    })?;
    for (name, window) in
        [("stream_receive_window", limits.stream_receive_window), ("send_window", limits.send_window)]
    {
        check(window >= SMALLEST_WINDOW, || format!("{name} is below {SMALLEST_WINDOW}"))?;
    }
    check(limits.stream_receive_window <= limits.receive_window, || {
        "stream_receive_window is above receive_window".into()
    })
}

/// quinn makes room for every stream that a peer may open when the connection begins.
const MAX_STREAMS: u32 = 65_536;
/// Longer ones are mistakes, and would overflow arithmetic on instants.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

fn check(holds: bool, complaint: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::invalid_config(complaint())) }
}

/// Room for an error or a health answer, whatever else the limits say.
const SMALLEST_FRAME_BYTES: u32 = 1024;
/// Below this, acknowledgements and window updates crowd out the data (RFC 9000, section 4.2).
const SMALLEST_WINDOW: u32 = 2 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::ErrorKind, limits::Rate};

    #[test]
    fn zero_and_contradictory_limits_are_refused_by_name() {
        let builder = TransportLimits::builder;
        for (limits, name) in [
            (builder().handshake_timeout(Duration::ZERO), "handshake_timeout"),
            (builder().idle_timeout(Duration::ZERO), "idle_timeout"),
            (builder().idle_timeout(Duration::MAX), "idle_timeout"),
            (builder().idle_timeout(Duration::from_secs(5)), "keep_alive_interval"),
            (builder().request_read_timeout(Duration::ZERO), "request_read_timeout"),
            (builder().handler_timeout(Duration::ZERO), "handler_timeout"),
            (builder().heartbeat_interval(Duration::ZERO), "heartbeat_interval"),
            (builder().max_concurrent_bidi_streams(0), "max_concurrent_bidi_streams"),
            (builder().max_concurrent_uni_streams(0), "max_concurrent_uni_streams"),
            (builder().max_frame_bytes(0), "max_frame_bytes"),
            (builder().max_connections(0), "max_connections"),
            (builder().max_handshakes(0), "max_handshakes"),
            (builder().max_certificate_chain_bytes(1023), "max_certificate_chain_bytes"),
            (builder().max_certificate_chain_bytes(61_441), "max_certificate_chain_bytes"),
            (builder().max_datagram_bytes(0), "max_datagram_bytes"),
            (builder().max_datagram_bytes(1199), "max_datagram_bytes"),
            (builder().max_datagram_bytes(65_528), "max_datagram_bytes"),
            (builder().stream_receive_window(0), "stream_receive_window"),
            (builder().receive_window(64 * 1024), "stream_receive_window"),
            (builder().send_window(0), "send_window"),
            (builder().frame_budget_bytes(1024), "frame_budget_bytes"),
            (builder().event_log_bytes(0), "event_log_bytes"),
            (builder().max_connections_per_address(0), "max_connections_per_address"),
            (builder().max_connections_per_identity(0), "max_connections_per_identity"),
            (builder().connection_rate(Rate::per_second(0)), "connection_rate"),
            (builder().request_rate(Rate::per_second(0)), "request_rate"),
            (builder().request_rate(Rate::every(Duration::MAX)), "request_rate"),
            (builder().fault_rate(Rate::per_second(9).burst(0)), "fault_rate"),
        ] {
            let error = limits.build().unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::InvalidConfig);
            assert!(error.to_string().contains(name), "{error} does not name {name}");
        }
    }
}
