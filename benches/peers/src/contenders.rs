//! Who takes part.

use crate::{
    Result, bare, brokers,
    drive::drive,
    floor, mosquitto, nats, on_tokio, palyra, reference, s2n,
    setup::{LARGE_DATAGRAM_BYTES, Setup},
    tarpc, tonic,
};

pub struct Contender {
    pub name: &'static str,
    pub what: &'static str,
    pub serve: fn(&Setup) -> Result<()>,
    pub drive: fn(&Setup, &str) -> Result<()>,
    /// The program `node-…` that is the server and nothing else, by the feature that it takes.
    pub node: Option<&'static str>,
    /// The installed program that takes the place of the server.
    pub broker: Option<&'static str>,
    /// The workloads that it takes part in; all of them if none are named.
    pub only: &'static [&'static str],
}

impl Contender {
    /// Whether its broker, if it needs one, is installed.
    pub fn is_available(&self) -> bool {
        self.broker.is_none_or(|program| brokers::find(program).is_some())
    }

    pub fn takes(&self, workload: &str) -> bool {
        self.only.is_empty() || self.only.contains(&workload)
    }
}

pub const PALYRA: &str = "palyra";
pub const SLEEPS: &str = "palyra-sleeps";
pub const REFERENCES: [&str; 2] = ["reference-1", "reference-2"];
pub const QUINN_TOKIO: &str = "quinn-tokio";
/// With large datagrams on either side.
pub const LARGE: &str = "palyra-large";
pub const QUINN_TOKIO_LARGE: &str = "quinn-tokio-large";
pub const QUINN_UNTUNED: &str = "quinn-tokio-untuned";
pub const S2N: &str = "s2n-quic";
pub const OTHERS: [&str; 2] = ["tonic", "tarpc"];

/// Windows and datagrams matter to what is large.
const LARGE_WORKLOADS: &[&str] = &["events", "payloads"];

pub const CONTENDERS: [Contender; 15] = [
    Contender {
        name: PALYRA,
        what: "palyra-quic without features, on `PollRuntime`, on either side; with `streams` where its node is no program of its own",
        serve: palyra::serve::<false>,
        drive: drive::<palyra::Stack<false>>,
        node: Some("palyra"),
        broker: None,
        only: &[],
    },
    Contender {
        name: SLEEPS,
        what: "the same without `PollRuntime::busy_poll`",
        serve: palyra::serve::<true>,
        drive: drive::<palyra::Stack<true>>,
        node: None,
        broker: None,
        only: &[],
    },
    Contender {
        name: "reference-1",
        what: "the reference protocol: quinn and JSON on tokio's current-thread runtime; its unary call is `node.health`, without payload",
        serve: |setup| reference::serve(&on_tokio::current_thread()?, setup),
        drive: drive::<reference::Stack<1>>,
        node: Some("reference"),
        broker: None,
        only: &[],
    },
    Contender {
        name: "reference-2",
        what: "the same on tokio's multi-thread runtime with two workers, on either side",
        serve: |setup| reference::serve(&on_tokio::two_workers()?, setup),
        drive: drive::<reference::Stack<2>>,
        node: None,
        broker: None,
        only: &[],
    },
    Contender {
        name: "quinn-smol",
        what: "bare quinn with its `SmolRuntime`, our frames, CBOR, windows and receive buffer, nothing supervised",
        serve: bare::on_smol::serve,
        drive: drive::<bare::client::OnSmol>,
        node: Some("quinn-smol"),
        broker: None,
        only: &[],
    },
    Contender {
        name: QUINN_TOKIO,
        what: "the same on tokio's current-thread runtime",
        serve: bare::on_tokio::serve::<bare::Equal>,
        drive: drive::<bare::client::OnTokio<bare::Equal>>,
        node: Some("quinn-tokio"),
        broker: None,
        only: &[],
    },
    Contender {
        name: QUINN_UNTUNED,
        what: "the same with the windows that quinn has by default",
        serve: bare::on_tokio::serve::<bare::Untuned>,
        drive: drive::<bare::client::OnTokio<bare::Untuned>>,
        node: None,
        broker: None,
        only: LARGE_WORKLOADS,
    },
    Contender {
        name: LARGE,
        what: "palyra with datagrams of up to 32 KiB, which loopback takes",
        serve: palyra::serve_with::<false, LARGE_DATAGRAM_BYTES>,
        drive: drive::<palyra::Stack<false, LARGE_DATAGRAM_BYTES>>,
        node: None,
        broker: None,
        only: LARGE_WORKLOADS,
    },
    Contender {
        name: QUINN_TOKIO_LARGE,
        what: "quinn-tokio with the same datagrams",
        serve: bare::on_tokio::serve::<bare::Large>,
        drive: drive::<bare::client::OnTokio<bare::Large>>,
        node: None,
        broker: None,
        only: LARGE_WORKLOADS,
    },
    Contender {
        name: S2N,
        what: "s2n-quic with rustls, and with our frames and CBOR as for bare quinn, on tokio's current-thread runtime",
        serve: s2n::serve,
        drive: drive::<s2n::Stack>,
        node: Some("s2n-quic"),
        broker: None,
        only: &[],
    },
    Contender {
        name: "tonic",
        what: "gRPC over TLS (rustls) with tonic, current-thread",
        serve: tonic::serve,
        drive: drive::<tonic::Stack>,
        node: Some("tonic"),
        broker: None,
        only: &[],
    },
    Contender {
        name: "tarpc",
        what: "tarpc with bincode over TLS (tokio-rustls), current-thread",
        serve: tarpc::serve,
        drive: drive::<tarpc::Stack>,
        node: Some("tarpc"),
        broker: None,
        only: &[],
    },
    Contender {
        name: "nats",
        what: "nats-server with JetStream, which may use all cores; async-nats on tokio's current-thread runtime",
        serve: brokers::serve_nats,
        drive: drive::<nats::Stack>,
        node: None,
        broker: Some("nats-server"),
        only: &["events"],
    },
    Contender {
        name: "mosquitto",
        what: "mosquitto, MQTT 3.1.1 with QoS 1; rumqttc on tokio's current-thread runtime",
        serve: brokers::serve_mosquitto,
        drive: drive::<mosquitto::Stack>,
        node: None,
        broker: Some("mosquitto"),
        only: &["events"],
    },
    Contender {
        name: "udp",
        what: "the floor: datagrams of 64 bytes echoed in the clear, with blocking sockets",
        serve: floor::serve,
        drive: floor::drive,
        node: None,
        broker: None,
        only: &[],
    },
];

pub fn named(name: &str) -> Result<&'static Contender> {
    let found = CONTENDERS.iter().find(|contender| contender.name == name);
    found.ok_or_else(|| format!("no contender {name:?}").into())
}
