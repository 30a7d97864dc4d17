//! Certificates, keys and revocation lists out of PEM; or what was found instead, and what to do about it.
//!
//! Nothing here shows what it was given: that may be a key.

use std::ops::Range;

use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
    pem::{self, PemObject},
};
use zeroize::Zeroizing;

use super::describe::{self, EXPLAINS, Kind};
use crate::error::{Error, Result};

/// What some editors write in front of UTF-8, which says nothing.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    all(pem, ItemKind::Certificates)
}

/// The first private key.
pub(crate) fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>> {
    let unmarked = without_marks(pem);
    let pem = unmarked.as_ref().map_or(pem, |unmarked| unmarked.as_slice());
    // Without a source: the parser's errors quote their input.
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| explained(pem, ItemKind::PrivateKey, &error))
}

pub(crate) fn revocation_lists(pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>> {
    all(pem, ItemKind::RevocationLists)
}

fn all<T: PemObject>(pem: &[u8], wanted: ItemKind) -> Result<Vec<T>> {
    let unmarked = without_marks(pem);
    let pem = unmarked.as_ref().map_or(pem, |unmarked| unmarked.as_slice());
    let all = T::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| explained(pem, wanted, &error))?;
    if all.is_empty() { Err(explained(pem, wanted, &pem::Error::NoItemsFound)) } else { Ok(all) }
}

/// The text without byte order marks at the beginnings of its lines: files are put together. `None` where
/// there are none.
fn without_marks(pem: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let is_marked = |line: &&[u8]| line.starts_with(BYTE_ORDER_MARK);
    lines(pem).map(|line| &pem[line]).find(is_marked)?;
    let mut unmarked = Zeroizing::new(Vec::with_capacity(pem.len()));
    for line in pem.split_inclusive(|byte| matches!(byte, b'\r' | b'\n')) {
        unmarked.extend_from_slice(line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line));
    }
    Some(unmarked)
}

/// Lines as the parser of PEM divides them.
fn lines(pem: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut begin = 0;
    pem.split(|byte| matches!(byte, b'\r' | b'\n')).map(move |line| {
        let range = begin..begin + line.len();
        begin = range.end + 1;
        range
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ItemKind {
    Certificates,
    PrivateKey,
    RevocationLists,
}

impl ItemKind {
    fn name(self) -> &'static str {
        match self {
            Self::Certificates => "certificate",
            Self::PrivateKey => "private key",
            Self::RevocationLists => "certificate revocation list",
        }
    }

    fn all(self) -> &'static str {
        match self {
            Self::Certificates => "certificates",
            Self::PrivateKey => "private key",
            Self::RevocationLists => "revocation lists",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Certificates => "CERTIFICATE",
            Self::PrivateKey => "PRIVATE KEY",
            Self::RevocationLists => "X509 CRL",
        }
    }

    /// Whether something of this kind may hold what is wanted.
    fn may_be(self, kind: Kind) -> bool {
        match self {
            Self::Certificates => matches!(kind, Kind::Certificate | Kind::Pkcs7),
            Self::PrivateKey => matches!(kind, Kind::PrivateKey | Kind::EncryptedKey),
            Self::RevocationLists => matches!(kind, Kind::RevocationList | Kind::Pkcs7),
        }
    }
}

fn explained(pem: &[u8], wanted: ItemKind, error: &pem::Error) -> Error {
    if !EXPLAINS {
        return Error::invalid_config(short(wanted, error));
    }
    let sections = sections(pem);
    let name = wanted.name();
    if !matches!(error, pem::Error::NoItemsFound) {
        let fault = sections.iter().find_map(|section| fault(pem, section));
        return Error::invalid_config(match fault {
            Some(Fault::Encrypted(format)) => encrypted(format),
            Some(Fault::Malformed(fault)) => format!("the PEM of the {} is malformed: {fault}", wanted.all()),
            None => format!("the PEM of the {} is malformed", wanted.all()),
        });
    }
    let found = sections.iter().map(|section| section.kind);
    let found = found.min_by_key(|kind| rank(wanted, *kind));
    Error::invalid_config(match found {
        Some(Kind::EncryptedKey) if wanted == ItemKind::PrivateKey => encrypted("PKCS #8"),
        Some(kind) => format!("no {name} in the PEM, but {}", instead(wanted, kind)),
        None => format!("no {name} in the PEM: {}", without_sections(pem, wanted)),
    })
}

/// Without a look at the text.
fn short(wanted: ItemKind, error: &pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => format!("no {} in the PEM", wanted.name()),
        _ => format!("the PEM of the {} is malformed", wanted.all()),
    }
}

fn encrypted(format: &str) -> String {
    format!(
        "the private key is encrypted ({format}): decrypt it first, for example with `openssl pkey -in KEY \
         -out PLAIN_KEY`"
    )
}

/// Of several, what explains most.
fn rank(wanted: ItemKind, kind: Kind) -> usize {
    let order: &[Kind] = match wanted {
        ItemKind::PrivateKey => &[Kind::EncryptedKey, Kind::SshKey, Kind::DsaKey, Kind::PublicKey],
        ItemKind::Certificates => {
            &[Kind::TrustedCertificate, Kind::OldCertificate, Kind::Pkcs7, Kind::Request]
        }
        ItemKind::RevocationLists => &[Kind::Certificate],
    };
    let last = if kind == Kind::Unknown { order.len() + 1 } else { order.len() };
    order.iter().position(|other| *other == kind).unwrap_or(last)
}

/// What was found where something else was wanted, and what to do.
fn instead(wanted: ItemKind, kind: Kind) -> String {
    let (is_key, is_certificate) = (wanted == ItemKind::PrivateKey, wanted == ItemKind::Certificates);
    let advice = match kind {
        Kind::TrustedCertificate | Kind::OldCertificate if is_certificate => {
            ": convert it with `openssl x509 -in FILE -out CERTIFICATE`"
        }
        Kind::Pkcs7 => {
            ": take out what is in it with `openssl pkcs7 -print_certs -in FILE -out CERTIFICATES`"
        }
        Kind::Request if is_certificate => ": an authority has to issue the certificate that it asks for",
        Kind::PrivateKey | Kind::EncryptedKey | Kind::SshKey if is_certificate => {
            ": are certificate and key swapped?"
        }
        Kind::Certificate | Kind::TrustedCertificate | Kind::Request if is_key => {
            ": are certificate and key swapped?"
        }
        Kind::SshKey if is_key => ": convert it with `ssh-keygen -p -m PKCS8 -f KEY`",
        Kind::DsaKey if is_key => ", which is not supported",
        Kind::PublicKey if is_key => ": the private one is needed",
        _ => "",
    };
    format!("{}{advice}", kind.name())
}

/// What is in a text that has no section.
fn without_sections(pem: &[u8], wanted: ItemKind) -> String {
    if pem.trim_ascii().is_empty() {
        return "it is empty".into();
    }
    if pem.starts_with(b"\xff\xfe") || pem.starts_with(b"\xfe\xff") || contains(pem, b"-\0-\0-") {
        return "it is UTF-16 text: save it as UTF-8".into();
    }
    if contains(pem, b"-----BEGIN ") {
        return "`-----BEGIN` does not stand at the beginning of a line".into();
    }
    match describe::kind_of_der(pem) {
        Some(Kind::Pkcs12) => {
            "it is PKCS #12: take out certificates and key with `openssl pkcs12 -nodes -in \
            FILE -out PEM`"
                .into()
        }
        Some(kind) => {
            let advice = conversion(kind).map_or_else(String::new, |command| {
                format!(": convert it with `openssl {command} -inform DER -in FILE -out PEM`")
            });
            let swapped = if wanted.may_be(kind) { "" } else { ", and not what is wanted here" };
            format!("it is {} in DER{swapped}{advice}", kind.name())
        }
        None if pem.contains(&0) || std::str::from_utf8(pem).is_err() => {
            "it is not text, and of no format that is known here".into()
        }
        None => format!("there is no line `-----BEGIN {}-----`", wanted.label()),
    }
}

/// What openssl converts DER with.
fn conversion(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::Certificate => "x509",
        Kind::PrivateKey | Kind::EncryptedKey => "pkey",
        Kind::Request => "req",
        Kind::RevocationList => "crl",
        Kind::Pkcs7 => "pkcs7 -print_certs",
        _ => return None,
    })
}

fn contains(pem: &[u8], bytes: &[u8]) -> bool {
    pem.windows(bytes.len()).any(|window| window == bytes)
}

/// As editors count lines, from 1.
fn line_number(pem: &[u8], start: usize) -> usize {
    pem[..start].split(|byte| *byte == b'\n').count()
}

/// From a line `-----BEGIN` to the next such line, or to `-----END`.
struct Section {
    kind: Kind,
    first_line: usize,
    label: Range<usize>,
    /// Whether the first line is whole.
    is_labelled: bool,
    /// The lines between.
    body: Vec<Range<usize>>,
    /// What stands behind `-----END `.
    end: Option<Range<usize>>,
}

fn sections(pem: &[u8]) -> Vec<Section> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    const END: &[u8] = b"-----END ";
    let mut sections: Vec<Section> = Vec::new();
    for line in lines(pem) {
        let text = &pem[line.clone()];
        if text.starts_with(BEGIN) {
            let label = text[BEGIN.len()..].trim_ascii_end();
            let dashes = label.iter().rev().take_while(|byte| **byte == b'-').count();
            let begin = line.start + BEGIN.len();
            let label = begin..begin + label.len() - dashes;
            sections.push(Section {
                kind: Kind::of_label(&pem[label.clone()]),
                first_line: line_number(pem, line.start),
                label,
                is_labelled: dashes == 5,
                body: Vec::new(),
                end: None,
            });
        } else if let Some(open) = sections.last_mut().filter(|section| section.end.is_none()) {
            if text.starts_with(END) {
                open.end = Some(line.start + END.len()..line.end);
            } else {
                open.body.push(line);
            }
        }
    }
    sections
}

enum Fault {
    /// In this format.
    Encrypted(&'static str),
    Malformed(String),
}

/// What makes a section unreadable.
fn fault(pem: &[u8], section: &Section) -> Option<Fault> {
    let Section { kind, first_line, label, is_labelled, body, end } = section;
    let malformed = |fault: String| Some(Fault::Malformed(fault));
    if contains(&pem[label.clone()], b"-----") {
        return malformed(format!(
            "line {first_line} is more than `-----BEGIN ...-----` (were line breaks lost?)"
        ));
    }
    if !is_labelled {
        return malformed(format!("line {first_line} does not end in five dashes"));
    }
    let texts = || body.iter().map(|line| &pem[line.clone()]);
    if texts().any(|line| line.starts_with(b"Proc-Type:") && contains(line, b"ENCRYPTED")) {
        return Some(Fault::Encrypted(match &pem[label.clone()] {
            b"RSA PRIVATE KEY" => "PKCS #1 with Proc-Type",
            b"EC PRIVATE KEY" => "SEC 1 with Proc-Type",
            _ => "Proc-Type",
        }));
    }
    // Unknown sections are skipped, and so is what is in them.
    if *kind == Kind::Unknown && end.is_some() {
        return None;
    }
    let Some(end) = end else {
        return malformed(format!(
            "the section that begins in line {first_line} has no `-----END` (is the file cut off?)"
        ));
    };
    let closing = &pem[end.clone()];
    if !closing.strip_prefix(&pem[label.clone()]).is_some_and(|rest| rest.starts_with(b"-----")) {
        return malformed(format!("the section that begins in line {first_line} ends as another"));
    }
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/= \t".contains(byte);
    if let Some(line) = body.iter().find(|line| !pem[(*line).clone()].iter().all(is_base64)) {
        return malformed(format!("line {} is not base64", line_number(pem, line.start)));
    }
    let digits: usize =
        texts().flatten().filter(|byte| !byte.is_ascii_whitespace() && **byte != b'=').count();
    (digits % 4 == 1 || digits == 0).then(|| {
        Fault::Malformed(format!("the base64 of the section that begins in line {first_line} is incomplete"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "-----BEGIN PRIVATE KEY-----\r\nc2VjcmV0\r\nIHNlY3JldA==\r\n-----END PRIVATE KEY-----\r\n";

    /// Which may be a key.
    #[test]
    fn no_cut_or_changed_text_makes_the_reader_panic_or_is_shown() {
        assert!(private_key(KEY.as_bytes()).is_ok());
        for at in 0..KEY.len() {
            for replacement in [None, Some(b'-'), Some(b'\n'), Some(b'!'), Some(0xef), Some(0)] {
                let mut changed = KEY.as_bytes().to_vec();
                match replacement {
                    None => changed.truncate(at),
                    Some(byte) => changed[at] = byte,
                }
                let errors = [
                    private_key(&changed).err(),
                    certificates(&changed).err(),
                    revocation_lists(&changed).err(),
                ];
                for error in errors.into_iter().flatten() {
                    let shown = format!("{error} {error:?}");
                    assert!(!shown.contains("c2Vj") && !shown.contains("cmV0"), "{shown}");
                }
            }
        }
    }

    /// Without the feature `explain`.
    #[test]
    fn a_short_error_says_what_is_missing_or_malformed() {
        let missing = short(ItemKind::Certificates, &pem::Error::NoItemsFound);
        assert_eq!(missing, "no certificate in the PEM");
        let malformed = short(ItemKind::PrivateKey, &pem::Error::Base64Decode("secret".into()));
        assert_eq!(malformed, "the PEM of the private key is malformed");
    }

    #[test]
    fn lines_are_counted_as_editors_do() {
        let broken = KEY.replace("IHNl", "!HNl");
        let error = private_key(broken.as_bytes()).unwrap_err();
        assert_eq!(
            error.explanation(),
            Some("the PEM of the private key is malformed: line 3 is not base64")
        );
        let error = private_key(format!("# a key\r\n{}", &KEY[..40]).as_bytes()).unwrap_err();
        assert!(error.explanation().unwrap().contains("begins in line 2"), "{error}");
    }
}
