//! What nodes without the newer features get, and what their callers see: an error that says so, at the
//! first attempt, and the connection stays. Raw servers and raw clients stand for these nodes.

use futures_lite::future;
use palyra_quic::{
    Bytes, Client, Codec, Connection, Cursor, Endpoint, Error, ErrorKind, EventItem, EventLog, PeerIdentity,
    Raw, Request, Response, Router, Subscription, SubscriptionItem, TraceContext, WireError,
};

use crate::common::{RawServer, RawStream, decode, encode, frame, json_request, loopback, run, serve};
#[cfg(feature = "json")]
use crate::tokio_node;

/// The epoch of the log of an older node.
const EPOCH: u64 = 5;
/// A log beside the node's own.
const READINGS: &str = "plant.readings";

/// Nodes that have none of the newer features.
#[derive(Clone, Copy)]
enum OtherNode {
    /// One of the tokio implementation.
    #[cfg(feature = "json")]
    Tokio,
    /// One of an earlier release, or one that was built without `streams`.
    Earlier,
    /// One whose log has no epochs, and can be followed.
    WithoutEpochs,
}

impl OtherNode {
    /// Reads the body of a request, and answers it.
    async fn serve(self, stream: &mut RawStream) -> Vec<u8> {
        let (request, answer) = match self {
            #[cfg(feature = "json")]
            Self::Tokio => {
                let request = stream.next().await;
                let answer = tokio_node::answer(&request);
                (request, answer)
            }
            Self::Earlier | Self::WithoutEpochs => {
                // It reads to the end of the request, so a request that goes on would never be answered.
                let frame = stream.recv.read_to_end(1000).await.unwrap();
                let request = frame[4..].to_vec();
                let epoch = matches!(self, Self::Earlier).then_some(EPOCH);
                let answer = without_streams(&request, epoch);
                (request, answer)
            }
        };
        stream.send(&answer).await;
        request
    }

    /// Whether the answer to this request goes on.
    fn is_followed(self, request: &[u8]) -> bool {
        match self {
            #[cfg(feature = "json")]
            Self::Tokio => false,
            Self::Earlier | Self::WithoutEpochs => follows_a_log(request),
        }
    }
}

/// How a node answers that knows no key 7, and echoes.
fn without_streams(request: &[u8], epoch: Option<u64>) -> Vec<u8> {
    let request = Request::decode(&Bytes::copy_from_slice(request)).unwrap();
    let response = match &*request.method {
        _ if request.more().is_some() => Response::error(WireError::InvalidRequest),
        "node.health" => Response::health(),
        "demo.echo" => Response::result(request.params),
        "node.stream_events" => Response::event(1, epoch, Some("x".into())),
        _ => Response::error(WireError::UnsupportedMethod),
    };
    let mut body = Vec::new();
    response.encode(Codec::Cbor, &mut body).unwrap();
    frame(&body)
}

/// Runs `calls` on a connection to such a node, which gives the number of the requests that it answered.
async fn beside(node: OtherNode, calls: impl AsyncFn(&Connection, &Client)) -> usize {
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
            requests += 1;
            let request = node.serve(&mut stream).await;
            if node.is_followed(&request) {
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
        let requests = beside(OtherNode::Earlier, async |connection, client| {
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
        let requests = beside(OtherNode::Tokio, async |connection, client| {
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
        let requests = beside(OtherNode::Earlier, async |connection, client| {
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
        let requests = beside(OtherNode::Tokio, async |connection, client| {
            let not_understood = ErrorKind::Remote(WireError::InvalidRequest);
            let mut events = connection.events::<Raw>(READINGS).open().await.unwrap();
            assert_eq!(events.next_raw().await.unwrap_err().kind(), &not_understood);
            let in_json = connection.events::<Raw>(READINGS).codec(Codec::Json);
            let refused = in_json.open().await.unwrap().next_raw().await.unwrap_err();
            assert_eq!(refused.kind(), &ErrorKind::Remote(WireError::UnsupportedMethod));
            let cursor = Cursor::new(Some(EPOCH), 1);
            let error = connection.ack_events::<Raw>(READINGS, "gateway", cursor).await.unwrap_err();
            assert_unsupported(error, "node.ack_events");
            // A subscription follows, which is a field that the node does not know.
            for subscribe in [client.subscribe_raw(), client.subscribe::<Raw>(READINGS)] {
                for codec in [Codec::Cbor, Codec::Json] {
                    let subscription = subscribe.clone().consumer("gateway").codec(codec).open();
                    assert_eq!(end(subscription).await.kind(), &not_understood, "{codec:?}");
                }
            }
            // What it holds can be read.
            let mut own = connection.events_raw().codec(Codec::Json).resume_from(2).open().await.unwrap();
            for expected in 3..=tokio_node::EVENTS {
                match own.next_raw().await.unwrap() {
                    Some(EventItem::Event { seq, epoch: None, .. }) => assert_eq!(seq, expected),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(own.next_raw().await.unwrap(), None);
        });
        assert_eq!(requests.await, 8, "nothing is tried twice");
    });
}

#[test]
fn a_cursor_without_an_epoch_is_not_sent_and_the_log_is_followed() {
    run(async {
        let requests = beside(OtherNode::WithoutEpochs, async |_, client| {
            let own = client.subscribe_raw().consumer("gateway").open();
            assert_unsupported(refused_acknowledgement(own).await, "node.ack_events");
        });
        assert_eq!(requests.await, 1, "the subscription");
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
        let requests = beside(OtherNode::Earlier, async |_, client| {
            assert_eq!(mirror_says(client, "node.stream_events", "own").await, "");
            let said = mirror_says(client, READINGS, "name").await;
            assert!(said.starts_with("unsupported_method (`plant.readings`"), "{said}");
        });
        requests.await;
        #[cfg(feature = "json")]
        let requests = beside(OtherNode::Tokio, async |_, client| {
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
