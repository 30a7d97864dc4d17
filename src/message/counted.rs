//! A response to a request with items, which says how many of them were taken.

use bytes::Bytes;

use super::{
    MessageError,
    cbor::{self, BodySource, Key, split_bytes, split_uint},
    codec::{self, Codec},
    event::MAP_OF_5,
    response::{RESULT, Response},
};
#[cfg(feature = "streams")]
use crate::frame::Body;

/// A response with the number of [`Item`](super::Item)s that the node had handed to the handler by then:
/// response key 13.
///
/// Apart from [`Response`], because few responses have it. [`Response::decode`] ignores the key.
///
/// ```
/// use palyra_quic::{Codec, CountedResponse, Response};
///
/// # fn main() -> Result<(), palyra_quic::MessageError> {
/// let counted = CountedResponse::new(Response::result(None), 3);
/// let mut body = Vec::new();
/// counted.encode(Codec::Cbor, &mut body)?;
/// let body = body.into();
/// assert_eq!(CountedResponse::decode(&body)?.items, Some(3));
/// assert_eq!(Response::decode(&body)?, Response::result(None));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CountedResponse {
    /// The response without the number.
    pub response: Response,
    /// The number, which only [`Result`](Response::Result) and [`Error`](Response::Error) have. `None` if the
    /// node did not say: the request had no items, or the node is an earlier one.
    pub items: Option<u64>,
}

impl CountedResponse {
    /// A response with the number of items. Only [`Result`](Response::Result) and
    /// [`Error`](Response::Error) are written with it.
    #[must_use]
    pub const fn new(response: Response, items: u64) -> Self {
        Self { response, items: Some(items) }
    }

    /// Writes the body behind the bytes that `out` holds already.
    ///
    /// # Errors
    ///
    /// As for [`Response::encode`].
    pub fn encode(&self, codec: Codec, out: &mut Vec<u8>) -> Result<(), MessageError> {
        let start = out.len();
        self.response.encode(codec, out)?;
        if let Some(items) = self.items.filter(|_| has_count(&self.response)) {
            codec.append_uint((13, "items"), items, out, start);
        }
        Ok(())
    }

    /// Reads a body of either encoding. With CBOR, payloads share the memory of `body`.
    ///
    /// # Errors
    ///
    /// The first fault found; see [`MessageError`].
    pub fn decode(body: &Bytes) -> Result<Self, MessageError> {
        Self::decode_from(BodySource::Owned(body))
    }

    /// The same, of a body where it lies, whose memory nothing may keep unless it is the body's own.
    #[cfg(feature = "streams")]
    pub(crate) fn read(body: Body<'_>) -> Result<Self, MessageError> {
        Self::decode_from(BodySource::from(&body))
    }

    fn decode_from(source: BodySource<'_>) -> Result<Self, MessageError> {
        match Self::decode_usual(source) {
            Some(counted) => Ok(counted),
            None => Self::decode_any(source),
        }
    }

    /// A result with a number in the form that this crate writes.
    fn decode_usual(source: BodySource<'_>) -> Option<Self> {
        let rest = source.body().strip_prefix(&[MAP_OF_5])?;
        let (payload, rest) = split_bytes(rest.strip_prefix(RESULT)?)?;
        let (items, rest) = split_uint(rest.strip_prefix(&[13])?)?;
        rest.is_empty().then(|| Self::new(Response::result(Some(source.keep(payload))), items))
    }

    fn decode_any(source: BodySource<'_>) -> Result<Self, MessageError> {
        let response = Response::decode_from(source)?;
        let CountFields { items } =
            if has_count(&response) { codec::decode(source)? } else { CountFields::default() };
        let items = items.map(|items| items.0.ok_or(MessageError::InvalidField("items"))).transpose()?;
        Ok(Self { response, items })
    }
}

const fn has_count(response: &Response) -> bool {
    matches!(response, Response::Result { .. } | Response::Error { .. })
}

/// All of a response that its other reader ignores.
#[derive(Default)]
#[cfg_attr(feature = "json", derive(serde::Deserialize), serde(default))]
struct CountFields {
    items: Option<Count>,
}

/// A number, or a value of another type, which is a fault only in the kinds that have the number.
struct Count(Option<u64>);

#[cfg(feature = "json")]
impl<'de> serde::Deserialize<'de> for Count {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::json::uint_or_other(deserializer).map(Self)
    }
}

impl cbor::Fields for CountFields {
    fn read(&mut self, key: Key, value: &cbor::Value<'_>) -> Result<(), MessageError> {
        if let Key::Unsigned(13) = key {
            self.items = Some(Count(value.u64("items").ok().flatten()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire_error::WireError;

    fn encoded(counted: &CountedResponse, codec: Codec) -> Bytes {
        let mut body = Vec::new();
        counted.encode(codec, &mut body).unwrap();
        body.into()
    }

    #[test]
    fn results_and_errors_have_a_number_and_other_kinds_have_none() {
        for response in [Response::result(None), Response::error(WireError::Internal)] {
            let counted = CountedResponse::new(response, 7);
            assert_eq!(CountedResponse::decode(&encoded(&counted, Codec::Cbor)), Ok(counted));
        }
        let health = CountedResponse::new(Response::health(), 7);
        let body = encoded(&health, Codec::Cbor);
        assert_eq!(CountedResponse::decode(&body).unwrap().items, None);
        assert!(!body.contains(&13));
    }

    #[test]
    fn a_number_of_another_type_is_a_fault_in_the_kinds_that_have_it() {
        let with = |kind: &[u8], ok: u8, value: &[u8]| {
            let body = [b"\xa5\x00\x01\x01", kind, &[2, ok], b"\x05\x61x\x0d", value].concat();
            CountedResponse::decode(&body.into()).map(|counted| counted.items)
        };
        let fault = Err(MessageError::InvalidField("items"));
        for (kind, ok, value, found) in [
            (&b"\x66result"[..], 0xf5, &[3][..], Ok(Some(3))),
            (b"\x65error", 0xf4, &[3], Ok(Some(3))),
            (b"\x66result", 0xf5, &[0xf6], fault.clone()),
            (b"\x65error", 0xf4, &[0x20], fault),
            (b"\x66health", 0xf5, &[3], Ok(None)),
            (b"\x66health", 0xf5, &[0x80], Ok(None)),
        ] {
            assert_eq!(with(kind, ok, value), found, "{kind:?} {value:?}");
        }
    }

    #[test]
    #[cfg(feature = "json")]
    fn json_names_the_number() {
        let counted = CountedResponse::new(Response::result(None), 7);
        let text = r#"{"protocol_version":1,"kind":"result","ok":true,"items":7}"#;
        assert_eq!(encoded(&counted, Codec::Json), text);
        assert_eq!(CountedResponse::decode(&text.into()), Ok(counted));
        let decode = |text: &str| CountedResponse::decode(&Bytes::copy_from_slice(text.as_bytes()));
        assert!(decode(&text.replace('7', "null")).is_ok_and(|counted| counted.items.is_none()));
        for value in ["-1", "1.5", r#""7""#, "[7]", "{}", "true", r#"7,"items":7"#] {
            assert!(decode(&text.replace('7', value)).is_err(), "{value}");
        }
        assert!(decode(&text.replace("result", "health").replace('7', "[]")).is_ok());
    }
}
