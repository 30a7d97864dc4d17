//! `node mirror`: follows a log of another node into a directory, and serves it.

use std::{
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use palyra_quic::{
    Backoff, Client, Codec, Endpoint, EventLog, Mirror as LogMirror, MirrorState, Raw, Router, ServerTls,
    TransportLimits,
};
use smol::future;

use crate::{
    args::Mirror,
    client::{about_tokio_node, client_tls, is_json_only},
    failure::{Failure, one_line, tell},
    lines::{self, Listening},
    pki::Directory,
    signals::Termination,
};

/// The longest pause before the mirror dials its origin again.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The time that subscribers have to receive what was sent when the node shuts down.
const GRACE: Duration = Duration::from_secs(5);
/// What a mirror keeps of each epoch of its origin.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Of an origin that is a node of the tokio implementation.
const NOT_MIRRORED: &str = "its log cannot be mirrored";

pub(crate) fn run(args: &Mirror) -> Result<(), Failure> {
    if Codec::from(args.peer.codec) == Codec::Json {
        return Err(Failure::new("logs are only mirrored in CBOR"));
    }
    let pki = Directory(&args.peer.pki);
    let server = ServerTls::new(pki.server()?).require_client_certificates(pki.trust()?);
    let address = args.listen.resolve()?.into_iter().next();
    let address = address.ok_or_else(|| Failure::new("no address to listen on"))?;
    smol::block_on(async {
        let mut termination = Termination::new()?;
        let bounds = EventLog::builder().max_events(usize::MAX).max_bytes(MAX_BYTES);
        // The mirror dials from a socket of its own, because its router serves what the mirror has.
        let limits = args.peer.datagrams.limits(TransportLimits::builder()).build()?;
        let dialler = Endpoint::builder().client(client_tls(&args.peer)?).limits(limits);
        let dialler = dialler.bind(unspecified(address))?;
        let origin = origin(args, &dialler)?;
        let builder = LogMirror::builder::<Raw>(&origin, &args.log).bounds(bounds);
        let builder = match &args.consumer {
            Some(name) => builder.consumer(name.as_str()),
            None => builder,
        };
        let mirror = builder
            .open(&args.durable)
            .map_err(|error| Failure::from(error).during(args.durable.display()))?;
        let router = Router::new().log(&args.log, mirror.served());
        let endpoint = Endpoint::builder().server(server).router(router).bind(address);
        let endpoint = endpoint
            .map_err(|error| Failure::from(error).during(format_args!("cannot listen on {address}")))?;
        lines::print(&Listening { listening: endpoint.local_addr()? })?;

        let failed = async { Err(Failure::from(endpoint.closed().await)) };
        let asked = async {
            future::or(termination.asked(), report(&mirror, &origin)).await;
            Ok(())
        };
        let outcome = future::or(asked, failed).await;
        // A second signal ends the node without delay.
        future::or(endpoint.shutdown(GRACE), termination.asked()).await;
        mirror.close().await?;
        dialler.shutdown(Duration::ZERO).await;
        outcome
    })
}

fn origin(args: &Mirror, dialler: &Endpoint) -> Result<Client, Failure> {
    let mut builder = Client::builder(dialler.clone()).backoff(Backoff::new().cap(LONGEST_PAUSE));
    for holder in std::iter::once(&args.peer.address).chain(&args.also) {
        let name = args.peer.server_name_at(holder);
        for address in holder.resolve()? {
            builder = builder.address((address, name.clone()));
        }
    }
    Ok(builder.build()?)
}

fn unspecified(address: SocketAddr) -> SocketAddr {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    (any, 0).into()
}

/// Tells people what the mirror does whenever that changes.
async fn report(mirror: &LogMirror, origin: &Client) {
    let mut told = MirrorState::Disconnected(None);
    let mut told_refusal = None;
    loop {
        mirror.wait_for(|status| status.state != told || status.ack_error != told_refusal).await;
        let status = mirror.status();
        if status.ack_error != told_refusal {
            told_refusal = status.ack_error;
            told_refusal.iter().for_each(|reason| tell("not acknowledged", &one_line(reason)));
        }
        let before = mem::replace(&mut told, status.state);
        if before == told {
            continue;
        }
        let last = status.last_seq;
        match &told {
            MirrorState::Following if last == 0 => tell("following", "the mirror has no events yet"),
            MirrorState::Following => tell("following", &format!("the mirror has the events up to {last}")),
            MirrorState::Disconnected(Some(reason)) => {
                let failure = Failure::new(reason);
                let failure = if is_json_only(origin).await {
                    failure.adding(&about_tokio_node(NOT_MIRRORED))
                } else {
                    failure
                };
                failure.report("reconnecting");
            }
            MirrorState::Failing(reason) => tell("failing", &one_line(reason)),
            MirrorState::Diverged(reason) => tell("diverged", &one_line(reason)),
            _ => {}
        }
    }
}
