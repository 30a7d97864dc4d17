//! JSON bodies: one object, for nodes of the tokio implementation.

use std::fmt;

use base64::{Engine, display::Base64Display, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::error::Category;

use super::{JsonError, MAX_NESTING, MessageError, fields::FieldWriter, trace::TraceContext};

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        match error.classify() {
            Category::Eof => Self::Truncated,
            Category::Data => Self::Field { line, column },
            Category::Syntax | Category::Io => Self::Malformed { line, column },
        }
    }
}

/// Reads the fields of a body.
pub(super) fn decode<F: DeserializeOwned>(body: &[u8]) -> Result<F, MessageError> {
    // All of it, because serde_json does not look at the text that it skips.
    let text = std::str::from_utf8(body).map_err(|_| JsonError::Utf8)?;
    check_nesting(body)?;
    Ok(serde_json::from_str(text).map_err(JsonError::from)?)
}

/// Counts the levels that are open. The count may be wrong in a body that is not JSON, which is refused
/// anyway.
fn check_nesting(body: &[u8]) -> Result<(), JsonError> {
    let (mut levels, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => levels += 1,
            b'}' | b']' if !in_string => levels = levels.saturating_sub(1),
            _ => {}
        }
        if levels > MAX_NESTING {
            return Err(JsonError::TooDeep);
        }
    }
    Ok(())
}

/// For the fields that are byte strings: base64 of the standard alphabet, padded (RFC 4648, section 4).
pub(super) fn base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let bytes = STANDARD.decode(text).map_err(|_| serde::de::Error::custom("not base64"))?;
    Ok(Some(bytes.into()))
}

/// For a field that is a boolean or else is not looked at: `None` for a value of another type, of which
/// nothing is kept.
pub(super) fn bool_or_other<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    deserializer.deserialize_any(AnyValue).map(|scalar| match scalar {
        Scalar::Bool(value) => Some(value),
        Scalar::Uint(_) | Scalar::Other => None,
    })
}

/// The same for one that is an unsigned integer.
pub(super) fn uint_or_other<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    deserializer.deserialize_any(AnyValue).map(|scalar| match scalar {
        Scalar::Uint(value) => Some(value),
        Scalar::Bool(_) | Scalar::Other => None,
    })
}

enum Scalar {
    Bool(bool),
    Uint(u64),
    Other,
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Scalar::Uint(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Scalar::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Scalar::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Scalar::Other)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<Self::Value, A::Error> {
        IgnoredAny.visit_seq(elements).map(|_| Scalar::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Self::Value, A::Error> {
        IgnoredAny.visit_map(entries).map(|_| Scalar::Other)
    }
}

/// Writes the fields of a message as one object.
pub(super) struct ObjectWriter<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> ObjectWriter<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    /// Continues the object that `out` ends with and that has a field.
    pub(super) fn continued(out: &'a mut Vec<u8>) -> Self {
        let brace = out.pop();
        debug_assert_eq!(brace, Some(b'}'), "the object was finished");
        Self { out, empty: false }
    }

    pub(super) fn finish(self) {
        self.out.push(b'}');
    }

    fn field(&mut self, name: &'static str, value: impl Serialize) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.value(name);
        self.out.push(b':');
        self.value(value);
    }

    fn value(&mut self, value: impl Serialize) {
        let written = serde_json::to_writer(&mut *self.out, &value);
        debug_assert!(written.is_ok(), "a Vec takes every write, and no value here refuses to be written");
    }
}

impl FieldWriter for ObjectWriter<'_> {
    fn uint(&mut self, _key: u8, name: &'static str, value: u64) {
        self.field(name, value);
    }

    fn bool(&mut self, _key: u8, name: &'static str, value: bool) {
        self.field(name, value);
    }

    fn text(&mut self, _key: u8, name: &'static str, value: &str) {
        self.field(name, value);
    }

    fn bytes(&mut self, _key: u8, name: &'static str, value: &[u8]) {
        self.field(name, Base64(value));
    }

    fn trace(&mut self, _trace: &TraceContext) {
        // JSON has no extension keys, and nodes of the tokio implementation refuse any other name.
    }

    fn absent(&mut self, name: &'static str) {
        self.field(name, ());
    }
}

/// Written piece by piece, without a string in between.
struct Base64<'a>(&'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0, &STANDARD))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::message::{Codec, Notification, Request, Response, WireError};

    use super::*;

    fn request(text: &str) -> Result<Request, MessageError> {
        Request::decode(&Bytes::copy_from_slice(text.as_bytes()))
    }

    fn response(text: &str) -> Result<Response, MessageError> {
        Response::decode(&Bytes::copy_from_slice(text.as_bytes()))
    }

    fn text(write: impl FnOnce(&mut Vec<u8>) -> Result<(), MessageError>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_request_has_the_three_fields_of_the_tokio_implementation_and_others_where_set() {
        let mut message = Request::new("node.stream_events");
        assert_eq!(
            text(|out| message.encode(Codec::Json, out)),
            r#"{"protocol_version":1,"method":"node.stream_events","resume_from":null}"#
        );
        message.resume_from = Some(4);
        message.params = Some(Bytes::from_static(&[0xfb, 0xff]));
        message.follow = true;
        assert_eq!(
            text(|out| message.encode(Codec::Json, out)),
            r#"{"protocol_version":1,"method":"node.stream_events","resume_from":4,"params":"+/8=","follow":true}"#
        );
    }

    #[test]
    fn responses_have_the_fields_of_the_tokio_implementation_in_its_order() {
        for (message, expected) in [
            (
                Response::Health { ok: true, node_rpc_mtls_required: Some(true), payload: None },
                r#"{"protocol_version":1,"kind":"health","ok":true,"node_rpc_mtls_required":true}"#,
            ),
            (
                Response::Event { seq: 7, epoch: None, payload: None },
                r#"{"protocol_version":1,"kind":"event","ok":true,"seq":7}"#,
            ),
            (
                Response::Error {
                    error: WireError::InvalidRequest,
                    detail: None,
                    retry_after: None,
                    not_run: false,
                },
                r#"{"protocol_version":1,"kind":"error","ok":false,"error":"invalid_request"}"#,
            ),
            (
                Response::Error {
                    error: WireError::Unavailable,
                    detail: Some("a \"b\"\n".into()),
                    retry_after: Some(Duration::from_secs(1)),
                    not_run: true,
                },
                r#"{"protocol_version":1,"kind":"error","ok":false,"error":"unavailable","retry_after_ms":1000,"detail":"a \"b\"\n","not_run":true}"#,
            ),
        ] {
            assert_eq!(text(|out| message.encode(Codec::Json, out)), expected);
            assert_eq!(response(expected), Ok(message));
        }
    }

    #[test]
    fn null_is_no_value() {
        let nulls = r#"{"protocol_version":1,"method":"m","resume_from":null,"params":null,"follow":null}"#;
        assert_eq!(request(nulls), Ok(Request::new("m")));
        let missing = request(r#"{"protocol_version":1,"method":null}"#);
        assert_eq!(missing, Err(MessageError::MissingField("method")));
    }

    #[test]
    fn only_a_response_may_have_unknown_fields() {
        for (field, known) in [("trace", false), ("16", false), ("ok", false), ("follow", true)] {
            let body = format!(r#"{{"protocol_version":1,"method":"m","{field}":true}}"#);
            let found = request(&body);
            assert_eq!(found.is_ok(), known, "{field}: {found:?}");
            if let Err(error) = found {
                assert!(matches!(error, MessageError::Json(JsonError::Field { .. })), "{field}: {error:?}");
            }
            let found = Notification::decode(&body.into());
            assert!(matches!(found, Err(MessageError::Json(JsonError::Field { line: 1, .. }))), "{field}");
        }
        let heartbeat = response(
            r#"{"later":[{"a":1}],"protocol_version":1,"kind":"heartbeat","ok":true,"seq":3,"epoch":5}"#,
        );
        assert_eq!(heartbeat, Ok(Response::Heartbeat { seq: 3, epoch: 5 }));
    }

    #[test]
    fn not_run_counts_in_errors_alone_and_only_if_it_is_a_boolean() {
        let heartbeat = |not_run: &str| {
            response(&format!(
                r#"{{"protocol_version":1,"kind":"heartbeat","ok":true,"seq":3,"epoch":5,"not_run":{not_run}}}"#
            ))
        };
        let error = |not_run: &str| {
            let head = r#"{"protocol_version":1,"kind":"error","ok":false,"error":"internal""#;
            response(&format!(r#"{head},"not_run":{not_run}}}"#)).map(|response| match response {
                Response::Error { not_run, .. } => not_run,
                other => panic!("{other:?}"),
            })
        };
        for (text, not_run) in [("true", true), ("false", false), ("null", false)] {
            assert_eq!(error(text), Ok(not_run), "{text}");
        }
        for text in ["0", "-1", "0.5", r#""true""#, r#""A""#, "[]", "[true,[0]]", "{}", r#"{"a":[{}]}"#] {
            assert_eq!(heartbeat(text), Ok(Response::Heartbeat { seq: 3, epoch: 5 }), "{text}");
            assert_eq!(error(text), Err(MessageError::InvalidField("not_run")), "{text}");
        }
        for text in ["[1,]", "{1:2}", "tru"] {
            assert!(heartbeat(text).is_err(), "{text} is not JSON");
        }
    }

    #[test]
    fn an_object_is_all_there_is() {
        let body = r#"{"protocol_version":1,"method":"m"}"#;
        assert!(request(body).is_ok());
        assert!(request(&format!("{body} \r\n")).is_ok(), "blanks are nothing");
        for rest in ["x", "{}", " ,"] {
            let Err(MessageError::Json(error)) = request(&format!("{body}{rest}")) else { panic!("{rest}") };
            assert!(matches!(error, JsonError::Malformed { line: 1, .. }), "{error}");
        }
        for end in 1..body.len() {
            assert_eq!(request(&body[..end]), Err(MessageError::Json(JsonError::Truncated)), "cut at {end}");
        }
    }

    #[test]
    fn sixteen_levels_are_accepted_and_seventeen_are_not() {
        let nested = |levels: usize| {
            let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
            response(&format!(
                r#"{{"protocol_version":1,"kind":"result","ok":true,"x":{open}"[[\\\"[[{{"{close}}}"#
            ))
        };
        assert_eq!(nested(16), Ok(Response::Result { payload: None }), "brackets in a string do not count");
        assert_eq!(nested(17), Err(MessageError::Json(JsonError::TooDeep)));
        assert_eq!(nested(100_000), Err(MessageError::Json(JsonError::TooDeep)));
    }

    #[test]
    fn text_is_utf_8_even_where_it_is_ignored() {
        let mut body = br#"{"protocol_version":1,"kind":"result","ok":true,"x":"_"}"#.to_vec();
        assert!(Response::decode(&body.clone().into()).is_ok());
        let at = body.len() - 3;
        body[at] = 0xff;
        assert_eq!(Response::decode(&body.into()), Err(MessageError::Json(JsonError::Utf8)));
    }

    #[test]
    fn byte_strings_are_padded_base64_of_the_standard_alphabet() {
        let params = |text: &str| {
            let body = format!(r#"{{"protocol_version":1,"method":"m","params":"{text}"}}"#);
            request(&body).ok().map(|message| message.params.unwrap())
        };
        assert_eq!(params("+/8=").unwrap(), &[0xfb, 0xff][..]);
        assert_eq!(params(r"+\/8=").unwrap(), &[0xfb, 0xff][..], "however the text is written");
        assert_eq!(params("").unwrap(), "");
        for refused in ["-_8=", "+/8", "+/9=", "+/8= ", "=", "a*b="] {
            assert_eq!(params(refused), None, "{refused}");
        }
    }

    #[test]
    fn an_error_shows_nothing_of_the_body() {
        let error =
            request(r#"{"protocol_version":1,"method":"m","params":{"SECRET":"SECRET"}}"#).unwrap_err();
        assert!(!format!("{error:?}").contains("SECRET"));
    }
}
