//! What an error of a call says besides what went wrong: which method it was, and at which peer.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use crate::common::{Server, loopback, run, serve};
use futures_lite::future::{pending, zip};
use palyra_quic::{
    Bytes, Client, ClientTls, Code, Context, Endpoint, Error, ErrorKind, MethodError, Response, Router,
    SubscriptionItem, TransportLimits, WireError,
};

fn node() -> Server {
    serve(
        Router::new()
            .serve_raw("demo.echo", |_: Context, params: Bytes| async move { Ok(params) })
            .serve_raw("demo.hang", |_: Context, _| pending())
            .serve_raw("demo.deny", |_: Context, _| async {
                Err(MethodError::permission_denied("not for you"))
            })
            .serve_stream_raw("demo.break", |_: Context, _, mut sink| async move {
                sink.send_raw("one").await?;
                Err(MethodError::internal("after one"))
            }),
    )
}

#[track_caller]
fn assert_names(error: &Error, kind: &ErrorKind, method: Option<&str>, peer: SocketAddr) {
    assert_eq!(error.kind(), kind, "{error}");
    assert_eq!((error.method(), error.peer_address()), (method, Some(peer)), "{error:?}");
    let named = method.map_or_else(|| format!("(at {peer})"), |method| format!("(`{method}` at {peer})"));
    assert!(error.to_string().ends_with(&named), "{error}");
}

#[test]
fn every_failure_of_a_call_names_its_method_and_the_peer() {
    run(async {
        let server = node();
        let peer = server.address();
        let connection = server.connect().await;
        let names = |error: &Error, kind, method| assert_names(error, &kind, Some(method), peer);

        let denied = connection.call_raw("demo.deny", "").await.unwrap_err();
        names(&denied, ErrorKind::Remote(WireError::PermissionDenied), "demo.deny");
        assert_eq!(denied.to_string(), format!("permission_denied: not for you (`demo.deny` at {peer})"));
        let unknown = connection.request_raw("demo.none", "").respond().await.unwrap_err();
        names(&unknown, ErrorKind::Remote(WireError::UnsupportedMethod), "demo.none");
        let in_no_time = connection.request_raw("demo.hang", "").timeout(Duration::from_millis(20));
        let late = in_no_time.send_raw().await.unwrap_err();
        // The node may be the first to notice that no answer can arrive in time.
        assert!(late.is_timeout());
        names(&late, late.kind().clone(), "demo.hang");
        let unreadable = connection.call::<_, String>("demo.echo", &7_u8).await.unwrap_err();
        names(&unreadable, ErrorKind::Codec, "demo.echo");
        let large = connection.call_raw("demo.echo", vec![0; 64 * 1024 * 1024]).await.unwrap_err();
        names(&large, ErrorKind::MessageTooLarge, "demo.echo");
        let no_health = connection.request_raw("demo.echo", "a").health().await.unwrap_err();
        names(&no_health, ErrorKind::Protocol, "demo.echo");
        let no_result = connection.call_raw("node.health", "").await.unwrap_err();
        names(&no_result, ErrorKind::Protocol, "node.health");

        let mut responses = connection.stream_raw("demo.break", "").await.unwrap();
        assert!(matches!(responses.next_response().await.unwrap(), Some(Response::Result { .. })));
        names(&responses.next_raw().await.unwrap_err(), ErrorKind::Remote(WireError::Internal), "demo.break");
        let mut responses = connection.stream::<_, u8>("demo.break", &()).await.unwrap();
        names(&responses.next().await.unwrap_err(), ErrorKind::Codec, "demo.break");
        let mut events = connection.events_raw().open().await.unwrap();
        let no_log = events.next_raw().await.unwrap_err();
        names(&no_log, ErrorKind::Remote(WireError::UnsupportedMethod), "node.stream_events");

        let mut notifier = connection.notifier().await.unwrap();
        let large = notifier.send_raw("demo.note", vec![0; 64 * 1024 * 1024]).await.unwrap_err();
        names(&large, ErrorKind::MessageTooLarge, "demo.note");

        connection.close(Code::NO_ERROR, "");
        names(&connection.call_raw("demo.echo", "").await.unwrap_err(), ErrorKind::Closed, "demo.echo");
        names(&connection.notify_raw("demo.note", "").await.unwrap_err(), ErrorKind::Closed, "demo.note");
        let streaming = connection.stream_raw("demo.break", "").await.unwrap_err();
        names(&streaming, ErrorKind::Closed, "demo.break");
        let notifier = connection.notifier().await.map(drop).unwrap_err();
        assert_names(&notifier, &ErrorKind::Closed, None, peer);
        assert_eq!(connection.health().await.unwrap_err().method(), Some("node.health"));
    });
}

#[test]
fn a_call_that_finds_nobody_names_the_address_that_it_tried() {
    run(async {
        let silent = UdpSocket::bind(loopback()).unwrap();
        let peer = silent.local_addr().unwrap();
        let limits = TransportLimits::builder().handshake_timeout(Duration::from_millis(50)).build().unwrap();
        let tls = ClientTls::new(node().pki.authority.trust());
        let endpoint = Endpoint::builder().client(tls.clone()).limits(limits).bind(loopback()).unwrap();

        let dialled = endpoint.connect(peer).await.map(drop).unwrap_err();
        assert_names(&dialled, &ErrorKind::HandshakeTimeout, None, peer);
        assert_eq!(dialled.to_string().matches(&peer.to_string()).count(), 1, "{dialled}");

        let client = |timeout| {
            let client = Client::builder(endpoint.clone()).address(peer).call_timeout(timeout);
            client.build().unwrap()
        };
        // Much more than an attempt takes. Each is new, and so begins without a pause.
        let hopeless = || client(Duration::from_secs(3));
        let (calling, notifying) = (hopeless(), hopeless());
        let both = zip(calling.call_raw("demo.echo", ""), notifying.notify_raw("demo.note", "")).await;
        let (called, notified) = (both.0.unwrap_err(), both.1.unwrap_err());
        assert_names(&called, &ErrorKind::HandshakeTimeout, Some("demo.echo"), peer);
        assert_names(&notified, &ErrorKind::HandshakeTimeout, Some("demo.note"), peer);
        let mut subscription = hopeless().subscribe_raw().open();
        match subscription.next_raw().await.unwrap() {
            SubscriptionItem::Disconnected { error } => {
                assert_names(&error, &ErrorKind::HandshakeTimeout, Some("node.stream_events"), peer);
            }
            item => panic!("{item:?}"),
        }
        // Much less.
        let endpoint = Endpoint::builder().client(tls).bind(loopback()).unwrap();
        let hasty = Client::builder(endpoint).address(peer).call_timeout(Duration::from_millis(1));
        let hasty = hasty.build().unwrap().call_raw("demo.echo", "").await.unwrap_err();
        assert_names(&hasty, &ErrorKind::DeadlineExceeded, Some("demo.echo"), peer);
        drop(silent);
    });
}

#[test]
fn a_client_names_where_its_call_failed() {
    run(async {
        let server = node();
        let endpoint = Endpoint::builder().client(server.pki.client_tls()).bind(loopback()).unwrap();
        let elsewhere: SocketAddr = ([127, 0, 0, 1], 1).into();
        let client = Client::builder(endpoint).address(server.address()).address(elsewhere).build().unwrap();
        let denied = client.call::<_, u8>("demo.deny", &1_u8).await.unwrap_err();
        let kind = ErrorKind::Remote(WireError::PermissionDenied);
        assert_names(&denied, &kind, Some("demo.deny"), server.address());
    });
}
