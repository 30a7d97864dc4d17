//! Nodes whose logs are published: in this process, and in one of their own.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use palyra_jetstream::SourceLog;
use palyra_quic::{
    CertificateAuthority, Client, ClientTls, Endpoint, EventLog, Identity, Router, ServerTls, Trust,
};

use crate::{check::payload, nats_server::SUBJECT};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A node in this process.
pub(crate) struct Node {
    authority: CertificateAuthority,
    endpoint: Endpoint,
}

impl Node {
    pub(crate) fn new(log: &EventLog, router: Router) -> Self {
        let authority = CertificateAuthority::new("Test CA").unwrap();
        let tls = ServerTls::new(authority.issue_server(&[]).unwrap().identity());
        let builder = Endpoint::builder().server(tls).router(router.events(log.clone()));
        Self { authority, endpoint: builder.bind(LOOPBACK).unwrap() }
    }

    pub(crate) fn source(&self) -> SourceLog {
        let tls = ClientTls::new(self.authority.trust());
        let client = Endpoint::builder().client(tls).bind(LOOPBACK).unwrap();
        let client = Client::builder(client).address(self.endpoint.local_addr().unwrap()).build().unwrap();
        SourceLog { client, log: "node.stream_events".into(), subject: SUBJECT.into() }
    }
}

/// Publishes the events with the next numbers, up to `last`.
pub(crate) fn publish_up_to(log: &EventLog, last: u64) {
    while log.last_seq() < last {
        log.publish_raw(payload(log.last_seq() + 1)).unwrap();
    }
}

/// Files for a node and for its peers.
pub(crate) fn write_certificates(folder: &Path) {
    let authority = CertificateAuthority::new("Test CA").unwrap();
    let server = authority.issue_server(&["localhost", "127.0.0.1"]).unwrap();
    let client = authority.issue_client("bridge").unwrap();
    let files = [
        ("ca.pem", authority.cert_pem()),
        ("server.pem", server.cert_pem()),
        ("server.key", server.key_pem()),
        ("client.pem", client.cert_pem()),
        ("client.key", client.key_pem()),
    ];
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
    }
}

const FOLDER: &str = "PALYRA_JETSTREAM_TEST_NODE";
const ADDRESS: &str = "PALYRA_JETSTREAM_TEST_ADDRESS";
/// Events that are written together.
const BATCH: u64 = 20;

/// A node that publishes events to a log in files, as many as it is told.
pub(crate) struct NodeProcess {
    folder: PathBuf,
    events: u64,
    child: Child,
    /// Kept open, because the test harness of the child writes to it.
    output: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
}

impl NodeProcess {
    pub(crate) fn start(folder: &Path) -> Self {
        let (child, output, address) = spawn(folder, LOOPBACK);
        Self { folder: folder.to_owned(), events: 0, child, output, address }
    }

    /// Lets it publish events up to this number.
    pub(crate) fn publish_up_to(&mut self, events: u64) {
        self.events = events;
        writeln!(self.child.stdin.as_mut().unwrap(), "{events}").unwrap();
    }

    /// SIGKILL; the next one has the same address and the same log.
    pub(crate) fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let (child, output, address) = spawn(&self.folder, self.address);
        assert_eq!(address, self.address);
        (self.child, self.output) = (child, output);
        self.publish_up_to(self.events);
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &Path, address: SocketAddr) -> (Child, BufReader<ChildStdout>, SocketAddr) {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "node::is_a_process_of_its_own", "--nocapture"]);
    command.env(FOLDER, folder).env(ADDRESS, address.to_string());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let address = output.by_ref().lines().map_while(Result::ok);
    let address = address.filter_map(|line| Some(line.split_once("node at ")?.1.parse())).next();
    (child, output, address.unwrap().unwrap())
}

/// Does nothing unless it is a child of another test.
#[test]
fn is_a_process_of_its_own() {
    let Some(folder) = env::var_os(FOLDER).map(PathBuf::from) else { return };
    let address: SocketAddr = env::var(ADDRESS).unwrap().parse().unwrap();
    let log = EventLog::builder().max_events(usize::MAX).max_bytes(1 << 30).open(folder.join("log")).unwrap();
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let identity = Identity::from_pem(&read("server.pem"), &read("server.key")).unwrap();
    let trust = Trust::from_pem(&read("ca.pem")).unwrap();
    let tls = ServerTls::new(identity).require_client_certificates(trust);
    let builder = Endpoint::builder().server(tls).router(Router::new().events(log.clone()));
    let endpoint = builder.bind(address).unwrap();
    println!("node at {}", endpoint.local_addr().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for line in std::io::stdin().lines() {
        let events: u64 = line.unwrap().parse().unwrap();
        runtime.block_on(async {
            while log.last_seq() < events {
                publish_up_to(&log, events.min(log.last_seq() + BATCH));
                log.flush().await.unwrap();
            }
        });
    }
}
