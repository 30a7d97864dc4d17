//! What a node says about its methods and limits: the payload of `node.describe`.

use minicbor::{Decode, Decoder, decode::Error as DecodeError};

use super::cbor::{ARRAY, MAP, TEXT, UNSIGNED, put_head};
use crate::method::MethodKind;

/// The methods of a node that a peer may call, and the limits that the peer must know. See
/// [`Connection::describe`](crate::Connection::describe).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Description {
    /// By name, in ascending order. A name that serves both requests and notifications is there twice; kinds
    /// that this version does not know are one entry for each name.
    pub methods: Vec<DescribedMethod>,
    /// How many more there are, at the end of the order, which did not fit into a frame of the node.
    pub omitted: u64,
    /// The largest body of a frame that the node reads, in bytes.
    pub max_frame_bytes: u64,
    /// How many requests the peer may have open at a time.
    pub streams: u64,
    /// How many streams of notifications the peer may have open at a time.
    pub notification_streams: u64,
}

/// A method of a [`Description`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DescribedMethod {
    /// The name that requests or notifications carry.
    pub name: Box<str>,
    /// What it takes, and what it answers with.
    pub kind: MethodKind,
}

/// The limits in a description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DescribedLimits {
    pub(crate) max_frame_bytes: usize,
    pub(crate) streams: u32,
    pub(crate) notification_streams: u32,
}

const METHODS: &str = "methods";
const OMITTED: &str = "omitted";
/// `omitted` and its number.
const OMITTED_BYTES: usize = 17;
const MAX_FRAME_BYTES: &str = "max_frame_bytes";
const STREAMS: &str = "streams";
const NOTIFICATION_STREAMS: &str = "notification_streams";

/// Writes a description of at most `max` bytes. The methods are in the order of their names; those at the end
/// that do not fit are counted. The limits alone fit any frame.
pub(crate) fn encode_description(
    methods: &[(&str, MethodKind)],
    limits: DescribedLimits,
    max: usize,
) -> Vec<u8> {
    let whole = encode(methods, 0, limits);
    let mut excess = whole.len().saturating_sub(max);
    if excess == 0 {
        return whole;
    }
    excess += OMITTED_BYTES;
    let mut kept = methods;
    while excess > 0
        && let [rest @ .., (last, kind)] = kept
    {
        let is_another = rest.last().is_none_or(|(name, _)| name != last);
        // With the heads of the kind, the name and the array, a byte each at least.
        let freed = 1 + kind.as_str().len() + if is_another { 2 + last.len() } else { 0 };
        excess = excess.saturating_sub(freed);
        kept = rest;
    }
    encode(kept, methods.len() - kept.len(), limits)
}

/// By functions that are not inlined, since nothing here is worth a byte of code.
fn encode(methods: &[(&str, MethodKind)], omitted: usize, limits: DescribedLimits) -> Vec<u8> {
    let mut out = Vec::new();
    head(&mut out, MAP, if omitted > 0 { 5 } else { 4 });
    text(&mut out, METHODS);
    let is_another =
        |index: usize| index == 0 || methods.get(index - 1).map(name) != methods.get(index).map(name);
    head(&mut out, MAP, (0..methods.len()).filter(|&index| is_another(index)).count());
    for (index, method) in methods.iter().enumerate() {
        if is_another(index) {
            text(&mut out, name(method));
            let kinds = 1 + (index + 1..methods.len()).take_while(|&next| !is_another(next)).count();
            head(&mut out, ARRAY, kinds);
        }
        text(&mut out, method.1.as_str());
    }
    let size = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    for (name, value) in [
        (STREAMS, size(limits.streams)),
        (MAX_FRAME_BYTES, limits.max_frame_bytes),
        (NOTIFICATION_STREAMS, size(limits.notification_streams)),
    ] {
        text(&mut out, name);
        head(&mut out, UNSIGNED, value);
    }
    if omitted > 0 {
        text(&mut out, OMITTED);
        head(&mut out, UNSIGNED, omitted);
    }
    out
}

fn name<'a>(method: &(&'a str, MethodKind)) -> &'a str {
    method.0
}

#[inline(never)]
fn text(out: &mut Vec<u8>, text: &str) {
    head(out, TEXT, text.len());
    out.extend_from_slice(text.as_bytes());
}

#[inline(never)]
fn head(out: &mut Vec<u8>, major: u8, argument: usize) {
    // On no platform does a size have more than 64 bits.
    put_head(out, major, u64::try_from(argument).unwrap_or(u64::MAX));
}

impl<'b, C> Decode<'b, C> for Description {
    fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
        let (mut methods, mut max_frame_bytes, mut streams, mut notification_streams) =
            (None, None, None, None);
        let mut omitted = 0;
        for _ in 0..decoder.map()?.unwrap_or_default() {
            match decoder.str()? {
                OMITTED => omitted = decoder.u64()?,
                METHODS => methods = Some(decode_methods(decoder)?),
                MAX_FRAME_BYTES => max_frame_bytes = Some(decoder.u64()?),
                STREAMS => streams = Some(decoder.u64()?),
                NOTIFICATION_STREAMS => notification_streams = Some(decoder.u64()?),
                _ => decoder.skip()?,
            }
        }
        let missing = |name: &str| DecodeError::message(format!("`{name}` is missing"));
        Ok(Self {
            methods: methods.ok_or_else(|| missing(METHODS))?,
            omitted,
            max_frame_bytes: max_frame_bytes.ok_or_else(|| missing(MAX_FRAME_BYTES))?,
            streams: streams.ok_or_else(|| missing(STREAMS))?,
            notification_streams: notification_streams.ok_or_else(|| missing(NOTIFICATION_STREAMS))?,
        })
    }
}

fn decode_methods(decoder: &mut Decoder<'_>) -> Result<Vec<DescribedMethod>, DecodeError> {
    let mut methods = Vec::new();
    for _ in 0..decoder.map()?.unwrap_or_default() {
        let name = decoder.str()?;
        let first = methods.len();
        for _ in 0..decoder.array()?.unwrap_or_default() {
            let kind = decoder.str()?.into();
            // Each entry has a copy of the name, and a peer could repeat a kind of one byte without end.
            if !methods.iter().skip(first).any(|method: &DescribedMethod| method.kind == kind) {
                methods.push(DescribedMethod { name: name.into(), kind });
            }
        }
    }
    // A stable order of what one name is used for is the sender's.
    methods.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(methods)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value;

    const LIMITS: DescribedLimits =
        DescribedLimits { max_frame_bytes: 524_288, streams: 32, notification_streams: 8 };

    fn described(methods: &[(&str, MethodKind)]) -> Vec<DescribedMethod> {
        let encoded = encode_description(methods, LIMITS, usize::MAX);
        let Description { methods, omitted, max_frame_bytes, streams, notification_streams } =
            value::decode(&encoded).unwrap();
        assert_eq!(omitted, 0);
        assert_eq!((max_frame_bytes, streams, notification_streams), (524_288, 32, 8));
        methods
    }

    #[test]
    fn a_description_survives_the_round_trip() {
        let methods = [
            ("a", MethodKind::Unary),
            ("a", MethodKind::Notification),
            ("a.b", MethodKind::Both),
            ("b", MethodKind::Log),
        ];
        for methods in [&methods[..], &[]] {
            let expected: Vec<_> =
                methods.iter().map(|&(name, kind)| DescribedMethod { name: name.into(), kind }).collect();
            assert_eq!(described(methods), expected);
        }
    }

    #[test]
    fn methods_that_do_not_fit_are_counted() {
        let names: Vec<_> = (100..200).map(|n| format!("demo.method-{n}")).collect();
        let methods: Vec<_> = names
            .iter()
            .flat_map(|name| [(&**name, MethodKind::Log), (&**name, MethodKind::Notification)])
            .collect();
        let whole = encode_description(&methods, LIMITS, usize::MAX).len();
        let nothing = encode_description(&[], LIMITS, usize::MAX).len() + OMITTED_BYTES;
        assert_eq!(encode_description(&methods, LIMITS, whole).len(), whole);
        for max in nothing..whole {
            let encoded = encode_description(&methods, LIMITS, max);
            assert!(encoded.len() <= max, "{} of {max}", encoded.len());
            let Description { methods: kept, omitted, .. } = value::decode(&encoded).unwrap();
            assert_eq!(kept.len() + usize::try_from(omitted).unwrap(), methods.len());
            assert!(omitted > 0 && kept.iter().zip(&methods).all(|(kept, method)| *kept.name == *method.0));
            // Room for two more is not left unused.
            assert!(max - encoded.len() < 2 * 40 + 2 * OMITTED_BYTES || kept.is_empty(), "{max}");
        }
    }

    #[test]
    fn kinds_that_a_peer_repeats_take_no_memory() {
        let mut encoded = encode_description(&[("a", MethodKind::Items)], LIMITS, usize::MAX);
        let at = encoded.windows(9).position(|bytes| bytes == b"\x61a\x81\x65items").unwrap();
        // Each of these bytes is a kind without a name, and each entry would have a name of 1000 bytes.
        let repeated = [&b"\x79\x03\xe8"[..], &[b'a'; 1000], b"\x99\x27\x10", &[0x60; 10_000]].concat();
        encoded.splice(at..at + 9, repeated);
        let description = value::decode::<Description>(&encoded).unwrap();
        let expected = DescribedMethod { name: "a".repeat(1000).into(), kind: MethodKind::Unknown };
        assert_eq!(description.methods.len(), 1);
        assert_eq!(description.methods, [expected]);
    }

    #[test]
    fn what_is_not_known_is_passed_over_and_what_is_needed_is_named() {
        let encoded = encode_description(&[("a", MethodKind::Items)], LIMITS, usize::MAX);
        let novel: Vec<u8> =
            [&[0xa5, 0x65], &b"novel"[..], &[0x81, 0xa1, 0x00, 0x00], &encoded[1..]].concat();
        assert_eq!(
            value::decode::<Description>(&novel).unwrap(),
            value::decode::<Description>(&encoded).unwrap()
        );
        let kind = encoded.windows(5).position(|bytes| bytes == b"items").unwrap();
        let mut unknown = encoded.clone();
        unknown[kind] = b'I';
        assert_eq!(value::decode::<Description>(&unknown).unwrap().methods[0].kind, MethodKind::Unknown);
        for name in [METHODS, STREAMS, MAX_FRAME_BYTES, NOTIFICATION_STREAMS] {
            let at = encoded.windows(name.len()).position(|bytes| bytes == name.as_bytes()).unwrap();
            let mut without = encoded.clone();
            without[at] = b'X';
            let error = value::decode::<Description>(&without).unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains(&format!("`{name}` is missing")), "{source}");
        }
    }
}
