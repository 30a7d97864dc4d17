//! The smallest node: mutual TLS, `node.health`, one method and an event per second, on one thread.
//!
//! `tiny-node ADDRESS AUTHORITY.pem CERTIFICATE.pem KEY.pem` prints the address that it listens on, and
//! serves until it is killed. docs/small.md says how to build it, and how large each of its parts is.

#[cfg(feature = "log")]
mod log;
#[cfg(feature = "serde")]
mod readings;
mod runtime;

use std::{
    env, fs,
    future::poll_fn,
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use palyra_quic::{
    Endpoint, EventLog, EventLogBuilder, Identity, Result, Router, ServerTls, TransportLimits, Trust, quinn,
};

use self::runtime::Runtime;

const USAGE: &str = "usage: tiny-node ADDRESS AUTHORITY.pem CERTIFICATE.pem KEY.pem";
/// The limit for the memory that all peers together can use.
const MEMORY: u64 = 16 * 1024 * 1024;
const BETWEEN_EVENTS: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    #[cfg(feature = "log")]
    log::start();
    let Some((address, [authority, certificate, key])) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match serve(address, &authority, &certificate, &key) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The address and the contents of the three files.
fn arguments() -> Option<(SocketAddr, [Vec<u8>; 3])> {
    let mut arguments = env::args().skip(1);
    let address = arguments.next()?.parse().ok()?;
    let mut file = || {
        let path = arguments.next()?;
        fs::read(&path).inspect_err(|error| eprintln!("{path}: {error}")).ok()
    };
    Some((address, [file()?, file()?, file()?]))
}

fn serve(address: SocketAddr, authority: &[u8], certificate: &[u8], key: &[u8]) -> Result<()> {
    let limits = TransportLimits::within(MEMORY)?;
    let mut runtime = Runtime::new()?;
    let handle = runtime.handle();
    let log = open(EventLog::builder().within(&limits), &handle)?;
    let router = Router::new().serve_raw("demo.echo", |_, params| async move { Ok(params) }).events(log.clone());
    #[cfg(feature = "serde")]
    let router = readings::serve(router);
    let tls = ServerTls::new(Identity::from_pem(certificate, key)?)
        .require_client_certificates(Trust::from_pem(authority)?);

    let endpoint = Endpoint::builder()
        .shared_runtime(Arc::clone(&handle))
        .server(tls)
        .limits(limits)
        .router(router)
        .bind(address)?;
    println!("{}", endpoint.local_addr()?);
    runtime.block_on(async {
        for count in 1_u64.. {
            sleep(&*handle, BETWEEN_EVENTS).await;
            log.publish_raw(format!("tick {count}"))?;
        }
        Ok(())
    })
}

#[cfg(not(feature = "durable"))]
fn open(log: EventLogBuilder, _: &Arc<dyn quinn::Runtime>) -> Result<EventLog> {
    log.build()
}

#[cfg(feature = "durable")]
fn open(log: EventLogBuilder, runtime: &Arc<dyn quinn::Runtime>) -> Result<EventLog> {
    log.shared_runtime(Arc::clone(runtime)).open("tiny-node-events")
}

async fn sleep(runtime: &dyn quinn::Runtime, time: Duration) {
    let mut timer = runtime.new_timer(Instant::now() + time);
    poll_fn(|cx| timer.as_mut().poll(cx)).await;
}
