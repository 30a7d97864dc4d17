//! From an address to a connection that both sides agree on.

use std::{io, net::SocketAddr, sync::Arc};

use quinn::{ClientConfig, ConnectError, ConnectionError, TransportConfig};
use rustls::pki_types::ServerName;

use crate::{
    admission::Admission,
    close_state::CloseState,
    code::Code,
    drain::Drain,
    error::{Error, ErrorKind, Result},
    limits::TransportLimits,
    link::Link,
    quinn_compat::handshake_confirmed,
    runtime::{Clock, Elapsed, runtime_is_gone},
    socket::SocketHealth,
    tls::{HandshakeReport, Security, classify, no_time},
};

/// What dialling needs of an endpoint.
#[derive(Debug)]
pub(crate) struct Dialler<'a> {
    pub(crate) endpoint: &'a quinn::Endpoint,
    pub(crate) clock: &'a Clock,
    pub(crate) limits: &'a Arc<TransportLimits>,
    pub(crate) transport: Arc<TransportConfig>,
    pub(crate) admission: &'a Admission,
    pub(crate) drain: &'a Arc<Drain>,
    pub(crate) socket: &'a Arc<SocketHealth>,
    pub(crate) close_state: &'a Arc<CloseState>,
    pub(crate) until: HandshakeProgress,
}

/// How far a handshake has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandshakeProgress {
    /// On this side ([RFC 9001, section 4.1.1](https://www.rfc-editor.org/rfc/rfc9001#section-4.1.1)): the
    /// server is verified.
    Complete,
    /// On both ([section 4.1.2](https://www.rfc-editor.org/rfc/rfc9001#section-4.1.2)): it has accepted
    /// this side's certificate, too.
    Confirmed,
}

/// Connects, and waits until the handshake has come as far as it is to.
pub(crate) async fn dial(
    dialler: Dialler<'_>,
    security: &Security,
    address: SocketAddr,
    server_name: &ServerName<'static>,
) -> Result<Link> {
    let Dialler { endpoint, clock, limits, transport, admission, drain, socket, close_state, until } =
        dialler;
    let report = HandshakeReport::default();
    let present = security.present();
    let Some(tls) = &present.client else {
        return Err(Error::invalid_config("the endpoint was built without client TLS"));
    };
    if security.wall_clock().now().is_none() {
        return Err(no_time());
    }
    let crypto = tls.quic_config(security.context(), &report)?;
    let mut config = ClientConfig::new(crypto);
    config.transport_config(transport);
    let sending = socket.watch(address);
    let _dialling = admission.dialling();
    let connecting = endpoint.connect_with(config, address, &server_name.to_str()).map_err(connect_error)?;
    let handshake = async {
        let connection = connecting.await?;
        if until == HandshakeProgress::Confirmed {
            handshake_confirmed(&connection, clock).await?;
        }
        Ok(connection)
    };
    let deadline = clock.deadline(limits.handshake_timeout());
    let timed_out = || no_answer(sending.take_error());
    match clock.timeout_at(Some(deadline), handshake).await {
        Ok(Ok(connection)) => {
            let close_state = Arc::clone(close_state);
            let (clock, limits, path) = (clock.clone(), Arc::clone(limits), report.take_path());
            let link = Link::new(connection, drain, clock, limits, close_state, path, |peer, address| {
                admission.dialled(peer, address)
            });
            report
                .check_full_handshake()
                .inspect_err(|_| link.close(Code::IDENTITY_REJECTED, "unverified"))?;
            Ok(link)
        }
        Ok(Err(ConnectionError::TimedOut)) => Err(timed_out()),
        Ok(Err(ConnectionError::LocallyClosed)) if close_state.has_ended() => {
            Err(close_state.error().unwrap_or_else(|| Error::new(ErrorKind::Closed)))
        }
        Ok(Err(error)) => Err(classify(&error, Some(&report))),
        Err(Elapsed) if clock.is_runtime_dropped() => Err(runtime_is_gone()),
        Err(Elapsed) => Err(timed_out()),
    }
}

/// The error of a handshake without an answer, with why the latest datagram was not sent, if it was not: in
/// the text as well as in the source, since it says whether to look at the peer or at this side.
fn no_answer(not_sent: Option<io::Error>) -> Error {
    let error = Error::new(ErrorKind::HandshakeTimeout);
    match not_sent {
        Some(cause) => {
            error.detail(format!("no answer; the latest datagram was not sent: {cause}")).caused_by(cause)
        }
        None => error.detail("no answer"),
    }
}

fn connect_error(error: ConnectError) -> Error {
    match error {
        ConnectError::EndpointStopping => Error::new(ErrorKind::Closed).detail("the endpoint is closed"),
        error => Error::invalid_config("cannot connect").caused_by(error),
    }
}
