//! Logs into a stream, in one process.

use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use palyra_jetstream::{BridgeError, MissingStream, NatsOptions, SourceLog, ToStream, ToStreamOptions};
use palyra_quic::{EventLog, LogMethod, Raw, Router};
use tokio::task::JoinHandle;

use crate::{
    check::{Fault, Missing, check},
    kills::WINDOW,
    nats_server::{NatsServer, OTHER, STREAM, SUBJECT, last_id, last_seq, read_all},
    node::{Node, publish_up_to, write_certificates},
    wait::{Folder, until},
};

fn options(missing_stream: MissingStream) -> ToStreamOptions {
    let mut options = ToStreamOptions::new(STREAM);
    options.missing_stream = missing_stream;
    options.duplicate_window = WINDOW;
    options
}

type Running = JoinHandle<Result<(), BridgeError>>;

async fn start(server: &NatsServer, options: ToStreamOptions, logs: Vec<SourceLog>) -> Running {
    tokio::spawn(ToStream::new(server.connect().await, options, logs).unwrap().run())
}

async fn reaches(stream: &Stream, subject: &str, seq: u64) {
    let reached = async || (last_seq(stream, subject).await >= seq).then_some(());
    until("events in the stream", reached).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_bridges_of_one_log_publish_each_event_once() {
    let Some(server) = NatsServer::start("two").await else { return };
    let stream = server.stream(Duration::from_millis(100)).await;
    let (log, other) = (EventLog::new(), EventLog::new());
    let by_name: LogMethod<Raw> = LogMethod::new("plant.other");
    let node = Node::new(&log, Router::new().log(by_name, other.clone()));
    let other_source = || SourceLog { log: "plant.other".into(), subject: OTHER.into(), ..node.source() };
    let logs = || vec![node.source(), other_source()];
    let first = start(&server, options(MissingStream::Stop), logs()).await;
    let second = start(&server, options(MissingStream::Stop), logs()).await;
    for part in 1..=10 {
        publish_up_to(&log, part * 50);
        publish_up_to(&other, part * 50);
        reaches(&stream, SUBJECT, part * 50 - 25).await;
    }
    for subject in [SUBJECT, OTHER] {
        reaches(&stream, subject, 500).await;
        let messages = read_all(&stream, subject).await;
        assert_eq!((messages.len(), check(&messages, 500)), (500, Ok(())), "{subject}");
    }
    first.abort();
    second.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_and_a_new_epoch_are_published_in_their_place() {
    let Some(server) = NatsServer::start("gaps").await else { return };
    let stream = server.stream(WINDOW).await;
    let log = EventLog::builder().max_events(10).build().unwrap();
    publish_up_to(&log, 30);
    let node = Node::new(&log, Router::new());
    let running = start(&server, options(MissingStream::Stop), vec![node.source()]).await;
    reaches(&stream, SUBJECT, 30).await;
    running.abort();
    let messages = read_all(&stream, SUBJECT).await;
    assert_eq!(check(&messages, 30), Ok(()));
    assert_eq!(messages.len(), 11, "the gap, and ten events");
    assert_eq!(messages[0].gap, Some(Missing { from: 1, next: 21, count: "20".into() }));

    // The node lost its log.
    let log = EventLog::new();
    publish_up_to(&log, 5);
    let node = Node::new(&log, Router::new());
    let running = start(&server, options(MissingStream::Stop), vec![node.source()]).await;
    let last = format!("{}:5", log.epoch());
    until("the new epoch", async || last_id(&stream, SUBJECT).await.filter(|id| *id == last)).await;
    running.abort();
    let messages = read_all(&stream, SUBJECT).await;
    assert_eq!(check(&messages, 5), Ok(()));
    let gap = messages[11].gap.clone().unwrap();
    assert_eq!((gap.from, gap.next, messages[11].epoch), (1, 1, log.epoch()));
    let without_gap = [&messages[..11], &messages[12..]].concat();
    assert_eq!(check(&without_gap, 5), Err(Fault::Epoch(log.epoch())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_deleted_stops_the_bridge() {
    let Some(server) = NatsServer::start("deleted").await else { return };
    let stream = server.stream(WINDOW).await;
    let log = EventLog::new();
    publish_up_to(&log, 5);
    let node = Node::new(&log, Router::new());
    let running = start(&server, options(MissingStream::Stop), vec![node.source()]).await;
    reaches(&stream, SUBJECT, 5).await;
    server.context().await.delete_stream(STREAM).await.unwrap();
    publish_up_to(&log, 6);
    assert!(matches!(running.await.unwrap(), Err(BridgeError::StreamMissing(name)) if name == STREAM));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subject_that_is_emptied_stops_the_bridge() {
    let Some(server) = NatsServer::start("emptied").await else { return };
    let stream = server.stream(WINDOW).await;
    let log = EventLog::new();
    publish_up_to(&log, 5);
    let node = Node::new(&log, Router::new());
    let running = start(&server, options(MissingStream::Stop), vec![node.source()]).await;
    reaches(&stream, SUBJECT, 5).await;
    stream.purge().await.unwrap();
    publish_up_to(&log, 6);
    assert!(matches!(running.await.unwrap(), Err(BridgeError::SubjectEmptied(name)) if name == SUBJECT));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_recreated_begins_with_all_that_the_node_holds() {
    let Some(server) = NatsServer::start("recreated").await else { return };
    let log = EventLog::builder().max_events(10).build().unwrap();
    publish_up_to(&log, 5);
    let node = Node::new(&log, Router::new());
    let running = start(&server, options(MissingStream::Recreate), vec![node.source()]).await;
    let context = server.context().await;
    let stream = async || context.get_stream(STREAM).await.ok();
    let first = until("the stream", stream).await;
    reaches(&first, SUBJECT, 5).await;
    assert_eq!(check(&read_all(&first, SUBJECT).await, 5), Ok(()));

    context.delete_stream(STREAM).await.unwrap();
    publish_up_to(&log, 30);
    let second = until("the stream again", stream).await;
    reaches(&second, SUBJECT, 30).await;
    let messages = read_all(&second, SUBJECT).await;
    assert_eq!(check(&messages, 30), Ok(()));
    assert!(messages[0].gap.is_some(), "the node no longer holds event 1");
    running.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_somebody_else_at_the_end_stops_the_log() {
    let Some(server) = NatsServer::start("foreign").await else { return };
    let _stream = server.stream(WINDOW).await;
    server.context().await.publish(SUBJECT, "mine".into()).await.unwrap().await.unwrap();
    let log = EventLog::new();
    let node = Node::new(&log, Router::new());
    let running = start(&server, options(MissingStream::Stop), vec![node.source()]).await;
    assert!(matches!(running.await.unwrap(), Err(BridgeError::ForeignMessage { sequence: 1, .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_too_large_for_nats_stops_the_log() {
    let config = |_: &_| "max_payload: 4096".to_owned();
    let Some(server) = NatsServer::with_config("large", config).await else { return };
    let stream = server.stream(WINDOW).await;
    let log = EventLog::new();
    publish_up_to(&log, 1);
    log.publish_raw(vec![0; 4096]).unwrap();
    publish_up_to(&log, 3);
    let node = Node::new(&log, Router::new());
    let running = start(&server, options(MissingStream::Stop), vec![node.source()]).await;
    assert!(matches!(running.await.unwrap(), Err(BridgeError::TooLarge { seq: 2, .. })));
    assert_eq!(check(&read_all(&stream, SUBJECT).await, 1), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_restored_from_a_backup_is_not_followed() {
    let Some(server) = NatsServer::start("diverged").await else { return };
    let stream = server.stream(WINDOW).await;
    let (current, backup) = (Folder::new("diverged-log"), Folder::new("diverged-backup"));
    let log = EventLog::builder().open(current.path()).unwrap();
    publish_up_to(&log, 5);
    log.close().await.unwrap();
    drop(log);
    for file in std::fs::read_dir(current.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), backup.path().join(file.file_name())).unwrap();
    }
    for (folder, last) in [(&current, 10), (&backup, 7)] {
        let log = EventLog::builder().open(folder.path()).unwrap();
        publish_up_to(&log, last);
        log.flush().await.unwrap();
        let node = Node::new(&log, Router::new());
        let running = start(&server, options(MissingStream::Stop), vec![node.source()]).await;
        if last == 10 {
            reaches(&stream, SUBJECT, 10).await;
            running.abort();
        } else {
            let diverged = running.await.unwrap();
            assert!(matches!(diverged, Err(BridgeError::Diverged { published: 10, .. })), "{diverged:?}");
        }
    }
    assert_eq!(check(&read_all(&stream, SUBJECT).await, 10), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_and_credentials_are_taken_from_the_options() {
    let config = |folder: &Folder| {
        write_certificates(folder.path());
        let file = |name: &str| folder.path().join(name);
        let (cert, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
        format!(
            "tls {{ cert_file: {cert:?}, key_file: {key:?}, ca_file: {ca:?}, verify: true }}\n\
             authorization {{ user: bridge, password: secret }}\n"
        )
    };
    let Some(server) = NatsServer::with_config("tls", config).await else { return };
    let url = server.url().replace("nats://127.0.0.1", "tls://localhost");
    let ca = server.file("ca.pem");
    let login = || async_nats::ConnectOptions::with_user_and_password("bridge".into(), "secret".into());
    let without_certificate = login().add_root_certificates(ca.clone());
    assert!(without_certificate.connect(&url).await.is_err(), "the server verifies certificates");

    let misplaced = NatsOptions::new("nats://bridge:secret@localhost").connect().await;
    assert!(matches!(misplaced, Err(BridgeError::Options(_))));
    let mut nats = NatsOptions::new(&url);
    nats.user = Some(("bridge".into(), "secret".into()));
    nats.authorities = Some(ca.clone());
    nats.certificate = Some((server.file("client.pem"), server.file("client.key")));
    assert!(!format!("{nats:?}").contains("secret"));
    let log = EventLog::new();
    publish_up_to(&log, 5);
    let node = Node::new(&log, Router::new());
    let nats = nats.connect().await.unwrap();
    let bridge = ToStream::new(nats, options(MissingStream::Recreate), vec![node.source()]).unwrap();
    let running = tokio::spawn(bridge.run());

    let client = login().add_root_certificates(ca);
    let client = client.add_client_certificate(server.file("client.pem"), server.file("client.key"));
    let context = async_nats::jetstream::new(client.connect(&url).await.unwrap());
    let stream = until("the stream", async || context.get_stream(STREAM).await.ok()).await;
    reaches(&stream, SUBJECT, 5).await;
    running.abort();
}
