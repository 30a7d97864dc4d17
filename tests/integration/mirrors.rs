//! Mirrors of a log: what they hold, when they stop, and how subscribers change between holders.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use palyra_quic::{
    Backoff, Client, Cursor, Endpoint, ErrorKind, EventLog, Gap, MemoryStore, Mirror, MirrorState, Raw,
    Router, ServedLog, Subscription, SubscriptionItem, WireError,
};

use crate::common::{Pki, loopback, run};

pub(super) const EPOCH: u64 = 5;
pub(super) const LOG: &str = "node.stream_events";

/// A directory that is removed at the end.
pub(super) struct Directory(pub(super) PathBuf);

impl Directory {
    pub(super) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("palyra-mirror-{name}-{}", std::process::id()));
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) fn node(pki: &Pki, router: Router, address: SocketAddr) -> Endpoint {
    Endpoint::builder().server(pki.server_tls()).router(router).bind(address).unwrap()
}

pub(super) fn client(pki: &Pki, addresses: &[SocketAddr]) -> Client {
    let endpoint = Endpoint::builder().client(pki.client_tls()).bind(loopback()).unwrap();
    // Connections that last for no time at all make pauses grow.
    let builder = Client::builder(endpoint).backoff(Backoff::new().cap(Duration::from_millis(100)));
    addresses.iter().fold(builder, |builder, address| builder.address(*address)).build().unwrap()
}

/// The log of an origin, with as many events as it may hold. The same name gives the same epoch.
pub(super) fn origin(first: u64, count: u64, max_events: usize, flavour: &str) -> EventLog {
    let log = EventLog::builder().max_events(max_events).commit_interval(Duration::ZERO);
    let log = log.on(MemoryStore::new(EPOCH)).unwrap();
    publish(&log, first, count, flavour);
    log
}

pub(super) fn publish(log: &EventLog, first: u64, count: u64, flavour: &str) {
    for number in first..first + count {
        assert_eq!(log.publish_raw(format!("{flavour} {number}")).unwrap(), number);
    }
    smol::block_on(log.flush()).unwrap();
}

fn mirror(client: &Client, directory: &Directory) -> Mirror {
    let bounds = EventLog::builder().max_bytes(8 << 20).commit_interval(Duration::ZERO);
    Mirror::builder::<Raw>(client, LOG).bounds(bounds).open(&directory.0).unwrap()
}

/// Waits until the mirror holds this event, on disk.
pub(super) async fn holds(mirror: &Mirror, last: u64) {
    mirror.wait_for(|status| status.last_seq >= last).await;
    mirror.log().unwrap().flush().await.unwrap();
    assert_eq!(mirror.log().unwrap().committed_seq(), last);
}

/// The next event or gap, whatever happens to connections.
pub(super) async fn next(subscription: &mut Subscription) -> Result<(u64, Vec<u8>), Gap> {
    loop {
        match subscription.next_raw().await.unwrap() {
            SubscriptionItem::Event { seq, payload, .. } => return Ok((seq, payload.to_vec())),
            SubscriptionItem::Gap(gap) => return Err(gap),
            SubscriptionItem::Connected { .. } | SubscriptionItem::Disconnected { .. } => {}
        }
    }
}

pub(super) async fn expect(
    subscription: &mut Subscription,
    numbers: std::ops::RangeInclusive<u64>,
    flavour: &str,
) {
    for number in numbers {
        assert_eq!(next(subscription).await, Ok((number, format!("{flavour} {number}").into_bytes())));
    }
}

#[test]
fn a_mirror_has_the_history_of_its_origin_under_the_same_numbers() {
    let (pki, directory) = (Pki::new(), Directory::new("same"));
    run(async {
        let log = origin(1, 50, 30, "event");
        let server = node(&pki, Router::new().events(log.clone()), loopback());
        let upstream = client(&pki, &[server.local_addr().unwrap()]);
        let mirror = mirror(&upstream, &directory);
        let second = node(&pki, Router::new().events(mirror.served()), loopback());
        holds(&mirror, 50).await;
        let held = mirror.log().unwrap();
        assert_eq!((held.epoch(), held.first_seq(), held.last_seq()), (EPOCH, 21, 50));
        assert_eq!(held.publish_raw("mine").unwrap_err().kind(), &ErrorKind::Closed);
        assert_eq!(mirror.status().state, MirrorState::Following);

        let subscriber = client(&pki, &[second.local_addr().unwrap()]);
        let mut subscription = subscriber.subscribe_raw().resume(Cursor::new(Some(EPOCH), 5)).open();
        let gap = next(&mut subscription).await.unwrap_err();
        assert_eq!((gap.from, gap.next_seq, gap.missed, gap.epoch), (6, 21, Some(15), EPOCH));
        expect(&mut subscription, 21..=50, "event").await;
        // What is published later arrives through both.
        publish(&log, 51, 10, "event");
        expect(&mut subscription, 51..=60, "event").await;
        mirror.wait_for(|status| status.skipped == 20).await;
    });
}

#[test]
fn a_mirror_goes_on_after_a_restart_and_passes_gaps_on() {
    let (pki, directory) = (Pki::new(), Directory::new("restart"));
    run(async {
        let log = origin(1, 10, 10, "event");
        let server = node(&pki, Router::new().events(log.clone()), loopback());
        let upstream = client(&pki, &[server.local_addr().unwrap()]);
        let first = mirror(&upstream, &directory);
        holds(&first, 10).await;
        first.close().await.unwrap();
        // 11 to 20 are gone when the mirror comes back.
        publish(&log, 11, 20, "event");
        let second = mirror(&upstream, &directory);
        holds(&second, 30).await;
        second.wait_for(|status| status.skipped == 10).await;
        let node = node(&pki, Router::new().events(second.served()), loopback());
        let subscriber = client(&pki, &[node.local_addr().unwrap()]);
        let mut subscription = subscriber.subscribe_raw().open();
        expect(&mut subscription, 1..=10, "event").await;
        let gap = next(&mut subscription).await.unwrap_err();
        assert_eq!((gap.from, gap.next_seq, gap.missed), (11, 21, Some(10)));
        expect(&mut subscription, 21..=30, "event").await;
        assert_eq!(second.log().unwrap().health().damaged_events, 0, "a gap is no damage");
    });
}

/// A mirror of events 1 to 10 stops when its origin comes back with this log, and keeps and serves what it
/// has.
fn stops(name: &str, restored: EventLog) {
    let (pki, directory) = (Pki::new(), Directory::new(name));
    run(async {
        let server = node(&pki, Router::new().events(origin(1, 10, 100, "event")), loopback());
        let address = server.local_addr().unwrap();
        let mirror = mirror(&client(&pki, &[address]), &directory);
        holds(&mirror, 10).await;
        server.shutdown(Duration::from_secs(1)).await;
        drop(server);
        let _restored = restarted(&pki, restored.into(), address).await;
        mirror.wait_for(|status| matches!(status.state, MirrorState::Diverged(_))).await;
        let second = node(&pki, Router::new().events(mirror.served()), loopback());
        let mut subscription = client(&pki, &[second.local_addr().unwrap()]).subscribe_raw().open();
        expect(&mut subscription, 1..=10, "event").await;
        assert_eq!(mirror.log().unwrap().last_seq(), 10);
    });
}

#[test]
fn a_mirror_stops_when_its_origin_has_other_events_under_the_same_numbers() {
    stops("diverged", origin(1, 30, 100, "another event"));
}

#[test]
fn a_mirror_stops_when_its_origin_is_behind() {
    stops("behind", origin(1, 5, 100, "event"));
}

#[test]
fn a_new_epoch_of_the_origin_begins_in_a_place_of_its_own() {
    let (pki, directory) = (Pki::new(), Directory::new("epoch"));
    run(async {
        let server = node(&pki, Router::new().events(origin(1, 10, 100, "event")), loopback());
        let address = server.local_addr().unwrap();
        let mirror = mirror(&client(&pki, &[address]), &directory);
        let second = node(&pki, Router::new().events(mirror.served()), loopback());
        holds(&mirror, 10).await;
        let mut subscription = client(&pki, &[second.local_addr().unwrap()]).subscribe_raw().open();
        expect(&mut subscription, 1..=10, "event").await;
        server.shutdown(Duration::from_secs(1)).await;
        drop(server);
        let other = EventLog::new();
        publish(&other, 1, 3, "new event");
        let _other = restarted(&pki, other.clone().into(), address).await;
        // A subscriber of the mirror goes on in the new epoch, too.
        let gap = next(&mut subscription).await.unwrap_err();
        assert_eq!((gap.next_seq, gap.missed, gap.epoch), (1, None, other.epoch()));
        expect(&mut subscription, 1..=3, "new event").await;
        let mut names: Vec<_> =
            std::fs::read_dir(&directory.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [format!("1-{EPOCH}").as_str(), format!("2-{}", other.epoch()).as_str()]);
    });
}

#[test]
fn a_mirror_that_is_behind_the_cursor_sends_the_subscriber_to_another_holder() {
    let (pki, directory) = (Pki::new(), Directory::new("cursor"));
    run(async {
        let log = origin(1, 10, 100, "event");
        let server = node(&pki, Router::new().events(log.clone()), loopback());
        let address = server.local_addr().unwrap();
        let mirror = mirror(&client(&pki, &[address]), &directory);
        let second = node(&pki, Router::new().events(mirror.served()), loopback());
        holds(&mirror, 10).await;
        // From here on the mirror receives nothing.
        server.shutdown(Duration::from_secs(1)).await;
        drop(server);
        publish(&log, 11, 5, "event");
        let cursor = Cursor::new(Some(EPOCH), 12);
        let mut alone = client(&pki, &[second.local_addr().unwrap()]).subscribe_raw().resume(cursor).open();
        loop {
            match alone.next_raw().await.unwrap() {
                SubscriptionItem::Connected { .. } => {}
                SubscriptionItem::Disconnected { error } => {
                    assert_eq!(error.kind(), &ErrorKind::Remote(WireError::Unavailable), "{error:?}");
                    assert!(error.retry_after().is_some());
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        let third = node(&pki, Router::new().events(log), loopback());
        let both = [second.local_addr().unwrap(), third.local_addr().unwrap()];
        let mut subscription = client(&pki, &both).subscribe_raw().resume(cursor).open();
        expect(&mut subscription, 13..=15, "event").await;
    });
}

#[test]
fn a_subscriber_changes_between_origin_and_mirror_without_a_gap() {
    let (pki, directory) = (Pki::new(), Directory::new("failover"));
    run(async {
        let log = origin(1, 10, 1000, "event");
        // The mirror reaches the origin another way, and so is never behind for long.
        let inside = node(&pki, Router::new().events(log.clone()), loopback());
        let mirror = mirror(&client(&pki, &[inside.local_addr().unwrap()]), &directory);
        let mut first = node(&pki, Router::new().events(log.clone()), loopback());
        let mut second = node(&pki, Router::new().events(mirror.served()), loopback());
        let addresses = [first.local_addr().unwrap(), second.local_addr().unwrap()];
        let mut subscription = client(&pki, &addresses).subscribe_raw().open();
        expect(&mut subscription, 1..=10, "event").await;
        for round in 0..20 {
            let (node_to_end, address, served) = if round % 2 == 0 {
                (&mut first, addresses[0], log.clone().into())
            } else {
                (&mut second, addresses[1], mirror.served())
            };
            node_to_end.shutdown(Duration::from_secs(1)).await;
            let begin = log.last_seq() + 1;
            publish(&log, begin, 5, "event");
            expect(&mut subscription, begin..=begin + 4, "event").await;
            *node_to_end = node(&pki, Router::new(), loopback());
            *node_to_end = restarted(&pki, served, address).await;
        }
    });
}

/// A node at the address of one that has ended, as soon as its socket is closed.
async fn restarted(pki: &Pki, served: ServedLog, address: SocketAddr) -> Endpoint {
    loop {
        let router = Router::new().events(served.clone());
        match Endpoint::builder().server(pki.server_tls()).router(router).bind(address) {
            Ok(endpoint) => return endpoint,
            Err(error) if *error.kind() == ErrorKind::Io => smol::future::yield_now().await,
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[test]
fn a_mirror_answers_unavailable_before_it_has_heard_of_its_origin() {
    let (pki, directory) = (Pki::new(), Directory::new("nothing"));
    run(async {
        // Nobody is there.
        let nobody = std::net::UdpSocket::bind(loopback()).unwrap();
        let mirror = mirror(&client(&pki, &[nobody.local_addr().unwrap()]), &directory);
        let second = node(&pki, Router::new().events(mirror.served()), loopback());
        let mut subscription = client(&pki, &[second.local_addr().unwrap()]).subscribe_raw().open();
        loop {
            if let SubscriptionItem::Disconnected { error } = subscription.next_raw().await.unwrap() {
                assert_eq!(error.kind(), &ErrorKind::Remote(WireError::Unavailable), "{error:?}");
                break;
            }
        }
        assert!(mirror.log().is_none());
        assert!(client(&pki, &[second.local_addr().unwrap()]).health().await.unwrap().ok);
    });
}

#[test]
fn a_directory_with_something_else_is_refused() {
    let (pki, directory) = (Pki::new(), Directory::new("foreign"));
    std::fs::create_dir(&directory.0).unwrap();
    std::fs::write(directory.0.join("letter.txt"), "mine").unwrap();
    run(async {
        let nobody = std::net::UdpSocket::bind(loopback()).unwrap();
        let upstream = client(&pki, &[nobody.local_addr().unwrap()]);
        let refused = Mirror::builder::<Raw>(&upstream, LOG).open(&directory.0).unwrap_err();
        assert_eq!(refused.kind(), &ErrorKind::Io);
        let cause = std::error::Error::source(&refused).unwrap().to_string();
        assert!(cause.contains("letter.txt"), "{cause}");
    });
}
