//! `node.describe`: what a node tells each peer about its methods and limits.

use palyra_quic::{
    Bytes, Client, Codec, Connection, Context, Description, Endpoint, ErrorKind, EventLog, MethodKind, Peers,
    ResponseSink, Router, ServerTls, TransportLimits, WireError,
};

use crate::common::{RawServer, RawStream, frame, loopback, run, serve, serve_within};

async fn echo(_: Context, params: Bytes) -> Result<Bytes, palyra_quic::MethodError> {
    Ok(params)
}

fn router() -> Router {
    Router::new()
        .serve_raw("demo.add", echo)
        .serve_stream_raw("demo.count", |_, _, _: ResponseSink| async { Ok(()) })
        .serve_raw("demo.note", echo)
        .on_notification_raw("demo.note", |_: Context, _| async {})
        .events(EventLog::new())
}

fn methods(description: &Description) -> Vec<(&str, MethodKind)> {
    description.methods.iter().map(|method| (&*method.name, method.kind)).collect()
}

const ALL: [(&str, MethodKind); 7] = [
    ("demo.add", MethodKind::Unary),
    ("demo.count", MethodKind::Streaming),
    ("demo.note", MethodKind::Unary),
    ("demo.note", MethodKind::Notification),
    ("node.describe", MethodKind::Unary),
    ("node.health", MethodKind::Unary),
    ("node.stream_events", MethodKind::Log),
];

#[test]
fn a_node_describes_its_methods_and_limits() {
    run(async {
        let limits = TransportLimits::builder()
            .max_frame_bytes(600_000)
            .max_concurrent_bidi_streams(7)
            .max_concurrent_uni_streams(3)
            .build();
        let server = serve_within(limits.unwrap(), router());
        let connection = server.connect().await;
        let description = connection.describe().await.unwrap();
        assert_eq!(methods(&description), ALL);
        let Description { max_frame_bytes, streams, notification_streams, .. } = description;
        assert_eq!((max_frame_bytes, streams, notification_streams), (600_000, 7, 3));
        let json = connection.request::<(), Description>("node.describe", &()).unwrap().codec(Codec::Json);
        assert_eq!(methods(&json.send().await.unwrap()), ALL);
        let endpoint = Endpoint::builder().client(server.pki.client_tls()).bind(loopback()).unwrap();
        let client = Client::builder(endpoint).address(server.address()).build().unwrap();
        assert_eq!(methods(&client.describe().await.unwrap()), ALL);
    });
}

#[test]
fn a_node_with_more_methods_than_fit_a_frame_says_how_many_it_leaves_out() {
    run(async {
        let limits = TransportLimits::builder().max_frame_bytes(8 * 1024).build();
        let names: Vec<_> = (1000..2000).map(|n| format!("demo.method-{n}")).collect();
        let router = names.iter().fold(Router::new(), |router, name| router.serve_raw(name, echo));
        let server = serve_within(limits.unwrap(), router);
        let connection = server.connect().await;
        let mut described = Vec::new();
        for codec in [Codec::Cbor, Codec::Json] {
            let request = connection.request::<(), Description>("node.describe", &()).unwrap().codec(codec);
            let description = request.send().await.unwrap();
            let names: Vec<_> = names.iter().map(|name| (&**name, MethodKind::Unary)).collect();
            let count = description.methods.len();
            assert_eq!(methods(&description), names[..count]);
            assert_eq!(count + usize::try_from(description.omitted).unwrap(), 1002, "two are built in");
            described.push(count);
        }
        assert!(described[0] > 300 && described[0] > described[1] && described[1] > 200, "{described:?}");
    });
}

/// The bytes of the test vector, which an independent encoder has made.
#[test]
fn a_description_has_the_bytes_of_its_vector() {
    run(async {
        let server = serve(router());
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../vectors/responses.json")).unwrap();
        let vectors = vectors.as_array().unwrap();
        let vector = vectors.iter().find(|vector| vector["name"] == "a description").unwrap();
        let expected = base64_decoded(vector["json"]["payload"].as_str().unwrap());
        let described = server.connect().await.call_raw("node.describe", "").await.unwrap();
        assert_eq!(described, expected);
    });
}

fn base64_decoded(text: &str) -> Vec<u8> {
    base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).unwrap()
}

#[test]
fn each_peer_sees_the_methods_that_it_may_use() {
    run(async {
        let pki = crate::common::Pki::new();
        let operator = Peers::nobody().common_name("Palyra Device operator");
        let nested =
            Router::new().serve_raw("reset", echo).serve_raw("look", echo).allow("look", Peers::anybody());
        let router = router()
            .nest("admin", nested.allow_by_default(operator.clone()))
            .allow("demo.add", operator.clone())
            .allow("demo.note", operator.clone())
            .allow("node.stream_events", operator)
            .allow("node.health", Peers::identified());
        let tls = ServerTls::new(pki.server.identity()).offer_client_certificates(pki.authority.trust());
        let node = Endpoint::builder().server(tls).router(router).bind(loopback()).unwrap();
        let connect = async |id: Option<&str>| -> Connection {
            let tls = match id {
                Some(id) => pki.client_tls_as(pki.authority.issue_client(id).unwrap().identity()),
                None => palyra_quic::ClientTls::new(pki.authority.trust()),
            };
            let endpoint = Endpoint::builder().client(tls).bind(loopback()).unwrap();
            endpoint.connect(node.local_addr().unwrap()).await.unwrap()
        };
        let anonymous = connect(None).await.describe().await.unwrap();
        let (unary, streaming) = (MethodKind::Unary, MethodKind::Streaming);
        let open = [("admin.look", unary), ("demo.count", streaming), ("node.describe", unary)];
        assert_eq!(methods(&anonymous), open);
        let sensor = connect(Some("sensor")).await.describe().await.unwrap();
        assert_eq!(methods(&sensor), [&open[..], &[("node.health", unary)]].concat());
        let operator = connect(Some("operator")).await.describe().await.unwrap();
        assert_eq!(methods(&operator), [&[open[0], ("admin.reset", unary)][..], &ALL].concat());
    });
}

#[test]
fn a_rule_says_who_may_ask() {
    run(async {
        for router in [
            router().allow("node.describe", Peers::nobody()),
            router().allow_by_default(Peers::nobody()).allow("demo.add", Peers::anybody()),
        ] {
            let server = serve(router);
            let denied = server.connect().await.describe().await.unwrap_err();
            assert_eq!(denied.kind(), &ErrorKind::Remote(WireError::PermissionDenied));
        }
        let server =
            serve(router().allow_by_default(Peers::nobody()).allow("node.describe", Peers::anybody()));
        let description = server.connect().await.describe().await.unwrap();
        assert_eq!(methods(&description), [("node.describe", MethodKind::Unary)]);
    });
}

#[test]
fn a_node_that_does_not_know_the_method_is_told_apart() {
    run(async {
        let node = RawServer::new();
        let (connection, peer) = node.connect().await;
        let answer = r#"{"protocol_version":1,"kind":"error","ok":false,"error":"unsupported_method"}"#;
        let answering = async {
            let mut stream = RawStream::accept(&peer).await;
            stream.next().await;
            stream.send(&frame(answer.as_bytes())).await;
            stream.finish();
        };
        let (described, ()) = futures_lite::future::zip(connection.describe(), answering).await;
        assert_eq!(described.unwrap_err().kind(), &ErrorKind::Remote(WireError::UnsupportedMethod));
    });
}
