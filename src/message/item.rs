//! Each frame behind a request that continues.

use std::fmt;

use bytes::Bytes;

use super::{
    MessageError,
    cbor::{self, BodySource, Key, split_bytes},
    codec::{self, Codec},
    fields::{self, FieldWriter, Message},
};
#[cfg(feature = "streams")]
use crate::frame::Body;

/// What a caller sends after a request with [`more`](super::Request::more): any number of these, each in a
/// frame of its own.
///
/// `Debug` shows the length of `params`, never their content.
///
/// ```
/// use palyra_quic::{Codec, Item};
///
/// # fn main() -> Result<(), palyra_quic::MessageError> {
/// let item = Item::new(vec![0x07]);
/// let mut body = Vec::new();
/// item.encode(Codec::Cbor, &mut body)?;
/// assert_eq!(body, [0xa1, 0x03, 0x41, 0x07]);
/// assert_eq!(Item::decode(&body.into())?, item);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Item {
    /// For the method, in a form that it defines.
    pub params: Option<Bytes>,
}

impl Item {
    /// An item with these `params`. One without any is [`Item::default`].
    #[must_use]
    pub fn new(params: impl Into<Bytes>) -> Self {
        Self { params: Some(params.into()) }
    }

    /// Writes the body behind the bytes that `out` holds already.
    ///
    /// # Errors
    ///
    /// [`JsonError::Disabled`](super::JsonError::Disabled) for JSON where this build has none; `out` is then
    /// untouched.
    pub fn encode(&self, codec: Codec, out: &mut Vec<u8>) -> Result<(), MessageError> {
        codec.write(self, out)
    }

    /// Reads a body of either encoding. With CBOR, `params` share the memory of `body`.
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

    /// The params of the item that is `body`, if it has the form that this crate writes; whatever has another
    /// form, be it right or wrong, is for [`read`](Self::read).
    #[cfg(feature = "streams")]
    #[inline]
    pub(crate) fn read_usual(body: &[u8]) -> Option<Bytes> {
        split_usual(body).map(Bytes::copy_from_slice)
    }

    fn decode_from(source: BodySource<'_>) -> Result<Self, MessageError> {
        match Self::decode_usual(source) {
            Some(item) => Ok(item),
            None => {
                let ItemFields { params } = codec::decode(source)?;
                Ok(Self { params })
            }
        }
    }

    /// An item in the form that this crate writes.
    fn decode_usual(source: BodySource<'_>) -> Option<Self> {
        split_usual(source.body()).map(|params| Self { params: Some(source.keep(params)) })
    }
}

/// Writes an item in CBOR from its parameters, behind the bytes that `out` holds already. Empty parameters
/// are left out.
#[cfg(feature = "streams")]
pub(crate) fn encode_item(params: &[u8], out: &mut Vec<u8>) {
    if params.is_empty() {
        out.push(EMPTY_MAP);
    } else {
        out.extend_from_slice(PARAMS);
        cbor::put_bytes(out, params);
    }
}

#[inline]
fn split_usual(body: &[u8]) -> Option<&[u8]> {
    let (params, rest) = split_bytes(body.strip_prefix(PARAMS)?)?;
    rest.is_empty().then_some(params)
}

/// A map of one pair, up to its value.
const PARAMS: &[u8] = b"\xa1\x03";
#[cfg(feature = "streams")]
const EMPTY_MAP: u8 = 0xa0;

impl Message for Item {
    fn write(&self, fields: &mut impl FieldWriter) {
        let Self { params } = self;
        fields.optional_bytes(3, "params", params.as_deref());
    }
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fields::debug("Item", self, f)
    }
}

#[derive(Default)]
#[cfg_attr(feature = "json", derive(serde::Deserialize), serde(default, deny_unknown_fields))]
struct ItemFields {
    #[cfg_attr(feature = "json", serde(deserialize_with = "super::json::base64"))]
    params: Option<Bytes>,
}

impl cbor::Fields for ItemFields {
    fn read(&mut self, key: Key, value: &cbor::Value<'_>) -> Result<(), MessageError> {
        match key {
            Key::Unsigned(3) => self.params = value.bytes("params")?,
            Key::Unsigned(16..) => {}
            _ => return Err(cbor::unknown(key)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(body: &[u8]) -> Result<Item, MessageError> {
        Item::decode(&Bytes::copy_from_slice(body))
    }

    #[test]
    fn an_item_has_params_and_extensions_and_nothing_else() {
        for (body, expected) in [
            (&b"\xa0"[..], Ok(Item::default())),
            (b"\xa1\x03\x40", Ok(Item::new(""))),
            (b"\xa1\x03\x41x", Ok(Item::new("x"))),
            (b"\xa2\x03\x41x\x10\x80", Ok(Item::new("x"))),
            (b"\xa1\x00\x01", Err(MessageError::UnknownKey(0))),
            (b"\xa1\x0f\x01", Err(MessageError::UnknownKey(15))),
            (b"\xa1\x03\xf6", Err(MessageError::InvalidField("params"))),
        ] {
            assert_eq!(decode(body), expected, "{body:02x?}");
        }
        assert!(decode(b"\xa1\x03\x41xy").is_err() && decode(b"").is_err() && decode(b"\x80").is_err());
    }

    #[test]
    #[cfg(feature = "json")]
    fn json_writes_params_in_base64() {
        for (text, item) in [("{}", Item::default()), (r#"{"params":"+/8="}"#, Item::new(vec![0xfb, 0xff]))] {
            let mut out = Vec::new();
            item.encode(Codec::Json, &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), text);
            assert_eq!(decode(text.as_bytes()), Ok(item));
        }
        assert!(decode(br#"{"method":"m"}"#).is_err());
    }

    proptest! {
        #[cfg(feature = "streams")]
        #[test]
        fn an_item_is_the_same_whether_made_of_its_parameters_or_field_by_field(
            params in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let item = if params.is_empty() { Item::default() } else { Item::new(params.clone()) };
            let (mut body, mut expected) = (vec![1], vec![1]);
            encode_item(&params, &mut body);
            item.encode(Codec::Cbor, &mut expected).unwrap();
            prop_assert_eq!(body, expected);
        }

        #[test]
        fn what_is_read_at_a_glance_is_what_a_thorough_look_finds(
            params in prop::collection::vec(any::<u8>(), 0..300),
            damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut body = Vec::new();
            Item::new(params).encode(Codec::Cbor, &mut body).unwrap();
            if let Some((at, byte)) = damage {
                *at.get_mut(&mut body) = byte;
            }
            let body = Bytes::from(body);
            let seen = Item::decode_usual(BodySource::Owned(&body));
            prop_assert!(seen.is_some() || damage.is_some());
            if let Some(seen) = seen {
                let ItemFields { params } = codec::decode(BodySource::Owned(&body)).unwrap();
                prop_assert_eq!(seen, Item { params });
            }
        }
    }
}
