//! The fields that a message consists of, whatever its encoding.

use std::fmt;

use super::trace::TraceContext;
use crate::protocol::PROTOCOL_VERSION;

/// The key of the trace context. Only CBOR has it.
pub(super) const TRACE_KEY: u64 = 16;

/// A message, as a list of fields.
pub(super) trait Message {
    /// Writes the fields, in ascending order of their keys.
    fn write(&self, fields: &mut impl FieldWriter);
}

/// Where a message writes its fields: each by its key in CBOR and its name in JSON.
pub(super) trait FieldWriter {
    fn uint(&mut self, key: u8, name: &'static str, value: u64);
    fn bool(&mut self, key: u8, name: &'static str, value: bool);
    fn text(&mut self, key: u8, name: &'static str, value: &str);
    fn bytes(&mut self, key: u8, name: &'static str, value: &[u8]);

    /// The trace context, which JSON leaves out.
    fn trace(&mut self, trace: &TraceContext);

    /// A field without a value. Left out, but where the reference implementation writes `null`.
    fn absent(&mut self, _name: &'static str) {}

    fn optional_uint(&mut self, key: u8, name: &'static str, value: Option<u64>) {
        if let Some(value) = value {
            self.uint(key, name, value);
        }
    }

    fn optional_bytes(&mut self, key: u8, name: &'static str, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.bytes(key, name, value);
        }
    }
}

/// The `Debug` of a message: its fields as on the wire, and of byte strings the length alone, because
/// what an application sends is not for logs.
impl FieldWriter for fmt::DebugStruct<'_, '_> {
    fn uint(&mut self, _key: u8, name: &'static str, value: u64) {
        self.field(name, &value);
    }

    fn bool(&mut self, _key: u8, name: &'static str, value: bool) {
        self.field(name, &value);
    }

    fn text(&mut self, _key: u8, name: &'static str, value: &str) {
        self.field(name, &value);
    }

    fn bytes(&mut self, _key: u8, name: &'static str, value: &[u8]) {
        self.field(name, &format_args!("{} bytes", value.len()));
    }

    fn trace(&mut self, trace: &TraceContext) {
        self.field("trace", &format_args!("{trace}"));
    }
}

pub(super) fn debug(name: &str, message: &impl Message, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut fields = f.debug_struct(name);
    message.write(&mut fields);
    fields.finish()
}

/// The three fields that open each response.
#[inline]
pub(super) fn write_response_head(fields: &mut impl FieldWriter, kind: &str, ok: bool) {
    fields.uint(0, "protocol_version", u64::from(PROTOCOL_VERSION));
    fields.text(1, "kind", kind);
    fields.bool(2, "ok", ok);
}
