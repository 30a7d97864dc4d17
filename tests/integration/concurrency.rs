//! How many exchanges a peer may have open at a time, and what does not count, in virtual time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
    time::Duration,
};

use crate::simulation::{Pair, SECOND, for_each_seed};
use futures_lite::future;
use palyra_quic::{Connection, Context, Router, TransportLimits, sim::Link};

const MILLI: Duration = Duration::from_millis(1);
const ONE_WAY: Duration = Duration::from_millis(50);
const ROUND_TRIP: Duration = Duration::from_millis(100);

fn pair() -> Pair {
    Pair::new(0, Link::new().delay(ONE_WAY))
}

fn echo() -> Router {
    Router::new().serve_raw("demo.echo", |_: Context, params| async move { Ok(params) })
}

fn exchanges(max: u32) -> TransportLimits {
    TransportLimits::builder().max_concurrent_bidi_streams(max).build().unwrap()
}

/// `callers` tasks, each of which makes `calls` calls, one after another.
async fn call_side_by_side(connection: &Connection, callers: usize, calls: usize, method: &str) {
    let caller = async || {
        for _ in 0..calls {
            assert_eq!(connection.call_raw(method, "hello").await.unwrap(), "hello");
        }
    };
    let mut callers: Vec<_> = (0..callers).map(|_| Box::pin(caller())).collect();
    future::poll_fn(|cx| {
        callers.retain_mut(|caller| caller.as_mut().poll(cx).is_pending());
        if callers.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// How long each of `callers` tasks takes for 20 calls in a row.
fn twenty_calls(callers: usize) -> Duration {
    let pair = pair();
    let (node, client) = (pair.serve(echo(), exchanges(32)), pair.dialler(TransportLimits::default()));
    pair.sim.run(async {
        let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
        let before = pair.sim.elapsed();
        call_side_by_side(&connection, callers, 20, "demo.echo").await;
        pair.sim.elapsed() - before
    })
}

#[test]
fn as_many_callers_as_may_be_do_not_wait_for_the_acknowledgements_of_answers() {
    let took = twenty_calls(32);
    assert!(took >= 20 * ROUND_TRIP, "{took:?} is less than the link takes");
    assert!(took <= 22 * ROUND_TRIP, "{took:?} for 20 calls in a row");
    // It would show: those for whom there are no streams do wait.
    assert!(twenty_calls(3 * 32) > 28 * ROUND_TRIP);
}

#[test]
fn a_peer_that_was_granted_streams_has_no_more_exchanges_at_a_time() {
    const MAX: u32 = 4;
    let pair = pair();
    let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let router = echo().serve_raw("demo.wait", {
        let (running, most) = (Arc::clone(&running), Arc::clone(&most));
        move |_: Context, params| {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            async move {
                future::pending::<()>().await;
                Ok(params)
            }
        }
    });
    let (node, client) = (pair.serve(router, exchanges(MAX)), pair.dialler(TransportLimits::default()));
    pair.sim.run(async {
        let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
        let calls = || u32::try_from(connection.stats().calls).unwrap();
        let wait = async || {
            let waiting = call_side_by_side(&connection, 12, 1, "demo.wait");
            future::or(waiting, pair.sim.sleep(SECOND)).await;
            running.store(0, Ordering::SeqCst);
        };
        wait().await;
        assert_eq!(calls(), MAX, "at first");

        call_side_by_side(&connection, 4, 20, "demo.echo").await;
        let before = calls();
        wait().await;
        assert_eq!(calls() - before, MAX, "after many answers");
    });
    assert_eq!(most.load(Ordering::SeqCst), MAX);
}

/// When answers are lost, later ones are acknowledged first, and more streams may be granted than there are
/// unacknowledged answers.
#[test]
fn under_loss_no_more_exchanges_are_open_than_the_limit_allows() {
    const MAX: u32 = 4;
    for_each_seed(|seed| {
        let pair = Pair::new(seed, Link::new().delay(MILLI));
        let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let sim = pair.sim.clone();
        let router = Router::new().serve_raw("demo.slow", {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            move |_: Context, params| {
                let (sim, running, most) = (sim.clone(), Arc::clone(&running), Arc::clone(&most));
                async move {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    sim.sleep(5 * MILLI).await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    Ok(params)
                }
            }
        });
        let (node, client) = (pair.serve(router, exchanges(MAX)), pair.dialler(TransportLimits::default()));
        pair.sim.run(async {
            let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
            // A handshake in which so much is lost may take minutes.
            let lossy = Link::new().delay(MILLI).loss(0.2);
            pair.sim.set_link(&pair.gateway, &pair.sensor, lossy.clone());
            pair.sim.set_link(&pair.sensor, &pair.gateway, lossy);
            call_side_by_side(&connection, 12, 10, "demo.slow").await;
        });
        assert_eq!(most.load(Ordering::SeqCst), MAX);
    });
}

#[test]
fn calls_one_after_another_are_acknowledged_five_packets_at_a_time() {
    let pair = Pair::new(0, Link::new().delay(MILLI));
    let (node, client) =
        (pair.serve(echo(), TransportLimits::default()), pair.dialler(TransportLimits::default()));
    pair.sim.run(async {
        let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
        // Until the handshake and the search for the path's MTU are over.
        call_side_by_side(&connection, 1, 20, "demo.echo").await;
        let before = pair.sim.stats().sent;
        call_side_by_side(&connection, 1, 100, "demo.echo").await;
        let sent = pair.sim.stats().sent - before;
        // A request and an answer each; and 240 where every second packet is acknowledged.
        assert!((200..=225).contains(&sent), "{sent} datagrams for 100 calls");
    });
}
