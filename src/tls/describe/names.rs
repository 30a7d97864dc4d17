//! Names of certificates and of peers.

use der::{
    Decode, Reader, SliceReader, Tag, Tagged,
    asn1::{AnyRef, ObjectIdentifier},
};
use rustls::pki_types::CertificateDer;

use super::oid::oid;
use crate::{
    message::printable,
    tls::{
        certificate::{Details, element},
        names::{Names, text},
    },
};

/// The longest name that is shown whole, in characters.
pub(super) const MAX_NAME_CHARS: usize = 64;
/// A peer may have thousands of names.
const MAX_NAMES: usize = 8;
/// A subject has one or two that tell it apart, and may have any number.
const MAX_ATTRIBUTES: usize = 6;

/// A name of a peer's choice.
pub(crate) fn name(name: &str) -> String {
    format!("`{}`", shortened(name))
}

fn shortened(name: &str) -> String {
    let shown = printable(name, MAX_NAME_CHARS);
    let cut = if name.chars().nth(MAX_NAME_CHARS).is_some() { "..." } else { "" };
    format!("{shown}{cut}")
}

/// A few names of a peer's choice, and how many more there are. `None` without any.
pub(crate) fn list_of_names<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut names = names.peekable();
    names.peek()?;
    let shown = names.by_ref().take(MAX_NAMES).map(name).collect::<Vec<_>>().join(", ");
    match names.count() {
        0 => Some(shown),
        more => Some(format!("{shown} and {more} more")),
    }
}

/// The names that a certificate is valid for, of those that servers have.
pub(crate) fn names_of_server(certificate: &CertificateDer<'_>) -> Option<String> {
    let names = Names::read(certificate).ok()?;
    let addresses: Vec<_> = names.ip_addresses.iter().map(ToString::to_string).collect();
    list_of_names(names.dns_names(certificate).chain(addresses.iter().map(String::as_str)))
}

/// Whom a certificate is for, or by.
pub(crate) fn subject(certificate: &[u8]) -> String {
    Details::read(certificate)
        .map_or_else(|_| "an unreadable name".to_owned(), |details| distinguished_name(details.subject))
}

/// A name as [RFC 4514](https://www.rfc-editor.org/rfc/rfc4514) writes it, nearly: in the order of the
/// certificate. It comes without its tag and length.
pub(crate) fn distinguished_name(encoded: &[u8]) -> String {
    match attributes(encoded) {
        Ok(attributes) if attributes.is_empty() => "an empty name".to_owned(),
        Ok(attributes) => format!("`{}`", attributes.join(", ")),
        Err(_) => "an unreadable name".to_owned(),
    }
}

fn attributes(encoded: &[u8]) -> der::Result<Vec<String>> {
    let mut attributes = Vec::new();
    let mut reader = SliceReader::new(encoded)?;
    while !reader.is_finished() && attributes.len() < MAX_ATTRIBUTES {
        let mut relative = SliceReader::new(element(&mut reader, Tag::Set)?)?;
        while !relative.is_finished() && attributes.len() < MAX_ATTRIBUTES {
            let mut attribute = SliceReader::new(element(&mut relative, Tag::Sequence)?)?;
            let kind = ObjectIdentifier::decode(&mut attribute)?;
            let value = AnyRef::decode(&mut attribute)?;
            let value = match value.tag() {
                Tag::Ia5String => std::str::from_utf8(value.value()).ok(),
                _ => text(value),
            };
            let value = value.map_or_else(|| "?".to_owned(), shortened);
            attributes.push(match ATTRIBUTES.iter().find(|(known, _)| *known == kind) {
                Some((_, short)) => format!("{short}={value}"),
                None => format!("{kind}={value}"),
            });
        }
    }
    Ok(attributes)
}

/// [RFC 4519](https://www.rfc-editor.org/rfc/rfc4519), and what authorities write besides.
const ATTRIBUTES: [(ObjectIdentifier, &str); 9] = [
    (oid("2.5.4.3"), "CN"),
    (oid("2.5.4.5"), "serial number"),
    (oid("2.5.4.6"), "C"),
    (oid("2.5.4.7"), "L"),
    (oid("2.5.4.8"), "ST"),
    (oid("2.5.4.10"), "O"),
    (oid("2.5.4.11"), "OU"),
    (oid("0.9.2342.19200300.100.1.25"), "DC"),
    (oid("1.2.840.113549.1.9.1"), "email"),
];
