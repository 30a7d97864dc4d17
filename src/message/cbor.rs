//! CBOR bodies: one map with integer keys, written in the shortest form.

use bytes::Bytes;

pub(super) use super::validate::Key;
use super::{
    MessageError,
    fields::{FieldWriter, Message},
    trace::TraceContext,
    validate::{Scalar, read_body, split_scalar},
};
use crate::frame::Body;

/// Writes the fields of a message as one map.
pub(super) struct MapWriter<'a> {
    out: &'a mut Vec<u8>,
    /// Where the map's head is.
    start: usize,
    /// The head, which is counted up with each field, and written behind the last.
    head: u8,
}

impl<'a> MapWriter<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        out.push(MAP << 5);
        Self { out, start, head: MAP << 5 }
    }

    /// Continues the map that begins at `start` and ends with `out`.
    pub(super) fn continued(out: &'a mut Vec<u8>, start: usize) -> Self {
        let head = out.get(start).copied().unwrap_or(MAP << 5);
        Self { out, start, head }
    }

    pub(super) fn finish(self) {
        if let Some(head) = self.out.get_mut(self.start) {
            *head = self.head;
        }
    }

    fn key(&mut self, key: u8) {
        // No message has more than the 23 fields that a head of one byte can count.
        self.head += 1;
        debug_assert!(key < 24, "the keys of messages are heads of one byte");
        self.out.push(key);
    }
}

impl FieldWriter for MapWriter<'_> {
    fn uint(&mut self, key: u8, _name: &'static str, value: u64) {
        self.key(key);
        put_head(self.out, UNSIGNED, value);
    }

    fn bool(&mut self, key: u8, _name: &'static str, value: bool) {
        self.key(key);
        self.out.push(if value { TRUE } else { FALSE });
    }

    fn text(&mut self, key: u8, _name: &'static str, value: &str) {
        self.key(key);
        put_string(self.out, TEXT, value.as_bytes());
    }

    fn bytes(&mut self, key: u8, _name: &'static str, value: &[u8]) {
        self.key(key);
        put_bytes(self.out, value);
    }

    fn trace(&mut self, trace: &TraceContext) {
        self.key(TRACE_KEY);
        put_bytes(self.out, &trace.to_bytes());
    }
}

/// Counts the bytes of a message as one map, which a [`MapWriter`] writes.
pub(super) struct MapLen(usize);

impl MapLen {
    pub(super) fn of(message: &impl Message) -> usize {
        // The head of the map.
        let mut len = Self(1);
        message.write(&mut len);
        len.0
    }

    fn string(&mut self, len: usize) {
        self.0 += 1 + head_len(u64::try_from(len).unwrap_or(u64::MAX)) + len;
    }
}

impl FieldWriter for MapLen {
    fn uint(&mut self, _key: u8, _name: &'static str, value: u64) {
        self.0 += 1 + head_len(value);
    }

    fn bool(&mut self, _key: u8, _name: &'static str, _value: bool) {
        self.0 += 2;
    }

    fn text(&mut self, _key: u8, _name: &'static str, value: &str) {
        self.string(value.len());
    }

    fn bytes(&mut self, _key: u8, _name: &'static str, value: &[u8]) {
        self.string(value.len());
    }

    fn trace(&mut self, trace: &TraceContext) {
        self.string(trace.to_bytes().len());
    }
}

/// As in `fields.rs`, for the one byte that the key takes.
const TRACE_KEY: u8 = 16;

pub(super) const UNSIGNED: u8 = 0;
const BYTES: u8 = 2;
pub(super) const TEXT: u8 = 3;
pub(super) const ARRAY: u8 = 4;
pub(super) const MAP: u8 = 5;
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;

/// Writes a byte string.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_string(out, BYTES, bytes);
}

fn put_string(out: &mut Vec<u8>, major: u8, content: &[u8]) {
    // On no platform does a length have more than 64 bits.
    put_head(out, major, u64::try_from(content.len()).unwrap_or(u64::MAX));
    out.extend_from_slice(content);
}

/// Writes a major type and its argument in as few bytes as it takes (RFC 8949, section 4.2.1).
///
/// By hand, because minicbor's encoder returns errors that writing into a `Vec` cannot have.
#[inline]
pub(super) fn put_head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let major = major << 5;
    match u8::try_from(argument) {
        Ok(argument @ 0..24) => out.push(major | argument),
        _ => put_argument(out, major, argument),
    }
}

/// Writes a head whose argument needs bytes of its own.
fn put_argument(out: &mut Vec<u8>, major: u8, argument: u64) {
    if let Ok(argument) = u8::try_from(argument) {
        out.extend_from_slice(&[major | 24, argument]);
    } else if let Ok(argument) = u16::try_from(argument) {
        out.push(major | 25);
        out.extend_from_slice(&argument.to_be_bytes());
    } else if let Ok(argument) = u32::try_from(argument) {
        out.push(major | 26);
        out.extend_from_slice(&argument.to_be_bytes());
    } else {
        out.push(major | 27);
        out.extend_from_slice(&argument.to_be_bytes());
    }
}

/// How many bytes a head with this argument has.
const fn head_len(argument: u64) -> usize {
    match argument {
        0..24 => 1,
        24..0x100 => 2,
        0x100..0x1_0000 => 3,
        0x1_0000..0x1_0000_0000 => 5,
        0x1_0000_0000.. => 9,
    }
}

/// The fields of a message, empty to begin with.
pub(super) trait Fields: Default {
    /// Reads one entry of the map. Keys come in any order, each at most once.
    fn read(&mut self, key: Key, value: &Value<'_>) -> Result<(), MessageError>;
}

/// Where a body lies.
#[derive(Clone, Copy)]
pub(super) enum BodySource<'a> {
    /// In memory of its own, which byte strings may share.
    Owned(&'a Bytes),
    /// Among much else, which nothing may keep.
    Borrowed(&'a [u8]),
}

impl<'a> From<&'a Body<'_>> for BodySource<'a> {
    fn from(body: &'a Body<'_>) -> Self {
        match body {
            Body::Within(body) => Self::Borrowed(body),
            Body::Whole(body) => Self::Owned(body),
        }
    }
}

impl<'a> BodySource<'a> {
    pub(super) fn body(self) -> &'a [u8] {
        match self {
            Self::Owned(body) => body,
            Self::Borrowed(body) => body,
        }
    }

    /// A byte string of the body, which shares the memory of the body, unless it is so small a part that to
    /// keep it would keep much else.
    pub(super) fn keep(self, bytes: &'a [u8]) -> Bytes {
        match self {
            Self::Owned(body) if bytes.len() >= body.len() / 2 => body.slice_ref(bytes),
            Self::Owned(_) | Self::Borrowed(_) => Bytes::copy_from_slice(bytes),
        }
    }
}

/// Reads the fields of a body, in the one walk that looks for its faults.
///
/// Not by minicbor's decoder, which would have to walk it once more. A fault of the encoding counts before
/// one of a field.
pub(super) fn decode<F: Fields>(source: BodySource<'_>) -> Result<F, MessageError> {
    let (mut fields, mut fault) = (F::default(), None);
    read_body(source.body(), |key, scalar| {
        if fault.is_none() {
            fault = fields.read(key, &Value { source, scalar }).err();
        }
    })?;
    match fault {
        Some(fault) => Err(fault),
        None => Ok(fields),
    }
}

/// The number that `bytes` begin with, and what is behind it; `None` where they begin with anything else.
#[inline]
pub(super) fn split_uint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    split_head(bytes, UNSIGNED)
}

/// The same for a byte string.
#[inline]
pub(super) fn split_bytes(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = split_head(bytes, BYTES)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

/// The argument of the head that `bytes` begin with, and what is behind it; `None` for another major type.
#[inline]
fn split_head(bytes: &[u8], major: u8) -> Option<(u64, &[u8])> {
    let (&initial, rest) = bytes.split_first()?;
    match initial ^ (major << 5) {
        argument @ 0..24 => Some((argument.into(), rest)),
        24 => rest.split_first_chunk().map(|(bytes, rest)| (u8::from_be_bytes(*bytes).into(), rest)),
        25 => rest.split_first_chunk().map(|(bytes, rest)| (u16::from_be_bytes(*bytes).into(), rest)),
        26 => rest.split_first_chunk().map(|(bytes, rest)| (u32::from_be_bytes(*bytes).into(), rest)),
        27 => rest.split_first_chunk().map(|(bytes, rest)| (u64::from_be_bytes(*bytes), rest)),
        _ => None,
    }
}

/// The same for a text string.
pub(super) fn split_text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    match split_scalar(bytes)? {
        (Scalar::Text(text), rest) => Some((text, rest)),
        _ => None,
    }
}

/// For the key of a field that no such message has.
pub(super) fn unknown(key: Key) -> MessageError {
    MessageError::UnknownKey(match key {
        Key::Unsigned(number) => number.into(),
        Key::Negative(number) => -1 - i128::from(number),
    })
}

/// The value of an entry, to be read as the type that its key asks for.
pub(super) struct Value<'a> {
    source: BodySource<'a>,
    scalar: Scalar<'a>,
}

impl<'a> Value<'a> {
    pub(super) fn u16(&self, field: &'static str) -> Result<Option<u16>, MessageError> {
        let number = self.u64(field)?.and_then(|number| u16::try_from(number).ok());
        number.map(Some).ok_or(MessageError::InvalidField(field))
    }

    pub(super) fn u64(&self, field: &'static str) -> Result<Option<u64>, MessageError> {
        match self.scalar {
            Scalar::Integer(Key::Unsigned(number)) => Ok(Some(number)),
            _ => Err(MessageError::InvalidField(field)),
        }
    }

    pub(super) fn bool(&self, field: &'static str) -> Result<Option<bool>, MessageError> {
        match self.scalar {
            Scalar::Bool(bool) => Ok(Some(bool)),
            _ => Err(MessageError::InvalidField(field)),
        }
    }

    pub(super) fn text<T: From<&'a str>>(&self, field: &'static str) -> Result<Option<T>, MessageError> {
        match self.scalar {
            Scalar::Text(text) => Ok(Some(text.into())),
            _ => Err(MessageError::InvalidField(field)),
        }
    }

    /// A trace context. What is none is ignored, because only those who record traces would miss it.
    pub(super) fn trace(&self) -> Option<TraceContext> {
        match self.scalar {
            Scalar::Bytes(bytes) => TraceContext::from_bytes(bytes.try_into().ok()?),
            _ => None,
        }
    }

    /// A byte string; see [`BodySource::keep`].
    pub(super) fn bytes(&self, field: &'static str) -> Result<Option<Bytes>, MessageError> {
        match self.scalar {
            Scalar::Bytes(bytes) => Ok(Some(self.source.keep(bytes))),
            _ => Err(MessageError::InvalidField(field)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn heads_are_those_of_minicbor(
            number in prop_oneof![any::<u64>(), 0..=300_u64, 65_000..=66_000_u64, (u64::from(u32::MAX) - 9)..=(1 << 33)]
        ) {
            let mut out = Vec::new();
            put_head(&mut out, UNSIGNED, number);
            prop_assert_eq!(out.len(), head_len(number));
            prop_assert_eq!(&out, &minicbor::to_vec(number).unwrap());
            out[0] |= TEXT << 5;
            let mut encoder = minicbor::Encoder::new(Vec::new());
            encoder.str_len(number).unwrap();
            prop_assert_eq!(out, encoder.into_writer());
        }
    }

    #[test]
    fn a_map_counts_its_fields_behind_what_is_there() {
        let mut out = vec![0xff];
        let mut map = MapWriter::new(&mut out);
        map.uint(0, "", 500);
        map.bool(1, "", true);
        map.text(2, "", "é");
        map.bytes(3, "", &[]);
        map.finish();
        assert_eq!(out, [0xff, 0xa4, 0, 0x19, 1, 0xf4, 1, 0xf5, 2, 0x62, 0xc3, 0xa9, 3, 0x40]);
        let mut map = MapWriter::continued(&mut out, 1);
        map.uint(4, "", 1);
        map.finish();
        assert_eq!((out[1], &out[14..]), (0xa5, &[4, 1][..]));
    }
}
