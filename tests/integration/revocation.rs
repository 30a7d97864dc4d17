//! Certificates that are revoked while nodes run, in virtual time.

use std::time::{Duration, SystemTime};

use crate::simulation::{PORT, Pair, SECOND};
use futures_lite::future::{or, pending};
use palyra_quic::{
    CertificateAuthority, ClientTls, Code, Connection, Context, Endpoint, Error, ErrorKind, Fingerprint,
    Identity, IssuedCertificate, RevocationList, Revoked, Router, ServerTls, WallClock,
    rustls::pki_types::CertificateRevocationListDer, sim::Link,
};
#[cfg(feature = "ecdsa")]
use palyra_quic::{
    Trust,
    rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

const PEERS: usize = 200;
const HOUR: Duration = Duration::from_secs(3600);

/// A gateway, its authority, and the list that it consults.
struct Gateway {
    pair: Pair,
    authority: CertificateAuthority,
    identity: IssuedCertificate,
    list: RevocationList,
    /// The time of day goes on with that of the simulation.
    wall_clock: WallClock,
    _node: Endpoint,
}

impl Gateway {
    /// `protect` is what is shown to do the work.
    fn new(protect: impl Fn(ServerTls, &RevocationList) -> ServerTls) -> Self {
        let pair = Pair::new(1, Link::new().delay(Duration::from_millis(10)));
        let authority = CertificateAuthority::new("Simulated CA").unwrap();
        let identity = authority.issue_server(&["gateway.example", "10.0.0.1"]).unwrap();
        let list = RevocationList::new();
        let tls = ServerTls::new(identity.identity()).require_client_certificates(authority.trust());
        let router = Router::new()
            .serve_raw("demo.echo", |_: Context, params| async move { Ok(params) })
            .serve_raw("demo.hang", |_: Context, _| pending());
        let (runtime, began) = (pair.sim.runtime(), SystemTime::now());
        let start = runtime.now();
        let wall_clock = WallClock::from_fn(move || Some(began + (runtime.now() - start)));
        let builder = Endpoint::builder().server(protect(tls, &list)).router(router);
        let builder = builder.wall_clock(wall_clock.clone());
        let node = pair.gateway.bind(builder, PORT).unwrap();
        Self { pair, authority, identity, list, wall_clock, _node: node }
    }

    fn protected() -> Self {
        Self::new(|tls, list| tls.revocations(list))
    }

    fn tls(&self, identity: Identity) -> ClientTls {
        ClientTls::new(self.authority.trust()).identity(identity)
    }

    async fn connect_with(&self, tls: &ClientTls) -> Result<Connection, Error> {
        let endpoint = Endpoint::builder().wall_clock(self.wall_clock.clone());
        let endpoint = self.pair.sensor.bind(endpoint, 0).unwrap();
        endpoint.connect_with(tls, self.pair.gateway.address(PORT)).await
    }

    async fn connect(&self, issued: &IssuedCertificate) -> Result<Connection, Error> {
        self.connect_with(&self.tls(issued.identity())).await
    }

    /// An authority's own list, in force for an hour from now.
    fn crl(&self, number: u64, revoked: &[&IssuedCertificate]) -> CertificateRevocationListDer<'static> {
        let now = self.wall_clock.now().unwrap();
        let authority = self.authority.clone().valid(now, now + HOUR).unwrap();
        authority.crl(number, revoked.iter().copied()).unwrap()
    }

    /// Why the connection was closed within a second; `None` where it was not.
    async fn closed(&self, connection: &Connection) -> Option<ErrorKind> {
        let closed = async { Some(connection.closed().await.kind().clone()) };
        let patience = async {
            self.pair.sim.sleep(SECOND).await;
            None
        };
        or(closed, patience).await
    }
}

#[test]
fn a_revoked_peer_is_closed_immediately_and_refused_among_two_hundred() {
    let gateway = Gateway::protected();
    let issued: Vec<IssuedCertificate> =
        (0..PEERS).map(|n| gateway.authority.issue_client(&format!("sensor-{n}")).unwrap()).collect();
    gateway.pair.sim.run(async {
        let mut connections = Vec::new();
        for issued in &issued {
            connections.push(gateway.connect(issued).await.unwrap());
        }
        let stolen = PEERS / 2;
        gateway.list.revoke(issued[stolen].fingerprint());
        let rejected = Some(ErrorKind::ConnectionClosed(Code::IDENTITY_REJECTED));
        assert_eq!(gateway.closed(&connections[stolen]).await, rejected);
        let again = gateway.connect(&issued[stolen]).await.unwrap_err();
        assert_eq!(again.kind(), &ErrorKind::CertificateRefused);
        for (n, connection) in connections.iter().enumerate().filter(|(n, _)| *n != stolen) {
            assert_eq!(connection.call_raw("demo.echo", "x").await.unwrap(), "x", "sensor-{n}");
        }

        // Another list in its place: who is not on it may come back.
        gateway.list.replace([issued[0].fingerprint()]);
        assert_eq!(gateway.closed(&connections[0]).await, rejected);
        gateway.connect(&issued[stolen]).await.unwrap();
        assert_eq!(gateway.list.len(), 1);
    });
}

/// The twin: a list that nobody consults closes nothing.
#[test]
fn without_the_protection_a_revoked_peer_stays() {
    let gateway = Gateway::new(|tls, _| tls);
    let issued = gateway.authority.issue_client("sensor-7").unwrap();
    gateway.pair.sim.run(async {
        let connection = gateway.connect(&issued).await.unwrap();
        gateway.list.revoke(issued.fingerprint());
        assert_eq!(gateway.closed(&connection).await, None);
        gateway.connect(&issued).await.unwrap();
    });
}

#[test]
fn what_a_revoked_peer_was_doing_ends() {
    let gateway = Gateway::protected();
    let issued = gateway.authority.issue_client("sensor-7").unwrap();
    gateway.pair.sim.run(async {
        let connection = gateway.connect(&issued).await.unwrap();
        let revoking = async {
            gateway.pair.sim.sleep(SECOND).await;
            gateway.list.revoke(issued.fingerprint());
            pending::<Error>().await
        };
        let hanging = async { connection.call_raw("demo.hang", "").await.unwrap_err() };
        let error = or(hanging, revoking).await;
        assert_eq!(error.kind(), &ErrorKind::ConnectionClosed(Code::IDENTITY_REJECTED));
        assert!(error.is_authentication() && !error.is_retryable());
    });
}

#[test]
fn a_client_leaves_a_server_that_is_revoked() {
    let gateway = Gateway::protected();
    let issued = gateway.authority.issue_client("sensor-7").unwrap();
    let list = RevocationList::new();
    let tls = gateway.tls(issued.identity()).revocations(&list);
    gateway.pair.sim.run(async {
        let connection = gateway.connect_with(&tls).await.unwrap();
        list.replace([issued.fingerprint(), Fingerprint::from_bytes([7; 32])]);
        assert_eq!(gateway.closed(&connection).await, None, "others are on the list");
        list.revoke(gateway.identity.fingerprint());
        assert_eq!(gateway.closed(&connection).await, Some(ErrorKind::Closed));
        let again = gateway.connect_with(&tls).await.unwrap_err();
        assert_eq!(again.kind(), &ErrorKind::PeerCertificate);
        gateway.connect(&issued).await.unwrap();
    });
}

/// By their serial number, and by the list of their authority.
#[test]
fn a_peer_is_out_by_whatever_name_it_is_revoked() {
    let gateway = Gateway::protected();
    let [kept, numbered, listed] = ["a", "b", "c"].map(|id| gateway.authority.issue_client(id).unwrap());
    let stranger = CertificateAuthority::new("Another CA").unwrap();
    let (list, trust) = (&gateway.list, gateway.authority.trust());
    gateway.pair.sim.run(async {
        let [stays, by_number, by_crl] = [
            gateway.connect(&kept).await.unwrap(),
            gateway.connect(&numbered).await.unwrap(),
            gateway.connect(&listed).await.unwrap(),
        ];
        let rejected = Some(ErrorKind::ConnectionClosed(Code::IDENTITY_REJECTED));
        // The twin: what others have revoked, and what is refused, closes nothing.
        list.revoke(Revoked::issued_by(stranger.certificate(), b"any").unwrap());
        list.replace_crls(&trust, [stranger.crl(1, [&kept]).unwrap()]).unwrap_err();
        assert_eq!(gateway.closed(&by_number).await, None);

        list.revoke(Revoked::certificate(&numbered.chain()[0]).unwrap());
        assert_eq!(gateway.closed(&by_number).await, rejected);
        list.replace_crls(&trust, [gateway.crl(1, &[&listed])]).unwrap();
        assert_eq!(gateway.closed(&by_crl).await, rejected);
        for out in [&numbered, &listed] {
            assert_eq!(gateway.connect(out).await.unwrap_err().kind(), &ErrorKind::CertificateRefused);
        }
        assert_eq!(stays.call_raw("demo.echo", "x").await.unwrap(), "x");
        gateway.connect(&kept).await.unwrap();

        // An older list would let the peer in again.
        list.replace_crls(&trust, [gateway.crl(0, &[])]).unwrap_err();
        gateway.connect(&listed).await.unwrap_err();
        list.replace_crls(&trust, [gateway.crl(2, &[])]).unwrap();
        gateway.connect(&listed).await.unwrap();
    });
}

/// When the revocation list is out of date, open connections stay open, and new ones are refused.
#[test]
fn a_list_out_of_date_keeps_everybody_out_until_there_is_a_newer_one() {
    let gateway = Gateway::protected();
    let issued = gateway.authority.issue_client("sensor-7").unwrap();
    let (list, trust) = (RevocationList::with_clock(gateway.wall_clock.clone()), gateway.authority.trust());
    let careful = gateway.tls(issued.identity()).revocations(&list);
    gateway.pair.sim.run(async {
        for list in [&gateway.list, &list] {
            list.replace_crls(&trust, [gateway.crl(1, &[])]).unwrap();
        }
        let connection = gateway.connect_with(&careful).await.unwrap();
        gateway.pair.sim.sleep(HOUR).await;
        assert_eq!(connection.call_raw("demo.echo", "x").await.unwrap(), "x");
        let refused = gateway.connect_with(&careful).await.unwrap_err();
        assert_eq!(refused.kind(), &ErrorKind::PeerCertificate);
        assert!(refused.explanation().unwrap().contains("out of date"), "{refused}");
        let refused = gateway.connect(&issued).await.unwrap_err();
        assert_eq!(refused.kind(), &ErrorKind::ConnectionClosed(Code::INTERNAL), "to be tried again");

        // The twin: it is the list that keeps them out.
        gateway.list.replace_crls(&trust, []).unwrap();
        gateway.connect(&issued).await.unwrap();
        list.replace_crls(&trust, [gateway.crl(2, &[])]).unwrap();
        gateway.connect_with(&careful).await.unwrap();
    });
}

#[test]
fn a_fork_has_the_same_contents_and_changes_alone() {
    let gateway = Gateway::protected();
    let [lost, stolen] = ["a", "b"].map(|id| gateway.authority.issue_client(id).unwrap());
    let (list, trust) = (&gateway.list, gateway.authority.trust());
    gateway.pair.sim.run(async {
        list.replace_crls(&trust, [gateway.crl(2, &[&lost])]).unwrap();
        let connection = gateway.connect(&stolen).await.unwrap();
        let fork = list.fork();
        assert_eq!(fork.len(), 1);
        fork.replace_crls(&trust, [gateway.crl(1, &[])]).unwrap_err();
        fork.replace_crls(&trust, [gateway.crl(3, &[&lost, &stolen])]).unwrap();
        assert_eq!((list.len(), fork.len()), (1, 2));
        assert_eq!(gateway.closed(&connection).await, None, "nobody consults the fork");
        list.revoke(stolen.fingerprint());
        assert!(gateway.closed(&connection).await.is_some());
        assert!(!fork.contains(stolen.fingerprint()));
    });
}

#[test]
fn a_list_shows_how_long_it_is_and_no_more() {
    let list = RevocationList::new();
    assert!(list.is_empty() && !list.contains(Fingerprint::from_bytes([7; 32])));
    list.replace([Fingerprint::from_bytes([7; 32])]);
    assert!(list.contains(Fingerprint::from_bytes([7; 32])));
    assert_eq!(format!("{list:?}"), "RevocationList { len: 1 }");
}

/// A certificate with the other signature that ECDSA allows: anyone can make it out of the first.
#[cfg(feature = "ecdsa")]
#[test]
fn a_revoked_certificate_is_out_with_either_of_its_ecdsa_signatures() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let key = || rcgen::KeyPair::generate_for(algorithm).unwrap();
        let mut authority = rcgen::CertificateParams::default();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority_key = key();
        let trust = Trust::from_der([authority.self_signed(&authority_key).unwrap().der().clone()]).unwrap();
        let issuer = rcgen::Issuer::from_params(&authority, &authority_key);
        // Of some, a number in the signature begins with zeros.
        for _ in 0..20 {
            let client_key = key();
            let certificate =
                rcgen::CertificateParams::default().signed_by(&client_key, &issuer).unwrap().der().clone();
            let other = with_other_signature(&certificate);
            assert_eq!(with_other_signature(&other), certificate);
            assert_ne!(Fingerprint::of(&other), Fingerprint::of(&certificate));
            let gateway =
                Gateway::new(|tls, list| tls.require_client_certificates(trust.clone()).revocations(list));
            let private = |pem: String| PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
            let [first, second] = [&certificate, &other].map(|certificate| {
                let key = private(client_key.serialize_pem());
                gateway.tls(Identity::from_der(vec![certificate.clone()], key).unwrap())
            });
            gateway.pair.sim.run(async {
                let connections = [
                    gateway.connect_with(&first).await.unwrap(),
                    gateway.connect_with(&second).await.unwrap(),
                ];
                gateway.list.revoke(Fingerprint::of(&certificate));
                for connection in &connections {
                    let rejected = Some(ErrorKind::ConnectionClosed(Code::IDENTITY_REJECTED));
                    assert_eq!(gateway.closed(connection).await, rejected);
                }
                for tls in [&first, &second] {
                    let refused = gateway.connect_with(tls).await.unwrap_err();
                    assert_eq!(refused.kind(), &ErrorKind::CertificateRefused);
                }
            });
        }
    }
}

#[cfg(feature = "ecdsa")]
fn with_other_signature(certificate: &CertificateDer<'_>) -> CertificateDer<'static> {
    use x509_cert::der::{
        Decode, Encode, Sequence,
        asn1::{BitString, Uint},
    };

    #[derive(Sequence)]
    struct Signature {
        r: Uint,
        s: Uint,
    }

    let mut parsed = x509_cert::Certificate::from_der(certificate).unwrap();
    let Signature { r, s } = Signature::from_der(parsed.signature.raw_bytes()).unwrap();
    let order: &[u8] = if s.as_bytes().len() > 32 || r.as_bytes().len() > 32 {
        &hex(
            "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
        )
    } else {
        &hex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551")
    };
    // Digit by digit from the right, as on paper.
    let mut digits = vec![0; order.len() - s.as_bytes().len()];
    digits.extend_from_slice(s.as_bytes());
    let mut borrow = 0;
    for (digit, order) in digits.iter_mut().zip(order).rev() {
        let difference = i32::from(*order) - i32::from(*digit) - borrow;
        borrow = i32::from(difference < 0);
        *digit = u8::try_from(difference.rem_euclid(256)).unwrap();
    }
    let other = Signature { r, s: Uint::new(&digits).unwrap() };
    parsed.signature = BitString::from_bytes(&other.to_der().unwrap()).unwrap();
    parsed.to_der().unwrap().into()
}

#[cfg(feature = "ecdsa")]
fn hex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}
