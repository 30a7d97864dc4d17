use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, KeyPair, string::Ia5String,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{names::MAX_NAME_CHARS, *};

fn certificate_of(subject: DistinguishedName) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    params.self_signed(&key).unwrap().der().clone()
}

#[test]
fn subjects_are_short_and_on_one_line_whatever_they_are() {
    let mut long = DistinguishedName::new();
    long.push(DnType::OrganizationName, "o".repeat(1_000));
    long.push(DnType::CommonName, "a\u{1b}[2J\n\u{202e}b");
    for number in 0..100 {
        long.push(DnType::CustomDnType(vec![1, 2, 3, number]), "x");
    }
    let shown = subject(&certificate_of(long));
    let rest = "CN=a\u{fffd}[2J\u{fffd}\u{fffd}b, 1.2.3.0=x, 1.2.3.1=x, 1.2.3.2=x, 1.2.3.3=x";
    assert_eq!(shown, format!("`O={}..., {rest}`", "o".repeat(MAX_NAME_CHARS)));

    assert_eq!(subject(&certificate_of(DistinguishedName::new())), "an empty name");
    assert_eq!(subject(b"garbage"), "an unreadable name");
    let mut domain = DistinguishedName::new();
    let example = Ia5String::try_from("example").unwrap();
    let component = DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 25]);
    domain.push(component, DnValue::Ia5String(example));
    assert_eq!(subject(&certificate_of(domain)), "`DC=example`");
}

/// Nor do those that look for more than is there.
#[test]
fn no_cut_or_changed_certificate_makes_the_descriptions_panic() {
    let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
    params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3]));
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let der = params.self_signed(&key).unwrap().der().to_vec();
    let described = |der: &[u8]| {
        let certificate = CertificateDer::from_slice(der);
        drop((subject(der), names_of_server(&certificate), kind_of_der(der)));
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der));
        drop((private_key(&key), public_key(der), key_of(der), signature(der), distinguished_name(der)));
    };
    for at in 0..der.len() {
        described(&der[..at]);
        described(&der[at..]);
        for flip in [0x01, 0x80, 0xff] {
            let mut changed = der.clone();
            changed[at] ^= flip;
            described(&changed);
        }
    }
    let key = key.serialize_der();
    for at in 0..key.len() {
        described(&key[..at]);
    }
}
