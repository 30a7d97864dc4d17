//! What a subscriber requires of its peer, which is the same for every way to subscribe: frames that a
//! scripted peer sends, and what each subscriber makes of them.

use futures_lite::future;
use palyra_quic::{
    Bytes, Client, Code, Codec, Cursor, Endpoint, ErrorKind, EventItem, Response, SubscriptionItem, quinn,
};

use crate::common::{RawServer, RawStream, frame, loopback, run};

/// What a subscriber hands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Event(u64),
    /// To the last event that is lost.
    Gap(u64),
}

/// How the subscription goes on behind the items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The peer broke a rule.
    Violation,
    /// The answer ended with FIN, as one does that is not followed. One that is followed has no end of its
    /// own.
    Fin,
}

struct Case {
    name: &'static str,
    resume: Option<Cursor>,
    frames: Vec<Response>,
    items: Vec<Item>,
    end: End,
}

fn event(seq: u64) -> Response {
    event_of(seq, Some(5))
}

fn event_of(seq: u64, epoch: Option<u64>) -> Response {
    Response::event(seq, epoch, Some(Bytes::from_static(b"x")))
}

fn gap(first_seq: u64, epoch: u64) -> Response {
    Response::gap(first_seq, epoch, None)
}

fn heartbeat(seq: u64, epoch: u64) -> Response {
    Response::heartbeat(seq, epoch)
}

fn behind(epoch: impl Into<Option<u64>>, seq: u64) -> Option<Cursor> {
    Some(Cursor::new(epoch.into(), seq))
}

fn cases() -> Vec<Case> {
    use End::{Fin, Violation};
    use Item::{Event, Gap};
    let case = |name, resume, frames: &[Response], items: &[Item], end| Case {
        name,
        resume,
        frames: frames.to_vec(),
        items: items.to_vec(),
        end,
    };
    vec![
        case("events in order", None, &[event(1), event(2)], &[Event(1), Event(2)], Fin),
        case("events from the oldest held", None, &[event(7), event(8)], &[Event(7), Event(8)], Fin),
        case("events behind the cursor", behind(5, 3), &[event(4), event(5)], &[Event(4), Event(5)], Fin),
        case("a gap to what is held", behind(5, 3), &[gap(9, 5), event(9)], &[Gap(8), Event(9)], Fin),
        case(
            "a gap in the middle",
            None,
            &[event(1), gap(4, 5), event(4)],
            &[Event(1), Gap(3), Event(4)],
            Fin,
        ),
        case("another epoch", behind(4, 9), &[gap(1, 5), event(1)], &[Gap(0), Event(1)], Fin),
        case("another epoch later", None, &[event(3), gap(1, 6)], &[Event(3), Gap(0)], Fin),
        case("a cursor ahead of the log", behind(5, 90), &[gap(4, 5), event(4)], &[Gap(3), Event(4)], Fin),
        case("a heartbeat that is up to date", behind(5, 3), &[event(4), heartbeat(4, 5)], &[Event(4)], Fin),
        case("a heartbeat without events", None, &[heartbeat(0, 5), event(1)], &[Event(1)], Fin),
        case(
            "no epochs",
            behind(None, 3),
            &[event_of(4, None), event_of(5, None)],
            &[Event(4), Event(5)],
            Fin,
        ),
        case("an epoch once", None, &[event(1), event_of(2, None)], &[Event(1), Event(2)], Fin),
        // And what must not be.
        case("event 0", None, &[event(0)], &[], Violation),
        case("event 0 behind a cursor", behind(5, 3), &[event(0)], &[], Violation),
        case("a gap to event 0", None, &[gap(0, 5)], &[], Violation),
        case("an event is skipped", None, &[event(1), event(3)], &[Event(1)], Violation),
        case("an event is skipped behind the cursor", behind(5, 3), &[event(5)], &[], Violation),
        case("an event comes twice", None, &[event(1), event(1)], &[Event(1)], Violation),
        case("an event comes again", None, &[event(2), event(3), event(2)], &[Event(2), Event(3)], Violation),
        case("the cursor's event comes again", behind(5, 3), &[event(3)], &[], Violation),
        case("the epoch changes", None, &[event(1), event_of(2, Some(6))], &[Event(1)], Violation),
        case("not the requested epoch", behind(4, 2), &[event(3)], &[], Violation),
        case("an event skipped by a gap", behind(5, 3), &[gap(9, 5), event(10)], &[Gap(8)], Violation),
        case("an event in front of a gap", behind(5, 3), &[gap(9, 5), event(8)], &[Gap(8)], Violation),
        case("a heartbeat ahead", None, &[event(1), heartbeat(2, 5)], &[Event(1)], Violation),
        case("a heartbeat behind", behind(5, 3), &[event(4), heartbeat(3, 5)], &[Event(4)], Violation),
        case("a heartbeat of another epoch", None, &[event(1), heartbeat(1, 6)], &[Event(1)], Violation),
        case("a first heartbeat of another epoch", behind(4, 1), &[heartbeat(1, 5)], &[], Violation),
        case("a gap back", None, &[event(1), event(2), gap(1, 5)], &[Event(1), Event(2)], Violation),
        case("a gap to nowhere", None, &[event(1), gap(2, 5)], &[Event(1)], Violation),
        case("two gaps back", behind(5, 90), &[gap(40, 5), gap(4, 5)], &[Gap(39)], Violation),
        case("a gap back behind a heartbeat", behind(5, 9), &[heartbeat(9, 5), gap(4, 5)], &[], Violation),
        case("no event", None, &[event(1), Response::result(None)], &[Event(1)], Violation),
    ]
}

/// Answers the next request of this connection, and gives the code with which the subscriber stops the
/// answer.
async fn answer(peer: &quinn::Connection, frames: &[Response], codec: Codec) -> Option<Code> {
    let mut stream = RawStream::accept(peer).await;
    stream.answer().await.frames();
    for response in frames {
        let mut body = Vec::new();
        response.encode(codec, &mut body).unwrap();
        stream.send(&frame(&body)).await;
    }
    stream.finish();
    stream.stopped().await
}

/// `Connection::events`.
async fn by_connection(case: &Case, follow: bool, codec: Codec) -> (Vec<Item>, Option<ErrorKind>) {
    let server = RawServer::new();
    let (connection, peer) = server.connect().await;
    let subscriber = async {
        let mut request = connection.events_raw();
        if let Some(cursor) = case.resume {
            request = request.resume_from(cursor.seq());
            if let Some(epoch) = cursor.epoch() {
                request = request.epoch(epoch);
            }
        }
        let request = if follow { request.follow() } else { request };
        let mut events = request.codec(codec).open().await.unwrap();
        let mut items = Vec::new();
        loop {
            match events.next_raw().await {
                Ok(Some(EventItem::Event { seq, .. })) => items.push(Item::Event(seq)),
                Ok(Some(EventItem::Gap(gap))) => items.push(Item::Gap(gap.next_seq - 1)),
                Ok(None) => break (items, None),
                Err(error) => {
                    assert!(events.next_raw().await.unwrap().is_none(), "an error is the end");
                    break (items, Some(error.kind().clone()));
                }
            }
        }
    };
    future::zip(subscriber, answer(&peer, &case.frames, codec)).await.0
}

/// `Client::subscribe`.
async fn by_client(case: &Case) -> (Vec<Item>, Option<ErrorKind>) {
    let server = RawServer::new();
    let endpoint = Endpoint::builder().client(server.pki.client_tls()).bind(loopback()).unwrap();
    let client = Client::builder(endpoint).address(server.address()).build().unwrap();
    let subscribe = client.subscribe_raw();
    let mut subscription = case.resume.map_or(subscribe.clone(), |cursor| subscribe.resume(cursor)).open();
    let subscriber = async {
        let mut items = Vec::new();
        loop {
            match subscription.next_raw().await {
                Ok(SubscriptionItem::Connected { .. }) => {}
                Ok(SubscriptionItem::Event { seq, .. }) => items.push(Item::Event(seq)),
                Ok(SubscriptionItem::Gap(gap)) => items.push(Item::Gap(gap.next_seq - 1)),
                // It resumes.
                Ok(SubscriptionItem::Disconnected { error }) => break (items, Some(error.kind().clone())),
                Err(error) => {
                    assert_eq!(subscription.next_raw().await.unwrap_err().kind(), &ErrorKind::Closed);
                    break (items, Some(error.kind().clone()));
                }
            }
        }
    };
    let peer = async {
        let peer = server.endpoint.accept().await.unwrap().await.unwrap();
        answer(&peer, &case.frames, Codec::Cbor).await;
        future::pending::<()>().await;
    };
    future::or(subscriber, async {
        peer.await;
        unreachable!()
    })
    .await
}

#[test]
fn both_ways_to_subscribe_follow_the_same_rules() {
    for case in cases() {
        run(async {
            let Case { name, items, end, .. } = &case;
            let ended = |follow: bool| match end {
                End::Violation => Some(ErrorKind::Protocol),
                End::Fin => follow.then_some(ErrorKind::Truncated),
            };
            for (follow, codec) in [(false, Codec::Cbor), (false, Codec::Json), (true, Codec::Cbor)] {
                let outcome = by_connection(&case, follow, codec).await;
                assert_eq!(outcome, (items.clone(), ended(follow)), "{name}, follow {follow}, {codec:?}");
            }
            assert_eq!(by_client(&case).await, (items.clone(), ended(true)), "{name}, a subscription");
        });
    }
}
