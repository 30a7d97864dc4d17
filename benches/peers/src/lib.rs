//! palyra-quic beside what a user would pick instead. Each contender is a module with a server, and with
//! feature `harness` a client; `measure` has them take turns, and `report` writes down what came of it.

#[cfg(feature = "bare-quinn")]
pub mod bare;
#[cfg(feature = "cbor")]
pub mod cbor;
#[cfg(any(feature = "cbor", feature = "tonic"))]
pub mod log;
#[cfg(any(feature = "s2n-quic", feature = "tokio-quic", feature = "tokio-tcp"))]
pub mod on_tokio;
#[cfg(feature = "palyra")]
pub mod palyra;
#[cfg(feature = "reference")]
pub mod reference;
#[cfg(feature = "s2n-quic")]
pub mod s2n;
pub mod setup;
#[cfg(feature = "tarpc")]
pub mod tarpc;
#[cfg(any(feature = "quic", feature = "s2n-quic", feature = "tokio-tcp"))]
pub mod tls;
#[cfg(feature = "tonic")]
pub mod tonic;

#[cfg(feature = "harness")]
pub mod brokers;
#[cfg(feature = "harness")]
pub mod contenders;
#[cfg(feature = "harness")]
pub mod drive;
#[cfg(feature = "harness")]
pub mod figures;
#[cfg(feature = "harness")]
pub mod floor;
#[cfg(feature = "harness")]
pub mod goals;
#[cfg(feature = "harness")]
pub mod heap;
#[cfg(feature = "harness")]
pub mod link;
#[cfg(feature = "harness")]
pub mod measure;
#[cfg(feature = "harness")]
pub mod mosquitto;
#[cfg(feature = "harness")]
pub mod nats;
#[cfg(feature = "harness")]
pub mod nodes;
#[cfg(feature = "harness")]
pub mod plot;
#[cfg(feature = "harness")]
pub mod processes;
#[cfg(feature = "harness")]
pub mod report;
#[cfg(feature = "harness")]
pub mod results;
#[cfg(feature = "harness")]
pub mod stage;
#[cfg(feature = "harness")]
pub mod workloads;

pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T> = std::result::Result<T, Error>;
