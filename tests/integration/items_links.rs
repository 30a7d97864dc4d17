//! Requests with items on simulated links: nothing is sent twice, and a stream of items that broke off never
//! looks complete, whatever the link does.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use futures_lite::{
    future::{self, zip},
    stream,
};
use palyra_quic::{
    BidiMethod, Client, Code, Context, Endpoint, ErrorKind, Items, ItemsMethod, ResponseSink, Router,
    TransportLimits, WireError,
    sim::{Link, Sim},
};

use crate::simulation::{PORT, Pair, SECOND, for_each_seed, patient, server_tls};

const MILLI: Duration = Duration::from_millis(1);

const COUNT: ItemsMethod<(), u32, u32> = ItemsMethod::new("demo.count");
const ECHO: BidiMethod<(), u32, u32> = BidiMethod::new("demo.echo");

/// What the handlers of a node have seen.
#[derive(Clone, Default)]
struct Record {
    begun: Arc<AtomicU32>,
    /// The items of each request that was complete.
    complete: Arc<Mutex<Vec<Vec<u32>>>>,
    running: Arc<AtomicU32>,
}

struct Running(Arc<AtomicU32>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Record {
    fn begin(&self) -> Running {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.running.fetch_add(1, Ordering::SeqCst);
        Running(Arc::clone(&self.running))
    }

    fn router(&self) -> Router {
        let (counts, echoes) = (self.clone(), self.clone());
        Router::new()
            .serve_items(COUNT, move |_: Context, (), mut items: Items<u32>| {
                let (record, running) = (counts.clone(), counts.begin());
                async move {
                    let _running = running;
                    let mut received = Vec::new();
                    while let Some(item) = items.next().await? {
                        received.push(item);
                    }
                    let count = u32::try_from(received.len()).unwrap();
                    record.complete.lock().unwrap().push(received);
                    Ok(count)
                }
            })
            .serve_bidi(ECHO, move |_, (), mut items: Items<u32>, mut answers: ResponseSink<u32>| {
                let running = echoes.begin();
                async move {
                    let _running = running;
                    while let Some(item) = items.next().await? {
                        answers.send(&item).await?;
                    }
                    Ok(())
                }
            })
    }

    fn begun(&self) -> u32 {
        self.begun.load(Ordering::SeqCst)
    }

    async fn until_idle(&self, sim: &Sim) {
        while self.running.load(Ordering::SeqCst) > 0 {
            sim.sleep(MILLI).await;
        }
    }
}

fn pair() -> Pair {
    Pair::new(1, Link::new().delay(10 * MILLI))
}

#[test]
fn silence_ends_an_exchange_and_items_at_intervals_do_not() {
    let (pair, record) = (pair(), Record::default());
    let _node = pair.serve(record.router(), TransportLimits::default());
    let client = pair.client(TransportLimits::default());
    pair.sim.run(async {
        // Ten minutes, by a node whose limit for handlers is 30 s.
        let mut upload = client.send_items(COUNT, &()).await.unwrap();
        for n in 0..24 {
            pair.sim.sleep(25 * SECOND).await;
            upload.send(&n).await.unwrap();
        }
        assert_eq!(upload.finish().await.unwrap(), 24);

        let mut upload = client.send_items(COUNT, &()).await.unwrap();
        upload.send(&7).await.unwrap();
        let since = pair.sim.elapsed();
        let error = upload.send_all(stream::pending()).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Remote(WireError::DeadlineExceeded));
        assert_eq!((error.items_taken(), error.may_have_run()), (Some(1), true));
        assert_eq!((pair.sim.elapsed() - since).as_secs(), 30);
    });
    assert_eq!(record.begun(), 2);
}

#[test]
fn an_upload_that_has_begun_is_not_repeated() {
    let (pair, record) = (pair(), Record::default());
    let client = pair.client(TransportLimits::default());
    let node = pair.serve(record.router(), TransportLimits::default());
    pair.sim.run(async {
        let mut upload = client.send_items(COUNT, &()).await.unwrap();
        for n in 0..3 {
            upload.send(&n).await.unwrap();
        }
        let (mut items, mut answers) = client.bidi(ECHO, &()).await.unwrap();
        items.send(&7).await.unwrap();
        assert_eq!(answers.next().await.unwrap(), Some(7));
        pair.gateway.crash();
        drop(node);
        let _again = pair.serve(record.router(), TransportLimits::default());
        let error = upload.finish().await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::ConnectionLost);
        assert!(error.may_have_run() && error.items_taken().is_none());
        let error = answers.next().await.unwrap_err();
        assert!(error.may_have_run());
        assert_eq!(error.items_taken(), Some(1), "as the last answer said");
        // The node is back, and only what the caller sends again is sent again.
        assert_eq!(client.send_all(COUNT, &(), stream::iter([1, 2])).await.unwrap(), 2);
    });
    assert_eq!(record.begun(), 3);
    assert_eq!(*record.complete.lock().unwrap(), [[1, 2]]);
}

/// The twin: it is sent to another node as long as nothing was sent.
#[test]
fn an_upload_that_has_not_begun_is_sent_elsewhere() {
    let (pair, record) = (pair(), Record::default());
    let leaving = pair.serve(Record::default().router(), TransportLimits::default());
    let standby = pair.sim.host([10, 0, 0, 3]);
    let builder = Endpoint::builder().server(server_tls()).router(record.router());
    let _standby = standby.bind(builder, PORT).unwrap();
    let [client, other] = [(); 2].map(|()| {
        Client::builder(pair.dialler(TransportLimits::default()))
            .address(pair.gateway.address(PORT))
            .address(standby.address(PORT))
            .build()
            .unwrap()
    });
    pair.sim.run(async {
        let connection = client.connection().await.unwrap();
        let others = other.connection().await.unwrap();
        assert_eq!(others.remote_address(), pair.gateway.address(PORT));
        assert_eq!(connection.remote_address(), pair.gateway.address(PORT));
        // Keeps the node, which takes no new requests, from closing its connections.
        let (mut held, mut answers) = connection.bidi(ECHO, &()).await.unwrap();
        held.send(&1).await.unwrap();
        assert_eq!(answers.next().await.unwrap(), Some(1));
        let dialler = pair.dialler(TransportLimits::default());
        let unasked = dialler.connect(pair.gateway.address(PORT)).await.unwrap();
        let closing = async { leaving.shutdown(20 * SECOND).await };
        let calling = async {
            pair.sim.sleep(SECOND).await;
            // The question whether the peer takes items is answered with `unavailable`.
            let error = unasked.send_items(COUNT, &()).await.map(drop).unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::Remote(WireError::Unavailable));
            assert!(!error.may_have_run());
            assert_eq!(other.send_all(COUNT, &(), stream::iter([1])).await.unwrap(), 1);
            // Here it was answered before, so that the request itself is refused, and nothing is repeated.
            let error = client.send_all(COUNT, &(), stream::iter([1])).await.unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::Remote(WireError::Unavailable));
            assert!(!error.may_have_run(), "the caller may repeat it");
            connection.close(Code::NO_ERROR, "");
            assert_eq!(client.send_all(COUNT, &(), stream::iter([1, 2])).await.unwrap(), 2);
        };
        zip(closing, calling).await;
    });
    assert_eq!(*record.complete.lock().unwrap(), [vec![1], vec![1, 2]]);
}

#[test]
fn items_arrive_once_and_in_order_on_any_link() {
    for_each_seed(|seed| {
        let mut rng = Rng::with_seed(seed);
        let link = Link::new()
            .delay(rng.u32(0..30) * MILLI)
            .loss(0.05)
            .most_lost_in_a_row(3)
            .duplication(0.05)
            .reordering(0.05, 20 * MILLI);
        let (pair, record) = (Pair::new(seed, link), Record::default());
        let _node = pair.serve(record.router(), patient());
        let client = pair.client(patient());
        let count = rng.u32(0..300);
        pair.sim.run(async {
            let uploaded = client.send_all(COUNT, &(), stream::iter(0..count));
            let echoed = async {
                let (mut items, mut answers) = client.bidi(ECHO, &()).await.unwrap();
                let sending = async {
                    for n in 0..count {
                        items.send(&n).await.unwrap();
                    }
                    items.finish().await.unwrap();
                };
                let reading = async {
                    let mut received = Vec::new();
                    while let Some(answer) = answers.next().await.unwrap() {
                        received.push(answer);
                    }
                    received
                };
                zip(sending, reading).await.1
            };
            let (uploaded, echoed) = zip(uploaded, echoed).await;
            assert_eq!(uploaded.unwrap(), count);
            assert!(echoed.into_iter().eq(0..count));
        });
        assert_eq!(record.begun(), 2);
        let complete = record.complete.lock().unwrap();
        assert!(complete.len() == 1 && complete[0].iter().copied().eq(0..count));
    });
}

#[test]
fn an_upload_that_is_dropped_at_any_time_is_not_complete_and_leaves_nothing_running() {
    for_each_seed(|seed| {
        let mut rng = Rng::with_seed(seed);
        let link = Link::new().delay(5 * MILLI).loss(0.1).most_lost_in_a_row(3);
        let (pair, record) = (Pair::new(seed, link), Record::default());
        let node = pair.serve(record.router(), patient());
        let client = pair.client(patient());
        let (count, slowly) = (rng.u32(0..50), rng.bool());
        let drops_at = rng.u32(0..400) * MILLI;
        let mut finished = false;
        pair.sim.run(async {
            client.connection().await.unwrap();
            let uploading = async {
                let mut upload = client.send_items(COUNT, &()).await?;
                for n in 0..count {
                    upload.send(&n).await?;
                    if slowly {
                        pair.sim.sleep(5 * MILLI).await;
                    }
                }
                finished = true;
                upload.finish().await
            };
            let dropped = async {
                pair.sim.sleep(drops_at).await;
                None
            };
            let outcome = future::or(async { Some(uploading.await) }, dropped).await;
            let answered = outcome.is_some_and(|outcome| outcome.is_ok());
            record.until_idle(&pair.sim).await;
            let complete = record.complete.lock().unwrap().clone();
            assert!(complete.len() <= 1);
            assert!(!answered || complete.len() == 1);
            for items in complete {
                assert!(items.into_iter().eq(0..count), "what broke off looked complete");
            }
            node.shutdown(SECOND).await;
        });
        assert!(finished || record.complete.lock().unwrap().is_empty());
    });
}
