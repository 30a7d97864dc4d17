//! Which certificates of a peer count: those on the path to a trusted authority, whatever else it sends
//! along. In virtual time, with the wall clock of the node running beside it.

use std::{
    cell::Cell,
    time::{Duration, SystemTime},
};

use futures_lite::future::{or, zip};
use palyra_quic::{
    ClientTls, Code, Connection, Endpoint, Error, ErrorKind, Fingerprint, Identity, RevocationList, Rotation,
    Router, ServerTls, Trust, WallClock,
    rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer},
    sim::{Host, Link, Sim},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};

const MINUTE: Duration = Duration::from_secs(60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// An authority, which may have its certificate from itself and from others.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

fn params(name: &str, until: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = until.into();
    params
}

fn key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap()
}

impl Authority {
    fn new(name: &str, until: SystemTime) -> Self {
        let mut params = params(name, until);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self { params, key: key() }
    }

    fn root(&self) -> CertificateDer<'static> {
        self.params.self_signed(&self.key).unwrap().der().clone()
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// This authority's certificate from another, until then.
    fn certified_by(&self, other: &Self, until: SystemTime) -> CertificateDer<'static> {
        let mut params = self.params.clone();
        params.not_after = until.into();
        params.signed_by(&self.key, &other.issuer()).unwrap().der().clone()
    }

    /// The list with this number of what this key has revoked, which is in force for a year.
    fn crl(
        &self,
        number: u64,
        began: SystemTime,
        revoked: &[&Leaf],
    ) -> CertificateRevocationListDer<'static> {
        let revoked = revoked.iter().map(|leaf| RevokedCertParams {
            serial_number: leaf.serial.clone(),
            revocation_time: began.into(),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: began.into(),
            next_update: (began + YEAR).into(),
            crl_number: number.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer()).unwrap().into()
    }

    fn leaf(&self, purpose: ExtendedKeyUsagePurpose, until: SystemTime) -> Leaf {
        let (mut params, key) = (params("node", until), key());
        let serial = SerialNumber::from_slice(&key.public_key_raw()[..8]);
        params.serial_number = Some(serial.clone());
        params.subject_alt_names = vec![rcgen::SanType::IpAddress([10, 0, 0, 1].into())];
        params.extended_key_usages = vec![purpose];
        let certificate = params.signed_by(&key, &self.issuer()).unwrap().der().clone();
        Leaf { certificate, key: key.serialize_der(), serial }
    }
}

struct Leaf {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
    serial: SerialNumber,
}

impl Leaf {
    /// What a node shows: the certificate, and these behind it.
    fn with(&self, others: &[&CertificateDer<'static>]) -> Identity {
        let chain = [&self.certificate].into_iter().chain(others.iter().copied()).cloned().collect();
        Identity::from_der(chain, PrivateKeyDer::try_from(self.key.clone()).unwrap()).unwrap()
    }
}

fn trust(authorities: &[&Authority]) -> Trust {
    Trust::from_der(authorities.iter().map(|authority| authority.root())).unwrap()
}

/// Which side shows the chain that a test is about.
#[derive(Clone, Copy, Debug)]
enum Shows {
    Server,
    Client,
}

/// Two nodes that are connected.
struct Pair {
    sim: Sim,
    began: SystemTime,
    gateway: Host,
    sensor: Host,
}

impl Pair {
    fn new() -> Self {
        let sim = Sim::new(1);
        sim.set_default_link(Link::new().delay(Duration::from_millis(5)));
        let (gateway, sensor) = (sim.host([10, 0, 0, 1]), sim.host([10, 0, 0, 2]));
        Self { sim, began: SystemTime::now(), gateway, sensor }
    }

    /// The wall clock goes with virtual time.
    fn wall_clock(&self) -> WallClock {
        let (sim, began) = (self.sim.clone(), self.began);
        WallClock::from_fn(move || Some(began + sim.elapsed()))
    }

    /// A connection whose side `shows` has this identity, judged by `trusts` and `list`; and the other
    /// side's end of it.
    async fn connect(
        &self,
        shows: Shows,
        identity: Identity,
        trusts: Trust,
        list: &RevocationList,
    ) -> Result<(Connection, Endpoint), Error> {
        let other = Authority::new("Other", self.began + YEAR);
        let server = other.leaf(ExtendedKeyUsagePurpose::ServerAuth, self.began + YEAR).with(&[]);
        let client = other.leaf(ExtendedKeyUsagePurpose::ClientAuth, self.began + YEAR).with(&[]);
        let others = trust(&[&other]);
        let (server, client) = match shows {
            Shows::Server => (
                ServerTls::new(identity).require_client_certificates(others),
                ClientTls::new(trusts).identity(client).revocations(list),
            ),
            Shows::Client => (
                ServerTls::new(server).require_client_certificates(trusts).revocations(list),
                ClientTls::new(others).identity(identity),
            ),
        };
        let node = Endpoint::builder().server(server).router(Router::new()).wall_clock(self.wall_clock());
        let node = self.gateway.bind(node, 7443).unwrap();
        let dialler = Endpoint::builder().client(client).wall_clock(self.wall_clock());
        let dialler = self.sensor.bind(dialler, 0).unwrap();
        Ok((dialler.connect(node.local_addr().unwrap()).await?, node))
    }
}

/// How a connection fares until then: `None` while it is open.
async fn fate(pair: &Pair, connection: &Connection, lasting: Duration) -> Option<ErrorKind> {
    let closed = async { Some(connection.closed().await.kind().clone()) };
    or(closed, async {
        pair.sim.sleep(lasting).await;
        None
    })
    .await
}

/// Whichever side closes the connection, its own end says `Closed`, and the other the code.
fn assert_closed(shows: Shows, fate: Option<ErrorKind>, code: Code) {
    let expected = match shows {
        Shows::Server => ErrorKind::Closed,
        Shows::Client => ErrorKind::ConnectionClosed(code),
    };
    assert_eq!(fate, Some(expected), "{shows:?}");
}

fn purpose(shows: Shows) -> ExtendedKeyUsagePurpose {
    match shows {
        Shows::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Shows::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }
}

const BOTH: [Shows; 2] = [Shows::Server, Shows::Client];

#[test]
fn certificates_that_no_path_needs_may_expire_or_have_expired() {
    for shows in BOTH {
        let pair = Pair::new();
        let long = pair.began + YEAR;
        let (old, new) = (Authority::new("Old", long), Authority::new("New", long));
        let stranger = Authority::new("Stranger", pair.began - MINUTE);
        let leaf = new.leaf(purpose(shows), long);
        let expired = new.certified_by(&old, pair.began - MINUTE);
        let soon = new.certified_by(&old, pair.began + MINUTE);
        let (root, strange) = (new.root(), stranger.root());
        for sent in
            [vec![&expired], vec![&soon], vec![&root], vec![&strange], vec![&soon, &expired, &root, &strange]]
        {
            let pair = Pair::new();
            pair.sim.run(async {
                let identity = leaf.with(&sent);
                let list = RevocationList::new();
                // What is revoked and not needed does not matter either.
                sent.iter().for_each(|certificate| list.revoke(Fingerprint::of(certificate)));
                let (connection, _node) = pair.connect(shows, identity, trust(&[&new]), &list).await.unwrap();
                assert_eq!(fate(&pair, &connection, 10 * MINUTE).await, None, "{shows:?}");
                if let (Shows::Server, Some(peer)) = (shows, connection.peer()) {
                    assert_eq!(peer.chain(), std::slice::from_ref(&leaf.certificate), "the path alone");
                }
            });
        }
    }
}

/// The twin: the certificates on the only path do expire.
#[test]
fn the_only_path_expires() {
    for shows in BOTH {
        for leaf_expires in [true, false] {
            let pair = Pair::new();
            let (soon, long) = (pair.began + MINUTE, pair.began + YEAR);
            let (old, new) = (Authority::new("Old", long), Authority::new("New", long));
            let leaf = new.leaf(purpose(shows), if leaf_expires { soon } else { long });
            let cross = new.certified_by(&old, if leaf_expires { long } else { soon });
            pair.sim.run(async {
                let list = RevocationList::new();
                let identity = leaf.with(&[&cross]);
                let (connection, _node) = pair.connect(shows, identity, trust(&[&old]), &list).await.unwrap();
                assert_eq!(fate(&pair, &connection, MINUTE / 2).await, None);
                let fate = fate(&pair, &connection, 10 * MINUTE).await;
                assert_closed(shows, fate, Code::IDENTITY_EXPIRED);
            });
        }
    }
}

#[test]
fn a_connection_goes_on_by_another_path_until_none_is_left() {
    for shows in BOTH {
        let pair = Pair::new();
        let (soon, long) = (pair.began + MINUTE, pair.began + YEAR);
        let [old, older, new] = ["Old", "Older", "New"].map(|name| Authority::new(name, long));
        let leaf = new.leaf(purpose(shows), long);
        // The first expires; the second is revoked, later than that; then none is left.
        let (first, second) = (new.certified_by(&old, soon), new.certified_by(&older, long));
        pair.sim.run(async {
            let list = RevocationList::new();
            let identity = leaf.with(&[&first, &second]);
            let trusts = trust(&[&old, &older]);
            let (connection, _node) = pair.connect(shows, identity, trusts, &list).await.unwrap();
            assert_eq!(fate(&pair, &connection, 10 * MINUTE).await, None, "{shows:?}");
            list.revoke(Fingerprint::of(&first));
            assert_eq!(fate(&pair, &connection, MINUTE).await, None, "that one has expired anyway");
            list.revoke(Fingerprint::of(&second));
            let fate = fate(&pair, &connection, MINUTE).await;
            assert_closed(shows, fate, Code::IDENTITY_REJECTED);
        });
    }
}

#[test]
fn a_path_is_found_around_a_certificate_that_is_revoked() {
    for shows in BOTH {
        let pair = Pair::new();
        let long = pair.began + YEAR;
        let [old, older, new] = ["Old", "Older", "New"].map(|name| Authority::new(name, long));
        let leaf = new.leaf(purpose(shows), long);
        let crosses = [new.certified_by(&old, long), new.certified_by(&older, long)];
        for revoked in 0..3 {
            let pair = Pair::new();
            pair.sim.run(async {
                let list = RevocationList::new();
                let revokes = if revoked == 2 { &crosses[..] } else { &crosses[revoked..=revoked] };
                revokes.iter().for_each(|cross| list.revoke(Fingerprint::of(cross)));
                let identity = leaf.with(&[&crosses[0], &crosses[1]]);
                let connected = pair.connect(shows, identity, trust(&[&old, &older]), &list).await;
                assert_eq!(connected.is_ok(), revoked < 2, "{shows:?} {revoked}");
                if let Err(error) = connected {
                    assert!(error.is_authentication(), "{error}");
                }
            });
        }
    }
}

/// A server tells its clients no names of authorities: more than fit a handshake may be trusted.
#[test]
fn any_number_of_authorities_may_be_trusted() {
    let long = SystemTime::now() + YEAR;
    let name = |n: u32| format!("Device certificate authority number {n:06} of a fleet");
    let authorities: Vec<_> = (0..1100).map(|n| Authority::new(&name(n), long)).collect();
    let trusts = trust(&authorities.iter().collect::<Vec<_>>());
    for shows in BOTH {
        let pair = Pair::new();
        let identity = authorities[700].leaf(purpose(shows), long).with(&[]);
        pair.sim.run(async {
            let list = RevocationList::new();
            let (connection, _node) = pair.connect(shows, identity, trusts.clone(), &list).await.unwrap();
            assert!(connection.health().await.unwrap().ok);
        });
    }
}

/// A mesh that has moved to a new authority, which the old one has certified until the middle of the run,
/// and which then gets a new key under its old name.
struct Mesh {
    began: SystemTime,
    old: Authority,
    keys: [Authority; 2],
    cross: CertificateDer<'static>,
}

impl Mesh {
    const ROTATIONS: u64 = 100;
    const STEP: Duration = Duration::from_millis(100);
    const REKEYED_AT: u64 = 60;

    fn new(began: SystemTime) -> Self {
        let long = began + YEAR;
        let [old, first, second] = ["Old", "Mesh", "Mesh"].map(|name| Authority::new(name, long));
        let cross = first.certified_by(&old, began + 50 * Self::STEP);
        Self { began, old, keys: [first, second], cross }
    }

    /// What a node has from this rotation on.
    fn identity(&self, purpose: ExtendedKeyUsagePurpose, rotation: u64) -> Identity {
        let [first, second] = &self.keys;
        if rotation < Self::REKEYED_AT {
            first.leaf(purpose, self.began + YEAR).with(&[&self.cross])
        } else {
            second.leaf(purpose, self.began + YEAR).with(&[])
        }
    }

    /// Both keys, a while before the second is used.
    fn trust(&self, rotation: u64) -> Trust {
        let [first, second] = &self.keys;
        if rotation < Self::REKEYED_AT - 5 {
            trust(&[&self.old, first])
        } else {
            trust(&[&self.old, first, second])
        }
    }

    fn server(&self, rotation: u64, list: &RevocationList) -> ServerTls {
        ServerTls::new(self.identity(ExtendedKeyUsagePurpose::ServerAuth, rotation))
            .require_client_certificates(self.trust(rotation))
            .revocations(list)
    }

    fn client(&self, rotation: u64, list: &RevocationList) -> ClientTls {
        let identity = self.identity(ExtendedKeyUsagePurpose::ClientAuth, rotation);
        self.client_that_shows(identity, rotation).revocations(list)
    }

    fn client_that_shows(&self, identity: Identity, rotation: u64) -> ClientTls {
        ClientTls::new(self.trust(rotation)).identity(identity)
    }

    /// Each rotation brings the CRL of the key that is in use, and nothing of the other.
    fn renew(&self, list: &RevocationList, rotation: u64, revoked: &Leaf) {
        let [first, second] = &self.keys;
        let crl = if rotation < Self::REKEYED_AT {
            first.crl(rotation, self.began, &[revoked])
        } else {
            second.crl(rotation, self.began, &[])
        };
        list.replace_crls(&self.trust(rotation), [crl]).unwrap();
    }
}

#[test]
fn rotations_beside_a_cross_certificate_that_expires_and_a_rekey_fail_no_call_and_let_no_revoked_peer_in() {
    let pair = Pair::new();
    let mesh = Mesh::new(pair.began);
    let revoked = mesh.keys[0].leaf(ExtendedKeyUsagePurpose::ClientAuth, pair.began + YEAR);
    let lists = [(); 2].map(|()| RevocationList::with_clock(pair.wall_clock()));
    let [of_server, of_client] = &lists;
    let router = Router::new().serve_raw("demo.echo", |_, params| async move { Ok(params) });
    let builder = Endpoint::builder().server(mesh.server(0, of_server)).router(router);
    let node = pair.gateway.bind(builder.wall_clock(pair.wall_clock()), 7443).unwrap();
    let dialler = |host: &Host, tls| {
        host.bind(Endpoint::builder().client(tls).wall_clock(pair.wall_clock()), 0).unwrap()
    };
    let client = dialler(&pair.sensor, mesh.client(0, of_client));
    let outcast = pair.sim.host([10, 0, 0, 3]);
    let shown = || revoked.with(&[&mesh.cross]);
    let outcast = dialler(&outcast, mesh.client_that_shows(shown(), Mesh::ROTATIONS));
    let address = node.local_addr().unwrap();
    pair.sim.run(async {
        // The twin: nothing but the list keeps it out.
        let outcast_connection = outcast.connect(address).await.unwrap();
        mesh.renew(of_server, 1, &revoked);
        let fate = fate(&pair, &outcast_connection, MINUTE).await;
        assert_eq!(fate, Some(ErrorKind::ConnectionClosed(Code::IDENTITY_REJECTED)));

        let (running, calls, dialled, refused) = (Cell::new(true), Cell::new(0), Cell::new(0), Cell::new(0));
        let count = |counter: &Cell<u64>| counter.set(counter.get() + 1);
        let echo = async |connection: &Connection| {
            assert_eq!(connection.call_raw("demo.echo", "x").await.unwrap(), "x");
        };
        let standing = client.connect(address).await.unwrap();
        let calling = async {
            while running.get() {
                echo(&standing).await;
                count(&calls);
            }
        };
        let dialling = async {
            while running.get() {
                echo(&client.connect(address).await.unwrap()).await;
                count(&dialled);
            }
        };
        let trying = async {
            while running.get() {
                let error = outcast.connect(address).await.unwrap_err();
                assert_eq!(*error.kind(), ErrorKind::CertificateRefused, "{error}");
                count(&refused);
            }
        };
        let rotating = async {
            for rotation in 2..=Mesh::ROTATIONS + 1 {
                mesh.renew(of_server, rotation, &revoked);
                node.rotate(Rotation::new().server(mesh.server(rotation, of_server))).unwrap();
                pair.sim.sleep(Mesh::STEP / 5).await;
                mesh.renew(of_client, rotation, &revoked);
                client.rotate(Rotation::new().client(mesh.client(rotation, of_client))).unwrap();
                pair.sim.sleep(Mesh::STEP - Mesh::STEP / 5).await;
            }
            running.set(false);
        };
        zip(zip(calling, dialling), zip(trying, rotating)).await;
        for (what, count) in [("calls", calls), ("connections", dialled), ("refusals", refused)] {
            assert!(count.get() > Mesh::ROTATIONS, "{} {what}", count.get());
        }
    });
}
