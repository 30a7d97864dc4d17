//! TLS that takes no handshake message larger than the limits allow.
//!
//! quinn bounds what it holds behind a packet that was lost, and hands everything else to rustls, which
//! collects up to 65,535 bytes of a message before it looks at it. Here a message is refused by the length
//! that it announces, and a chain that is too large gets the same transport code wherever it was found.

use std::{any::Any, sync::Arc};

use quinn::{
    ConnectError, Side,
    crypto::{self, rustls::QuicClientConfig, rustls::QuicServerConfig},
};
use quinn_proto::{
    ConnectionId, TransportError, TransportErrorCode, transport_parameters::TransportParameters,
};
use rustls::AlertDescription as Alert;

use super::report::HandshakeReport;
use crate::limits::{ChainLimit, Oversized};

/// A configuration of rustls for one connection.
pub(crate) struct SizeLimited<C> {
    inner: Arc<C>,
    limit: ChainLimit,
    report: HandshakeReport,
}

impl<C> SizeLimited<C> {
    pub(super) fn new(inner: C, limit: ChainLimit, report: &HandshakeReport) -> Arc<Self> {
        report.set_chain_limit(limit);
        Arc::new(Self { inner: Arc::new(inner), limit, report: report.clone() })
    }

    fn session(&self, inner: Box<dyn crypto::Session>, side: Side) -> Box<dyn crypto::Session> {
        let (limit, report) = (self.limit, self.report.clone());
        Box::new(Session { inner, side, messages: Messages::default(), limit, report })
    }
}

impl crypto::ServerConfig for SizeLimited<QuicServerConfig> {
    fn initial_keys(
        &self,
        version: u32,
        dst_cid: &ConnectionId,
    ) -> Result<crypto::Keys, crypto::UnsupportedVersion> {
        self.inner.initial_keys(version, dst_cid)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.inner.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        params: &TransportParameters,
    ) -> Box<dyn crypto::Session> {
        self.session(Arc::clone(&self.inner).start_session(version, params), Side::Server)
    }
}

impl crypto::ClientConfig for SizeLimited<QuicClientConfig> {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn crypto::Session>, ConnectError> {
        let session = Arc::clone(&self.inner).start_session(version, server_name, params)?;
        Ok(self.session(session, Side::Client))
    }
}

struct Session {
    inner: Box<dyn crypto::Session>,
    side: Side,
    messages: Messages,
    limit: ChainLimit,
    report: HandshakeReport,
}

impl Session {
    fn check(&mut self, bytes: &[u8]) -> Result<(), TransportError> {
        // A client sends none after its handshake but KeyUpdate, which QUIC forbids (RFC 9001, section 6).
        if self.side == Side::Server && !self.inner.is_handshaking() {
            return Err(TransportError {
                code: TransportErrorCode::crypto(Alert::UnexpectedMessage.into()),
                frame: None,
                reason: "a handshake message after the handshake".into(),
            });
        }
        // A server may send tickets, which rustls bounds.
        if self.side == Side::Client && !self.inner.is_handshaking() {
            return Ok(());
        }
        let (side, limit) = (self.side, self.limit);
        match self.messages.read(bytes, |Header { kind, len }| len > largest_message(side, kind, limit)) {
            Some(Header { len, .. }) => {
                let oversized = Oversized::Message { bytes: len, limit };
                self.report.record_oversized(oversized);
                Err(too_large(oversized))
            }
            None => Ok(()),
        }
    }
}

fn largest_message(reader: Side, kind: u8, limit: ChainLimit) -> u32 {
    match (reader, kind) {
        // Nodes of earlier versions name all their authorities. rustls bounds it.
        (Side::Client, CERTIFICATE_REQUEST) => u32::MAX,
        _ => limit.flight_bytes(),
    }
}

/// The same code wherever a chain was found to be too large.
fn too_large(oversized: Oversized) -> TransportError {
    TransportError {
        code: TransportErrorCode::CRYPTO_BUFFER_EXCEEDED,
        frame: None,
        reason: oversized.to_string(),
    }
}

impl crypto::Session for Session {
    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.check(buf)?;
        // The verifier of rustls can choose no code but that of an alert.
        let read = self.inner.read_handshake(buf);
        read.map_err(|error| self.report.oversized().map_or(error, too_large))
    }

    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> crypto::Keys {
        self.inner.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn crypto::HeaderKey>, Box<dyn crypto::PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<crypto::Keys> {
        self.inner.write_handshake(buf)
    }

    fn next_1rtt_keys(&mut self) -> Option<crypto::KeyPair<Box<dyn crypto::PacketKey>>> {
        self.inner.next_1rtt_keys()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), crypto::ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

/// [RFC 8446, section 4](https://www.rfc-editor.org/rfc/rfc8446#section-4).
const CERTIFICATE_REQUEST: u8 = 13;

/// What a handshake message begins with: its type, and the length of what follows in three bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    kind: u8,
    len: u32,
}

/// Where handshake messages begin and end, in bytes that arrive in any pieces.
#[derive(Debug, Default)]
struct Messages {
    /// Of the header that is being read.
    header: Vec<u8>,
    /// Of the message whose header was read, still to come.
    left: usize,
}

impl Messages {
    /// The first message that begins in these bytes and is refused.
    fn read(&mut self, mut bytes: &[u8], refuse: impl Fn(Header) -> bool) -> Option<Header> {
        while !bytes.is_empty() {
            let (skipped, rest) = bytes.split_at(self.left.min(bytes.len()));
            self.left -= skipped.len();
            let Some((first, rest)) = rest.split_first() else { break };
            bytes = rest;
            self.header.push(*first);
            if let [kind, a, b, c] = *self.header {
                let header = Header { kind, len: u32::from_be_bytes([0, a, b, c]) };
                self.header.clear();
                self.left = usize::try_from(header.len).unwrap_or(usize::MAX);
                if refuse(header) {
                    return Some(header);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, len: usize) -> Vec<u8> {
        let length = u32::try_from(len).unwrap().to_be_bytes();
        [&[kind], &length[1..], &vec![0xff; len]].concat()
    }

    #[test]
    fn messages_are_told_apart_in_whatever_pieces_they_arrive() {
        let bytes =
            [message(8, 0), message(13, 300), message(11, 70_000), message(15, 1), message(20, 32)].concat();
        for piece in [1, 2, 3, 5, 1_200, bytes.len()] {
            let (mut messages, seen) = (Messages::default(), std::cell::RefCell::default());
            for piece in bytes.chunks(piece) {
                let note = |header| {
                    Vec::push(&mut seen.borrow_mut(), header);
                    false
                };
                assert_eq!(messages.read(piece, note), None);
            }
            let seen: Vec<_> = seen.take().into_iter().map(|Header { kind, len }| (kind, len)).collect();
            assert_eq!(seen, [(8, 0), (13, 300), (11, 70_000), (15, 1), (20, 32)], "{piece}");
        }
    }

    #[test]
    fn a_message_is_refused_by_its_header() {
        let mut messages = Messages::default();
        let header = &message(11, 70_000)[..4];
        assert_eq!(messages.read(header, |header| header.len > 70_000), None);
        let mut messages = Messages::default();
        let refused = messages.read(header, |header| header.len > 69_999);
        assert_eq!(refused, Some(Header { kind: 11, len: 70_000 }));
    }

    #[cfg(feature = "cert")]
    #[test]
    fn a_client_sends_no_handshake_message_after_its_handshake() {
        use crate::{
            cert::CertificateAuthority,
            tls::{ClientTls, ServerTls, TlsContext},
        };

        let (context, ca) = (TlsContext::default(), CertificateAuthority::new("ca").unwrap());
        let server = ServerTls::new(ca.issue_server(&[]).unwrap().identity());
        let server = server.quic_config(&context, &HandshakeReport::default()).unwrap();
        let client = ClientTls::new(ca.trust()).quic_config(&context, &HandshakeReport::default()).unwrap();
        let params = TransportParameters::read(Side::Client, &mut &[][..]).unwrap();
        let mut server = server.start_session(QUIC_V1, &params);
        let mut client = client.start_session(QUIC_V1, "localhost", &params).unwrap();
        while server.is_handshaking() {
            talk(&mut *client, &mut *server);
            talk(&mut *server, &mut *client);
        }
        let error = server.read_handshake(&[24]).unwrap_err();
        assert_eq!(error.code, TransportErrorCode::crypto(10));
        // Of 20,481 bytes: those of some servers hold the client's chain.
        assert!(client.read_handshake(&[4, 0, 0x50, 0x01]).is_ok(), "a server may send tickets");
    }

    #[cfg(feature = "cert")]
    const QUIC_V1: u32 = 1;

    /// All that one side has to say at the moment, at one level after the other.
    #[cfg(feature = "cert")]
    fn talk(from: &mut dyn crypto::Session, to: &mut dyn crypto::Session) {
        loop {
            let mut bytes = Vec::new();
            if from.write_handshake(&mut bytes).is_none() && bytes.is_empty() {
                return;
            }
            assert!(bytes.is_empty() || to.read_handshake(&bytes).is_ok());
        }
    }
}
