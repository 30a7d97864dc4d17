//! Node-to-node links over QUIC for programs without tokio: requests, notifications and resumable event
//! streams.
//!
//! A node is an [`Endpoint`]: one UDP socket that accepts peers, dials them, or both. TLS 1.3 is always on,
//! and mutual TLS is one line. Peers call each other's methods, notify each other without waiting, and follow
//! each other's events from where they left off. quinn speaks QUIC, rustls TLS, minicbor CBOR; smol's reactor
//! moves the packets, and the futures run on any executor.
//!
//! Never block the executor that an endpoint is on: its handlers run on the threads that move the packets,
//! and while those are blocked, or not driven, nothing is sent, received or answered. Time limits of futures
//! that are awaited elsewhere still fire, except with `PollRuntime`, whose one thread fires its timers, too.
//! A call without a time limit waits: one of a [`Client`] has 30 s, one of a [`Connection`] none of its own.
//!
//! ```
//! use palyra_quic::{Result, Router, connected_pair};
//!
//! # fn main() -> Result<()> {
//! smol::block_on(async {
//!     let router = Router::new().serve("demo.add", |_, (a, b): (u32, u32)| async move { Ok(a + b) });
//!     let pair = connected_pair(router).await?; // Two nodes on loopback, with certificates made for them.
//!     let sum: u32 = pair.connection.call("demo.add", &(40, 2)).await?;
//!     assert_eq!(sum, 42);
//!     Ok(())
//! })
//! # }
//! ```
//!
//! The same step by step, as two programs do it:
//!
//! ```
//! use std::time::Duration;
//! use palyra_quic::{CertificateAuthority, ClientTls, Endpoint, Method, Result, Router, ServerTls};
//!
//! const ADD: Method<(u32, u32), u64> = Method::new("demo.add"); // The name and the types, for both sides.
//!
//! # fn main() -> Result<()> {
//! smol::block_on(async {
//!     let ca = CertificateAuthority::new("Example CA")?; // Yours, from PEM or DER, in real life.
//!
//!     let router = Router::new().serve(ADD, |_, (a, b)| async move { Ok(u64::from(a) + u64::from(b)) });
//!     let tls = ServerTls::new(ca.issue_server(&[])?.identity()).require_client_certificates(ca.trust());
//!     let server = Endpoint::builder().server(tls).router(router).bind(([127, 0, 0, 1], 0).into())?;
//!
//!     let tls = ClientTls::new(ca.trust()).identity(ca.issue_client("sensor")?.identity());
//!     let client = Endpoint::builder().client(tls).bind(([127, 0, 0, 1], 0).into())?;
//!     let connection = client.connect(server.local_addr()?).await?;
//!
//!     assert_eq!(connection.call(ADD, &(40, 2)).await?, 42);
//!
//!     server.shutdown(Duration::from_secs(1)).await;
//!     Ok(())
//! })
//! # }
//! ```
//!
//! # The map
//!
//! | to | see |
//! |---|---|
//! | bind, connect, shut down | [`Endpoint`], [`ServerAddress`], [`TransportLimits`] |
//! | ration what peers may take | [`TransportLimits::within`], [`Rate`], [`AddressValidation`] |
//! | say who this node is | [`Identity`], [`ServerTls`], [`ClientTls`] |
//! | verify who the peers are | [`Trust`], [`Pin`], [`RevocationList`], [`WallClock`] |
//! | change that while the node runs | [`Endpoint::rotate`], [`Rotation`] |
//! | state names and types once | [`Method`], [`StreamingMethod`], [`NotificationMethod`], [`LogMethod`] |
//! | send types that only implement serde's traits | `Serde`, with feature `serde` |
//! | serve methods, notifications, events | [`Router`], [`Context`], [`ResponseSink`], [`MethodError`] |
//! | limit single methods | [`Router::limits`], [`MethodLimits`] |
//! | run code around every exchange | [`Router::around`], [`Exchange`], [`Next`] |
//! | run code around every call | [`EndpointBuilder::around_calls`], [`OutgoingCall`], [`NextCall`] |
//! | publish events, in one log or several | [`EventLog`], [`Publisher`], [`Router::log`] |
//! | say which peers may stay and call | [`Router::authorize`], [`Router::allow`], [`Peers`] |
//! | continue traces across nodes | [`EndpointBuilder::inject_trace`], [`TraceContext`] |
//! | ask a peer what it serves | [`Connection::describe`], [`Description`] |
//! | call and notify | [`Connection`], [`Call`], [`Responses`], [`Notifier`] |
//! | serve and send items, with feature `streams` | `Router::serve_items`, `Items`, `Upload`, `ItemSink` |
//! | make many calls on one stream, with feature `streams` | `Connection::pipeline`, `Pipeline` |
//! | follow events | [`Connection::events`], [`Events`], [`Gap`] |
//! | stay connected and subscribed | [`Client`], [`ClientCall`], [`Subscription`], [`Backoff`] |
//! | keep events for those who need them | [`EventLogBuilder::keep_unacknowledged`], [`Router::consumers`] |
//! | hold a copy of another node's log, with feature `durable` | `Mirror` |
//! | keep one's place in a log | [`Cursor`], and with feature `durable` `CursorStore` |
//! | tell failures apart | [`Error`], [`ErrorKind`], [`Code`], [`WireError`] |
//! | watch a node | [`Endpoint::stats`], [`Endpoint::connections`], [`Connection::stats`] |
//! | watch an event log | [`EventLog::stats`], [`EventLog::health`] |
//! | choose the executor | [`AsyncIoRuntime`], `PollRuntime`, or any other [`quinn::Runtime`] |
//! | decide about another transport when UDP is blocked | [`FallbackPolicy`] |
//! | try things out, with feature `cert` | `connected_pair`, `CertificateAuthority` |
//! | test on bad links, in virtual time | `sim`, with feature `sim` |
//! | read or write single messages | [`Request`], [`Item`], [`Response`], [`Notification`] |
//!
//! The protocol is written down in `docs/protocol.md`, with CDDL and test vectors beside it.
//!
//! # When to use something else
//!
//! Within a tokio program quinn on tokio has nothing to be spared. For browsers, public APIs or peers that
//! are not yours, use HTTP. For one-to-many distribution, use a broker: here every subscriber has a stream of
//! its own.
//!
//! # Features
//!
//! | feature | default | brings |
//! |---|---|---|
//! | `smol` | yes | smol's global executor for programs without one; resolves host names |
//! | `json` | yes | JSON bodies, for peers that run the tokio implementation |
//! | `ecdsa` | yes | ECDSA keys and key exchange on P-256 and P-384, beside Ed25519 and X25519 |
//! | `rsa` | yes | certificates with RSA keys; brings `ecdsa` |
//! | `chacha20poly1305` | yes | the cipher suite for machines without AES instructions |
//! | `explain` | yes | errors about certificates and keys that say what exactly is wrong, and what to do |
//! | `cert` | no | a small certificate authority and two connected endpoints, for tests |
//! | `durable` | no | event logs and cursors in files |
//! | `streams` | no | requests that continue with items, and answers beside them |
//! | `serde` | no | values of types that implement serde's traits |
//! | `qlog` | no | records of connections, as quinn writes them |
//! | `sim` | no | a simulated network with virtual time, for tests of nodes on bad links |
//!
//! # Crates that the interface speaks
//!
//! [`quinn`] 0.11, [`rustls`] 0.23, [`minicbor`] 2, [`tracing`] 0.1 and [`Bytes`] of bytes 1 are part of the
//! interface, and exported again: taken from here, their types are always those that this crate means. A new
//! major version of one of them, which for quinn, rustls and tracing is a new number behind `0.`, is a
//! breaking change of this crate: it comes with a new major version of it, and before 1.0 with a new minor
//! one. With feature `serde`, so is serde 1, which is not exported, because its derive macros need the crate
//! itself.

mod address;
mod admission;
mod call_hooks;
mod call_interceptor;
#[cfg(feature = "cert")]
mod cert;
mod client;
mod close_state;
mod code;
mod congestion;
mod connection;
mod counter;
mod drain;
mod endpoint;
mod error;
mod events;
mod fallback;
mod frame;
mod handoff;
mod limits;
mod link;
mod live_list;
mod message;
mod method;
#[cfg(all(feature = "durable", unix))]
mod mirror;
mod name_map;
mod outstanding;
mod protocol;
mod qlog;
mod quinn_compat;
mod retry_after;
mod router;
mod runtime;
#[cfg(feature = "serde")]
mod serde_value;
mod server;
#[cfg(feature = "sim")]
pub mod sim;
mod socket;
mod span;
mod stats;
mod stream;
mod sync;
mod text;
mod tls;
mod value;
mod wire_error;

#[cfg(feature = "cert")]
pub use self::cert::{CertificateAuthority, ConnectedPair, IssuedCertificate, connected_pair};
#[cfg(feature = "durable")]
pub use self::events::{Batch, Clocks, EventStore, Extent, MemoryStore, StoredEvent, conformance};
#[cfg(all(feature = "durable", unix))]
pub use self::events::{CursorStore, LostEvents, SegmentOptions, SegmentStore};
#[cfg(all(feature = "durable", unix))]
pub use self::mirror::{Mirror, MirrorBuilder, MirrorState, MirrorStatus};
#[cfg(unix)]
pub use self::runtime::PollRuntime;
#[cfg(feature = "serde")]
pub use self::serde_value::Serde;
pub use self::{
    call_interceptor::{NextCall, OutgoingCall},
    client::{Backoff, Client, ClientBuilder, ClientCall, Subscribe, Subscription, SubscriptionItem},
    code::{Code, CodeClass},
    connection::{Call, Connection, EventItem, Events, EventsRequest, Health, Notifier, Responses},
    endpoint::{Endpoint, EndpointBuilder, ServerAddress},
    error::{Error, ErrorKind, Result},
    events::{
        ConsumerStatus, Cursor, EventLog, EventLogBuilder, Gap, LogHealth, LogState, LogStats, Publisher,
        ServedLog,
    },
    fallback::{FallbackPolicy, FallbackReason, FallbackRequired, PathPrivilege},
    limits::{AddressValidation, Rate, TransportLimits, TransportLimitsBuilder},
    message::{
        CborError, Codec, CountedResponse, DescribedMethod, Description, Item, JsonError, MAX_NESTING,
        MessageError, Notification, Request, Response, TraceContext,
    },
    method::{AnyMethod, LogMethod, Method, MethodKind, MethodName, NotificationMethod, StreamingMethod},
    protocol::PROTOCOL_VERSION,
    router::{
        Context, Exchange, MethodError, MethodLimits, Next, Peers, PendingPeer, Refusal, ResponseSink, Router,
    },
    runtime::AsyncIoRuntime,
    stats::{
        ConnectionStats, ConnectionsRefused, EndpointStats, HandshakesFailed, RequestsFailed, StreamsReset,
    },
    tls::{
        ALPN, ClientAuth, ClientTls, Fingerprint, Identity, OnExpiry, PeerIdentity, Pin, RestartKey,
        RevocationList, Revoked, Rotation, ServerTls, Trust, WallClock,
    },
    value::Raw,
    wire_error::WireError,
};
#[cfg(feature = "streams")]
pub use self::{client::ClientPipeline, connection::Pipeline};
#[cfg(feature = "streams")]
pub use self::{
    connection::{ItemSink, Upload},
    method::{BidiMethod, ItemsMethod},
    router::Items,
};
/// The vocabulary of others that this crate's interface speaks.
pub use {bytes::Bytes, minicbor, quinn, rustls, tracing};

/// For fuzz targets, and for benches and tests of this crate. Not part of the interface, and in no normal
/// build.
#[cfg(any(fuzzing, feature = "__internals"))]
#[doc(hidden)]
pub mod fuzzing {
    #[cfg(all(fuzzing, feature = "durable"))]
    pub use crate::events::open_any_segment;
    pub use crate::{
        frame::{FrameBuffer, FrameError, encode as encode_frame},
        message::{AckEvents, validate_body, validate_item},
    };
}

/// The examples of the README and of the pages in `docs/` are tested like any others.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;

    #[doc = include_str!("../docs/certificates.md")]
    struct Certificates;

    #[doc = include_str!("../docs/events.md")]
    struct Events;

    #[doc = include_str!("../docs/executors.md")]
    struct Executors;

    #[doc = include_str!("../docs/items.md")]
    struct Items;

    #[doc = include_str!("../docs/limits.md")]
    struct Limits;

    #[doc = include_str!("../docs/payloads.md")]
    struct Payloads;
}
