//! A subject into the log of a node.

use std::{path::Path, time::Duration};

use async_nats::jetstream::{Context, consumer::pull, stream::Stream};
use palyra_jetstream::{BridgeError, FromStream, InboundLog, StoredMessage};
use palyra_quic::{EventLog, EventStore, SegmentOptions, SegmentStore, minicbor};
use tokio::task::JoinHandle;

use crate::{
    kills::{Bridge, WINDOW},
    nats_server::{NatsServer, STREAM, SUBJECT},
    node::write_certificates,
    wait::{Folder, until},
};

const DURABLE: &str = "node";
const MAX_BYTES: u64 = 1 << 24;
/// Short, because a bridge that was killed must wait for it.
const ACK_WAIT: Duration = Duration::from_millis(500);

async fn start(server: &NatsServer, log: InboundLog) -> JoinHandle<Result<(), BridgeError>> {
    let bridge = FromStream::new(server.connect().await, STREAM, SUBJECT, DURABLE, log);
    tokio::spawn(bridge.ack_wait(ACK_WAIT).run())
}

/// Messages 1 to `last`, whose payload is their number.
async fn publish(context: &Context, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        context.publish(SUBJECT, number.to_string().into()).await.unwrap().await.unwrap();
    }
}

/// Whether JetStream has an acknowledgement for everything up to this message.
async fn acknowledged(stream: &Stream, last: u64) {
    until("acknowledgements", async || {
        let consumer = stream.get_consumer::<pull::Config>(DURABLE).await.ok()?;
        (consumer.cached_info().ack_floor.stream_sequence >= last).then_some(())
    })
    .await;
}

/// Each message once and in order.
fn check(folder: &Path, last: u64) -> Result<(), String> {
    let store = SegmentStore::open(folder, &SegmentOptions::default()).unwrap();
    let (mut from, mut due) = (store.extent().first, 1);
    while from < store.extent().next {
        let mut events = Vec::new();
        from = store.read(from, 1 << 20, &mut events).unwrap();
        for (_, event) in events {
            let message: StoredMessage = minicbor::decode(&event.payload).unwrap();
            let found = String::from_utf8(message.payload.to_vec()).unwrap();
            if found != due.to_string() || message.subject != SUBJECT {
                return Err(format!("{found} in the place of {due}"));
            }
            due += 1;
        }
    }
    if due == last + 1 { Ok(()) } else { Err(format!("{due} is missing")) }
}

async fn closed(running: JoinHandle<Result<(), BridgeError>>, log: EventLog) {
    running.abort();
    let _ = running.await;
    log.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_delivered_again_are_in_the_log_once() {
    let Some(server) = NatsServer::start("again").await else { return };
    let folder = Folder::new("again-log");
    let (stream, context) = (server.stream(WINDOW).await, server.context().await);
    publish(&context, 1..=20).await;
    let inbound = InboundLog::open(folder.path(), MAX_BYTES).unwrap();
    assert!(inbound.newest().is_none());
    let log = inbound.log().clone();
    let running = start(&server, inbound).await;
    acknowledged(&stream, 20).await;
    closed(running, log).await;
    assert_eq!(check(folder.path(), 20), Ok(()));

    // As if none of them had been acknowledged.
    stream.delete_consumer(DURABLE).await.unwrap();
    publish(&context, 21..=25).await;
    let inbound = InboundLog::open(folder.path(), MAX_BYTES).unwrap();
    assert_eq!(inbound.newest().unwrap().stream_sequence, 20);
    let log = inbound.log().clone();
    let running = start(&server, inbound).await;
    acknowledged(&stream, 25).await;
    closed(running, log).await;
    assert_eq!(check(folder.path(), 25), Ok(()));
    assert_eq!(check(folder.path(), 26), Err("26 is missing".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_messages_of_a_stream_that_was_created_anew_are_not_taken_for_those_of_the_old_one() {
    let Some(server) = NatsServer::start("anew").await else { return };
    let folder = Folder::new("anew-log");
    let (stream, context) = (server.stream(WINDOW).await, server.context().await);
    publish(&context, 1..=5).await;
    let inbound = InboundLog::open(folder.path(), MAX_BYTES).unwrap();
    let log = inbound.log().clone();
    let running = start(&server, inbound).await;
    acknowledged(&stream, 5).await;
    context.delete_stream(STREAM).await.unwrap();
    // With the numbers 1 to 3 in the stream.
    let stream = server.stream(WINDOW).await;
    publish(&context, 6..=8).await;
    acknowledged(&stream, 3).await;
    closed(running, log).await;
    assert_eq!(check(folder.path(), 8), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_delivers_several_messages_at_a_time_is_refused() {
    let Some(server) = NatsServer::start("consumer").await else { return };
    let folder = Folder::new("consumer-log");
    let stream = server.stream(WINDOW).await;
    let config = pull::Config {
        durable_name: Some(DURABLE.into()),
        filter_subject: SUBJECT.into(),
        max_ack_pending: 10,
        ..pull::Config::default()
    };
    stream.create_consumer(config).await.unwrap();
    let running = start(&server, InboundLog::open(folder.path(), MAX_BYTES).unwrap()).await;
    let refused = running.await.unwrap().unwrap_err();
    assert!(matches!(refused, BridgeError::Consumer(name, _) if name == DURABLE));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_other_events_is_refused() {
    let folder = Folder::new("other-log");
    let log = EventLog::builder().open(folder.path()).unwrap();
    log.publish_durable("mine").await.unwrap();
    log.close().await.unwrap();
    drop(log);
    let refused = InboundLog::open(folder.path(), MAX_BYTES).unwrap_err();
    assert!(matches!(refused, BridgeError::ForeignEvent(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_message_is_stored_once_whatever_is_killed() {
    const MESSAGES: u64 = 400;
    const KILLS: u64 = 6;
    let Some(mut server) = NatsServer::start("stored").await else { return };
    let folder = Folder::new("stored-node");
    write_certificates(folder.path());
    let (stream, context) = (server.stream(WINDOW).await, server.context().await);
    let file = |name: &str| folder.path().join(name).display().to_string();
    let args = [
        "from-stream",
        "--nats",
        &server.url(),
        "--stream",
        STREAM,
        "--subject",
        SUBJECT,
        "--durable",
        DURABLE,
        "--log",
        &file("log"),
        "--listen",
        "127.0.0.1:0",
        "--cert",
        &file("server.pem"),
        "--key",
        &file("server.key"),
        "--ack-wait-ms",
        "500",
        "--nats-timeout-ms",
        "500",
    ];
    let mut bridge = Bridge::start(args.map(str::to_owned).to_vec());
    let part = MESSAGES / KILLS;
    for kill in 1..=KILLS {
        let last = if kill == KILLS { MESSAGES } else { part * kill };
        publish(&context, part * (kill - 1) + 1..=last).await;
        acknowledged(&stream, last - part / 2).await;
        if kill % 2 == 0 {
            server.kill_and_restart().await;
            until("JetStream", async || context.get_stream(STREAM).await.ok()).await;
        } else {
            bridge.kill();
            bridge.restart();
        }
    }
    acknowledged(&stream, MESSAGES).await;
    bridge.kill();
    assert_eq!(check(&folder.path().join("log"), MESSAGES), Ok(()));
}
