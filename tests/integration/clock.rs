//! The time of day: clocks that are behind, clocks that fail, and certificates that expire, in virtual time.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::simulation::{PORT, Pair, SECOND};
use futures_lite::future::{or, pending};
use palyra_quic::{
    CertificateAuthority, ClientTls, Code, Connection, Context, Endpoint, Error, ErrorKind, OnExpiry, Router,
    ServerTls, WallClock, sim::Link,
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// What a clock in 1970 shows.
fn built() -> SystemTime {
    WallClock::from_fn(|| Some(UNIX_EPOCH)).now().unwrap()
}

/// A gateway, and an authority that issues what it is told.
struct Nodes {
    pair: Pair,
    authority: CertificateAuthority,
    /// How far the clocks are ahead of the virtual time, which begins when the crate was built; `None` while
    /// they have failed.
    ahead: Arc<Mutex<Option<Duration>>>,
}

impl Nodes {
    fn new() -> Self {
        let pair = Pair::new(1, Link::new().delay(Duration::from_millis(10)));
        let authority = CertificateAuthority::new("Simulated CA").unwrap();
        Self { pair, authority, ahead: Arc::new(Mutex::new(Some(Duration::ZERO))) }
    }

    /// A clock that goes on with the simulation.
    fn wall_clock(&self) -> WallClock {
        let (runtime, ahead) = (self.pair.sim.runtime(), Arc::clone(&self.ahead));
        let start = runtime.now();
        WallClock::from_fn(move || {
            ahead.lock().unwrap().map(|ahead| built() + (runtime.now() - start) + ahead)
        })
    }

    /// Certificates are valid from an hour before this until then.
    fn authority(&self, from: SystemTime, until: SystemTime) -> CertificateAuthority {
        self.authority.clone().valid(from - HOUR, until).unwrap()
    }

    fn server_tls(&self, until: SystemTime) -> ServerTls {
        let identity = self.authority(built(), until).issue_server(&[]).unwrap().identity();
        ServerTls::new(identity).require_client_certificates(self.authority.trust())
    }

    fn client_tls(&self, until: SystemTime) -> ClientTls {
        let identity = self.authority(built(), until).issue_client("sensor-7").unwrap().identity();
        ClientTls::new(self.authority.trust()).identity(identity)
    }

    fn serve(&self, tls: ServerTls, wall_clock: WallClock) -> Endpoint {
        let router = Router::new().serve_raw("demo.echo", |_: Context, params| async move { Ok(params) });
        let builder = Endpoint::builder().server(tls).router(router).wall_clock(wall_clock);
        self.pair.gateway.bind(builder, PORT).unwrap()
    }

    async fn connect(&self, tls: &ClientTls, wall_clock: WallClock) -> Result<Connection, Error> {
        let endpoint = self.pair.sensor.bind(Endpoint::builder().wall_clock(wall_clock), 0).unwrap();
        endpoint.connect_with(tls, (self.pair.gateway.address(PORT), "localhost")).await
    }

    /// Why the connection is closed, and after what time; `None` if it is not closed within `limit`.
    async fn closed(&self, connection: &Connection, limit: Duration) -> Option<(ErrorKind, Duration)> {
        let since = self.pair.sim.elapsed();
        let closed = async { Some(connection.closed().await.kind().clone()) };
        let waiting = async {
            self.pair.sim.sleep(limit).await;
            None
        };
        let kind = or(closed, waiting).await?;
        Some((kind, self.pair.sim.elapsed() - since))
    }
}

#[test]
fn nodes_that_wake_up_in_1970_believe_what_is_valid_since_they_were_built() {
    let nodes = Nodes::new();
    let in_1970 = || WallClock::from_fn(|| Some(UNIX_EPOCH));
    let clock = in_1970();
    let _node = nodes.serve(nodes.server_tls(built() + HOUR), clock.clone());
    let later = nodes.authority(built() + 10 * HOUR, built() + 20 * HOUR).issue_client("sensor-8").unwrap();
    let later = ClientTls::new(nodes.authority.trust()).identity(later.identity());
    nodes.pair.sim.run(async {
        nodes.connect(&nodes.client_tls(built() + HOUR), in_1970()).await.unwrap();

        // The twin: what is made later than that waits for a clock that is nearer to the truth.
        let refused = nodes.connect(&later, in_1970()).await.unwrap_err();
        assert_eq!(refused.kind(), &ErrorKind::ConnectionClosed(Code::INTERNAL));
        clock.raise_floor(built() + 10 * HOUR);
        nodes.connect(&later, in_1970()).await.unwrap();
        // And by that time the node's own has expired, for clients that know what time it is.
        let refused = nodes.connect(&later, in_1970().floor(built() + 10 * HOUR)).await.unwrap_err();
        assert_eq!(refused.kind(), &ErrorKind::PeerCertificate);
    });
}

#[test]
fn while_a_clock_has_failed_nobody_gets_in_or_out() {
    let nodes = Nodes::new();
    let _node = nodes.serve(nodes.server_tls(built() + HOUR), nodes.wall_clock());
    let tls = nodes.client_tls(built() + HOUR);
    let well = || WallClock::from_fn(|| Some(built()));
    nodes.pair.sim.run(async {
        let open = nodes.connect(&tls, nodes.wall_clock()).await.unwrap();
        *nodes.ahead.lock().unwrap() = None;
        assert_eq!(nodes.connect(&tls, well()).await.unwrap_err().kind(), &ErrorKind::Refused);
        let error = nodes.connect(&tls, nodes.wall_clock()).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Io);
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("the wall clock has failed"), "{cause}");
        assert_eq!(open.call_raw("demo.echo", "x").await.unwrap(), "x");

        *nodes.ahead.lock().unwrap() = Some(Duration::ZERO);
        nodes.connect(&tls, well()).await.unwrap();
        nodes.connect(&tls, nodes.wall_clock()).await.unwrap();
    });
}

/// As the one above, in the middle of a handshake.
#[test]
fn a_clock_that_fails_at_the_last_moment_is_not_the_peers_fault() {
    let nodes = Nodes::new();
    let _node = nodes.serve(nodes.server_tls(built() + HOUR), nodes.wall_clock());
    let tls = nodes.client_tls(built() + HOUR);
    nodes.pair.sim.run(async {
        let asked = AtomicUsize::new(0);
        let fails =
            WallClock::from_fn(move || (asked.fetch_add(1, Ordering::Relaxed) == 0).then(SystemTime::now));
        let error = nodes.connect(&tls, fails).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Io, "{error:?}");
        assert!(!error.is_authentication());
        nodes.connect(&tls, nodes.wall_clock()).await.unwrap();
    });
}

#[test]
fn a_client_whose_certificate_expires_is_out() {
    let nodes = Nodes::new();
    let _node = nodes.serve(nodes.server_tls(built() + 10 * HOUR), nodes.wall_clock());
    nodes.pair.sim.run(async {
        let connection = nodes.connect(&nodes.client_tls(built() + HOUR), nodes.wall_clock()).await.unwrap();
        let (kind, after) = nodes.closed(&connection, 2 * HOUR).await.unwrap();
        assert_eq!(kind, ErrorKind::ConnectionClosed(Code::IDENTITY_EXPIRED));
        assert!((HOUR..HOUR + 2 * SECOND).contains(&after), "{after:?}");
    });
}

#[test]
fn a_server_whose_certificate_expires_is_left() {
    let nodes = Nodes::new();
    let _node = nodes.serve(nodes.server_tls(built() + HOUR), nodes.wall_clock());
    nodes.pair.sim.run(async {
        let tls = nodes.client_tls(built() + 10 * HOUR);
        let connection = nodes.connect(&tls, nodes.wall_clock()).await.unwrap();
        let (kind, after) = nodes.closed(&connection, 2 * HOUR).await.unwrap();
        assert_eq!(kind, ErrorKind::Closed);
        assert!((HOUR..HOUR + 2 * SECOND).contains(&after), "{after:?}");
    });
}

/// The twin of both tests above, which shows that the policy is what closes.
#[test]
fn with_on_expiry_stay_an_expired_peer_stays() {
    let nodes = Nodes::new();
    let tls = nodes.server_tls(built() + HOUR).on_expiry(OnExpiry::Stay);
    let _node = nodes.serve(tls, nodes.wall_clock());
    nodes.pair.sim.run(async {
        let tls = nodes.client_tls(built() + HOUR).on_expiry(OnExpiry::Stay);
        let connection = nodes.connect(&tls, nodes.wall_clock()).await.unwrap();
        assert_eq!(nodes.closed(&connection, 2 * HOUR).await, None);
        assert_eq!(connection.call_raw("demo.echo", "x").await.unwrap(), "x");
        nodes.connect(&tls, nodes.wall_clock()).await.unwrap_err();
    });
}

#[test]
fn a_clock_that_is_set_forward_is_noticed() {
    let nodes = Nodes::new();
    let _node = nodes.serve(nodes.server_tls(built() + 100 * HOUR), nodes.wall_clock());
    nodes.pair.sim.run(async {
        let tls = nodes.client_tls(built() + 20 * HOUR);
        let connection = nodes.connect(&tls, nodes.wall_clock()).await.unwrap();
        let setting = async {
            nodes.pair.sim.sleep(MINUTE).await;
            *nodes.ahead.lock().unwrap() = Some(20 * HOUR);
            pending().await
        };
        let (kind, after) = or(nodes.closed(&connection, HOUR), setting).await.unwrap();
        assert_eq!(kind, ErrorKind::ConnectionClosed(Code::IDENTITY_EXPIRED));
        assert!(after <= 10 * MINUTE + SECOND, "{after:?}");
    });
}
