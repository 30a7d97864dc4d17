//! A node that cannot tell whether its peers' certificates are good, since its own revocation list is out of
//! date or its clock is behind: it serves nobody, says why, and is found well again by peers that come back.
//! In virtual time.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use crate::simulation::{PORT, Pair, SECOND};
use palyra_quic::{
    CertificateAuthority, Client, ClientTls, Code, Connection, Endpoint, ErrorKind, EventLog,
    IssuedCertificate, RevocationList, Router, ServerTls, SubscriptionItem, WallClock, sim::Link,
};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// A gateway whose clock a test sets, and what it makes of the certificates of one authority.
struct Gateway {
    pair: Pair,
    authority: CertificateAuthority,
    list: RevocationList,
    /// What the gateway takes for the time.
    now: Arc<Mutex<SystemTime>>,
    admitted: Arc<AtomicU32>,
    node: Endpoint,
}

impl Gateway {
    fn new() -> Self {
        let pair = Pair::new(1, Link::new().delay(Duration::from_millis(5)));
        let authority = CertificateAuthority::new("ca").unwrap();
        let now = Arc::new(Mutex::new(SystemTime::now()));
        let read = Arc::clone(&now);
        let wall_clock = WallClock::from_fn(move || Some(*read.lock().unwrap()));
        let list = RevocationList::with_clock(wall_clock.clone());
        let admitted = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&admitted);
        let router = Router::new().events(EventLog::new()).on_connection(move |_: Connection| {
            count.fetch_add(1, Ordering::SeqCst);
            std::future::ready(())
        });
        let tls = ServerTls::new(authority.issue_server(&[]).unwrap().identity());
        let tls = tls.require_client_certificates(authority.trust()).revocations(&list);
        let node = Endpoint::builder().server(tls).router(router).wall_clock(wall_clock);
        let node = pair.gateway.bind(node, PORT).unwrap();
        Self { pair, authority, list, now, admitted, node }
    }

    fn client(&self, issued: &IssuedCertificate) -> Client {
        let tls = ClientTls::new(self.authority.trust()).identity(issued.identity());
        let endpoint = self.pair.sensor.bind(Endpoint::builder().client(tls), 0).unwrap();
        Client::builder(endpoint).address((self.pair.gateway.address(PORT), "localhost")).build().unwrap()
    }

    fn set(&self, now: SystemTime) {
        *self.now.lock().unwrap() = now;
    }

    fn load(&self, number: u64, from: SystemTime, until: SystemTime, revoked: &[&IssuedCertificate]) {
        let authority = self.authority.clone().valid(from, until).unwrap();
        let crl = authority.crl(number, revoked.iter().copied()).unwrap();
        self.list.replace_crls(&self.authority.trust(), [crl]).unwrap();
    }

    fn not_judged(&self) -> u64 {
        self.node.stats().handshakes_failed.not_judged
    }
}

/// A subscriber is not served until the gateway is well again, and then comes back by itself.
fn is_served_after(
    fault: impl FnOnce(&Gateway) -> IssuedCertificate,
    mending: impl FnOnce(&Gateway),
    reason: &str,
) {
    let gateway = Gateway::new();
    let issued = fault(&gateway);
    gateway.pair.sim.run(async {
        let client = gateway.client(&issued);
        let mut subscription = client.subscribe_raw().open();
        // Ready as soon as the handshake is, or not at all.
        let error = loop {
            match subscription.next_raw().await.unwrap() {
                SubscriptionItem::Disconnected { error } => break error,
                item => assert!(matches!(item, SubscriptionItem::Connected { .. }), "{item:?}"),
            }
        };
        assert_eq!(error.kind(), &ErrorKind::ConnectionClosed(Code::INTERNAL));
        assert!(error.is_retryable());
        assert!(error.explanation().unwrap().contains(reason), "{error}");
        assert!(gateway.not_judged() > 0);
        assert_eq!(gateway.admitted.load(Ordering::SeqCst), 0, "nobody is served");

        mending(&gateway);
        let before = gateway.not_judged();
        while gateway.admitted.load(Ordering::SeqCst) == 0 {
            subscription.next_raw().await.unwrap();
        }
        assert_eq!(gateway.not_judged(), before);
        let health = client.connection().await.unwrap().health().await.unwrap();
        assert!(String::from_utf8_lossy(&health.payload.unwrap()).contains("handshakes_not_judged"));
    });
}

#[test]
fn a_subscriber_outlives_a_revocation_list_that_is_out_of_date() {
    let start = SystemTime::now();
    is_served_after(
        |gateway| {
            gateway.load(1, start - HOUR, start + HOUR, &[]);
            gateway.set(start + 2 * HOUR);
            gateway.authority.issue_client("sensor").unwrap()
        },
        |gateway| gateway.load(2, start, start + 3 * HOUR, &[]),
        "out of date",
    );
}

#[test]
fn a_subscriber_outlives_a_clock_that_is_behind() {
    let start = SystemTime::now();
    for behind in [2 * HOUR, 24 * HOUR, 10_000 * HOUR] {
        is_served_after(
            |gateway| {
                // No clock shows a time before the crate was built, so that the certificate has to be from
                // the future.
                let (from, until) = (start + behind - HOUR, start + behind + HOUR);
                gateway.set(start);
                gateway.authority.clone().valid(from, until).unwrap().issue_client("sensor").unwrap()
            },
            |gateway| gateway.set(start + behind),
            "clock is behind",
        );
    }
}

/// The twin: what is the peer's fault is told by an alert, and is final.
#[test]
fn what_is_the_peers_own_fault_is_final() {
    let start = SystemTime::now();
    let gateway = Gateway::new();
    let (stolen, expired) = (
        gateway.authority.issue_client("stolen").unwrap(),
        gateway.authority.clone().valid(start - 2 * HOUR, start - HOUR).unwrap().issue_client("old").unwrap(),
    );
    let stranger = CertificateAuthority::new("ca").unwrap().valid(start + HOUR, start + 2 * HOUR).unwrap();
    let stranger = stranger.issue_client("stranger").unwrap();
    gateway.load(1, start - HOUR, start + HOUR, &[&stolen]);
    gateway.pair.sim.run(async {
        for issued in [&stolen, &expired, &stranger] {
            let error = gateway.client(issued).connection().await.unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::CertificateRefused, "{error}");
            assert!(!error.is_retryable());
        }
        // That it is revoked counts for more than that the list is out of date.
        gateway.set(start + 2 * HOUR);
        let error = gateway.client(&stolen).connection().await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::CertificateRefused, "{error}");
        assert_eq!((gateway.not_judged(), gateway.admitted.load(Ordering::SeqCst)), (0, 0));
    });
}

/// A dialling node whose own clock is behind: it must not show its certificate, and may try again.
#[test]
fn a_dialling_node_with_a_slow_clock_tries_again() {
    let pair = Pair::new(1, Link::new().delay(Duration::from_millis(5)));
    let authority = CertificateAuthority::new("ca").unwrap();
    let start = SystemTime::now();
    let right = start + 24 * HOUR;
    let now = Arc::new(Mutex::new(start));
    let read = Arc::clone(&now);
    let issuing = authority.clone().valid(right - HOUR, right + HOUR).unwrap();
    let tls = ServerTls::new(issuing.issue_server(&[]).unwrap().identity());
    let _node = pair.gateway.bind(Endpoint::builder().server(tls), PORT).unwrap();
    let dialler = Endpoint::builder()
        .client(ClientTls::new(authority.trust()))
        .wall_clock(WallClock::from_fn(move || Some(*read.lock().unwrap())));
    let dialler = pair.sensor.bind(dialler, 0).unwrap();
    pair.sim.run(async {
        let error = dialler.connect((pair.gateway.address(PORT), "localhost")).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::PeerCertificate);
        assert!(error.is_retryable() && error.explanation().unwrap().contains("clock is behind"), "{error}");
        assert_eq!(dialler.stats().dials_failed.not_judged, 1);
        let client = Client::builder(dialler.clone())
            .address((pair.gateway.address(PORT), "localhost"))
            .build()
            .unwrap();
        let sim = pair.sim.clone();
        pair.sim.spawn(async move {
            sim.sleep(3 * SECOND).await;
            *now.lock().unwrap() = right;
        });
        let health = client.call_raw("nobody.has", "").await.unwrap_err();
        assert!(matches!(health.kind(), ErrorKind::Remote(_)), "{health}: it has got through");
    });
}
