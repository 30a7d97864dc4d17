//! What nodes without the newer features get, and what their callers see: an error that says so, at the
//! first attempt, and the connection stays. Raw servers stand for these nodes.

use futures_lite::future;
use palyra_quic::{
    Bytes, Client, Codec, Connection, Endpoint, Error, ErrorKind, Request, Response, TraceContext, WireError,
};

use crate::common::{RawServer, RawStream, frame, loopback, run};

/// How a node answers the body of a request.
type Answers = fn(&[u8]) -> Vec<u8>;

/// As a node of the tokio implementation: JSON alone, and the health in it.
fn json_only(request: &[u8]) -> Vec<u8> {
    let answer = match serde_json::from_slice::<serde_json::Value>(request) {
        Err(_) => r#"{"protocol_version":1,"kind":"error","ok":false,"error":"invalid_request"}"#,
        Ok(request) if request["method"] == "node.health" => {
            r#"{"protocol_version":1,"kind":"health","ok":true,"node_rpc_mtls_required":true}"#
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
    let mut requests = 0;
    let serving = async {
        loop {
            let mut stream = RawStream::accept(&peer).await;
            // A node reads to the end of the request, so a request that goes on would never be answered.
            let request = stream.recv.read_to_end(1000).await.unwrap();
            requests += 1;
            stream.send(&answers(&request[4..])).await;
            stream.finish();
        }
    };
    future::or(calls(&connection, &client), serving).await;
    assert!(connection.close_reason().is_none() && peer.close_reason().is_none());
    requests
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
