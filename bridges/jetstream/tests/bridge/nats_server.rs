//! A nats-server of the test's own, on loopback.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use async_nats::{
    header::NATS_MESSAGE_ID,
    jetstream::{
        self, Context,
        consumer::{DeliverPolicy, pull},
        stream::{Config, StorageType, Stream},
    },
};
use futures_util::StreamExt;
use palyra_jetstream::{Nats, NatsOptions};

use crate::{
    check::Published,
    wait::{Folder, until},
};

pub(crate) const STREAM: &str = "PLANT";
pub(crate) const SUBJECT: &str = "plant.press";
/// Another subject of the stream.
pub(crate) const OTHER: &str = "plant.other";

/// For an answer of nats-server, which takes longer to give it only if it is killed meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct NatsServer {
    folder: Folder,
    /// More lines of its configuration.
    config: String,
    child: Child,
    port: u16,
}

impl NatsServer {
    /// `None`, visibly, if nats-server is not installed.
    pub(crate) async fn start(name: &str) -> Option<Self> {
        Self::with_config(name, |_| String::new()).await
    }

    pub(crate) async fn with_config(name: &str, config: impl FnOnce(&Folder) -> String) -> Option<Self> {
        if Command::new("nats-server").arg("--version").output().is_err() {
            // Not by eprintln, which the test harness would hide.
            let _ = writeln!(std::io::stderr(), "skipped: {name}: nats-server is not installed");
            return None;
        }
        let folder = Folder::new(name);
        let config = config(&folder);
        let child = spawn(&folder, &config, -1);
        let ports = folder.path().join(format!("nats-server_{}.ports", child.id()));
        let port = until("the port of nats-server", async || {
            let text = fs::read_to_string(&ports).ok()?;
            let (_, port) = text.split_once("127.0.0.1:")?;
            port.split_once('"')?.0.parse().ok()
        })
        .await;
        let server = Self { folder, config, child, port };
        server.ready().await;
        Some(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// For the bridge under test.
    pub(crate) async fn connect(&self) -> Nats {
        let mut options = NatsOptions::new(self.url());
        options.timeout = Some(PATIENCE);
        options.connect().await.unwrap()
    }

    /// For the test.
    pub(crate) async fn context(&self) -> Context {
        let options = async_nats::ConnectOptions::new()
            .request_timeout(Some(PATIENCE))
            .reconnect_delay_callback(|_| Duration::from_millis(5));
        jetstream::new(options.connect(self.url()).await.unwrap())
    }

    /// A stream with both subjects.
    pub(crate) async fn stream(&self, duplicate_window: Duration) -> Stream {
        let config = Config {
            name: STREAM.into(),
            subjects: vec!["plant.*".into()],
            storage: StorageType::File,
            duplicate_window,
            ..Config::default()
        };
        self.context().await.create_stream(config).await.unwrap()
    }

    /// SIGKILL; the next one has the same port and the same files.
    pub(crate) async fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(&self.folder, &self.config, i32::from(self.port));
        self.ready().await;
    }

    /// Stops answering for this long, as on an overloaded machine.
    pub(crate) async fn hang(&self, time: Duration) {
        self.signal("-STOP");
        tokio::time::sleep(time).await;
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status();
        assert!(status.unwrap().success());
    }

    async fn ready(&self) {
        until("nats-server accepts connections", async || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()
        })
        .await;
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &Folder, config: &str, port: i32) -> Child {
    let file = folder.path().join("nats.conf");
    let store = folder.path().join("js");
    fs::write(&file, format!("jetstream {{ store_dir: {store:?} }}\n{config}\n")).unwrap();
    let mut command = Command::new("nats-server");
    command.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string()]);
    command.arg("--ports_file_dir").arg(folder.path()).arg("-c").arg(file);
    command.arg("-l").arg(folder.path().join("nats.log"));
    command.stdin(Stdio::null()).spawn().unwrap()
}

/// The id of the last message; `None` without one, or while JetStream is away.
pub(crate) async fn last_id(stream: &Stream, subject: &str) -> Option<String> {
    let message = stream.get_last_raw_message_by_subject(subject).await.ok()?;
    Some(message.headers.get(NATS_MESSAGE_ID)?.to_string())
}

/// The number behind the last message of the subject; 0 without one.
pub(crate) async fn last_seq(stream: &Stream, subject: &str) -> u64 {
    let id = last_id(stream, subject).await;
    id.and_then(|id| id.split_once(':')?.1.parse().ok()).unwrap_or(0)
}

/// All messages of the subject.
pub(crate) async fn read_all(stream: &Stream, subject: &str) -> Vec<Published> {
    let last = stream.get_last_raw_message_by_subject(subject).await.unwrap().sequence;
    let config = pull::OrderedConfig {
        filter_subject: subject.into(),
        deliver_policy: DeliverPolicy::All,
        ..pull::OrderedConfig::default()
    };
    let consumer = stream.create_consumer(config).await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    let mut published = Vec::new();
    while let Some(message) = messages.next().await {
        let message = message.unwrap();
        let sequence = message.info().unwrap().stream_sequence;
        published.push(Published::new(message.headers.as_ref(), &message.payload));
        if sequence >= last {
            break;
        }
    }
    published
}
