//! Kills of the bridge, of the node and of nats-server.

use std::{
    env,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use async_nats::jetstream::{message::PublishMessage, stream::Stream};

use crate::{
    check::check,
    nats_server::{NatsServer, OTHER, STREAM, SUBJECT, last_seq, read_all},
    node::{NodeProcess, write_certificates},
    wait::{Folder, until},
};

/// Short, so that an outage can be longer.
pub(crate) const WINDOW: Duration = Duration::from_secs(1);

/// The program under test.
pub(crate) struct Bridge {
    args: Vec<String>,
    child: Child,
}

impl Bridge {
    pub(crate) fn start(args: Vec<String>) -> Self {
        let child = Self::spawn(&args);
        Self { args, child }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn restart(&mut self) {
        self.child = Self::spawn(&self.args);
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status();
        assert!(status.unwrap().success());
    }

    fn spawn(args: &[String]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_palyra-jetstream"));
        let output = || if env::var_os("SHOW_BRIDGE").is_some() { Stdio::inherit() } else { Stdio::null() };
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(output()).spawn().unwrap()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn to_stream(server: &NatsServer, folder: &Path, node: &NodeProcess) -> Vec<String> {
    let file = |name: &str| folder.join(name).display().to_string();
    let log = format!("{SUBJECT}={}", node.address);
    [
        "to-stream",
        "--nats",
        &server.url(),
        "--stream",
        STREAM,
        "--log",
        &log,
        "--ca",
        &file("ca.pem"),
        "--cert",
        &file("client.pem"),
        "--key",
        &file("client.key"),
        "--nats-timeout-ms",
        "500",
        "--consumer",
        "jetstream",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Resolves when JetStream no longer recognises duplicates of what it accepted before this call.
pub(crate) async fn window_has_passed(server: &NatsServer) {
    let context = server.context().await;
    let probe = async || {
        let message = PublishMessage::build().message_id("probe").payload("".into());
        context.send_publish(OTHER, message).await.unwrap().await.ok()
    };
    until("the first probe", probe).await;
    until("the deduplication window", async || probe().await.filter(|ack| !ack.duplicate)).await;
}

async fn reaches(stream: &Stream, seq: u64) {
    until("events in the stream", async || (last_seq(stream, SUBJECT).await >= seq).then_some(())).await;
}

fn from_environment(name: &str, default: u64) -> u64 {
    env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// With `PALYRA_JETSTREAM_EVENTS=100000 PALYRA_JETSTREAM_KILLS=20`, the long one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_event_arrives_once_whatever_is_killed() {
    let events = from_environment("PALYRA_JETSTREAM_EVENTS", 3000);
    let kills = from_environment("PALYRA_JETSTREAM_KILLS", 6);
    let Some(mut server) = NatsServer::start("kills").await else { return };
    let folder = Folder::new("kills-node");
    write_certificates(folder.path());
    let stream = server.stream(WINDOW).await;
    let mut node = NodeProcess::start(folder.path());
    let mut bridge = Bridge::start(to_stream(&server, folder.path(), &node));
    // Each kill comes in the middle of a part of the events.
    let part = events / (kills + 2);
    for kill in 1..=kills {
        node.publish_up_to(part * kill);
        reaches(&stream, part * kill - part / 2).await;
        match kill % 3 {
            0 => server.kill_and_restart().await,
            1 => {
                bridge.kill();
                bridge.restart();
            }
            _ => node.kill_and_restart(),
        }
    }
    // JetStream forgets the ids of what the bridge had sent before it was killed.
    node.publish_up_to(part * (kills + 1));
    reaches(&stream, part * kills + part / 2).await;
    bridge.kill();
    window_has_passed(&server).await;
    bridge.restart();
    // And it does not answer for longer than the bridge waits.
    node.publish_up_to(events);
    reaches(&stream, part * (kills + 1) + part / 2).await;
    server.hang(Duration::from_secs(1)).await;
    reaches(&stream, events).await;
    let messages = read_all(&stream, SUBJECT).await;
    assert_eq!(messages.len(), usize::try_from(events).unwrap());
    assert_eq!(check(&messages, events), Ok(()));
    assert!(messages.iter().all(|message| message.gap.is_none()), "the node held everything");
}

/// Without expected sequences, the first bridge would publish what the second one has published.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_that_stood_still_while_another_published_repeats_nothing() {
    let Some(server) = NatsServer::start("stopped").await else { return };
    let folder = Folder::new("stopped-node");
    write_certificates(folder.path());
    let stream = server.stream(WINDOW).await;
    let mut node = NodeProcess::start(folder.path());
    let first = Bridge::start(to_stream(&server, folder.path(), &node));
    node.publish_up_to(100);
    reaches(&stream, 100).await;
    first.signal("-STOP");
    node.publish_up_to(200);
    let mut second = Bridge::start(to_stream(&server, folder.path(), &node));
    reaches(&stream, 200).await;
    second.kill();
    window_has_passed(&server).await;
    first.signal("-CONT");
    node.publish_up_to(300);
    reaches(&stream, 300).await;
    let messages = read_all(&stream, SUBJECT).await;
    assert_eq!((messages.len(), check(&messages, 300)), (300, Ok(())));
}
