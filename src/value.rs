//! Parameters and results as CBOR values of the application's types.

use bytes::Bytes;
use minicbor::{Decode, Encode};

use crate::{
    error::{Error, ErrorKind, Result},
    message::validate_item,
};

/// Stands for the type of a value where payloads are bytes: a [`ResponseSink`](crate::ResponseSink) of `Raw` is
/// one of bytes.
#[derive(Debug)]
pub enum Raw {}

/// What absent parameters decode as, so that a method with optional ones can be called without.
const NULL: &[u8] = &[0xf6];

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
    fn what_the_validator_refuses_is_not_decoded() {
        for bytes in [&[0x01, 0x01][..], &[0x9f, 0xff], &[0x18], &[0x81; 40]] {
            assert_eq!(decode::<Vec<u32>>(bytes).unwrap_err().kind(), &ErrorKind::Codec, "{bytes:02x?}");
        }
    }
}
