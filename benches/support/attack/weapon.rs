//! quinn's client with packets that say something else than quinn wanted.
//!
//! Between quinn and rustls sits a session that passes everything on, but for two things: packets of the
//! established connection that are large get other frames just before they are encrypted, and the server's
//! flow control limits are not believed.

use std::{
    any::Any,
    collections::VecDeque,
    io::Cursor,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::BytesMut;
use palyra_quic::quinn::crypto::rustls::QuicClientConfig;
use quinn_proto::{
    ConnectError, ConnectionId, Side, TransportError,
    crypto::{
        ClientConfig, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
    },
    transport_parameters::TransportParameters,
};

/// What fits each packet that quinn fills.
pub(super) const ROOM: usize = 1000;
/// What a packet says that has nothing to say.
const PING: u8 = 0x01;

/// The frames that go into the next large packets, in the place of quinn's.
#[derive(Clone, Default)]
pub(super) struct Weapon(Arc<Mutex<Magazine>>);

#[derive(Default)]
struct Magazine {
    loads: VecDeque<Vec<u8>>,
    in_use: bool,
}

impl Weapon {
    /// At most [`ROOM`] bytes.
    pub(super) fn load(&self, frames: Vec<u8>) {
        let mut magazine = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        magazine.in_use = true;
        magazine.loads.push_back(frames);
    }

    pub(super) fn loaded(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).loads.len()
    }

    /// What follows the frames is padding, which is zero. Once there was a first load, nothing of quinn's
    /// goes out any more: it would be beyond limits that the server takes seriously.
    fn fire(&self, payload: &mut [u8]) {
        let mut magazine = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !magazine.in_use {
            return;
        }
        payload.fill(0);
        let load = if payload.len() < ROOM { None } else { magazine.loads.pop_front() };
        match load {
            Some(frames) => payload[..frames.len()].copy_from_slice(&frames),
            None => payload[0] = PING,
        }
    }
}

/// A STREAM frame of one byte.
pub(super) fn stream_byte(id: u64, offset: u64, byte: u8) -> Vec<u8> {
    let mut frame = vec![0x0e]; // With offset and length.
    put_varint(&mut frame, id);
    put_varint(&mut frame, offset);
    frame.extend([1, byte]);
    frame
}

fn put_varint(out: &mut Vec<u8>, value: u64) {
    let bytes = value.to_be_bytes();
    match value {
        0..0x40 => out.push(bytes[7]),
        0x40..0x4000 => out.extend([bytes[6] | 0x40, bytes[7]]),
        0x4000..0x4000_0000 => out.extend([bytes[4] | 0x80, bytes[5], bytes[6], bytes[7]]),
        _ => out.extend([
            bytes[0] | 0xc0,
            bytes[1],
            bytes[2],
            bytes[3],
            bytes[4],
            bytes[5],
            bytes[6],
            bytes[7],
        ]),
    }
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let length = 1 << (bytes.first()? >> 6);
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    let first = u64::from(taken[0] & 0x3f);
    Some(taken[1..].iter().fold(first, |value, &byte| value << 8 | u64::from(byte)))
}

/// The same parameters without the limits of flow control (`initial_max_data`, `initial_max_stream_data_*`).
fn without_limits(parameters: &TransportParameters) -> Option<TransportParameters> {
    let mut written = Vec::new();
    parameters.write(&mut written);
    let (mut rest, mut changed) = (&written[..], Vec::new());
    while !rest.is_empty() {
        let (id, length) = (take_varint(&mut rest)?, take_varint(&mut rest)?);
        let (value, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        rest = after;
        put_varint(&mut changed, id);
        if (0x04..=0x07).contains(&id) {
            changed.push(8);
            put_varint(&mut changed, 1 << 40);
        } else {
            put_varint(&mut changed, length);
            changed.extend_from_slice(value);
        }
    }
    TransportParameters::read(Side::Client, &mut Cursor::new(changed)).ok()
}

/// Makes such sessions.
pub(super) struct Armed {
    pub(super) inner: Arc<QuicClientConfig>,
    pub(super) weapon: Weapon,
}

impl ClientConfig for Armed {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let inner = Arc::clone(&self.inner).start_session(version, server_name, params)?;
        Ok(Box::new(ArmedSession { inner, weapon: self.weapon.clone(), keys: 0 }))
    }
}

struct ArmedSession {
    inner: Box<dyn Session>,
    weapon: Weapon,
    /// How many sets of keys there have been: the first is for the handshake, the second for what follows.
    keys: u8,
}

impl ArmedSession {
    fn arm(&self, inner: Box<dyn PacketKey>) -> Box<dyn PacketKey> {
        Box::new(ArmedKey { inner, weapon: self.weapon.clone() })
    }
}

impl Session for ArmedSession {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.inner.read_handshake(buf)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let parameters = self.inner.transport_parameters()?;
        Ok(parameters.map(|parameters| without_limits(&parameters).unwrap_or(parameters)))
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let mut keys = self.inner.write_handshake(buf)?;
        self.keys += 1;
        if self.keys == 2 {
            keys.packet.local = self.arm(keys.packet.local);
        }
        Some(keys)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let KeyPair { local, remote } = self.inner.next_1rtt_keys()?;
        Some(KeyPair { local: self.arm(local), remote })
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

struct ArmedKey {
    inner: Box<dyn PacketKey>,
    weapon: Weapon,
}

impl PacketKey for ArmedKey {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let end = buf.len() - self.tag_len();
        self.weapon.fire(&mut buf[header_len..end]);
        self.inner.encrypt(packet, buf, header_len);
    }

    fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        self.inner.decrypt(packet, header, payload)
    }

    fn tag_len(&self) -> usize {
        self.inner.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.inner.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.inner.integrity_limit()
    }
}
