//! `node.health`.

use minicbor::{Encoder, encode::Error as EncodeError};

use super::node::Node;
use crate::{events::ServedLog, message::Response, protocol::STREAM_EVENTS, tls::ClientAuth};

pub(super) fn health(node: &Node) -> Response {
    Response::Health {
        ok: logs_not_writable(node) == 0,
        node_rpc_mtls_required: Some(node.security.client_auth() == ClientAuth::Required),
        // Writing to memory does not fail; were it to, health without numbers is health still.
        payload: details(node).ok().map(Into::into),
    }
}

/// How many of the logs cannot be written. Not which ones: the peer may not know all of them.
fn logs_not_writable(node: &Node) -> usize {
    node.event_logs().filter(|log| !log.health().state.is_writable()).count()
}

/// What an operator wants to know, as a map from text to text and numbers. Peers ignore what they do not
/// know.
fn details(node: &Node) -> Result<Vec<u8>, EncodeError<std::convert::Infallible>> {
    let counters = &node.counters;
    let refused = counters.refused.read();
    let handshakes_failed = counters.handshakes_failed.read();
    let uptime = node.clock.now().saturating_duration_since(node.started);
    let mut numbers = vec![
        ("uptime_ms", u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX)),
        ("connections_open", counters.open.value()),
        ("connections_accepted", counters.accepted.value()),
        ("connections_refused", refused.total()),
        ("handshakes_failed", handshakes_failed.total()),
        ("handshakes_not_judged", handshakes_failed.not_judged),
        ("connections_not_authorized", refused.not_authorized),
        ("requests", counters.requests.value()),
        ("requests_failed", counters.requests_failed.read().total()),
        ("notifications", counters.notifications.value()),
        ("frame_bytes_held", u64::try_from(node.admission.frame_bytes()).unwrap_or(u64::MAX)),
        ("notifications_denied", counters.notifications_denied.value()),
        ("notifications_unhandled", counters.notifications_unhandled.value()),
    ];
    if node.event_logs().next().is_some() {
        numbers.push(("logs_not_writable", u64::try_from(logs_not_writable(node)).unwrap_or(u64::MAX)));
    }
    if let Some(log) = node.router.event_log(STREAM_EVENTS).and_then(ServedLog::current) {
        numbers.push(("events_published", log.last_seq()));
        numbers.push(("events_held", u64::try_from(log.len()).unwrap_or(u64::MAX)));
        let health = log.health();
        numbers.push(("events_unwritten", health.unwritten_events));
        numbers.push(("events_damaged", health.damaged_events));
        if let Some((consumers, largest_lag)) = log.consumer_lag() {
            numbers.push(("event_consumers", u64::try_from(consumers).unwrap_or(u64::MAX)));
            numbers.push(("event_consumer_lag", largest_lag));
        }
        numbers.push(("event_commits_failed", health.failed_commits));
        numbers.push(("event_reads_failed", health.failed_reads));
    }
    let mut encoder = Encoder::new(Vec::new());
    encoder.map(u64::try_from(numbers.len() + 1).unwrap_or(u64::MAX))?;
    encoder.str("version")?.str(env!("CARGO_PKG_VERSION"))?;
    for (name, number) in numbers {
        encoder.str(name)?.u64(number)?;
    }
    Ok(encoder.into_writer())
}
