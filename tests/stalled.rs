//! A subscriber that stops reading for ever: what it costs the node, and that it costs the others nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![cfg(target_os = "linux")]

mod common;

use std::fs;

use palyra_quic::{Codec, EventItem, EventLog, Request, Router};

use common::{Server, encode, frame, run, serve};

const EVENT_BYTES: usize = 1024;
const EVENTS: u64 = 50_000;
/// The node publishes this many at a time, and lets the subscriber that reads have them.
const BATCH: u64 = 500;
const MIB: usize = 1024 * 1024;

/// What this process holds in memory, in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

/// Has one subscriber read fifty megabytes while eight others, each on a connection of its own, do not read;
/// gives how much the process has grown by it.
async fn publish_past_the_stalled(server: &Server, log: &EventLog) -> usize {
    let follow = Request::new("node.stream_events").with_follow();
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let peer = server.raw().await;
        let mut stream = peer.send(&frame(&encode(&follow, Codec::Cbor))).await;
        stream.finish();
        stalled.push((peer, stream));
    }
    let connection = server.connect().await;
    let mut events = connection.events_raw().follow().open().await.unwrap();

    let mut before = 0;
    for batch in 0..EVENTS / BATCH {
        for _ in 0..BATCH {
            log.publish_raw(vec![7; EVENT_BYTES]).unwrap();
        }
        for n in 1..=BATCH {
            let item = events.next_raw().await.unwrap().unwrap();
            let EventItem::Event { seq, .. } = item else {
                panic!("{item:?}: the others cost a reader something")
            };
            assert_eq!(seq, batch * BATCH + n);
        }
        // Until then, buffers find their size.
        if batch == 10 {
            before = resident();
        }
    }
    assert_eq!(log.subscribers(), 9, "those that do not read are still there");
    resident().saturating_sub(before)
}

/// One test, since tests that run beside each other would be in each other's figures.
#[test]
fn a_subscriber_that_never_reads_costs_a_bounded_amount_of_memory() {
    run(async {
        let log = EventLog::new();
        let grown = publish_past_the_stalled(&serve(Router::new().events(log.clone())), &log).await;
        assert!(grown < 8 * MIB, "grown by {grown} bytes");

        // The twin: what is kept does show.
        let log = EventLog::builder().max_bytes(100 * 1024 * 1024).max_events(100_000).build().unwrap();
        let grown = publish_past_the_stalled(&serve(Router::new().events(log.clone())), &log).await;
        assert!(grown > 30 * MIB, "grown by {grown} bytes");
    });
}
