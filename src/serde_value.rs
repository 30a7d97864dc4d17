//! Values of types that implement serde's traits.

use minicbor::{
    Decode, Decoder, Encode, Encoder,
    data::Type,
    decode::Error as DecodeError,
    encode::{Error as EncodeError, Write},
};
use serde::{Deserialize, Serialize};

use crate::message::{CborError, MAX_NESTING, validate_item};

/// A value of a type that implements serde's traits, wherever this crate takes one that implements
/// minicbor's: parameters, results, answers, notifications, events and items. Feature `serde`.
///
/// The crate minicbor-serde defines the encoding: structs are maps with names as keys, and enums are names,
/// or maps from one name. It takes more bytes than minicbor's own derive, which writes numbers, and is not
/// compatible with it: both sides must agree on one. Where a type is yours, `#[derive(minicbor::Encode,
/// minicbor::Decode)]` is the smaller choice.
///
/// ```
/// use palyra_quic::{Connection, Method, Result, Router, Serde};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Reading {
///     sensor: String,
///     celsius: f32,
/// }
///
/// const LATEST: Method<Serde<String>, Serde<Reading>> = Method::new("demo.latest");
///
/// fn router() -> Router {
///     let latest = |sensor| Reading { sensor, celsius: 21.5 };
///     Router::new().serve(LATEST, move |_, Serde(sensor)| async move { Ok(Serde(latest(sensor))) })
/// }
///
/// async fn latest(connection: &Connection) -> Result<Reading> {
///     let Serde(reading) = connection.call(LATEST, &Serde("hall".to_owned())).await?;
///     Ok(reading)
/// }
/// # drop(router());
/// ```
///
/// # What it accepts
///
/// - **Parameters**: `Serde<()>` and `Serde<Option<T>>` can be left out, as `()` and `Option<T>` can.
/// - **Lengths**: the protocol knows definite lengths only. If serde does not know the length of a map or
///   sequence beforehand, as with `#[serde(flatten)]`, it is counted and written as a definite length. This
///   takes another pass over the bytes.
/// - **Nesting**: values nest at most 16 levels deep, and a deeper one is not encoded. A struct is a level,
///   and an enum variant with fields is two.
/// - **Borrowing**: a decoded type must own its data, as all values do that this crate decodes. `Serde<&str>`
///   can be encoded, and the compiler refuses to decode it:
///
///   ```compile_fail
///   # async fn example(connection: palyra_quic::Connection) -> palyra_quic::Result<()> {
///   use palyra_quic::Serde;
///   let name: Serde<&str> = connection.call("demo.name", &()).await?;
///   # Ok(())
///   # }
///   ```
/// - **Attributes**: `#[serde(untagged)]`, `#[serde(tag)]` and `#[serde(flatten)]` work, because CBOR
///   describes itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serde<T>(pub T);

impl<T> From<T> for Serde<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T: Serialize, C> Encode<C> for Serde<T> {
    fn encode<W: Write>(&self, encoder: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
        let bytes = encode(&self.0).map_err(EncodeError::message)?;
        encoder.writer_mut().write_all(&bytes).map_err(EncodeError::write)
    }
}

impl<'b, T: Deserialize<'b>, C> Decode<'b, C> for Serde<T> {
    fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
        let mut deserializer = minicbor_serde::Deserializer::from(decoder.clone());
        let value = T::deserialize(&mut deserializer).map_err(DecodeError::message)?;
        decoder.set_position(deserializer.decoder().position());
        Ok(Self(value))
    }
}

/// Encodes a value as the protocol allows it.
fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    let bytes = minicbor_serde::to_vec(value).map_err(|error| error.to_string())?;
    let bytes = match validate_item(&bytes) {
        Ok(()) => return Ok(bytes),
        Err(CborError::Indefinite) => with_definite_lengths(&bytes).map_err(|error| error.to_string())?,
        Err(fault) => return Err(fault.to_string()),
    };
    validate_item(&bytes).map_err(|fault| fault.to_string())?;
    Ok(bytes)
}

/// The same item with definite lengths.
fn with_definite_lengths(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::with_capacity(bytes.len());
    copy_item(&mut Decoder::new(bytes), &mut out, 1)?;
    Ok(out)
}

/// Copies an item, whose first level is `level`.
fn copy_item(decoder: &mut Decoder<'_>, out: &mut Vec<u8>, level: usize) -> Result<(), DecodeError> {
    let (items_per_entry, announced) = match decoder.datatype()? {
        Type::Array | Type::ArrayIndef => (1, decoder.array()?),
        Type::Map | Type::MapIndef => (2, decoder.map()?),
        _ => {
            let begin = decoder.position();
            decoder.skip()?;
            out.extend(decoder.input().get(begin..decoder.position()).unwrap_or_default());
            return Ok(());
        }
    };
    // So that this does not use more of the stack than a value may that is decoded.
    if level > MAX_NESTING {
        return Err(DecodeError::message(CborError::TooDeep));
    }
    let (begin, mut entries) = (out.len(), 0_u64);
    while !is_end(decoder, announced, entries)? {
        for _ in 0..items_per_entry {
            copy_item(decoder, out, level + 1)?;
        }
        entries += 1;
    }
    let mut head = Encoder::new(Vec::new());
    let written = if items_per_entry == 1 { head.array(entries) } else { head.map(entries) };
    written.map_err(DecodeError::message)?;
    out.splice(begin..begin, head.into_writer());
    Ok(())
}

/// Whether a container ends here, and takes the byte that says so.
fn is_end(decoder: &mut Decoder<'_>, announced: Option<u64>, entries: u64) -> Result<bool, DecodeError> {
    if let Some(announced) = announced {
        return Ok(entries == announced);
    }
    let is_end = decoder.datatype()? == Type::Break;
    if is_end {
        decoder.set_position(decoder.position() + 1);
    }
    Ok(is_end)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::ser::{SerializeMap, SerializeSeq, Serializer};

    use super::*;
    use crate::{error::ErrorKind, value};

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Device {
        name: String,
        ports: Vec<u16>,
        label: Option<String>,
        nothing: (),
        limits: BTreeMap<String, i64>,
        state: State,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    enum State {
        Off,
        Failed(String),
        Between(f32, f64),
        On { since: u64, load: Option<i8> },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Flat {
        id: u8,
        #[serde(flatten)]
        place: Location,
        #[serde(flatten)]
        rest: BTreeMap<String, u32>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Location {
        room: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        floor: Option<i8>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Number(u32),
        Location(Location),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind")]
    enum Tagged {
        Empty,
        Filled { with: String },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Tree {
        Leaf,
        Node(Box<Self>),
    }

    fn device(state: State) -> Device {
        let limits = [("low".to_owned(), -40), ("high".to_owned(), i64::MAX)].into();
        Device { name: "a".repeat(300), ports: vec![1, 65535], label: None, nothing: (), limits, state }
    }

    fn flat() -> Flat {
        let rest = (0..30).map(|n| (format!("key {n}"), n)).collect();
        Flat { id: 7, place: Location { room: "hall".into(), floor: Some(-1) }, rest }
    }

    fn encoded<T: Serialize>(value: T) -> Result<Vec<u8>, String> {
        let encoded = value::encode(&Serde(value)).map_err(|error| {
            assert_eq!(error.kind(), &ErrorKind::Codec);
            std::error::Error::source(&error).unwrap().to_string()
        })?;
        assert_eq!(validate_item(&encoded), Ok(()));
        Ok(encoded.to_vec())
    }

    /// What decoding the value again makes of it, alone and within a minicbor type.
    #[track_caller]
    fn round<T: Serialize + for<'b> Deserialize<'b> + PartialEq + std::fmt::Debug>(value: T) -> Vec<u8> {
        let bytes = encoded(&value).unwrap();
        assert_eq!(value::decode::<Serde<T>>(&bytes).unwrap(), Serde(value));
        let between = [&[0x83, 0x01][..], &bytes, &[0x02]].concat();
        let (first, Serde(value), last): (u8, Serde<T>, u8) = value::decode(&between).unwrap();
        assert_eq!((first, last), (1, 2));
        let again = value::encode(&(first, Serde(&value), last)).unwrap();
        assert_eq!(again, between);
        bytes
    }

    #[test]
    fn values_survive_the_round_trip() {
        for state in [
            State::Off,
            State::Failed("fuse".into()),
            State::Between(0.1, f64::MIN),
            State::On { since: u64::MAX, load: Some(-128) },
        ] {
            round(device(state));
        }
        assert_eq!(round(()), [0x80]);
        assert_eq!(round(None::<u8>), [0xf6]);
        assert_eq!(round(State::Off), b"\x63Off");
        assert_eq!(round(("é".to_owned(), 'c', true, [1_u8; 3])).len(), 1 + 3 + 2 + 1 + 4);
        round(Untagged::Number(9));
        round(Untagged::Location(Location { room: String::new(), floor: None }));
        round(Tagged::Empty);
        round(Tagged::Filled { with: "sand".into() });
    }

    #[test]
    fn what_serde_has_no_length_for_gets_one() {
        let bytes = round(flat());
        assert_eq!(bytes[..2], [0xb8, 33], "a map of 33 entries");
        // Within others, and around others.
        let mut around = round((1, vec![flat(), flat()], Some(flat())));
        assert!(validate_item(&around).is_ok());
        around[0] = 0x9f;
        around.push(0xff);
        assert_eq!(validate_item(&around), Err(CborError::Indefinite), "the check can fail");

        struct Unknown;
        impl Serialize for Unknown {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut items = serializer.serialize_seq(None)?;
                items.serialize_element("first")?;
                items.serialize_element(&BTreeMap::from([(1, [2, 3])]))?;
                items.serialize_element(&EmptyMap)?;
                items.end()
            }
        }
        struct EmptyMap;
        impl Serialize for EmptyMap {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_map(None)?.end()
            }
        }
        assert_eq!(encoded(Unknown).unwrap(), b"\x83\x65first\xa1\x01\x82\x02\x03\xa0");
    }

    #[test]
    fn a_value_has_at_most_16_levels() {
        let tree = |nodes| (0..nodes).fold(Tree::Leaf, |tree, _| Tree::Node(Box::new(tree)));
        round(Some(tree(15)));
        let sixteen = encoded(tree(16)).unwrap();
        assert_eq!(value::decode::<Serde<Tree>>(&sixteen).unwrap().0, tree(16));
        let deep = "CBOR nested deeper than 16 levels";
        assert!(encoded(tree(17)).unwrap_err().contains(deep));
        assert!(encoded(tree(500)).unwrap_err().contains(deep));
        let seventeen = [b"\xa1\x64Node", &*sixteen].concat();
        let error = value::decode::<Serde<Tree>>(&seventeen).unwrap_err();
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), deep);
        // Of a length that is not known first.
        #[derive(Serialize)]
        struct Deep {
            #[serde(flatten)]
            place: Location,
            tree: Tree,
        }
        let within =
            |nodes| encoded(Deep { place: Location { room: String::new(), floor: None }, tree: tree(nodes) });
        assert!(within(15).is_ok());
        for nodes in [16, 17, 500] {
            assert!(within(nodes).unwrap_err().contains(deep), "{nodes}");
        }
    }

    #[test]
    fn errors_name_the_fault() {
        let fault = |bytes: &[u8]| {
            let error = value::decode::<Serde<Location>>(bytes).unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::Codec);
            std::error::Error::source(&error).unwrap().to_string()
        };
        for (bytes, name) in [
            (&b"\xa0"[..], "missing field `room`"),
            (b"\xa1\x64room\x07", "unexpected type u8 at position 6"),
            (b"\xa2\x64room\x61a\x65floor\x18\xff", "overflow"),
            (b"\xbf\x64room\x61a\xff", "indefinite length"),
            (b"\xa1\x64room\x61a\x00", "bytes behind"),
            (b"\x80", "unexpected type array"),
        ] {
            assert!(fault(bytes).contains(name), "{} does not name {name}", fault(bytes));
        }
        struct Broken;
        impl Serialize for Broken {
            fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("the sensor is gone"))
            }
        }
        assert!(encoded(Broken).unwrap_err().contains("the sensor is gone"));
    }

    #[test]
    fn unit_and_optional_parameters_may_be_absent() {
        for nothing in [&b""[..], &[0xf6], &[0x80]] {
            assert_eq!(value::decode_params::<Serde<()>>(nothing).unwrap(), Serde(()));
            assert_eq!(value::decode_params::<Serde<Option<u32>>>(nothing).unwrap(), Serde(None));
            assert!(value::decode_params::<Serde<u32>>(nothing).is_err());
            assert!(value::decode_params::<Serde<Location>>(nothing).is_err());
        }
        assert_eq!(value::decode_params::<Serde<Option<u32>>>(&[7]).unwrap(), Serde(Some(7)));
        assert_eq!(value::decode_params::<Serde<Vec<u32>>>(&[0x80]).unwrap(), Serde(vec![]));
        assert!(value::decode_params::<Serde<()>>(&[7]).is_err());
    }
}
