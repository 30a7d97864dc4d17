//! What the benches have in common: an authority, and the two ends of a link over loopback.

#![allow(dead_code, reason = "each bench uses a part of this")]

pub(crate) mod kind;
pub(crate) mod stage;

use std::{net::SocketAddr, sync::Arc};

use palyra_quic::{
    ClientTls, Context, Endpoint, EventLog, Identity, Result, Router, ServerTls, Trust, quinn::Runtime,
};

/// A port of the system's choice on loopback.
pub(crate) const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
/// Returns its parameters.
pub(crate) const ECHO: &str = "bench.echo";

/// Accepts connections with mutual TLS, and serves `router` with [`ECHO`] in it.
pub(crate) fn serve(
    runtime: Arc<dyn Runtime>,
    identity: Identity,
    trust: Trust,
    router: Router,
) -> Result<Endpoint> {
    let router = router.serve_raw(ECHO, |_: Context, params| async move { Ok(params) });
    let tls = ServerTls::new(identity).require_client_certificates(trust);
    Endpoint::builder().shared_runtime(runtime).server(tls).router(router).bind(LOOPBACK)
}

/// Dials with mutual TLS.
pub(crate) fn dialler(runtime: Arc<dyn Runtime>, identity: Identity, trust: Trust) -> Result<Endpoint> {
    Endpoint::builder()
        .shared_runtime(runtime)
        .client(ClientTls::new(trust).identity(identity))
        .bind(LOOPBACK)
}

/// A log with this many events of 32 bytes, in memory of its own each.
pub(crate) fn event_log(events: usize) -> Result<EventLog> {
    // Twice what the events count for with their overhead, and room for one as large as may be.
    let log = EventLog::builder()
        .max_events(events)
        .max_bytes(u64::try_from(256 * events + 1024 * 1024).unwrap_or(u64::MAX))
        .build()?;
    for n in 0..events {
        log.publish_raw(format!("{n:032}"))?;
    }
    Ok(log)
}
