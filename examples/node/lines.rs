//! Lines of JSON on standard output, with the field names of the protocol.

use std::{
    io::{self, ErrorKind, Write},
    net::SocketAddr,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use palyra_quic::{
    Bytes, Error, EventItem, Gap, Health, MAX_NESTING, Response, SubscriptionItem,
    minicbor::{Decoder, data::Type},
};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::failure::{Failure, is_control};

/// Prints one line and flushes it, so that the reader of a pipe receives it immediately.
pub(crate) fn print(line: &impl Serialize) -> Result<(), Failure> {
    let mut text = escape_controls(&serde_json::to_string(line).map_err(Failure::new)?);
    text.push('\n');
    write(&text)
}

/// Writes text that has no control characters but line ends, and flushes it.
pub(crate) fn write(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::ReaderGone,
        _ => Failure::new(error).during("cannot write to standard output"),
    })
}

/// Escapes control characters. JSON allows most of them in strings, but a terminal would obey them. They
/// only occur in strings.
fn escape_controls(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len() + 1);
    for char in json.chars() {
        if is_control(char) {
            escaped.push_str(&format!("\\u{:04x}", u32::from(char)));
        } else {
            escaped.push(char);
        }
    }
    escaped
}

/// The node is ready.
#[derive(Serialize)]
pub(crate) struct Listening {
    pub(crate) listening: SocketAddr,
}

/// A certificate in the PKI directory.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Certificate {
    Wrote(String),
    Kept(String),
}

/// What a certificate can be pinned by.
#[derive(Serialize)]
pub(crate) struct Fingerprinted {
    #[serde(flatten)]
    pub(crate) certificate: Certificate,
    pub(crate) fingerprint: String,
}

/// How far a transfer is.
#[derive(Serialize)]
pub(crate) struct Moved {
    pub(crate) kind: &'static str,
    pub(crate) bytes: u64,
    pub(crate) size: u64,
}

/// A file that is complete.
#[derive(Serialize)]
pub(crate) struct Transferred {
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    pub(crate) size: u64,
    /// How many of its bytes were transferred now, and not by an earlier transfer that broke off.
    pub(crate) transferred: u64,
    pub(crate) blake3: String,
}

/// What a node answers.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Answer {
    Health {
        ok: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        node_rpc_mtls_required: Option<bool>,
        /// What the payload says, where it is a map.
        #[serde(skip_serializing_if = "Option::is_none")]
        node: Option<Map<String, Value>>,
        #[serde(flatten)]
        payload: Payload,
    },
    Result {
        #[serde(flatten)]
        payload: Payload,
    },
    Event {
        seq: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        epoch: Option<u64>,
        #[serde(flatten)]
        payload: Payload,
    },
    Gap {
        first_seq: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        missed: Option<u64>,
        epoch: u64,
    },
    Heartbeat {
        seq: u64,
        epoch: u64,
    },
}

/// Text as `payload`, other bytes as `payload_base64`.
#[derive(Default, Serialize)]
pub(crate) struct Payload {
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

impl Answer {
    /// `None` for kinds that this version does not know.
    pub(crate) fn from_response(response: Response) -> Option<Self> {
        Some(match response {
            Response::Health { ok, node_rpc_mtls_required, payload, .. } => {
                Self::about_health(ok, node_rpc_mtls_required, payload)
            }
            Response::Result { payload, .. } => Self::Result { payload: payload.into() },
            Response::Event { seq, epoch, payload, .. } => {
                Self::Event { seq, epoch, payload: payload.into() }
            }
            Response::Gap { first_seq, epoch, missed, .. } => Self::Gap { first_seq, missed, epoch },
            Response::Heartbeat { seq, epoch, .. } => Self::Heartbeat { seq, epoch },
            _ => return None,
        })
    }

    pub(crate) fn from_item(item: EventItem) -> Self {
        match item {
            EventItem::Event { seq, epoch, payload } => {
                Self::Event { seq, epoch, payload: Some(payload).into() }
            }
            EventItem::Gap(gap) => Self::about_gap(gap),
        }
    }

    /// An error is the reason why the subscription has no connection; `None` means that it has one.
    pub(crate) fn from_subscription(item: SubscriptionItem) -> Result<Option<Self>, Error> {
        match item {
            SubscriptionItem::Event { seq, epoch, payload } => {
                Ok(Some(Self::from_item(EventItem::Event { seq, epoch, payload })))
            }
            SubscriptionItem::Gap(gap) => Ok(Some(Self::about_gap(gap))),
            SubscriptionItem::Connected { .. } => Ok(None),
            SubscriptionItem::Disconnected { error } => Err(error),
        }
    }

    fn about_gap(gap: Gap) -> Self {
        Self::Gap { first_seq: gap.next_seq, missed: gap.missed, epoch: gap.epoch }
    }

    pub(crate) fn from_health(health: Health) -> Self {
        let Health { ok, node_rpc_mtls_required, payload, .. } = health;
        Self::about_health(ok, node_rpc_mtls_required, payload)
    }

    fn about_health(ok: bool, node_rpc_mtls_required: Option<bool>, payload: Option<Bytes>) -> Self {
        let node = payload.as_deref().and_then(cbor_map);
        let payload = if node.is_some() { Payload::default() } else { payload.into() };
        Self::Health { ok, node_rpc_mtls_required, node, payload }
    }
}

impl From<Option<Bytes>> for Payload {
    fn from(payload: Option<Bytes>) -> Self {
        match payload.map(|bytes| String::from_utf8(bytes.into())) {
            None => Self::default(),
            Some(Ok(text)) => Self { payload: Some(text), payload_base64: None },
            Some(Err(other)) => {
                Self { payload: None, payload_base64: Some(STANDARD.encode(other.as_bytes())) }
            }
        }
    }
}

/// Parses a health payload: one CBOR map with text keys.
fn cbor_map(payload: &[u8]) -> Option<Map<String, Value>> {
    let mut decoder = Decoder::new(payload);
    match json(&mut decoder, MAX_NESTING)? {
        Value::Object(map) if decoder.position() == payload.len() => Some(map),
        _ => None,
    }
}

/// The next item as JSON: bytes in base64, and `null` for types that JSON does not have.
fn json(decoder: &mut Decoder<'_>, levels: usize) -> Option<Value> {
    let levels = levels.checked_sub(1)?;
    Some(match decoder.datatype().ok()? {
        Type::String => decoder.str().ok()?.into(),
        Type::Bytes => STANDARD.encode(decoder.bytes().ok()?).into(),
        Type::Bool => decoder.bool().ok()?.into(),
        Type::U8 | Type::U16 | Type::U32 | Type::U64 => decoder.u64().ok()?.into(),
        Type::I8 | Type::I16 | Type::I32 | Type::I64 => decoder.i64().ok()?.into(),
        Type::F32 | Type::F64 => decoder.f64().ok()?.into(),
        Type::Array => {
            (0..decoder.array().ok()??).map(|_| json(decoder, levels)).collect::<Option<Vec<_>>>()?.into()
        }
        Type::Map => {
            let entries = (0..decoder.map().ok()??).map(|_| {
                let key = decoder.str().ok()?.to_owned();
                Some((key, json(decoder, levels)?))
            });
            Value::Object(entries.collect::<Option<_>>()?)
        }
        _ => {
            decoder.skip().ok()?;
            Value::Null
        }
    })
}
