//! Event logs and cursors in files: what survives, and what happens to damaged files.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use futures_lite::future;
use palyra_quic::{
    CertificateAuthority, ClientTls, Cursor, CursorStore, Endpoint, ErrorKind, EventItem, EventLog,
    EventLogBuilder, LogHealth, Router, ServerTls,
};
use smol::block_on;

const HOUR: Duration = Duration::from_secs(3600);

/// A directory of this test's own, for as long as it lives.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("palyra-durable-{}-{count}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn log(&self) -> PathBuf {
        self.0.join("events")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Opens a log as soon as the task that wrote it before has released the file.
fn open(builder: EventLogBuilder, path: &Path) -> EventLog {
    loop {
        match builder.clone().open(path) {
            Ok(log) => return log,
            Err(error) => {
                let source = std::error::Error::source(&error).unwrap();
                let busy = source.downcast_ref::<io::Error>().unwrap().kind() == io::ErrorKind::ResourceBusy;
                assert!(busy, "{error:?}");
            }
        }
        std::thread::yield_now();
    }
}

fn publish(log: &EventLog, count: u64) {
    for _ in 0..count {
        let seq = log.last_seq() + 1;
        assert_eq!(block_on(log.publish_durable_raw(format!("event {seq}"))).unwrap(), seq);
    }
}

/// Every event that a subscriber without a cursor gets.
fn replay(log: &EventLog) -> Vec<(u64, String)> {
    let (gaps, events) = replay_around_gaps(log);
    assert_eq!(gaps, []);
    events
}

/// The first number of each gap, and its count.
type Gaps = Vec<(u64, u64)>;

/// The gaps and the events that a subscriber without a cursor gets.
fn replay_around_gaps(log: &EventLog) -> (Gaps, Vec<(u64, String)>) {
    block_on(async {
        let authority = CertificateAuthority::new("Test CA").unwrap();
        let router = Router::new().events(log.clone());
        let node = Endpoint::builder()
            .server(ServerTls::new(authority.issue_server(&[]).unwrap().identity()))
            .router(router)
            .bind(([127, 0, 0, 1], 0).into())
            .unwrap();
        let client = Endpoint::builder().client(ClientTls::new(authority.trust()));
        let client = client.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
        let mut events = connection.events_raw().open().await.unwrap();
        let (mut gaps, mut replayed) = (Vec::new(), Vec::new());
        while let Some(item) = events.next_raw().await.unwrap() {
            match item {
                EventItem::Event { seq, epoch, payload } => {
                    assert_eq!(epoch, Some(log.epoch()));
                    replayed.push((seq, String::from_utf8(payload.into()).unwrap()));
                }
                EventItem::Gap(gap) => gaps.push((gap.from, gap.missed.unwrap())),
            }
        }
        // Not shut down, which would write what is pending.
        drop(node);
        (gaps, replayed)
    })
}

fn events(seqs: impl IntoIterator<Item = u64>) -> Vec<(u64, String)> {
    seqs.into_iter().map(|seq| (seq, format!("event {seq}"))).collect()
}

/// The events of the router's log are work that a node has accepted, whatever the log's own pace.
#[test]
fn a_shutdown_writes_what_was_published() {
    for (count, grace) in [(1, HOUR), (5, HOUR), (500, HOUR), (5, Duration::ZERO)] {
        let scratch = Scratch::new();
        let builder = EventLog::builder();
        let log = open(builder.clone(), &scratch.log());
        let ca = CertificateAuthority::new("ca").unwrap();
        let tls = ServerTls::new(ca.issue_server(&[]).unwrap().identity());
        let node = Endpoint::builder().server(tls).router(Router::new().events(log.clone()));
        let node = node.bind(([127, 0, 0, 1], 0).into()).unwrap();
        for n in 1..=count {
            log.publish_raw(n.to_string()).unwrap();
        }
        block_on(node.shutdown(grace));
        // As it is on disk now, whatever is written later.
        let copy = scratch.0.join("copy");
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(scratch.log()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
        assert_eq!(open(builder, &copy).last_seq(), count);
    }
}

#[test]
fn a_history_goes_on_after_it_is_opened_again() {
    let scratch = Scratch::new();
    let log = open(EventLog::builder(), &scratch.log());
    assert_eq!((log.first_seq(), log.last_seq(), log.health()), (1, 0, LogHealth::default()));
    publish(&log, 5);
    let epoch = log.epoch();
    drop(log);

    let log = open(EventLog::builder(), &scratch.log());
    assert_eq!((log.epoch(), log.first_seq(), log.last_seq()), (epoch, 1, 5));
    assert_eq!(log.health(), LogHealth::default());
    publish(&log, 2);
    assert_eq!(replay(&log), events(1..=7));
}

/// The twin: what is not on disk does not come back, and another file is another history.
#[test]
fn another_file_is_another_history() {
    let (one, other) = (Scratch::new(), Scratch::new());
    let [one, other] = [one.log(), other.log()].map(|path| open(EventLog::builder(), &path));
    publish(&one, 1);
    assert_ne!(one.epoch(), other.epoch());
    assert!(other.is_empty());
}

/// With nothing pending, the last handle that is dropped releases the file, however the event came to be on
/// disk.
#[test]
fn a_drop_releases_the_file() {
    let scratch = Scratch::new();
    for round in 0..50 {
        // By default, it was locked until the interval between commits was over.
        let log = open(EventLog::builder().commit_interval(HOUR), &scratch.log());
        assert_eq!(log.last_seq(), 3 * round);
        block_on(async {
            log.publish_durable_raw("a").await.unwrap();
            for payload in ["b", "c"] {
                log.publish_raw(payload).unwrap();
            }
            log.flush().await.unwrap();
        });
        let other = log.clone();
        drop(log);
        if round == 0 {
            let locked = EventLog::builder().open(scratch.log()).unwrap_err();
            assert_eq!(locked.kind(), &ErrorKind::Io, "the twin: a handle is left");
        }
        drop(other);
    }
}

#[test]
fn a_log_that_is_closed_releases_the_file_though_handles_are_left() {
    let scratch = Scratch::new();
    let log = EventLog::builder().commit_interval(HOUR).open(scratch.log()).unwrap();
    publish(&log, 1);
    for seq in 2..=5 {
        log.publish_raw(format!("event {seq}")).unwrap();
    }
    assert_eq!((log.last_seq(), log.committed_seq()), (5, 1));
    block_on(async {
        // Before the interval is over, and for every caller.
        let (one, other) = future::zip(log.close(), log.close()).await;
        assert!(one.is_ok() && other.is_ok());
    });
    assert_eq!((log.last_seq(), log.committed_seq(), log.commits()), (5, 5, 2));
    let reopened = EventLog::builder().open(scratch.log()).unwrap();
    assert_eq!(reopened.last_seq(), 5);

    assert_eq!(log.publish_raw("late").unwrap_err().kind(), &ErrorKind::Closed);
    assert_eq!(block_on(log.publish_durable_raw("late")).unwrap_err().kind(), &ErrorKind::Closed);
    block_on(log.flush()).unwrap();
    block_on(log.close()).unwrap();
    assert_eq!(replay(&log), events(1..=5), "what is in memory is still served");
    assert_eq!(reopened.last_seq(), 5);
}

/// A caller that gives up, and events that are being written when the log is closed.
#[test]
fn a_cancelled_close_can_be_called_again() {
    let scratch = Scratch::new();
    let log = EventLog::builder().commit_interval(HOUR).open(scratch.log()).unwrap();
    for seq in 1..=100 {
        log.publish_raw(format!("event {seq}")).unwrap();
    }
    block_on(async {
        assert!(future::poll_once(log.close()).await.is_none());
        assert_eq!(log.publish_raw("late").unwrap_err().kind(), &ErrorKind::Closed);
        log.close().await.unwrap();
    });
    assert_eq!(EventLog::builder().open(scratch.log()).unwrap().last_seq(), 100);
}

#[test]
fn a_log_in_memory_can_be_closed_too() {
    let log = EventLog::new();
    log.publish_raw("event 1").unwrap();
    block_on(log.close()).unwrap();
    assert_eq!(log.publish_raw("event 2").unwrap_err().kind(), &ErrorKind::Closed);
    assert_eq!((log.last_seq(), log.committed_seq()), (1, 1));
    assert_eq!(replay(&log), events(1..=1));
}

#[test]
fn a_flush_does_not_wait_for_the_interval() {
    let scratch = Scratch::new();
    let log = EventLog::builder().commit_interval(HOUR).open(scratch.log()).unwrap();
    for round in 1..=3 {
        for _ in 0..5 {
            log.publish_raw("x").unwrap();
        }
        block_on(log.flush()).unwrap();
        assert_eq!((log.last_seq(), log.committed_seq()), (5 * round, 5 * round));
    }
    assert!(log.commits() <= 6, "{} commits", log.commits());
}

#[test]
fn subscribers_see_what_is_on_disk_and_nothing_else() {
    let scratch = Scratch::new();
    let log = open(EventLog::builder().commit_interval(HOUR).commit_events(10), &scratch.log());
    // The first event is written immediately; the next ones wait for the interval to end, or for ten events.
    publish(&log, 1);
    for seq in 2..=10 {
        assert_eq!(log.publish_raw(format!("event {seq}")).unwrap(), seq);
    }
    assert_eq!((log.last_seq(), log.committed_seq(), log.commits()), (10, 1, 1));
    assert_eq!(replay(&log), events(1..=1));

    assert_eq!(block_on(log.publish_durable_raw("event 11")).unwrap(), 11);
    assert_eq!((log.committed_seq(), log.commits()), (11, 2), "ten events in one commit");
    assert_eq!(replay(&log), events(1..=11));
}

#[test]
fn events_that_nobody_waits_for_are_written_too() {
    let scratch = Scratch::new();
    let log = open(EventLog::builder(), &scratch.log());
    for seq in 1..=100 {
        log.publish_raw(format!("event {seq}")).unwrap();
    }
    drop(log);
    // The file cannot be opened before everything is written, because the writing task holds it.
    assert_eq!(open(EventLog::builder(), &scratch.log()).last_seq(), 100);
}

#[test]
fn no_more_than_the_log_may_hold_waits_to_be_written() {
    let scratch = Scratch::new();
    let bounds = EventLog::builder().max_payload_bytes(100).max_bytes(10 * 164);
    let log = open(bounds.commit_interval(HOUR).commit_events(1000), &scratch.log());
    publish(&log, 1);
    for _ in 0..10 {
        log.publish_raw([0; 100].to_vec()).unwrap();
    }
    assert_eq!(log.publish_raw([0; 100].to_vec()).unwrap_err().kind(), &ErrorKind::Exhausted);
    assert_eq!(log.committed_seq(), 1);
}

#[test]
fn bounds_hold_on_disk_and_numbers_are_not_reused() {
    let scratch = Scratch::new();
    let bounded = EventLog::builder().max_events(4);
    let log = open(bounded.clone(), &scratch.log());
    publish(&log, 10);
    drop(log);
    let log = open(bounded.clone(), &scratch.log());
    assert_eq!(replay(&log), events(7..=10));
    drop(log);

    // Fewer than before, then everything too old: the numbers go on.
    let log = open(EventLog::builder().max_events(2), &scratch.log());
    assert_eq!((log.first_seq(), log.last_seq()), (9, 10));
    publish(&log, 1);
    drop(log);
    // What was given up stays so. An age is that of a whole segment, and this one is the newest.
    let log = open(bounded.max_age(Duration::ZERO), &scratch.log());
    assert_eq!((log.first_seq(), log.last_seq(), log.len()), (10, 11, 2));
    publish(&log, 1);
    drop(log);
    let log = open(EventLog::builder(), &scratch.log());
    assert_eq!(log.last_seq(), 12);
}

#[test]
fn a_log_belongs_to_one_process_at_a_time() {
    let scratch = Scratch::new();
    let _log = open(EventLog::builder(), &scratch.log());
    let error = EventLog::builder().open(scratch.log()).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Io);
}

#[test]
fn a_path_that_cannot_be_opened_is_a_typed_error() {
    let scratch = Scratch::new();
    let missing = scratch.0.join("missing").join("events");
    assert_eq!(EventLog::builder().open(missing).unwrap_err().kind(), &ErrorKind::Io);
    let contradictory = EventLog::builder().commit_events(0).open(scratch.log());
    assert_eq!(contradictory.unwrap_err().kind(), &ErrorKind::InvalidConfig);
    let contradictory = EventLog::builder().max_events(0).open(scratch.log());
    assert_eq!(contradictory.unwrap_err().kind(), &ErrorKind::InvalidConfig);
    assert!(!scratch.log().exists(), "nothing was made");
}

/// The only segment of a log that is closed.
fn segment(scratch: &Scratch) -> PathBuf {
    let entries = fs::read_dir(scratch.log()).unwrap().map(|entry| entry.unwrap().path());
    let mut segments = entries.filter(|path| path.extension().is_some_and(|suffix| suffix == "segment"));
    let segment = segments.next().unwrap();
    assert!(segments.next().is_none(), "more than one segment");
    segment
}

/// A log of a hundred events, closed.
fn written(scratch: &Scratch) -> u64 {
    let log = open(EventLog::builder(), &scratch.log());
    for seq in 1..=100 {
        log.publish_raw(format!("event {seq}")).unwrap();
    }
    block_on(log.close()).unwrap();
    log.epoch()
}

#[test]
fn a_damaged_event_costs_itself_and_a_gap_tells_its_number() {
    let scratch = Scratch::new();
    let epoch = written(&scratch);
    let path = segment(&scratch);
    let mut content = fs::read(&path).unwrap();
    let place = content.windows(8).position(|window| window == b"event 57").unwrap();
    content[place] ^= 0x20;
    fs::write(&path, content).unwrap();

    for _ in 0..2 {
        let log = open(EventLog::builder(), &scratch.log());
        assert_eq!((log.epoch(), log.last_seq(), log.health().damaged_events), (epoch, 100, 1));
        assert_eq!(replay_around_gaps(&log), (vec![(57, 1)], events((1..57).chain(58..=100))));
        assert!(fs::read_to_string(scratch.log().join("damage")).unwrap().starts_with("events 57 to 57 "));
        block_on(log.close()).unwrap();
    }
    // Somebody has read the report, and removed it.
    fs::remove_file(scratch.log().join("damage")).unwrap();
    let log = open(EventLog::builder(), &scratch.log());
    assert_eq!(replay_around_gaps(&log).0, [(57, 1)], "the event is still lost");
}

/// The twin: files that nobody touched are sound.
#[test]
fn a_sound_log_reports_no_damage() {
    let scratch = Scratch::new();
    let epoch = written(&scratch);
    let log = open(EventLog::builder(), &scratch.log());
    assert_eq!((log.epoch(), log.last_seq(), log.health()), (epoch, 100, LogHealth::default()));
    assert_eq!(replay(&log), events(1..=100));
    assert!(!scratch.log().join("damage").exists());
}

#[test]
fn what_is_no_log_is_refused_and_left_alone() {
    let scratch = Scratch::new();
    fs::write(scratch.log(), b"redb\x1a\x0a\xa9\x0d\x0a and so on").unwrap();
    let error = EventLog::builder().open(scratch.log()).unwrap_err();
    let text = std::error::Error::source(&error).unwrap().to_string();
    assert!(text.contains("redb database"), "{text}");
    assert!(fs::read(scratch.log()).unwrap().starts_with(b"redb"));

    fs::remove_file(scratch.log()).unwrap();
    fs::create_dir(scratch.log()).unwrap();
    fs::write(scratch.log().join("letters.txt"), "dear").unwrap();
    let error = EventLog::builder().open(scratch.log()).unwrap_err();
    let text = std::error::Error::source(&error).unwrap().to_string();
    assert!(text.contains("letters.txt"), "{text}");
    assert_eq!(fs::read_dir(scratch.log()).unwrap().count(), 2, "its lock and the letters");

    fs::remove_dir_all(scratch.log()).unwrap();
    std::os::unix::fs::symlink(scratch.0.join("nowhere"), scratch.log()).unwrap();
    assert_eq!(EventLog::builder().open(scratch.log()).unwrap_err().kind(), &ErrorKind::Io);
    assert_eq!(CursorStore::open(scratch.log()).unwrap_err().kind(), &ErrorKind::Io);
    assert!(fs::symlink_metadata(scratch.log()).unwrap().is_symlink());
}

/// A history that neither fits into memory nor into the bound on disk.
#[test]
fn the_disk_bounds_the_history_and_memory_does_not() {
    let scratch = Scratch::new();
    let builder = EventLog::builder().max_events(1_000_000).max_payload_bytes(1000);
    let builder = builder.memory_bytes(64 * 1024).max_bytes(1024 * 1024);
    let log = open(builder.clone(), &scratch.log());
    let payload = vec![b'x'; 1000];
    for round in 1..=60_u64 {
        for _ in 0..50 {
            log.publish_raw(payload.clone()).unwrap();
        }
        block_on(log.flush()).unwrap();
        let files =
            fs::read_dir(scratch.log()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
        assert!(files.sum::<u64>() <= 1024 * 1024 + 16 * 1024, "round {round}");
    }
    assert_eq!(log.last_seq(), 3000);
    let held = log.len();
    assert!((600..1000).contains(&held), "{held} events of 1 kB in 1 MiB");
    assert_eq!(replay_around_gaps(&log).1.len(), held);
    let first = log.first_seq();
    block_on(log.close()).unwrap();
    let log = open(builder, &scratch.log());
    assert_eq!((log.first_seq(), log.last_seq()), (first, 3000));
    assert_eq!(replay_around_gaps(&log).1.len(), held);
}

#[test]
fn cursors_survive_under_their_names() {
    let scratch = Scratch::new();
    let (one, other) = (Cursor::new(Some(5), 41), Cursor::new(None, 7));
    let store = CursorStore::open(scratch.log()).unwrap();
    block_on(async {
        store.save("one", Cursor::new(Some(5), 40)).await.unwrap();
        store.save("other", other).await.unwrap();
        store.save("one", one).await.unwrap();
    });
    drop(store);
    let store = CursorStore::open(scratch.log()).unwrap();
    assert_eq!(store.load("one").unwrap(), Some(one));
    assert_eq!(store.load("other").unwrap(), Some(other));
    assert_eq!(store.load("third").unwrap(), None);
    drop(store);

    fs::write(scratch.log(), "these are no cursors").unwrap();
    assert_eq!(CursorStore::open(scratch.log()).unwrap_err().kind(), &ErrorKind::Io);
    assert_eq!(fs::read(scratch.log()).unwrap(), b"these are no cursors");
    fs::write(scratch.log(), "").unwrap();
    let store = CursorStore::open(scratch.log()).unwrap();
    assert_eq!(store.load("one").unwrap_err().kind(), &ErrorKind::Io, "an empty file is damage");
}
