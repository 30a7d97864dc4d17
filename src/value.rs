//! Parameters and results as CBOR values of the application's types.

use std::any::TypeId;

use bytes::Bytes;
use minicbor::{Decode, Encode};

use crate::{
    error::{Error, ErrorKind, Result},
    message::validate_item,
};

/// Stands for the type of a value where payloads are bytes: a [`ResponseSink`](crate::ResponseSink) of
/// `Raw` is one of bytes.
#[derive(Debug)]
pub enum Raw {}

/// What absent bytes decode as, and `None` encodes to, so that a method with optional parameters can be
/// called without.
const NULL: &[u8] = &[0xf6];

/// What `()` encodes to: an array of nothing.
const UNIT: &[u8] = &[0x80];

/// Encodes a value as one CBOR item.
pub(crate) fn encode<T: Encode<()> + ?Sized>(value: &T) -> Result<Bytes> {
    let encoded = minicbor::to_vec(value);
    encoded.map(Bytes::from).map_err(|error| Error::new(ErrorKind::Codec).caused_by(error))
}

/// Decodes exactly one CBOR item, checked beforehand by the rules for whole messages.
///
/// # Errors
///
/// `Codec`, with the fault as its source.
pub(crate) fn decode<T: for<'b> Decode<'b, ()>>(bytes: &[u8]) -> Result<T> {
    let bytes = if bytes.is_empty() { NULL } else { bytes };
    validate_item(bytes).map_err(|error| Error::new(ErrorKind::Codec).caused_by(error))?;
    let mut decoder = minicbor::Decoder::new(bytes);
    let value = decoder.decode().map_err(|error| Error::new(ErrorKind::Codec).caused_by(error))?;
    if decoder.position() < bytes.len() {
        return Err(Error::new(ErrorKind::Codec).detail("the value ends before its bytes do"));
    }
    Ok(value)
}

/// Decodes the parameters of a method. No parameters are no parameters, however the caller says so: by
/// leaving them out, as `None` or as `()`. All are taken by methods with `()` and with an `Option`.
///
/// # Errors
///
/// As for [`decode`].
pub(crate) fn decode_params<P: for<'b> Decode<'b, ()> + 'static>(params: &[u8]) -> Result<P> {
    match params {
        [] | NULL if is_unit::<P>() => decode(UNIT),
        // Where an array of nothing is no value of the type, only an optional one can be `null`.
        UNIT => decode(UNIT).or_else(|error| decode(NULL).map_err(|_| error)),
        _ => decode(params),
    }
}

fn is_unit<P: 'static>() -> bool {
    let is = TypeId::of::<P>();
    #[cfg(feature = "serde")]
    if is == TypeId::of::<crate::serde_value::Serde<()>>() {
        return true;
    }
    is == TypeId::of::<()>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_round_trip() {
        let value = (7_u32, "text".to_owned(), Some(true));
        assert_eq!(decode::<(u32, String, Option<bool>)>(&encode(&value).unwrap()).unwrap(), value);
    }

    #[test]
    fn absent_bytes_are_null() {
        assert_eq!(decode::<Option<u32>>(b"").unwrap(), None);
        assert_eq!(decode::<u32>(b"").unwrap_err().kind(), &ErrorKind::Codec);
    }

    #[test]
    fn no_parameters_are_for_unit_and_optional_types_alone() {
        for nothing in [b"", NULL, UNIT] {
            assert_eq!(decode_params::<()>(nothing).ok(), Some(()));
            assert_eq!(decode_params::<Option<u32>>(nothing).unwrap(), None);
            assert_eq!(decode_params::<u32>(nothing).unwrap_err().kind(), &ErrorKind::Codec);
        }
        assert!(decode_params::<Vec<u32>>(UNIT).unwrap().is_empty());
        assert_eq!(decode_params::<Option<Vec<u32>>>(UNIT).unwrap(), Some(Vec::new()), "a value of the type");
        for absent in [b"", NULL] {
            assert_eq!(decode_params::<Vec<u32>>(absent).unwrap_err().kind(), &ErrorKind::Codec);
        }
        assert_eq!(decode_params::<()>(&[7]).unwrap_err().kind(), &ErrorKind::Codec);
        assert_eq!(decode_params::<Option<u32>>(&[7]).unwrap(), Some(7));
    }

    #[test]
    fn what_the_validator_refuses_is_not_decoded() {
        for bytes in [&[0x01, 0x01][..], &[0x9f, 0xff], &[0x18], &[0x81; 40]] {
            assert_eq!(decode::<Vec<u32>>(bytes).unwrap_err().kind(), &ErrorKind::Codec, "{bytes:02x?}");
        }
    }
}
