//! Whole handshakes between the two configurations, in memory and without encryption, so that what
//! each side writes can be looked at.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use quinn::{ConnectionClose, ConnectionError, TransportErrorCode};
use quinn_proto::TransportError;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    quic::{ClientConnection, Connection, ServerConnection, Version},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{
    ALPN, ClientTls, HandshakeReport, Identity, Pin, ServerTls, TlsContext, classify, protocol::VERSIONS,
    provider::provider,
};
use crate::{
    cert::{CertificateAuthority, IssuedCertificate},
    error::{Error, ErrorKind, Result},
};

mod algorithms;
mod certificates;
mod pins;
mod versions;

/// How a handshake went, for either side.
struct Outcome {
    client: Result<()>,
    server: Result<()>,
    /// All that the client wrote: a certificate shows up in here as it is.
    from_client: Vec<u8>,
    from_server_afterwards: Vec<u8>,
    connections: (Connection, Connection),
}

impl Outcome {
    fn assert_done(&self) {
        assert!(self.client.is_ok() && self.server.is_ok(), "{:?}, {:?}", self.client, self.server);
        let (client, server) = &self.connections;
        for side in [client, server] {
            assert!(!side.is_handshaking());
            assert_eq!(side.alpn_protocol(), Some(ALPN));
        }
    }

    fn kinds(&self) -> (Option<&ErrorKind>, Option<&ErrorKind>) {
        (self.client.as_ref().err().map(Error::kind), self.server.as_ref().err().map(Error::kind))
    }

    fn assert_kinds(&self, client: ErrorKind, server: ErrorKind, case: &str) {
        assert_eq!(self.kinds(), (Some(&client), Some(&server)), "{case}");
    }

    fn client_showed(&self, certificate: &CertificateDer<'_>) -> bool {
        self.from_client.windows(certificate.len()).any(|bytes| bytes == certificate.as_ref())
    }
}

fn handshake(client: &ClientTls, server: &ServerTls) -> Outcome {
    handshake_with("localhost", client, server)
}

/// With the server of this name.
fn handshake_with(name: &str, client: &ClientTls, server: &ServerTls) -> Outcome {
    let report = HandshakeReport::default();
    let server_report = HandshakeReport::default();
    let client = client.config(&TlsContext::default(), &report).unwrap();
    let server = server.config(&TlsContext::default(), &server_report).unwrap();
    handshake_reporting(client, name, [&report, &server_report], server)
}

fn handshake_between(
    client: ClientConfig,
    name: &str,
    report: &HandshakeReport,
    server: ServerConfig,
) -> Outcome {
    handshake_reporting(client, name, [report, &HandshakeReport::default()], server)
}

fn handshake_reporting(
    client: ClientConfig,
    name: &str,
    [report, server_report]: [&HandshakeReport; 2],
    server: ServerConfig,
) -> Outcome {
    let name = ServerName::try_from(name).unwrap().to_owned();
    let client = ClientConnection::new(Arc::new(client), Version::V1, name, Vec::new()).unwrap();
    let server = ServerConnection::new(Arc::new(server), Version::V1, Vec::new()).unwrap();
    let (mut client, mut server) = (Connection::Client(client), Connection::Server(server));
    let (mut from_client, mut from_server_afterwards) = (Vec::new(), Vec::new());
    let (client_result, server_result) = loop {
        let to_server = written(&mut client);
        from_client.extend(to_server.concat());
        if let Err((here, there)) = read(&mut server, &to_server) {
            break (Err(classify(&there, Some(report))), Err(classify(&here, Some(server_report))));
        }
        let to_client = written(&mut server);
        if !server.is_handshaking() {
            from_server_afterwards.extend(to_client.concat());
        }
        if let Err((here, there)) = read(&mut client, &to_client) {
            break (Err(classify(&here, Some(report))), Err(classify(&there, Some(server_report))));
        }
        if to_server.concat().is_empty() && to_client.concat().is_empty() {
            break (Ok(()), Ok(()));
        }
    };
    from_client.extend(written(&mut client).concat());
    Outcome {
        client: client_result,
        server: server_result,
        from_client,
        from_server_afterwards,
        connections: (client, server),
    }
}

/// What a side has to send, cut where the keys change, as the packets would be.
fn written(side: &mut Connection) -> Vec<Vec<u8>> {
    let mut flights = Vec::new();
    loop {
        let mut flight = Vec::new();
        let key_change = side.write_hs(&mut flight);
        flights.push(flight);
        if key_change.is_none() {
            return flights;
        }
    }
}

/// A failure comes back as quinn would report it here and at the other end.
fn read(side: &mut Connection, flights: &[Vec<u8>]) -> Result<(), (ConnectionError, ConnectionError)> {
    for flight in flights {
        side.read_hs(flight).map_err(|error| {
            let alert = side.alert().expect("every refusal has an alert");
            let code = TransportErrorCode::crypto(alert.into());
            let here = TransportError { code, frame: None, reason: error.to_string() };
            let there =
                ConnectionClose { error_code: code, frame_type: None, reason: error.to_string().into() };
            (here.into(), ConnectionError::ConnectionClosed(there))
        })?;
    }
    Ok(())
}

fn authority() -> CertificateAuthority {
    CertificateAuthority::new("ca").unwrap()
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn expired(ca: &CertificateAuthority) -> CertificateAuthority {
    let now = SystemTime::now();
    ca.clone().valid(now - 2 * DAY, now - DAY).unwrap()
}

fn not_yet_valid(ca: &CertificateAuthority) -> CertificateAuthority {
    let now = SystemTime::now();
    ca.clone().valid(now + DAY, now + 2 * DAY).unwrap()
}

fn self_signed() -> Identity {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Identity::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
}

fn authority_as_a_node(ca: &CertificateAuthority) -> Identity {
    Identity::from_pem(ca.cert_pem().as_bytes(), ca.key_pem().as_bytes()).unwrap()
}
