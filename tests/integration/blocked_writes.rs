//! Writes that wait because the peer's limit for the data of the whole connection (MAX_DATA) is used up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_lite::future::{self, poll_once};
use palyra_quic::{
    Bytes, Code, Codec, Connection, Endpoint, ErrorKind, ItemSink, Response, Responses, Router,
    TransportLimits, sim::Link,
};
use quinn::{TransportConfig, VarInt};

use crate::{
    common::{RawServer, RawStream, frame, run},
    simulation::{Pair, SECOND},
};

const MILLI: Duration = Duration::from_millis(1);
const CREDIT: u32 = 8192;

/// A node, and a caller that lets it send [`CREDIT`] bytes.
struct Nodes {
    pair: Pair,
    node: Endpoint,
    client: Endpoint,
    answered: Arc<AtomicU32>,
}

fn nodes() -> Nodes {
    let pair = Pair::new(1, Link::new().delay(5 * MILLI));
    let answered = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&answered);
    let router = Router::new().serve_raw("test.repeat", move |_, params: Bytes| {
        count.fetch_add(1, Ordering::SeqCst);
        let times = if params.is_empty() { 8 * CREDIT } else { 1 };
        async move { Ok(vec![7; times.try_into().unwrap()].into()) }
    });
    let node = pair.serve(router, TransportLimits::default());
    let limits = TransportLimits::builder().receive_window(CREDIT).stream_receive_window(CREDIT);
    let client = pair.dialler(limits.build().unwrap());
    Nodes { pair, node, client, answered }
}

impl Nodes {
    fn run(&self, test: impl AsyncFn(Connection)) {
        self.pair.sim.run(async {
            let address = (self.node.local_addr().unwrap(), "gateway.example");
            test(self.client.connect(address).await.unwrap()).await;
        });
    }

    /// Leaves the node no byte that it may send, for as long as these answers are not read.
    async fn use_up_credit(&self, connection: &Connection) -> Responses {
        let before = self.answered.load(Ordering::SeqCst);
        let unread = connection.stream_raw("test.repeat", "").await.unwrap();
        self.until_answered(before + 1).await;
        unread
    }

    /// Until so many handlers have run, and what they returned waits to be written.
    async fn until_answered(&self, count: u32) {
        while self.answered.load(Ordering::SeqCst) < count {
            self.pair.sim.sleep(MILLI).await;
        }
        self.pair.sim.sleep(SECOND).await;
    }

    /// The node resets a stream as soon as it learns that its caller has left, and not when its time is up.
    async fn assert_resets_one_when(&self, leave: impl FnOnce()) {
        assert_eq!(self.node.stats().streams_reset_by_peers, 0, "the twin: the caller waits");
        leave();
        self.pair.sim.sleep(SECOND).await;
        assert_eq!(self.node.stats().streams_reset_by_peers, 1);
        assert_eq!(self.node.stats().streams_reset.total(), 0);
    }
}

#[test]
fn a_blocked_answer_is_given_up_when_its_caller_stops_it() {
    let nodes = nodes();
    nodes.run(async |connection| {
        let _unread = nodes.use_up_credit(&connection).await;
        let mut blocked = Box::pin(connection.call_raw("test.repeat", "x"));
        assert!(poll_once(&mut blocked).await.is_none());
        nodes.until_answered(2).await;
        nodes.assert_resets_one_when(|| drop(blocked)).await;
    });
}

#[test]
fn blocked_answers_to_many_calls_are_given_up_when_their_caller_stops_them() {
    let nodes = nodes();
    nodes.run(async |connection| {
        let (sink, responses, _unread) = blocked_pipeline(&nodes, &connection).await;
        nodes.assert_resets_one_when(|| drop(responses)).await;
        drop(sink);
    });
}

#[test]
fn blocked_answers_to_many_calls_are_given_up_when_their_caller_resets_the_calls() {
    let nodes = nodes();
    nodes.run(async |connection| {
        let (sink, mut responses, _unread) = blocked_pipeline(&nodes, &connection).await;
        nodes.assert_resets_one_when(|| drop(sink)).await;
        let error = responses.next_raw().await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::StreamReset(Code::CANCELLED));
    });
}

/// A stream of calls whose second answer cannot be written.
async fn blocked_pipeline(nodes: &Nodes, connection: &Connection) -> (ItemSink, Responses, Responses) {
    let (mut sink, mut responses) = connection.bidi_raw("test.repeat", "").await.unwrap();
    sink.send_raw("x").await.unwrap();
    assert_eq!(responses.next_raw().await.unwrap().unwrap(), [7][..]);
    let unread = nodes.use_up_credit(connection).await;
    sink.send_raw("x").await.unwrap();
    nodes.until_answered(3).await;
    (sink, responses, unread)
}

#[test]
fn a_blocked_request_is_given_up_when_its_peer_stops_it_and_the_answer_counts() {
    run(async {
        // A peer that lets its callers send so many bytes, and reads nothing.
        let mut transport = TransportConfig::default();
        transport.receive_window(VarInt::from_u32(CREDIT));
        let server = RawServer::within(transport);
        let (client, peer) = server.connect().await;
        let request = Bytes::from(vec![7; usize::try_from(CREDIT).unwrap()]);
        // What is left for the second request is too little for the peer to grant it anew when it stops it.
        let mut unread = Box::pin(client.call_raw("m", request.slice(300..)));
        assert!(poll_once(&mut unread).await.is_none());
        let calling = client.call_raw("m", request);
        let answering = async {
            let first = RawStream::accept(&peer).await;
            let mut stream = RawStream::accept(&peer).await;
            while peer.stats().frame_rx.data_blocked == 0 {
                smol::Timer::after(MILLI).await;
            }
            stream.stop(Code::NO_ERROR);
            let mut body = Vec::new();
            let result = Response::result(Some("enough".into()));
            result.encode(Codec::Cbor, &mut body).unwrap();
            stream.send(&frame(&body)).await;
            stream.finish();
            (stream, first)
        };
        let (answer, _streams) = future::zip(calling, answering).await;
        assert_eq!(answer.unwrap(), "enough");
    });
}
