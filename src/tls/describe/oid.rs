//! Object identifiers of algorithms and attributes.

use der::{Decode, SliceReader, asn1::ObjectIdentifier};

pub(super) const fn oid(dotted: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(dotted)
}

/// The identifier that an algorithm begins with, which comes without tag and length.
pub(super) fn leading_oid(algorithm: &[u8]) -> Option<ObjectIdentifier> {
    ObjectIdentifier::decode(&mut SliceReader::new(algorithm).ok()?).ok()
}
