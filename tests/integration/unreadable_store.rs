//! What subscribers see of a store that cannot be read for a while.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use palyra_quic::{
    Batch, Client, Clocks, Endpoint, ErrorKind, EventLog, EventStore, Extent, MemoryStore, Router,
    StoredEvent, SubscriptionItem, WireError,
};

use crate::common::{loopback, run, serve};

/// A store that cannot be read while the test says so.
#[derive(Clone)]
struct Unreadable {
    store: Arc<MemoryStore>,
    fails: Arc<AtomicBool>,
}

impl EventStore for Unreadable {
    fn extent(&self) -> Extent {
        self.store.extent()
    }

    fn last_clocks(&self) -> Option<Clocks> {
        self.store.last_clocks()
    }

    fn append(&self, batch: &Batch) -> io::Result<()> {
        self.store.append(batch)
    }

    fn read(&self, from: u64, max_bytes: usize, out: &mut Vec<(u64, StoredEvent)>) -> io::Result<u64> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(io::Error::other("the test asked for this"));
        }
        self.store.read(from, max_bytes, out)
    }

    fn discard(&self, below: u64) -> io::Result<()> {
        self.store.discard(below)
    }

    fn close(&self) -> io::Result<()> {
        self.store.close()
    }
}

#[test]
fn subscribers_of_a_store_that_cannot_be_read_come_back_when_they_are_told_to() {
    let fails = Arc::new(AtomicBool::new(true));
    let store = Unreadable { store: Arc::new(MemoryStore::new(5)), fails: Arc::clone(&fails) };
    let builder = EventLog::builder().max_payload_bytes(100).memory_bytes(2 * 164);
    let log = builder.commit_interval(Duration::ZERO).on(store).unwrap();
    run(async {
        for _ in 0..20 {
            log.publish_durable_raw(vec![0; 100]).await.unwrap();
        }
        let server = serve(Router::new().events(log.clone()));
        let dialler = Endpoint::builder().client(server.pki.client_tls()).bind(loopback()).unwrap();
        let client = Client::builder(dialler).address(server.address()).build().unwrap();
        let mut subscription = client.subscribe_raw().open();
        let mut seqs = Vec::new();
        while seqs.len() < 20 {
            match subscription.next_raw().await.unwrap() {
                SubscriptionItem::Event { seq, .. } => seqs.push(seq),
                SubscriptionItem::Disconnected { error } => {
                    assert_eq!(error.kind(), &ErrorKind::Remote(WireError::ResourceExhausted), "{error:?}");
                    assert!(error.retry_after().is_some(), "{error:?}");
                    assert!(log.health().read_error.is_some());
                    // After the second attempt.
                    fails.store(log.health().failed_reads < 2, Ordering::Relaxed);
                }
                SubscriptionItem::Connected { .. } => {}
                SubscriptionItem::Gap(gap) => panic!("{gap:?}"),
            }
        }
        assert_eq!(seqs, (1..=20).collect::<Vec<_>>());
        assert_eq!((log.health().failed_reads, log.health().read_error), (2, None));
    });
}
