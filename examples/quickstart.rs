//! Two nodes and an unknown peer in one process, step by step: `cargo run --release --example quickstart`.

use std::{net::SocketAddr, time::Duration};

use palyra_quic::{
    CertificateAuthority, ClientTls, Code, Connection, Context, Endpoint, ErrorKind, EventItem, EventLog,
    Method, MethodError, NotificationMethod, Result, Router, ServerTls, WireError,
    minicbor::{Decode, Encode},
};

#[derive(Debug, Encode, Decode)]
struct Reading {
    #[n(0)]
    sensor: String,
    #[n(1)]
    celsius: i32,
}

#[derive(Debug, Encode, Decode)]
struct Verdict {
    #[n(0)]
    too_warm: bool,
}

/// What gateway and sensor agree on: names, and the types that go with them.
const CHECK: Method<Reading, Verdict> = Method::new("heat.check");
const JOURNAL: NotificationMethod<String> = NotificationMethod::new("journal.append");

fn main() -> Result<()> {
    smol::block_on(async {
        println!("1. An authority gives the gateway and the sensor their certificates.");
        let authority = CertificateAuthority::new("Quickstart CA")?;
        let gateway_identity = authority.issue_server(&[])?.identity();
        let sensor_identity = authority.issue_client("sensor-7")?.identity();
        println!("   gateway {}", gateway_identity.fingerprint());

        let log = EventLog::new();
        let tls = ServerTls::new(gateway_identity).require_client_certificates(authority.trust());
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let gateway = Endpoint::builder().server(tls).router(methods(&log)).bind(loopback)?;
        let address = gateway.local_addr()?;
        println!("2. The gateway listens on {address} and demands client certificates (mutual TLS).");

        let tls = ClientTls::new(authority.trust()).identity(sensor_identity);
        let sensor = Endpoint::builder().client(tls).bind(loopback)?;
        let connection = sensor.connect(address).await?;
        println!("3. The sensor connects; round trip {:?}.", connection.rtt());

        let health = connection.health().await?;
        println!(
            "4. node.health: ok={}, mTLS required={}.",
            health.ok,
            health.node_rpc_mtls_required == Some(true)
        );

        for celsius in [21, 84] {
            let reading = Reading { sensor: "boiler".into(), celsius };
            let verdict = connection.call(CHECK, &reading).await?;
            println!("5. heat.check of {celsius} degrees: {verdict:?}.");
        }
        let unknown =
            connection.call_raw("heat.cool", "").await.expect_err("a method that is not there answered");
        assert_eq!(unknown.kind(), &ErrorKind::Remote(WireError::UnsupportedMethod));
        println!("   heat.cool: {unknown}.");

        let mut notifier = connection.notifier().await?;
        for line in ["door opened", "window opened", "window closed", "door closed", "lights out"] {
            notifier.send(JOURNAL, &line.into()).await?;
        }
        notifier.finish().await?;
        println!("6. Five notifications, which the gateway publishes as events.");

        events_survive_a_cut(&connection, &sensor, address, &log).await?;
        strangers_stay_outside(&authority, address).await?;

        gateway.shutdown(Duration::from_secs(1)).await;
        println!("9. The gateway shuts down; the sensor hears: {}.", connection.closed().await);
        Ok(())
    })
}

fn methods(log: &EventLog) -> Router {
    let journal = log.clone();
    Router::new()
        .serve(CHECK, |context: Context, reading| async move {
            let caller = context.peer().and_then(|peer| peer.common_name()).unwrap_or("nobody").to_owned();
            println!("   (gateway) {caller} reports {} degrees at the {}", reading.celsius, reading.sensor);
            Ok::<_, MethodError>(Verdict { too_warm: reading.celsius > 80 })
        })
        .on_notification(JOURNAL, move |_, line| {
            let journal = journal.clone();
            async move {
                if let Err(error) = journal.publish_raw(line) {
                    eprintln!("not published: {error}");
                }
            }
        })
        .events(log.clone())
}

/// Follows the events, loses the connection in the middle, and resumes from the last event.
async fn events_survive_a_cut(
    connection: &Connection,
    sensor: &Endpoint,
    address: SocketAddr,
    log: &EventLog,
) -> Result<()> {
    println!("7. The sensor follows the events, and loses its connection in the middle.");
    let doomed = sensor.connect(address).await?;
    let mut events = doomed.events_raw().follow().open().await?;
    let mut last = (0, None);
    while last.0 < 2 {
        last = show(events.next_raw().await?).unwrap_or(last);
    }
    drop(events);
    doomed.close(Code::CANCELLED, "the cable was pulled");
    println!("   cut after event {}: {}.", last.0, doomed.closed().await);

    log.publish_raw("while you were away")?;
    let (seq, epoch) = last;
    let mut request = connection.events_raw().resume_from(seq);
    if let Some(epoch) = epoch {
        request = request.epoch(epoch);
    }
    let mut events = request.open().await?;
    println!("   resumed:");
    while let Some(item) = events.next_raw().await? {
        show(Some(item));
    }
    Ok(())
}

fn show(item: Option<EventItem>) -> Option<(u64, Option<u64>)> {
    match item? {
        EventItem::Event { seq, epoch, payload } => {
            println!("   event {seq}: {}", String::from_utf8_lossy(&payload));
            Some((seq, epoch))
        }
        other => {
            println!("   {other:?}");
            None
        }
    }
}

/// The gateway refuses a client without a certificate, and one with a certificate of another authority.
async fn strangers_stay_outside(authority: &CertificateAuthority, address: SocketAddr) -> Result<()> {
    let impostor = CertificateAuthority::new("Another CA")?.issue_client("sensor-7")?;
    let stranger = Endpoint::builder().bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let plain = ClientTls::new(authority.trust());
    for (who, tls) in
        [("nobody", plain.clone()), ("another CA's sensor", plain.identity(impostor.identity()))]
    {
        let refusal = stranger.connect_with(&tls, address).await.expect_err("a stranger got in");
        assert!(refusal.is_authentication(), "{refusal:?}");
        println!("8. Refused: {who}: {refusal}.");
    }
    Ok(())
}
