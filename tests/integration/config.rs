//! What is found before it bites: limits, names and TLS that cannot work; and when another transport is
//! allowed.

use std::{
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use palyra_quic::{
    ALPN, AsyncIoRuntime, CertificateAuthority, ClientTls, Code, Context, Endpoint, Error, ErrorKind,
    EventLog, EventLogBuilder, FallbackPolicy, FallbackReason, Fingerprint, MAX_NESTING, PROTOCOL_VERSION,
    PathPrivilege, Pin as ServerPin, Router, ServerAddress, TransportLimits, TransportLimitsBuilder,
    quinn::{
        self, AsyncTimer, AsyncUdpSocket, EndpointConfig, Runtime, SmolRuntime,
        crypto::rustls::QuicServerConfig,
    },
};

use crate::common::{Pki, RawServer, attempt, loopback, run, serve, serve_within};

#[track_caller]
fn assert_invalid<T: std::fmt::Debug>(result: palyra_quic::Result<T>) {
    let error = result.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::InvalidConfig, "{error:?}");
    assert!(!error.is_retryable() && !error.is_authentication() && !error.is_timeout());
}

fn limits() -> TransportLimitsBuilder {
    TransportLimits::builder()
}

#[test]
fn the_defaults_are_those_of_the_protocol() {
    let limits = TransportLimits::default();
    assert_eq!(limits, TransportLimits::builder().build().unwrap());
    assert_eq!(limits.handshake_timeout(), Duration::from_secs(10));
    assert_eq!(limits.idle_timeout(), Duration::from_secs(30));
    assert_eq!(limits.keep_alive_interval(), Duration::from_secs(5));
    assert_eq!(limits.max_concurrent_bidi_streams(), 32);
    assert_eq!(limits.max_concurrent_uni_streams(), 32);
    assert_eq!(limits.max_frame_bytes(), 524_288);
    assert_eq!(limits.max_connections(), 256);
    assert_eq!(limits.max_handshakes(), 64);
    assert_eq!(limits.max_certificate_chain_bytes(), 16_384);
    assert_eq!(limits.request_read_timeout(), Duration::from_secs(10));
    assert_eq!(MAX_NESTING, 16);
    assert_eq!(PROTOCOL_VERSION, 1);
    assert_eq!(ALPN, b"palyra-quic-v1");
}

#[test]
fn every_limit_that_is_zero_or_out_of_bounds_is_refused() {
    type Set<T> = fn(TransportLimitsBuilder, T) -> TransportLimitsBuilder;
    type Limits = TransportLimitsBuilder;

    let durations: [Set<Duration>; 6] = [
        Limits::handshake_timeout,
        Limits::idle_timeout,
        Limits::keep_alive_interval,
        Limits::request_read_timeout,
        Limits::handler_timeout,
        Limits::heartbeat_interval,
    ];
    for set in durations {
        // Where the keep-alive interval is out of the way, only the duration itself can be at fault.
        let base = || limits().keep_alive_interval(Duration::from_secs(1));
        assert_invalid(set(base(), Duration::ZERO).build());
        assert_invalid(set(base(), Duration::MAX).build());
        assert_invalid(set(base(), Duration::from_secs(400 * 24 * 60 * 60)).build());
        set(base(), Duration::from_secs(2)).build().unwrap();
    }
    let numbers: [(Set<u32>, u32); 10] = [
        (Limits::max_concurrent_bidi_streams, 1),
        (Limits::max_concurrent_uni_streams, 1),
        (Limits::max_connections, 1),
        (Limits::max_handshakes, 1),
        (Limits::max_frame_bytes, 1024),
        (Limits::max_certificate_chain_bytes, 1024),
        (Limits::stream_receive_window, 2048),
        (Limits::receive_window, 128 * 1024),
        (Limits::receive_window, TransportLimits::default().stream_receive_window()),
        (Limits::send_window, 2048),
    ];
    for (set, least) in numbers {
        assert_invalid(set(limits(), 0).build());
        assert_invalid(set(limits(), least - 1).build());
        set(limits(), least).build().unwrap();
    }
}

#[test]
fn limits_that_contradict_each_other_are_refused() {
    let second = Duration::from_secs(1);
    assert_invalid(limits().idle_timeout(second).keep_alive_interval(second).build());
    assert_invalid(limits().idle_timeout(Duration::from_secs(3)).build());
    assert_invalid(limits().keep_alive_interval(Duration::from_secs(30)).build());
    assert_invalid(limits().stream_receive_window(4096).receive_window(4095).build());
    assert_invalid(
        limits()
            .idle_timeout(Duration::from_micros(900))
            .keep_alive_interval(Duration::from_micros(1))
            .build(),
    );

    let idle = limits().idle_timeout(second).keep_alive_interval(second - Duration::from_millis(1));
    idle.build().unwrap();
    limits().stream_receive_window(4096).receive_window(4096).build().unwrap();
}

#[test]
fn the_smallest_limits_work() {
    run(async {
        let limits = limits()
            .max_concurrent_bidi_streams(1)
            .max_concurrent_uni_streams(1)
            .max_frame_bytes(1024)
            .stream_receive_window(2048)
            .receive_window(2048)
            .send_window(2048)
            .max_connections(1)
            .max_handshakes(1)
            .build()
            .unwrap();
        let router = Router::new().serve_raw("demo.echo", |_: Context, params| async move { Ok(params) });
        let server = serve_within(limits.clone(), router);
        let connection = server.connect_within(limits).await;
        for _ in 0..5 {
            assert_eq!(connection.call_raw("demo.echo", vec![7; 900]).await.unwrap(), vec![7; 900]);
        }
    });
}

/// quinn keeps a place for every stream that the peer may open, from the first moment of a connection.
#[test]
fn more_streams_than_any_connection_could_hold_are_refused() {
    assert_invalid(limits().max_concurrent_bidi_streams(u32::MAX).build());
    assert_invalid(limits().max_concurrent_uni_streams(u32::MAX).build());
}

#[test]
fn the_worst_case_of_any_limits_can_be_told() {
    let largest = || {
        let frames = limits().max_frame_bytes(u32::MAX).frame_budget_bytes(u32::MAX);
        let windows = frames.receive_window(u32::MAX).send_window(u32::MAX);
        windows.max_connections(u32::MAX).max_handshakes(u32::MAX)
    };
    let with = |streams| largest().max_concurrent_bidi_streams(streams).max_concurrent_uni_streams(streams);
    assert!(with(1).build().is_ok());
    for streams in (0..32).map(|power| u32::MAX >> power) {
        if let Ok(limits) = with(streams).build() {
            assert!(limits.worst_case_connection_bytes() >= u64::from(streams) * u64::from(u32::MAX));
            assert!(limits.worst_case_bytes() >= limits.worst_case_connection_bytes());
        }
    }
}

fn binding(router: Router) -> palyra_quic::Result<Endpoint> {
    Endpoint::builder().router(router).bind(loopback())
}

#[test]
fn names_that_no_request_can_carry_are_found_when_the_endpoint_is_bound() {
    run(async {
        let longest = "x".repeat(128);
        for name in ["", "node.", "node.health", "node.stream_events", "node.mine", &format!("{longest}x")] {
            assert_invalid(binding(Router::new().serve_raw(name, |_, params| async move { Ok(params) })));
            assert_invalid(binding(Router::new().serve(name, |_, (): ()| async { Ok(()) })));
            assert_invalid(binding(Router::new().serve_stream_raw(name, |_, _, _| async { Ok(()) })));
            assert_invalid(binding(Router::new().on_notification_raw(name, |_, _| async {})));
            assert_invalid(binding(Router::new().on_notification(name, |_, (): ()| async {})));
        }
        for name in ["node", "nodes.list", "Node.health", "x", &longest] {
            let router = Router::new().serve_raw(name, |_, params| async move { Ok(params) });
            let server = serve(router);
            assert_eq!(server.connect().await.call_raw(name, "y").await.unwrap(), "y");
        }
    });
}

#[test]
fn event_logs_that_could_not_hold_or_send_an_event_are_refused() {
    assert_invalid(EventLog::builder().max_events(0).build());
    assert_invalid(EventLog::builder().max_bytes(0).build());
    assert_invalid(EventLog::builder().max_payload_bytes(usize::MAX).build());
    assert_invalid(EventLog::builder().max_bytes(1000).max_payload_bytes(1000).build());

    let log = |builder: EventLogBuilder| Router::new().events(builder.build().unwrap());
    assert!(binding(log(EventLog::builder())).is_ok());
    assert_invalid(binding(log(EventLog::builder().max_payload_bytes(500_000))));
    let narrow = limits().max_frame_bytes(64 * 1024).build().unwrap();
    let bind = |payload| {
        let router = log(EventLog::builder().max_payload_bytes(payload));
        Endpoint::builder().router(router).limits(narrow.clone()).bind(loopback())
    };
    assert_invalid(bind(64 * 1024));
    assert!(bind(32 * 1024).is_ok());
}

#[test]
fn an_endpoint_without_client_tls_dials_only_with_what_it_is_given() {
    run(async {
        let server = serve(Router::new());
        let endpoint = Endpoint::builder().bind(loopback()).unwrap();
        assert_invalid(endpoint.connect(server.address()).await);
        endpoint.connect_with(&server.pki.client_tls(), server.address()).await.unwrap();
    });
}

#[test]
fn names_pins_and_authorities_are_checked_where_they_are_given() {
    let authority = CertificateAuthority::new("ca").unwrap();
    for address in ["", "a b:7443", "[::1]", "localhost", "localhost:x"] {
        assert_invalid(address.parse::<ServerAddress>());
    }
    let hex = "ab".repeat(32);
    for pin in ["", " ", "zz", &hex[1..], &format!("{hex}00")] {
        assert_invalid(pin.parse::<ServerPin>());
        assert_invalid(pin.parse::<Fingerprint>());
    }
    assert_invalid(CertificateAuthority::new(""));
    assert_invalid(authority.issue_client(""));
    assert_invalid(authority.issue_server(&["a b"]));
    assert!(hex.parse::<ServerPin>().is_ok());
    assert!("[::1]:7443".parse::<ServerAddress>().is_ok());
}

/// What the error allows to whom: nothing, unless the caller allows it and the path grants nothing.
#[track_caller]
fn assert_fallback(error: &Error, expected: Option<FallbackReason>) {
    use FallbackPolicy::{AllowExplicit, Disabled};
    let decided = |policy: FallbackPolicy, path| policy.decide(error, path).map(|fallback| fallback.reason);
    assert_eq!(decided(AllowExplicit, PathPrivilege::Unprivileged), expected, "{error:?}");
    assert_eq!(decided(AllowExplicit, PathPrivilege::Privileged), None, "{error:?}");
    assert_eq!(decided(Disabled, PathPrivilege::Unprivileged), None, "{error:?}");
    assert_eq!(decided(Disabled, PathPrivilege::Privileged), None, "{error:?}");
    assert_eq!(FallbackPolicy::default(), Disabled);
}

#[test]
fn silence_and_blocked_udp_allow_another_transport() {
    run(async {
        let pki = Pki::new();
        let limits = limits().handshake_timeout(Duration::from_millis(200)).build().unwrap();
        let client = Endpoint::builder().client(pki.client_tls()).limits(limits).bind(loopback()).unwrap();
        let mute = UdpSocket::bind(loopback()).unwrap();
        let silence = client.connect(mute.local_addr().unwrap()).await.unwrap_err();
        assert_eq!(*silence.kind(), ErrorKind::HandshakeTimeout);
        assert_fallback(&silence, Some(FallbackReason::TimedOut));

        // Nobody listens there, since no test binds this address, and the host says so; which anyone on the way
        // could say in its name.
        let nobody = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 9), mute.local_addr().unwrap().port()));
        let unreachable = client.connect(nobody).await.unwrap_err();
        assert_fallback(&unreachable, Some(FallbackReason::TimedOut));

        let sandboxed = |kind| Endpoint::builder().runtime(Sandbox(kind)).bind(loopback()).unwrap_err();
        let blocked = sandboxed(io::ErrorKind::PermissionDenied);
        assert_eq!(*blocked.kind(), ErrorKind::Io);
        assert_fallback(&blocked, Some(FallbackReason::UdpBlocked));
        assert_fallback(&sandboxed(io::ErrorKind::OutOfMemory), None);
    });
}

/// A host that lets nobody have a UDP socket.
#[derive(Debug)]
struct Sandbox(io::ErrorKind);

impl Runtime for Sandbox {
    fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn AsyncTimer>> {
        AsyncIoRuntime::global().new_timer(deadline)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        AsyncIoRuntime::global().spawn(future);
    }

    fn wrap_udp_socket(&self, _: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(self.0.into())
    }
}

#[test]
fn what_an_attacker_could_provoke_allows_nothing() {
    run(async {
        let full = serve_within(limits().max_connections(1).build().unwrap(), Router::new());
        let pki = &full.pki;
        let connection = full.connect().await;
        let server = serve(Router::new());

        let failed = async |tls: &ClientTls, address: SocketAddr, kind: ErrorKind| {
            let error = attempt(tls, address).await.unwrap_err();
            assert_eq!(*error.kind(), kind);
            assert_fallback(&error, None);
        };
        failed(&pki.client_tls(), full.address(), ErrorKind::Refused).await;
        failed(&pki.client_tls(), server.address(), ErrorKind::PeerCertificate).await;
        let pki = &server.pki;
        let wrong = ServerPin::from(pki.client.fingerprint());
        failed(&pki.client_tls().pin(wrong), server.address(), ErrorKind::PinMismatch).await;
        let stranger = CertificateAuthority::new("other").unwrap().issue_client("a").unwrap();
        let refused = ErrorKind::CertificateRefused;
        failed(&pki.client_tls_as(stranger.identity()), server.address(), refused.clone()).await;
        failed(&ClientTls::new(pki.authority.trust()), server.address(), refused).await;

        let pki = Pki::new();
        let mut tls = pki.raw_server_tls();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let other = RawServer::with(pki, Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        let _welcome = other.welcome();
        failed(&other.pki.client_tls(), other.address(), ErrorKind::AlpnMismatch).await;
        let draft = draft_29(&other.pki);
        failed(&other.pki.client_tls(), draft.local_addr().unwrap(), ErrorKind::VersionMismatch).await;

        // Once a link was up, UDP has got through.
        connection.close(Code::NO_ERROR, "");
        let closed = connection.health().await.unwrap_err();
        assert_eq!(*closed.kind(), ErrorKind::Closed);
        assert_fallback(&closed, None);
        let invalid = Endpoint::builder().bind(loopback()).unwrap().connect(loopback()).await.unwrap_err();
        assert_fallback(&invalid, None);
    });
}

/// A server that speaks no QUIC but a draft of it.
fn draft_29(pki: &Pki) -> quinn::Endpoint {
    let tls = QuicServerConfig::try_from(pki.raw_server_tls()).unwrap();
    let mut config = EndpointConfig::default();
    config.supported_versions(vec![0xff00_001d]);
    let socket = UdpSocket::bind(loopback()).unwrap();
    let server = quinn::ServerConfig::with_crypto(Arc::new(tls));
    quinn::Endpoint::new(config, Some(server), socket, Arc::new(SmolRuntime)).unwrap()
}
