//! What nodes without the newer features get, and what their callers see: an error that says so, at the
//! first attempt, and the connection stays. Raw servers and raw clients stand for these nodes.

use futures_lite::future;
use palyra_quic::{
    Bytes, Client, Codec, Connection, Cursor, Endpoint, Error, ErrorKind, EventLog, PeerIdentity, Raw,
    Request, Response, Router, Subscription, SubscriptionItem, TraceContext, WireError,
};

use crate::common::{RawServer, RawStream, decode, encode, frame, json_request, loopback, run, serve};

/// The epoch of the log of an older node.
const EPOCH: u64 = 5;
/// A log beside the node's own.
const READINGS: &str = "plant.readings";

/// How a node answers the body of a request.
type Answers = fn(&[u8]) -> Vec<u8>;

/// As a node of the tokio implementation: JSON alone, and the health in it.
fn json_only(request: &[u8]) -> Vec<u8> {
    let answer = match serde_json::from_slice::<serde_json::Value>(request) {
        Err(_) => r#"{"protocol_version":1,"kind":"error","ok":false,"error":"invalid_request"}"#,
        Ok(request) if request["method"] == "node.health" => {
            r#"{"protocol_version":1,"kind":"health","ok":true,"node_rpc_mtls_required":true}"#
        }
        Ok(request) if request["method"] == "node.stream_events" => {
            r#"{"protocol_version":1,"kind":"event","ok":true,"seq":1,"payload":"eA=="}"#
        }
        Ok(_) => r#"{"protocol_version":1,"kind":"error","ok":false,"error":"unsupported_method"}"#,
    };
    frame(answer.as_bytes())
}

/// As a node of a release that has none of the features, and one that was built without `streams`: it knows
/// no key 7, and echoes.
fn without_streams(request: &[u8]) -> Vec<u8> {
    let request = Request::decode(&Bytes::copy_from_slice(request)).unwrap();
    let response = match &*request.method {
        _ if request.more().is_some() => Response::error(WireError::InvalidRequest),
        "node.health" => Response::health(),
        "demo.echo" => Response::result(request.params),
        "node.stream_events" => Response::event(1, Some(EPOCH), Some("x".into())),
        _ => Response::error(WireError::UnsupportedMethod),
    };
    let mut body = Vec::new();
    response.encode(Codec::Cbor, &mut body).unwrap();
    frame(&body)
}

/// Runs `calls` on a connection to such a node, which gives the number of the requests that it answered.
async fn beside(answers: Answers, calls: impl AsyncFn(&Connection, &Client)) -> usize {
    let server = RawServer::new();
    let endpoint = Endpoint::builder().client(server.pki.client_tls()).bind(loopback()).unwrap();
    let client = Client::builder(endpoint).address(server.address()).build().unwrap();
    let connecting = async { client.connection().await.unwrap() };
    let accepting = async { server.endpoint.accept().await.unwrap().await.unwrap() };
    let (connection, peer) = future::zip(connecting, accepting).await;
    let (mut requests, mut followed) = (0, Vec::new());
    let serving = async {
        loop {
            let mut stream = RawStream::accept(&peer).await;
            // A node reads to the end of the request, so a request that goes on would never be answered.
            let request = stream.recv.read_to_end(1000).await.unwrap();
            requests += 1;
            stream.send(&answers(&request[4..])).await;
            if follows_a_log(&request[4..]) {
                followed.push(stream);
            } else {
                stream.finish();
            }
        }
    };
    future::or(calls(&connection, &client), serving).await;
    assert!(connection.close_reason().is_none() && peer.close_reason().is_none());
    requests
}

fn follows_a_log(request: &[u8]) -> bool {
    let request = Request::decode(&Bytes::copy_from_slice(request));
    request.is_ok_and(|request| &*request.method == "node.stream_events" && request.follow)
}

fn assert_unsupported(error: Error, method: &str) {
    assert_eq!(error.kind(), &ErrorKind::Unsupported, "{error:?}");
    assert_eq!(error.method(), Some(method));
    assert!(!error.may_have_run() && !error.is_retryable(), "{error:?}");
}

/// Items and pipelines, of a connection and of a client.
#[cfg(feature = "streams")]
async fn streams(connection: &Connection, client: &Client) {
    const ECHO: &str = "demo.echo";
    assert_unsupported(connection.send_items_raw(ECHO, "x").await.map(drop).unwrap_err(), ECHO);
    assert_unsupported(connection.bidi_raw(ECHO, "x").await.map(drop).unwrap_err(), ECHO);
    assert_unsupported(connection.pipeline_raw(ECHO).call_raw("x").await.unwrap_err(), ECHO);
    assert_unsupported(client.send_items_raw(ECHO, "x").await.map(drop).unwrap_err(), ECHO);
    assert_unsupported(client.bidi_raw(ECHO, "x").await.map(drop).unwrap_err(), ECHO);
    assert_unsupported(client.pipeline_raw(ECHO).call_raw("x").await.unwrap_err(), ECHO);
}

fn trace() -> TraceContext {
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().unwrap()
}

#[cfg(feature = "streams")]
#[test]
fn a_node_without_streams_is_asked_once_and_everything_else_works() {
    run(async {
        let requests = beside(without_streams, async |connection, client| {
            streams(connection, client).await;
            for error in [connection.describe().await.unwrap_err(), client.describe().await.unwrap_err()] {
                assert_eq!(error.kind(), &ErrorKind::Remote(WireError::UnsupportedMethod));
            }
            let traced = connection.request_raw("demo.echo", "x").trace(trace());
            assert_eq!(traced.send_raw().await.unwrap(), "x");
            assert!(connection.health().await.unwrap().ok);
        });
        assert_eq!(requests.await, 5, "one asked about streams");
    });
}

#[cfg(all(feature = "json", feature = "streams"))]
#[test]
fn a_node_that_speaks_json_alone_supports_none_of_them() {
    run(async {
        let requests = beside(json_only, async |connection, client| {
            assert_unsupported(connection.describe().await.unwrap_err(), "node.describe");
            assert_unsupported(client.describe().await.unwrap_err(), "node.describe");
            streams(connection, client).await;
            let health = connection.request_raw("node.health", "").codec(Codec::Json);
            assert!(health.health().await.unwrap().ok);
        });
        assert_eq!(requests.await, 3, "nothing has to be asked about streams");
    });
}

/// The error with which a subscription ends before it has brought anything.
async fn end(mut subscription: Subscription) -> Error {
    loop {
        match subscription.next_raw().await {
            Ok(SubscriptionItem::Connected { .. }) => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) => return error,
        }
    }
}

/// Why the acknowledgement of the first event of a subscription is refused. The subscription goes on.
async fn refused_acknowledgement(mut subscription: Subscription) -> Error {
    let first = loop {
        match subscription.next_raw().await.unwrap() {
            SubscriptionItem::Event { seq, .. } => break seq,
            SubscriptionItem::Connected { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(first, 1);
    subscription.ack();
    let error = loop {
        match subscription.take_ack_error() {
            Some(error) => break error,
            None => future::yield_now().await,
        }
    };
    assert_eq!(subscription.acknowledged(), None);
    let pending = future::poll_once(subscription.next_raw()).await;
    assert!(pending.is_none(), "the stream goes on: {pending:?}");
    error
}

#[test]
fn a_node_with_one_log_alone_says_so_and_its_own_log_is_followed() {
    run(async {
        let requests = beside(without_streams, async |connection, client| {
            let unsupported = ErrorKind::Remote(WireError::UnsupportedMethod);
            let mut events = connection.events::<Raw>(READINGS).follow().open().await.unwrap();
            assert_eq!(events.next_raw().await.unwrap_err().kind(), &unsupported);
            for log in ["node.stream_events", READINGS] {
                let cursor = Cursor::new(Some(EPOCH), 1);
                let error = connection.ack_events::<Raw>(log, "gateway", cursor).await.unwrap_err();
                assert_eq!(error.kind(), &unsupported);
                assert_eq!(error.method(), Some("node.ack_events"));
                assert!(!error.is_retryable());
            }
            for consumer in [None, Some("gateway")] {
                let subscribe = client.subscribe::<Raw>(READINGS);
                let subscribe = consumer.map_or(subscribe.clone(), |name| subscribe.consumer(name));
                assert_eq!(end(subscribe.open()).await.kind(), &unsupported);
            }
            let own = client.subscribe_raw().consumer("gateway").open();
            assert_eq!(refused_acknowledgement(own).await.kind(), &unsupported);
        });
        assert_eq!(requests.await, 7, "nothing is tried twice");
    });
}

#[cfg(feature = "json")]
#[test]
fn a_node_that_speaks_json_alone_has_one_log_without_epochs() {
    run(async {
        let requests = beside(json_only, async |connection, client| {
            let not_understood = ErrorKind::Remote(WireError::InvalidRequest);
            let mut events = connection.events::<Raw>(READINGS).open().await.unwrap();
            assert_eq!(events.next_raw().await.unwrap_err().kind(), &not_understood);
            let in_json = connection.events::<Raw>(READINGS).codec(Codec::Json);
            let refused = in_json.open().await.unwrap().next_raw().await.unwrap_err();
            assert_eq!(refused.kind(), &ErrorKind::Remote(WireError::UnsupportedMethod));
            let cursor = Cursor::new(Some(EPOCH), 1);
            let error = connection.ack_events::<Raw>(READINGS, "gateway", cursor).await.unwrap_err();
            assert_unsupported(error, "node.ack_events");
            let by_name = client.subscribe::<Raw>(READINGS).consumer("gateway");
            assert_eq!(end(by_name.clone().open()).await.kind(), &not_understood);
            let error = end(by_name.codec(Codec::Json).open()).await;
            assert_eq!(error.kind(), &ErrorKind::Remote(WireError::UnsupportedMethod));
            let own = client.subscribe_raw().consumer("gateway").codec(Codec::Json).open();
            assert_unsupported(refused_acknowledgement(own).await, "node.ack_events");
        });
        requests.await;
    });
}

/// What a mirror of this log says as long as it has nothing.
#[cfg(unix)]
async fn mirror_says(client: &Client, log: &str, name: &str) -> String {
    use palyra_quic::{Mirror, MirrorState};

    let directory = std::env::temp_dir().join(format!("palyra-old-{name}-{}", std::process::id()));
    let mirror = Mirror::builder::<Raw>(client, log).consumer("gateway").open(&directory).unwrap();
    let why = |state: &MirrorState| match state {
        MirrorState::Disconnected(why) => why.clone(),
        _ => None,
    };
    mirror.wait_for(|status| why(&status.state).is_some() || status.last_seq > 0).await;
    let said = why(&mirror.status().state).unwrap_or_default();
    assert_eq!(mirror.log().is_some(), said.is_empty());
    mirror.close().await.unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    said
}

#[cfg(unix)]
#[test]
fn a_mirror_has_the_log_of_an_older_node_or_says_why_it_has_none() {
    run(async {
        let requests = beside(without_streams, async |_, client| {
            assert_eq!(mirror_says(client, "node.stream_events", "own").await, "");
            let said = mirror_says(client, READINGS, "name").await;
            assert!(said.starts_with("unsupported_method (`plant.readings`"), "{said}");
        });
        requests.await;
        #[cfg(feature = "json")]
        let requests = beside(json_only, async |_, client| {
            let said = mirror_says(client, "node.stream_events", "json").await;
            assert!(said.starts_with("invalid_request (`node.stream_events`"), "{said}");
        });
        #[cfg(feature = "json")]
        requests.await;
    });
}

/// A node with the newer features, as an older one finds it.
#[test]
fn an_older_caller_is_served_by_a_node_with_consumers_and_logs() {
    run(async {
        let bounds = || EventLog::builder().max_events(10).keep_unacknowledged(1 << 20).consumer("gateway");
        let [own, readings] = [(); 2].map(|()| bounds().build().unwrap());
        for number in 1..=3 {
            assert_eq!(own.publish_raw(format!("event {number}")).unwrap(), number);
            readings.publish_raw("reading").unwrap();
        }
        let router = Router::new().events(own.clone()).log(READINGS, readings);
        let server = serve(router.consumers(PeerIdentity::has_name));
        let peer = server.raw().await;

        // What it knows is as before, in both encodings.
        let mut known = vec![(Codec::Cbor, b"\xa2\x00\x01\x01\x72node.stream_events".to_vec())];
        if cfg!(feature = "json") {
            known.push((Codec::Json, json_request("node.stream_events")));
        }
        for (codec, request) in known {
            let frames = peer.request(&request).await.frames();
            let seqs: Vec<_> = frames
                .iter()
                .map(|body| match decode(body) {
                    Response::Event { seq, epoch: Some(epoch), .. } if epoch == own.epoch() => seq,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(seqs, [1, 2, 3]);
            assert!(frames.iter().all(|body| Codec::of(body) == codec));
        }
        // What it does not know is answered by errors that it knows, if it should call that anyway.
        for (method, error) in [
            ("node.ack_events", WireError::InvalidRequest),
            ("plant.nothing", WireError::UnsupportedMethod),
            ("node.later", WireError::UnsupportedMethod),
        ] {
            assert_eq!(peer.request(&crate::common::request(method)).await.error(), error, "{method}");
            #[cfg(feature = "json")]
            assert_eq!(peer.request(&json_request(method)).await.error_in(Codec::Json), error, "{method}");
        }
        let mut forged = Request::new("node.ack_events");
        forged.params = Some(b"\xa3\x00\x67gateway\x01\x05\x02\x01"[..].into());
        let forged = encode(&forged, Codec::Cbor);
        assert_eq!(peer.request(&forged).await.error(), WireError::PermissionDenied);
        assert_eq!(own.consumers()[0].acknowledged, 0);
        peer.assert_is_served().await;
    });
}
