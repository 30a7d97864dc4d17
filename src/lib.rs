//! Node-to-node links over QUIC for programs without tokio.
mod admission;
#[cfg(feature = "cert")]
mod cert;
mod client;
mod code;
mod connection;
mod endpoint;
mod error;
mod events;
mod fallback;
mod frame;
mod limits;
mod message;
mod router;
mod runtime;
mod server;
mod stream;
mod tls;
mod value;

#[cfg(feature = "cert")]
pub use self::cert::{CertificateAuthority, Issued};
#[cfg(feature = "json")]
pub use self::message::JsonError;
pub use self::{
    client::{Call, EventItem, Events, EventsRequest, Health, Notifier, Responses},
    code::{Code, CodeClass},
    connection::Connection,
    endpoint::{Endpoint, EndpointBuilder},
    error::{Error, ErrorKind, Result},
    events::{EventLog, EventLogBuilder},
    fallback::{FallbackPolicy, FallbackReason, FallbackRequired, PathPrivilege},
    limits::{TransportLimits, TransportLimitsBuilder},
    message::{
        CborError, Codec, MAX_NESTING, MessageError, Notification, PROTOCOL_VERSION, Request, Response,
        WireError,
    },
    router::{Context, MethodError, ResponseSink, Router},
    runtime::AsyncIoRuntime,
    tls::{ALPN, ClientAuth, ClientTls, Fingerprint, Identity, PeerIdentity, Pin, ServerTls, Trust},
};
/// The vocabulary of others that this crate's interface speaks.
pub use {bytes::Bytes, minicbor, quinn, rustls};

/// For the fuzz targets; not part of the interface.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::{
        frame::{FrameBuffer, FrameError},
        message::{validate_body, validate_item},
    };
}
