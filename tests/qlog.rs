//! Records of connections, in virtual time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/simulation.rs"]
mod simulation;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use palyra_quic::{Connection, Context, Endpoint, EndpointBuilder, Router, quinn::Side, sim::Link};
use simulation::{PORT, Pair, client_tls, server_tls};

/// What was written about each connection.
#[derive(Clone, Default)]
struct Records(Arc<Mutex<BTreeMap<About, Vec<u8>>>>);

/// The peer, and which side this is.
type About = (SocketAddr, &'static str);

struct Writer(Records, About);

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // As a file might, it takes a part.
        let taken = &bytes[..bytes.len().min(7)];
        self.0.0.lock().unwrap().entry(self.1).or_default().extend_from_slice(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Records {
    fn open(&self, remote: SocketAddr, side: Side) -> Option<Box<dyn Write + Send + Sync>> {
        let side = if side == Side::Client { "dialled" } else { "accepted" };
        Some(Box::new(Writer(self.clone(), (remote, side))))
    }
}

/// Writes nothing: fails, or panics.
struct Broken(fn() -> io::Result<usize>);

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        self.0()
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn exchange(change: impl Fn(EndpointBuilder) -> EndpointBuilder) {
    let pair = Pair::new(1, Link::new().delay(Duration::from_millis(10)));
    let router = Router::new().serve_raw("demo.echo", |_: Context, params| async move { Ok(params) });
    let server = change(Endpoint::builder().server(server_tls()).router(router));
    let _node = pair.gateway.bind(server, PORT).unwrap();
    let dialler = pair.sensor.bind(change(Endpoint::builder().client(client_tls())), 0).unwrap();
    pair.sim.run(async {
        let connection: Connection = dialler.connect(pair.gateway.address(PORT)).await.unwrap();
        assert_eq!(connection.call_raw("demo.echo", "x").await.unwrap(), "x");
    });
}

#[test]
fn both_sides_record_each_connection_by_itself() {
    let records = Records::default();
    let for_endpoints = records.clone();
    exchange(move |builder| {
        let records = for_endpoints.clone();
        builder.qlog(move |remote, side| records.open(remote, side))
    });
    let records = records.0.lock().unwrap();
    let about: Vec<_> = records.keys().map(|(remote, side)| (remote.ip().to_string(), *side)).collect();
    assert_eq!(about, [("10.0.0.1".to_owned(), "dialled"), ("10.0.0.2".to_owned(), "accepted")]);
    for (about, record) in &*records {
        let text = std::str::from_utf8(record).unwrap();
        // RFC 7464: each text begins with the record separator and ends with a line feed.
        let texts: Vec<_> = text.split('\u{1e}').skip(1).collect();
        assert!(texts.iter().all(|text| text.starts_with('{') && text.ends_with("}\n")), "{about:?}");
        assert!(texts[0].contains("qlog_version"), "{}", texts[0]);
        for event in ["packet_sent", "packet_received", "metrics_updated"] {
            assert!(texts.iter().any(|text| text.contains(event)), "{about:?} has no {event}");
        }
    }
}

#[test]
fn what_is_wrong_with_a_record_does_no_harm_to_its_connection() {
    exchange(|builder| builder.qlog(|_, _| None));
    exchange(|builder| builder.qlog(|_, _| panic!("as a test wants it")));
    exchange(|builder| {
        builder.qlog(|_, _| Some(Box::new(Broken(|| Err(io::ErrorKind::StorageFull.into())))))
    });
    exchange(|builder| builder.qlog(|_, _| Some(Box::new(Broken(|| panic!("as a test wants it"))))));
}
