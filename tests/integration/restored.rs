//! Origins that were restored from a backup, so that their mirrors have more than they do.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use palyra_quic::{
    Backoff, Client, Cursor, Endpoint, ErrorKind, EventItem, EventLog, Gap, MemoryStore, Mirror, MirrorState,
    PeerIdentity, Raw, Router, SubscriptionItem, WireError,
};

use crate::common::{Pki, loopback, run};

const EPOCH: u64 = 5;
const LOG: &str = "node.stream_events";

/// A directory that is removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("palyra-restored-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Who is a mirror, in a test.
type Rule = fn(&PeerIdentity, &str) -> bool;

fn the_mirror(peer: &PeerIdentity, log: &str) -> bool {
    log == LOG && peer.has_name("palyra:device:sensor-7")
}

fn somebody_else(peer: &PeerIdentity, _log: &str) -> bool {
    peer.has_name("palyra:device:sensor-8")
}

fn of_another_log(_peer: &PeerIdentity, log: &str) -> bool {
    log != LOG
}

/// A log whose epoch is known, with this many events.
fn log_of(count: u64) -> EventLog {
    let builder = EventLog::builder().commit_interval(Duration::ZERO);
    let log = builder.on(MemoryStore::new(EPOCH)).unwrap();
    publish(&log, count);
    log
}

fn publish(log: &EventLog, count: u64) {
    for _ in 0..count {
        log.publish_raw(format!("event {}", log.last_seq() + 1)).unwrap();
    }
    smol::block_on(log.flush()).unwrap();
}

/// A node that serves the log, as soon as its address is free.
async fn node(pki: &Pki, log: &EventLog, rule: Option<Rule>, address: SocketAddr) -> Endpoint {
    loop {
        let router = Router::new().events(log.clone());
        let router = match rule {
            Some(rule) => router.mirrors(rule),
            None => router,
        };
        match Endpoint::builder().server(pki.server_tls()).router(router).bind(address) {
            Ok(endpoint) => return endpoint,
            Err(error) if *error.kind() == ErrorKind::Io => smol::future::yield_now().await,
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn client(pki: &Pki, address: SocketAddr) -> Client {
    let endpoint = Endpoint::builder().client(pki.client_tls()).bind(loopback()).unwrap();
    let builder = Client::builder(endpoint).backoff(Backoff::new().cap(Duration::from_millis(100)));
    builder.address(address).build().unwrap()
}

fn mirror(client: &Client, path: &Path) -> Mirror {
    let bounds = EventLog::builder().max_bytes(8 << 20).commit_interval(Duration::ZERO);
    Mirror::builder::<Raw>(client, LOG).bounds(bounds).open(path).unwrap()
}

/// Waits until the mirror holds this event of this epoch, on disk, or has stopped.
async fn holds(mirror: &Mirror, epoch: u64, last: u64) {
    mirror
        .wait_for(|status| {
            let is_there = status.epoch == Some(epoch) && status.last_seq >= last;
            is_there && status.state == MirrorState::Following
                || matches!(status.state, MirrorState::Diverged(_))
        })
        .await;
    assert!(!matches!(mirror.status().state, MirrorState::Diverged(_)), "{:?}", mirror.status());
    mirror.log().unwrap().flush().await.unwrap();
    assert_eq!(mirror.log().unwrap().committed_seq(), last);
}

/// A mirror of ten events whose origin comes back with the events of `restored`.
async fn comes_back(pki: &Pki, path: &Path, restored: &EventLog, rule: Option<Rule>) -> (Mirror, Endpoint) {
    let origin = log_of(10);
    let server = node(pki, &origin, rule, loopback()).await;
    let address = server.local_addr().unwrap();
    let mirror = mirror(&client(pki, address), path);
    holds(&mirror, EPOCH, 10).await;
    server.shutdown(Duration::from_secs(1)).await;
    drop(server);
    let server = node(pki, restored, rule, address).await;
    (mirror, server)
}

fn directories(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// The events from 1 on, in an epoch: what a mirror holds.
fn held(log: &EventLog) -> u64 {
    assert_eq!(log.first_seq(), 1);
    log.committed_seq()
}

#[test]
fn an_origin_that_is_behind_begins_another_epoch_for_its_mirror() {
    // By one event, the mirror finds out though nothing is published.
    for lost in [1, 2, 5, 10] {
        let (pki, directory) = (Pki::new(), Directory::new(&format!("permitted-{lost}")));
        run(async {
            let path = directory.path("mirror");
            let restored = log_of(10 - lost);
            let (mirror, server) = comes_back(&pki, &path, &restored, Some(the_mirror)).await;
            mirror.wait_for(|status| status.epoch != Some(EPOCH)).await;
            assert_ne!(restored.epoch(), EPOCH);
            // Publishers go on under the next numbers.
            publish(&restored, 4);
            holds(&mirror, restored.epoch(), 14 - lost).await;
            assert_eq!(held(&mirror.log().unwrap()), 14 - lost);
            let expected = [format!("1-{EPOCH}"), format!("2-{}", restored.epoch())];
            assert_eq!(directories(&path), expected, "what it had is kept");

            // Others learn it by a gap, too.
            let mut other = client(&pki, server.local_addr().unwrap()).subscribe_raw();
            other = other.resume(Cursor::new(Some(EPOCH), 3));
            let mut other = other.open();
            let gap = loop {
                match other.next_raw().await.unwrap() {
                    SubscriptionItem::Connected { .. } => {}
                    SubscriptionItem::Gap(gap) => break gap,
                    unexpected => panic!("{unexpected:?}"),
                }
            };
            let Gap { next_seq, missed, epoch, .. } = gap;
            assert_eq!((next_seq, missed, epoch), (1, None, restored.epoch()));
        });
    }
}

#[test]
fn a_subscriber_that_follows_meanwhile_gets_a_gap_and_what_is_held_once_more() {
    let pki = Pki::new();
    run(async {
        let restored = log_of(3);
        let server = node(&pki, &restored, Some(the_mirror), loopback()).await;
        let other = client(&pki, server.local_addr().unwrap());
        let connection = other.connection().await.unwrap();
        let mut events = connection.events::<Raw>(LOG).follow().open().await.unwrap();
        let mut next = async || events.next_raw().await.unwrap().unwrap();
        for number in 1..=3 {
            assert!(matches!(next().await, EventItem::Event { seq, .. } if seq == number));
        }
        let mut ahead = connection.events::<Raw>(LOG).resume_from(9).epoch(EPOCH).open().await.unwrap();
        let EventItem::Gap(gap) = ahead.next_raw().await.unwrap().unwrap() else { panic!("no gap") };
        assert_eq!((gap.next_seq, gap.epoch), (1, restored.epoch()));
        publish(&restored, 1);
        let EventItem::Gap(gap) = next().await else { panic!("no gap") };
        assert_eq!((gap.next_seq, gap.missed, gap.epoch), (1, None, restored.epoch()));
        for number in 1..=4 {
            let EventItem::Event { seq, epoch, .. } = next().await else { panic!("another gap") };
            assert_eq!((seq, epoch), (number, Some(restored.epoch())));
        }
    });
}

#[test]
fn a_mirror_that_is_not_permitted_stops_and_the_epoch_stays() {
    let rules: [Option<Rule>; 3] = [None, Some(somebody_else), Some(of_another_log)];
    for (at, rule) in rules.into_iter().enumerate() {
        for lost in [1, 5] {
            let (pki, directory) = (Pki::new(), Directory::new(&format!("denied-{at}-{lost}")));
            run(async {
                let path = directory.path("mirror");
                let restored = log_of(10 - lost);
                let (mirror, _server) = comes_back(&pki, &path, &restored, rule).await;
                // Nothing is published: the mirror finds out by itself.
                mirror.wait_for(|status| matches!(status.state, MirrorState::Diverged(_))).await;
                assert_eq!((restored.epoch(), held(&mirror.log().unwrap())), (EPOCH, 10));
                assert_eq!(directories(&path), [format!("1-{EPOCH}")]);
            });
        }
    }
}

#[test]
fn other_cursors_begin_no_epoch() {
    let pki = Pki::new();
    run(async {
        let log = log_of(10);
        let server = node(&pki, &log, Some(the_mirror), loopback()).await;
        let connection = client(&pki, server.local_addr().unwrap()).connection().await.unwrap();
        let ask = async |seq, epoch: Option<u64>| {
            let mut request = connection.events::<Raw>(LOG).resume_from(seq);
            if let Some(epoch) = epoch {
                request = request.epoch(epoch);
            }
            let mut events = request.open().await.unwrap();
            while events.next_raw().await.unwrap().is_some() {}
            log.epoch()
        };
        for seq in [0, 9, 10] {
            assert_eq!(ask(seq, Some(EPOCH)).await, EPOCH, "not ahead");
        }
        for (seq, epoch) in [(11, None), (11, Some(EPOCH + 1)), (u64::MAX, Some(0)), (5, Some(EPOCH + 1))] {
            assert_eq!(ask(seq, epoch).await, EPOCH, "{seq} of {epoch:?} is not of this epoch");
        }
        let begun = ask(11, Some(EPOCH)).await;
        assert_ne!(begun, EPOCH);
        assert_eq!(ask(11, Some(EPOCH)).await, begun, "of an epoch that has ended");
    });
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn open(path: &Path) -> EventLog {
    EventLog::builder().commit_interval(Duration::ZERO).keep_unacknowledged(16 << 20).open(path).unwrap()
}

#[test]
fn the_new_epoch_of_a_log_in_files_and_all_its_events_survive_a_restart() {
    let (pki, directory) = (Pki::new(), Directory::new("files"));
    run(async {
        let (live, backup) = (directory.path("live"), directory.path("backup"));
        let log = open(&live);
        let epoch = log.epoch();
        publish(&log, 6);
        log.acknowledge("gateway", Cursor::new(Some(epoch), 6)).await.unwrap();
        log.close().await.unwrap();
        copy(&live, &backup);
        let log = open(&live);
        publish(&log, 4);
        let server = node(&pki, &log, Some(the_mirror), loopback()).await;
        let address = server.local_addr().unwrap();
        let mirror = mirror(&client(&pki, address), &directory.path("mirror"));
        holds(&mirror, epoch, 10).await;
        server.shutdown(Duration::from_secs(1)).await;
        drop(server);
        log.close().await.unwrap();

        let restored = open(&backup);
        assert_eq!((restored.epoch(), restored.last_seq()), (epoch, 6));
        // Published before the mirror comes back, and known to nobody else.
        restored.publish_durable_raw("event 7, another one").await.unwrap();
        let server = node(&pki, &restored, Some(the_mirror), address).await;
        mirror.wait_for(|status| status.epoch != Some(epoch)).await;
        let begun = restored.epoch();
        assert_ne!(begun, epoch);
        assert_eq!(restored.consumers()[0].acknowledged, 0, "nothing of this epoch");
        publish(&restored, 1);
        holds(&mirror, begun, 8).await;
        restored.acknowledge("gateway", Cursor::new(Some(begun), 3)).await.unwrap();
        publish(&restored, 1);
        server.shutdown(Duration::from_secs(1)).await;
        drop(server);
        restored.close().await.unwrap();

        let again = open(&backup);
        assert_eq!((again.epoch(), again.first_seq(), again.last_seq()), (begun, 1, 9));
        assert_eq!(again.consumers()[0].acknowledged, 3);
        let server = node(&pki, &again, None, address).await;
        let connection = client(&pki, server.local_addr().unwrap()).connection().await.unwrap();
        let mut events = connection.events::<Raw>(LOG).resume_from(6).epoch(begun).open().await.unwrap();
        let Some(EventItem::Event { seq: 7, payload, .. }) = events.next_raw().await.unwrap() else {
            panic!("event 7 is gone");
        };
        assert_eq!(payload, "event 7, another one");
        holds(&mirror, begun, 9).await;
        assert_eq!(directories(&directory.path("mirror")).len(), 2);
    });
}

#[test]
fn the_log_of_a_mirror_begins_no_epoch_by_itself() {
    let (pki, directory) = (Pki::new(), Directory::new("mirror"));
    run(async {
        let origin = log_of(3);
        let server = node(&pki, &origin, None, loopback()).await;
        let mirror = mirror(&client(&pki, server.local_addr().unwrap()), &directory.path("mirror"));
        holds(&mirror, EPOCH, 3).await;
        let log = mirror.log().unwrap();
        assert_eq!(log.begin_epoch().await.unwrap_err().kind(), &ErrorKind::InvalidConfig);
        let second = node(&pki, &log, Some(the_mirror), loopback()).await;
        let connection = client(&pki, second.local_addr().unwrap()).connection().await.unwrap();
        let mut ahead = connection.events::<Raw>(LOG).resume_from(9).epoch(EPOCH).open().await.unwrap();
        let error = ahead.next_raw().await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Remote(WireError::Unavailable));
        assert_eq!(log.epoch(), EPOCH);
    });
}
