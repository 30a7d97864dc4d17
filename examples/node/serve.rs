//! `node serve`: health, events and two methods to play with.

use std::{
    io::{self, Write},
    num::NonZeroU64,
    time::Duration,
};

use palyra_quic::{Endpoint, ErrorKind, EventLog, MethodError, Router, ServerTls, TransportLimits};
use smol::future;

use crate::{
    args::Serve,
    failure::Failure,
    lines::{self, Listening},
    pki::Directory,
    signals::Termination,
};

/// How long whoever is being served may still take when the node is asked to end.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) fn run(args: &Serve) -> Result<(), Failure> {
    let tls = server_tls(args)?;
    let limits = TransportLimits::builder();
    let limits = match args.max_connections {
        Some(max) => limits.max_connections(max),
        None => limits,
    };
    let limits = limits.build()?;
    let log = EventLog::new();
    smol::block_on(async {
        // Before anybody can know that the node runs, and ask it to end.
        let mut termination = Termination::new()?;
        let endpoint = bind(args, &tls, &limits, &log)?;
        lines::print(&Listening { listening: endpoint.local_addr()? })?;

        future::or(termination.asked(), tick(&log, args.publish_every)).await;
        // Whoever asks twice is in a hurry.
        future::or(endpoint.shutdown(GRACE), termination.asked()).await;
        Ok(())
    })
}

fn server_tls(args: &Serve) -> Result<ServerTls, Failure> {
    let pki = Directory(&args.pki);
    let tls = ServerTls::new(pki.server()?);
    Ok(if args.no_client_auth { tls } else { tls.require_client_certificates(pki.trust()?) })
}

/// Listens on the first address that can be had.
fn bind(
    args: &Serve,
    tls: &ServerTls,
    limits: &TransportLimits,
    log: &EventLog,
) -> Result<Endpoint, Failure> {
    let mut addresses = args.listen.resolve()?.into_iter().peekable();
    loop {
        let Some(address) = addresses.next() else { return Err(Failure::new("no address to listen on")) };
        let endpoint = Endpoint::builder().server(tls.clone()).limits(limits.clone()).router(methods(log));
        match endpoint.bind(address) {
            Err(error) if *error.kind() == ErrorKind::Io && addresses.peek().is_some() => {}
            Err(error) => {
                return Err(Failure::from(error).during(format_args!("cannot listen on {address}")));
            }
            Ok(endpoint) => return Ok(endpoint),
        }
    }
}

fn methods(log: &EventLog) -> Router {
    let (asked, notified) = (log.clone(), log.clone());
    Router::new()
        .unary("demo.echo", |_, params| async move { Ok(params) })
        .unary("demo.publish", move |_, payload| {
            let published = asked.publish(payload);
            async move {
                let seq = published.map_err(|error| MethodError::invalid_request(error.to_string()))?;
                Ok(seq.to_string().into())
            }
        })
        .notification("demo.publish", move |_, payload| {
            if let Err(error) = notified.publish(payload) {
                // The sender hears nothing of it, so this side does.
                let _ = writeln!(io::stderr(), "error: not published: {error}");
            }
            future::ready(())
        })
        .events(log.clone())
}

/// Publishes for ever, if that was asked for.
async fn tick(log: &EventLog, every_ms: Option<NonZeroU64>) {
    let Some(every_ms) = every_ms else { return future::pending().await };
    let mut timer = smol::Timer::interval(Duration::from_millis(every_ms.get()));
    for count in 1_u64.. {
        let _ = smol::stream::StreamExt::next(&mut timer).await;
        log.publish(format!("tick {count}")).expect("a few bytes are no event too large");
    }
}
