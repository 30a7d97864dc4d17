//! What is said about certificates, keys and revocation lists that are no good: what was found, and what to
//! do. The files in `tests/certificates` are openssl's, since rcgen makes nothing of the kind.

use std::{
    error::Error as _,
    fmt::Debug,
    time::{Duration, SystemTime},
};

use crate::common::{loopback, run};
use palyra_quic::{
    CertificateAuthority, ClientTls, Endpoint, Error, ErrorKind, Identity, Result, RevocationList, ServerTls,
    Trust, WallClock,
    rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
};

macro_rules! file {
    ($name:literal) => {
        include_bytes!(concat!("../certificates/", $name))
    };
}

const AUTHORITY: &[u8] = file!("authority.pem");
/// A certificate for servers on P-256, with its key; as all that follow.
const PLAIN: &[u8] = file!("plain.pem");
const REQUEST: &[u8] = file!("request.pem");
const PKCS7: &[u8] = file!("pkcs7.pem");
const PKCS12: &[u8] = file!("plain.p12");
const TRUSTED: &[u8] = file!("trusted.pem");
const ENCRYPTED_PKCS8: &[u8] = file!("encrypted-pkcs8.pem");
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// When the files are valid, wherever the tests run.
fn clock() -> WallClock {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    WallClock::from_fn(move || Some(time))
}

fn authority(name: &str) -> CertificateAuthority {
    CertificateAuthority::new(name).unwrap()
}

/// An error with all of its causes.
fn whole(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(" <- {error}");
        cause = error.source();
    }
    text
}

/// Such as `UnknownIssuer`, which only programmers of rustls and webpki know.
fn has_name_of_variant(text: &str) -> bool {
    let capital = |(at, char): (usize, char)| {
        char.is_ascii_uppercase() && text[at + 1..].starts_with(|next: char| next.is_ascii_lowercase())
    };
    text.split(|char: char| !char.is_ascii_alphanumeric()).any(|word| {
        let start = word.as_ptr().addr() - text.as_ptr().addr();
        word.char_indices().filter(|(at, char)| capital((start + at, *char))).count() > 1
    })
}

#[track_caller]
fn assert_says<T: Debug>(result: Result<T>, kind: &ErrorKind, phrases: &[&str], case: &str) {
    let error = result.expect_err(case);
    let text = whole(&error);
    assert_eq!(error.kind(), kind, "{case}: {text}");
    for phrase in phrases {
        assert!(error.explanation().unwrap().contains(phrase), "{case}: {phrase:?} is not in {text}");
    }
    assert!(!has_name_of_variant(&text), "{case}: {text}");
    assert!(!text.contains(char::is_control) && text.chars().count() < 700, "{case}: {text}");
}

#[track_caller]
fn assert_invalid<T: Debug>(result: Result<T>, phrases: &[&str], case: &str) {
    assert_says(result, &ErrorKind::InvalidConfig, phrases, case);
}

#[test]
fn names_of_variants_are_noticed() {
    assert!(has_name_of_variant("bad: CaUsedAsEndEntity"));
    assert!(!has_name_of_variant("PKCS #8, SHA-256, CN=Test CA, `Palyra Device a`"));
}

/// What is in the first section, whatever that is.
fn der_of(pem: &[u8], label: &str) -> Vec<u8> {
    let text = std::str::from_utf8(pem).unwrap();
    let renamed = text.replace(&format!("{label}-----"), "CERTIFICATE-----");
    CertificateDer::from_pem_slice(renamed.as_bytes()).unwrap().to_vec()
}

fn with(pem: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = std::str::from_utf8(pem).unwrap();
    assert!(text.contains(from), "nothing would change");
    text.replacen(from, to, 1).into_bytes()
}

/// One of the sections of a file.
fn section(pem: &[u8], label: &str) -> Vec<u8> {
    let text = std::str::from_utf8(pem).unwrap();
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----")).unwrap();
    let (body, _) = rest.split_once(&format!("-----END {label}-----")).unwrap();
    format!("-----BEGIN {label}-----{body}-----END {label}-----\n").into_bytes()
}

fn certificate() -> Vec<u8> {
    section(PLAIN, "CERTIFICATE")
}

fn key() -> Vec<u8> {
    section(PLAIN, "PRIVATE KEY")
}

#[test]
fn usable_files_are_taken_in_every_form() {
    let marked: fn(&[u8]) -> Vec<u8> = |pem| [b"\xef\xbb\xbf", pem].concat();
    let crlf: fn(&[u8]) -> Vec<u8> =
        |pem| std::str::from_utf8(pem).unwrap().replace('\n', "\r\n").into_bytes();
    let unended: fn(&[u8]) -> Vec<u8> = |pem| pem.trim_ascii_end().to_vec();
    let commented: fn(&[u8]) -> Vec<u8> =
        |pem| [b"# a remark\nBag Attributes\n  localKeyID: 00\n", pem].concat();
    let as_is: fn(&[u8]) -> Vec<u8> = |pem| pem.to_vec();
    for form in [as_is, marked, crlf, unended, commented] {
        let identity = Identity::from_pem(&form(&certificate()), &form(&key())).unwrap();
        assert_eq!(identity.chain().len(), 1);
        let both = [form(&key()), b"\n".to_vec(), form(&certificate())].concat();
        assert_eq!(Identity::from_pem(&both, &both).unwrap().fingerprint(), identity.fingerprint());
        assert_eq!(Trust::from_pem(&form(AUTHORITY)).unwrap().len(), 1);
    }
    // In the middle of a file, too, where an authority must not go missing.
    let (a, b) = (authority("a"), authority("b"));
    let both = [marked(a.cert_pem().as_bytes()), marked(b.cert_pem().as_bytes())].concat();
    assert_eq!(Trust::from_pem(&both).unwrap().len(), 2);
    let reloaded =
        CertificateAuthority::from_pem(&marked(a.cert_pem().as_bytes()), &marked(a.key_pem().as_bytes()));
    assert_eq!(reloaded.unwrap().certificate(), a.certificate());
}

#[test]
fn a_private_key_that_cannot_be_read_is_described() {
    let ssh = b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
    let public = b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
    let dsa = b"-----BEGIN DSA PRIVATE KEY-----\nAAAA\n-----END DSA PRIVATE KEY-----\n";
    let parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let utf_16: Vec<u8> =
        std::str::from_utf8(PLAIN).unwrap().encode_utf16().flat_map(u16::to_le_bytes).collect();
    let encrypted = "the private key is encrypted";
    for (case, key, phrases) in [
        ("PKCS #8", ENCRYPTED_PKCS8.to_vec(), &[encrypted, "PKCS #8", "`openssl pkey"][..]),
        ("PKCS #1", file!("encrypted-pkcs1.pem").to_vec(), &[encrypted, "PKCS #1", "`openssl pkey"]),
        ("SEC 1", file!("encrypted-sec1.pem").to_vec(), &[encrypted, "SEC 1", "`openssl pkey"]),
        ("behind a certificate", [certificate(), ENCRYPTED_PKCS8.to_vec()].concat(), &[encrypted]),
        (
            "encrypted, in DER",
            der_of(ENCRYPTED_PKCS8, "ENCRYPTED PRIVATE KEY"),
            &["an encrypted private key in DER", "`openssl pkey -inform DER"],
        ),
        ("DER", der_of(&key(), "PRIVATE KEY"), &["a private key in DER", "`openssl pkey -inform DER"]),
        ("PKCS #12", PKCS12.to_vec(), &["PKCS #12", "`openssl pkcs12"]),
        ("ssh", ssh.to_vec(), &["in the format of ssh", "`ssh-keygen"]),
        ("DSA", dsa.to_vec(), &["a DSA key", "not supported"]),
        ("public", public.to_vec(), &["a public key", "the private one is needed"]),
        ("parameters", parameters.to_vec(), &["parameters of keys alone"]),
        ("a certificate", certificate(), &["but a certificate", "swapped?"]),
        ("a request", REQUEST.to_vec(), &["a certificate request (CSR)", "swapped?"]),
        ("nothing", Vec::new(), &["no private key in the PEM: it is empty"]),
        ("blanks", b" \r\n\t\n".to_vec(), &["it is empty"]),
        ("text", b"the key is in the safe".to_vec(), &["no line `-----BEGIN PRIVATE KEY-----`"]),
        ("binary", vec![0; 100], &["not text"]),
        ("UTF-16", [b"\xff\xfe", &utf_16[..]].concat(), &["UTF-16", "save it as UTF-8"]),
        ("UTF-16 without a mark", utf_16, &["UTF-16"]),
        ("indented", with(&key(), "-----BEGIN", "  -----BEGIN"), &["beginning of a line"]),
        ("torn", key()[..key().len() / 2].to_vec(), &["malformed", "line 1", "cut off?"]),
        ("two, the first torn", [&key()[..80], &key()[..]].concat(), &["malformed"]),
        ("no base64", with(&key(), "KEY-----\n", "KEY-----\n!"), &["malformed: line 2 is not base64"]),
        ("half a digit", with(&key(), "KEY-----\n", "KEY-----\nA"), &["malformed", "incomplete"]),
        ("another end", with(&key(), "END PRIVATE", "END EC PRIVATE"), &["malformed", "ends as another"]),
        ("on one line", std::str::from_utf8(&key()).unwrap().replace('\n', "").into(), &["line breaks lost"]),
        ("with signs of breaks", with(&key(), "\n", "\\n"), &["line breaks lost"]),
        ("four dashes", with(&key(), "KEY-----\n", "KEY----\n"), &["line 1", "five dashes"]),
    ] {
        assert_invalid(Identity::from_pem(&certificate(), &key), phrases, case);
        assert_invalid(CertificateAuthority::from_pem(AUTHORITY, &key), phrases, case);
    }
    // An unencrypted key next to it will do.
    Identity::from_pem(&certificate(), &[ENCRYPTED_PKCS8.to_vec(), key()].concat()).unwrap();
}

#[test]
fn a_certificate_that_cannot_be_read_is_described() {
    for (case, pem, phrases) in [
        ("DER", der_of(PLAIN, "CERTIFICATE"), &["a certificate in DER", "`openssl x509 -inform DER"][..]),
        ("PKCS #12", PKCS12.to_vec(), &["PKCS #12", "`openssl pkcs12"]),
        ("PKCS #7", PKCS7.to_vec(), &["PKCS #7", "`openssl pkcs7 -print_certs"]),
        (
            "PKCS #7 in DER",
            der_of(PKCS7, "PKCS7"),
            &["PKCS #7 in DER", "`openssl pkcs7 -print_certs -inform DER"],
        ),
        ("trusted", TRUSTED.to_vec(), &["TRUSTED CERTIFICATE", "`openssl x509"]),
        (
            "an old label",
            with(&with(&certificate(), "N CERT", "N X509 CERT"), "D CERT", "D X509 CERT"),
            &["X509 CERTIFICATE", "`openssl x509"],
        ),
        ("a request", REQUEST.to_vec(), &["a certificate request (CSR)", "an authority has to issue"]),
        ("a request in DER", der_of(REQUEST, "CERTIFICATE REQUEST"), &["a certificate request (CSR) in DER"]),
        ("a key", key(), &["but a private key", "swapped?"]),
        ("an encrypted key", ENCRYPTED_PKCS8.to_vec(), &["an encrypted private key", "swapped?"]),
        ("a list", file!("crl-version1.pem").to_vec(), &["a certificate revocation list (CRL)"]),
        ("a list in DER", der_of(file!("crl-version1.pem"), "X509 CRL"), &["revocation list (CRL) in DER"]),
        ("a keystore", b"\xfe\xed\xfe\xed\0\0\0\x02".to_vec(), &["a Java keystore"]),
        ("nothing", Vec::new(), &["no certificate in the PEM: it is empty"]),
        ("text", b"certificate".to_vec(), &["no line `-----BEGIN CERTIFICATE-----`"]),
        ("torn", certificate()[..200].to_vec(), &["the PEM of the certificates is malformed", "cut off?"]),
        ("no base64", with(&certificate(), "MII", "MI!"), &["malformed: line 2 is not base64"]),
    ] {
        assert_invalid(Identity::from_pem(&pem, &key()), phrases, case);
        assert_invalid(Trust::from_pem(&pem), phrases, case);
        assert_invalid(CertificateAuthority::from_pem(&pem, &key()), phrases, case);
    }
}

#[test]
fn a_certificate_that_cannot_be_shown_is_refused_when_it_is_loaded() {
    for (case, pem, phrases) in [
        ("P-521", &file!("p521.pem")[..], &["`CN=p521`", "an ECDSA key on P-521", "P-256"][..]),
        ("Ed448", file!("ed448.pem"), &["`CN=ed448`", "an Ed448 key", "Ed25519"]),
        ("RSA", file!("rsa1024.pem"), &["`CN=rsa1024`", "an RSA key of 1024 bits", "2048 to 4096"]),
        ("version 1", file!("version1.pem"), &["`CN=version1`", "X.509 version 1", "as version 3"]),
    ] {
        assert_invalid(Identity::from_pem(pem, pem), phrases, case);
    }
    let other = section(AUTHORITY, "PRIVATE KEY");
    let mismatch = "does not belong to the certificate `CN=plain`";
    assert_invalid(Identity::from_pem(PLAIN, &other), &[mismatch], "the key of another");
    let wrong_order = [section(AUTHORITY, "CERTIFICATE"), certificate()].concat();
    let phrases =
        ["certificate 2 of the chain, `CN=plain`", "the first, `CN=authority`", "certificate first"];
    assert_invalid(Identity::from_pem(&wrong_order, &key()), &phrases, "the wrong order");
    let right_order = [certificate(), section(AUTHORITY, "CERTIFICATE")].concat();
    Identity::from_pem(&right_order, &key()).unwrap();

    let der = |der: &[u8]| vec![CertificateDer::from(der.to_vec())];
    let plain_key = || PrivateKeyDer::from_pem_slice(PLAIN).unwrap();
    let request = der(&der_of(REQUEST, "CERTIFICATE REQUEST"));
    assert_invalid(Identity::from_der(request, plain_key()), &["a certificate request (CSR)"], "a request");
    let p521 = PrivateKeyDer::from_pem_slice(file!("p521.pem")).unwrap();
    let chain = der(&der_of(PLAIN, "CERTIFICATE"));
    let phrases = ["the private key is not usable", "PKCS #8, an ECDSA key on P-521"];
    assert_invalid(Identity::from_der(chain.clone(), p521), &phrases, "a key on P-521");
    let garbage = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(vec![0x30, 0]));
    assert_invalid(Identity::from_der(chain, garbage), &["PKCS #8, unreadable"], "no key");
}

/// A certificate without the key that signs others.
fn leaf_of(authority: &CertificateAuthority) -> Vec<u8> {
    authority.issue_server(&["node.example"]).unwrap().cert_pem().as_bytes().to_vec()
}

#[test]
fn an_authority_that_can_verify_nothing_is_refused_when_it_is_loaded() {
    let phrases = ["`CN=p521-authority`", "an ECDSA key on P-521"];
    assert_invalid(Trust::from_pem(file!("p521-authority.pem")), &phrases, "P-521");
    assert_invalid(Trust::from_pem(file!("ed448.pem")), &["`CN=ed448`", "an Ed448 key"], "Ed448");
    let phrases = ["an RSA key of 1024 bits", "2048 to 8192"];
    assert_invalid(Trust::from_pem(file!("rsa1024.pem")), &phrases, "RSA");
    let phrases = ["`CN=plain` is the certificate of a node", "trust its issuer `CN=authority`"];
    assert_invalid(Trust::from_pem(PLAIN), &phrases, "a node's");
    // No other is needed for one to be refused.
    let both = [AUTHORITY, file!("p521-authority.pem")].concat();
    assert_invalid(Trust::from_pem(&both), &["`CN=p521-authority`"], "P-521 among others");
    assert_invalid(Trust::from_der([CertificateDer::from(vec![0x30, 0])]), &["no certificate"], "garbage");

    // What works, and always has: version 1, which says nothing of authorities; the whole chain of a node.
    assert_eq!(Trust::from_pem(file!("version1.pem")).unwrap().len(), 1);
    let ca = authority("ca");
    let chain = [leaf_of(&ca), ca.cert_pem().as_bytes().to_vec()].concat();
    assert_eq!(Trust::from_pem(&chain).unwrap().len(), 1, "the authority alone");
}

#[test]
fn a_self_signed_certificate_that_is_trusted_works_unless_it_is_an_authoritys() {
    let self_signed = |is_ca| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.is_ca = is_ca;
        let pem = params.self_signed(&key).unwrap().pem();
        let identity = Identity::from_pem(pem.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
        (identity, Trust::from_pem(pem.as_bytes()).unwrap())
    };
    run(async {
        for node in [rcgen::IsCa::NoCa, rcgen::IsCa::ExplicitNoCa] {
            let (identity, trust) = self_signed(node);
            let connected = Handshake::new(identity, trust).connect().await;
            connected.unwrap();
        }
        let (identity, trust) = self_signed(rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
        let connected = Handshake::new(identity, trust).connect().await;
        let phrases = ["it is self-signed", "the certificate of an authority", "`basicConstraints=CA:FALSE`"];
        assert_says(connected, &ErrorKind::PeerCertificate, &phrases, "an authority's");
    });
}

struct Handshake {
    server: Identity,
    trust: Trust,
    name: &'static str,
    /// Who asks, where the server demands a certificate from this authority.
    client: Option<(Option<Identity>, Trust)>,
    clock: WallClock,
}

impl Handshake {
    fn new(server: Identity, trust: Trust) -> Self {
        Self { server, trust, name: "localhost", client: None, clock: WallClock::system() }
    }

    async fn connect(self) -> Result<()> {
        let Self { server, trust, name, client, clock } = self;
        let (mut server, mut dialling) = (ServerTls::new(server), ClientTls::new(trust));
        if let Some((identity, trust)) = client {
            server = server.require_client_certificates(trust);
            if let Some(identity) = identity {
                dialling = dialling.identity(identity);
            }
        }
        let node = Endpoint::builder().server(server).wall_clock(clock.clone()).bind(loopback())?;
        let endpoint = Endpoint::builder().client(dialling).wall_clock(clock).bind(loopback())?;
        endpoint.connect((node.local_addr()?, name)).await.map(drop)
    }
}

#[test]
fn a_server_that_is_not_believed_is_described() {
    let ca = authority("ca");
    let now = SystemTime::now();
    let during = |from, until| ca.clone().valid(from, until).unwrap().issue_server(&[]).unwrap().identity();
    let server = |ca: &CertificateAuthority| ca.issue_server(&["node.example"]).unwrap().identity();
    run(async {
        for (case, server, phrases) in [
            (
                "expired",
                during(now - 2 * DAY, now - DAY),
                &["expired: it was valid until 20", "this node's clock says 20"][..],
            ),
            (
                "not yet valid",
                during(now + DAY, now + 2 * DAY),
                &["not valid yet", "clock is behind", "from 20"],
            ),
            ("a stranger", server(&authority("other")), &["its issuer `CN=other` is neither trusted nor"]),
            ("a namesake", server(&authority("ca")), &["another authority of the same name?"]),
            (
                "a client's",
                ca.issue_client("a").unwrap().identity(),
                &["not made for servers, but for clients"],
            ),
        ] {
            let connected = Handshake::new(server, ca.trust()).connect().await;
            assert_says(connected, &ErrorKind::PeerCertificate, phrases, case);
        }
        let named = |name| Handshake { name, ..Handshake::new(server(&ca), ca.trust()) };
        named("node.example").connect().await.unwrap();
        let phrases = ["not valid for `a.example`, but for `node.example`, `localhost`, `127.0.0.1`, `::1`"];
        let connected = named("a.example").connect().await;
        assert_says(connected, &ErrorKind::PeerCertificate, &phrases, "another name");
        let connected = named("192.0.2.1").connect().await;
        assert_says(connected, &ErrorKind::PeerCertificate, &["`192.0.2.1`, but for"], "another address");
    });
}

#[test]
fn what_is_missing_on_the_path_is_named() {
    let key = || rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let params = |name: &str, is_ca| {
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Example");
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = is_ca;
        params
    };
    let ca = || rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let (root_key, middle_key, low_key, leaf_key) = (key(), key(), key(), key());
    let root = params("root", ca()).self_signed(&root_key).unwrap();
    let root_issuer = rcgen::Issuer::new(params("root", ca()), root_key);
    let middle = params("middle\u{202e}", ca()).signed_by(&middle_key, &root_issuer).unwrap();
    let middle_issuer = rcgen::Issuer::new(params("middle\u{202e}", ca()), middle_key);
    let low = params("low", ca()).signed_by(&low_key, &middle_issuer).unwrap();
    let low_issuer = rcgen::Issuer::new(params("low", ca()), low_key);
    let leaf = params("leaf", rcgen::IsCa::NoCa).signed_by(&leaf_key, &low_issuer).unwrap();
    let identity = |chain: &[&rcgen::Certificate]| {
        let pem: String = chain.iter().map(|certificate| certificate.pem()).collect();
        Identity::from_pem(pem.as_bytes(), leaf_key.serialize_pem().as_bytes()).unwrap()
    };
    let trust = Trust::from_der([root.der().clone()]).unwrap();
    run(async {
        for chain in [&[&leaf, &low, &middle][..], &[&leaf, &middle, &low], &[&leaf, &root, &middle, &low]] {
            Handshake::new(identity(chain), trust.clone()).connect().await.unwrap();
        }
        let missing = |chain: &[&rcgen::Certificate]| Handshake::new(identity(chain), trust.clone());
        for (chain, phrase) in [
            (&[&leaf][..], "its issuer `O=Example, CN=low` is neither trusted"),
            (&[&leaf, &middle], "its issuer `O=Example, CN=low` is neither trusted"),
            (
                &[&leaf, &low],
                "the issuer of `O=Example, CN=low`, `O=Example, CN=middle\u{fffd}` is neither trusted",
            ),
        ] {
            let connected = missing(chain).connect().await;
            assert_says(connected, &ErrorKind::PeerCertificate, &[phrase, "intermediate"], phrase);
        }
        let strangers = Handshake::new(identity(&[&leaf, &low, &middle, &root]), authority("other").trust());
        let phrases = ["its path ends in `O=Example, CN=root`, which is not trusted"];
        assert_says(strangers.connect().await, &ErrorKind::PeerCertificate, &phrases, "a stranger's root");
    });
}

#[test]
fn a_chain_that_cannot_be_verified_is_described() {
    let connect = |pem: &[u8]| {
        let identity = Identity::from_pem(pem, pem).unwrap();
        Handshake { clock: clock(), ..Handshake::new(identity, Trust::from_pem(AUTHORITY).unwrap()) }
            .connect()
    };
    let sha_1 = ["signed with ECDSA and SHA-1", "have it issued anew with SHA-256"];
    let issuer = "its issuer `CN=intermediate`";
    run(async {
        connect(PLAIN).await.unwrap();
        for (pem, phrases) in [
            (&file!("sha1.pem")[..], &sha_1[..]),
            (file!("sha1-chain.pem"), &[issuer, sha_1[0], sha_1[1]]),
            (file!("rsa1024-chain.pem"), &[issuer, "an RSA key of 1024 bits"]),
            (file!("p521-chain.pem"), &["its issuer has an ECDSA key on P-521"]),
            (file!("version1-chain.pem"), &[issuer, "X.509 version 1"]),
        ] {
            assert_says(connect(pem).await, &ErrorKind::PeerCertificate, phrases, phrases[0]);
        }
    });
}

#[test]
fn a_client_that_is_refused_is_told_what_to_look_at() {
    let ca = authority("ca");
    let server = || ca.issue_server(&[]).unwrap().identity();
    let refused = |client| {
        let demands = Some((client, ca.trust()));
        Handshake { client: demands, ..Handshake::new(server(), ca.trust()) }.connect()
    };
    run(async {
        refused(Some(ca.issue_client("a").unwrap().identity())).await.unwrap();
        let stranger = authority("other").issue_client("a").unwrap().identity();
        for (case, client, phrases) in [
            ("none", None, &["certificate_required", "give this node an identity"][..]),
            ("a stranger's", Some(stranger), &["unknown_ca", "an authority that the peer trusts"]),
            ("a server's", Some(server()), &["unsupported_certificate", "not made for this use"]),
        ] {
            assert_says(refused(client).await, &ErrorKind::CertificateRefused, phrases, case);
        }
    });
}

#[test]
fn a_revocation_list_that_is_refused_is_described() {
    let trust = Trust::from_pem(AUTHORITY).unwrap();
    let load = |pem: &[u8]| RevocationList::with_clock(clock()).replace_crls_pem(&trust, pem);
    // RFC 5280 demands a number, which only tells which of two lists is newer: a list without one is used.
    load(file!("crl-without-number.pem")).unwrap();
    let other = authority("other").crl(1, []).unwrap();
    let now = RevocationList::new();
    let phrases = ["its issuer is `CN=other`"];
    assert_invalid(now.replace_crls(&trust, [other]), &phrases, "of another authority");
    for (case, pem, phrases) in [
        ("version 1", &file!("crl-version1.pem")[..], &["version 1", "no number", "version 2"][..]),
        ("a certificate", PLAIN, &["no certificate revocation list in the PEM, but a certificate"]),
        ("nothing", b"", &["it is empty"]),
        (
            "torn",
            &file!("crl-version1.pem")[..150],
            &["the PEM of the revocation lists is malformed", "cut off?"],
        ),
        (
            "DER",
            &der_of(file!("crl-version1.pem"), "X509 CRL"),
            &["a certificate revocation list (CRL) in DER", "`openssl crl -inform DER"],
        ),
    ] {
        assert_invalid(load(pem), phrases, case);
    }
    let mut later = clock().now().unwrap();
    later += 36_500 * DAY;
    let late = RevocationList::with_clock(WallClock::from_fn(move || Some(later)));
    let loaded = late.replace_crls_pem(&trust, file!("crl-without-number.pem"));
    assert_invalid(loaded, &["it has expired: the next one was due at 21"], "expired");
}

#[test]
fn a_server_name_that_is_none_is_described() {
    let endpoint = Endpoint::builder().client(ClientTls::new(authority("ca").trust())).bind(loopback());
    let endpoint = endpoint.unwrap();
    let address = endpoint.local_addr().unwrap();
    for (name, phrase) in [
        ("", "empty"),
        ("[::1]", "without brackets"),
        ("[::1]:7443", "without brackets"),
        ("localhost:7443", "without the port"),
        ("192.0.2.1:7443", "without the port"),
        ("bücher.example", "xn--"),
        ("a b", "as in the certificate"),
        ("a\u{1b}[31m", "as in the certificate"),
    ] {
        assert_invalid(smol::block_on(endpoint.connect((address, name))), &[phrase], name);
    }
}
