//! How a node of the tokio implementation answers requests.

use serde_json::{Map, Value, json};

use crate::common::frame;

/// The number of events in its log, which never grows.
pub(crate) const EVENTS: u64 = 5;

/// The frames that it sends for the body of a request. It looks at the first frame of a stream alone, and
/// neither reads the rest nor waits for its end.
pub(crate) fn answer(request: &[u8]) -> Vec<u8> {
    let Some(Request { protocol_version, method, resume_from }) = Request::read(request) else {
        return error("invalid_request");
    };
    match &*method {
        _ if protocol_version != 1 => error("protocol_mismatch"),
        "node.health" => response(json!({"kind": "health", "ok": true, "node_rpc_mtls_required": true})),
        // No payloads, no epochs, and always the end behind the last event.
        "node.stream_events" => (resume_from.saturating_add(1)..=EVENTS)
            .flat_map(|seq| response(json!({"kind": "event", "ok": true, "seq": seq})))
            .collect(),
        _ => error("unsupported_method"),
    }
}

struct Request {
    protocol_version: u16,
    method: String,
    resume_from: u64,
}

impl Request {
    /// `None` for anything that is not in JSON, or has a field beside these three.
    fn read(body: &[u8]) -> Option<Self> {
        let mut fields: Map<String, Value> = serde_json::from_slice(body).ok()?;
        let protocol_version = fields.remove("protocol_version")?.as_u64()?.try_into().ok()?;
        let method = fields.remove("method")?.as_str()?.to_owned();
        let resume_from = match fields.remove("resume_from") {
            None | Some(Value::Null) => 0,
            Some(seq) => seq.as_u64()?,
        };
        fields.is_empty().then_some(Self { protocol_version, method, resume_from })
    }
}

fn error(name: &str) -> Vec<u8> {
    response(json!({"kind": "error", "ok": false, "error": name}))
}

fn response(mut fields: Value) -> Vec<u8> {
    fields["protocol_version"] = 1.into();
    frame(fields.to_string().as_bytes())
}
