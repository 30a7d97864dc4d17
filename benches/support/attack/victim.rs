//! The node under attack: a process of its own, with one thread that does all the work.

use std::{
    env,
    future::pending,
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use palyra_quic::{
    AsyncIoRuntime, Bytes, Context, Endpoint, EventLog, Fingerprint, Identity, Rate, RevocationList, Router,
    ServerTls, TransportLimits, Trust,
};

use super::{
    ANSWER, ECHO, HONEST, Result, SUM, Stage, WAIT, careless,
    logs::{CONSUMER, EVENTS, LOG, LOGS, ROOMY_LOG},
    meter::{Memory, Watch, processor},
};

const ROLE: &str = "ATTACK_ROLE";
const LIMITS: &str = "ATTACK_LIMITS";
const AUTHORITY: &str = "ATTACK_CA";
const CERTIFICATE: &str = "ATTACK_CERT";
const KEY: &str = "ATTACK_KEY";
const LISTENING: &str = "listening ";
/// Until then a process that was just started has found its size.
const SETTLED: Duration = Duration::from_millis(300);

/// Who is attacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setup {
    /// A node of this crate. Limits that are not by default are written `name=number`, with commas between
    /// them.
    Node(&'static str),
    /// A server of quinn and rustls alone, without the protections: what shows that an attack is one.
    Careless,
    /// The same, which refuses everybody while so many handshakes are under way.
    Capped(&'static str),
}

/// The process, seen from outside. It ends when this is dropped.
pub(crate) struct Victim {
    process: Child,
    output: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
    /// What it takes when it is bound and nobody has come yet.
    pub(crate) idle: Memory,
}

impl Victim {
    pub(crate) fn start(stage: &Stage, setup: Setup) -> Result<Self> {
        let (role, limits) = match setup {
            Setup::Node(limits) => ("node", limits),
            Setup::Careless => ("careless", ""),
            Setup::Capped(most) => ("careless", most),
        };
        let mut process = Command::new(env::current_exe()?)
            .args(stage.arguments)
            .env(ROLE, role)
            .env(LIMITS, limits)
            .env(AUTHORITY, stage.authority.cert_pem())
            .env(CERTIFICATE, stage.server.cert_pem())
            .env(KEY, stage.server.key_pem())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut output = BufReader::new(process.stdout.take().ok_or("no standard output")?);
        let address = loop {
            let mut line = String::new();
            if output.read_line(&mut line)? == 0 {
                return Err("the node has ended".into());
            }
            // A test's harness has its say, too.
            if let Some((_, address)) = line.split_once(LISTENING) {
                break address.trim().parse()?;
            }
        };
        thread::sleep(SETTLED);
        let idle = Memory::of(process.id())?;
        Ok(Self { process, output, address, idle })
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch::start(self.process.id(), self.idle)
    }

    pub(crate) fn processor(&self) -> Result<Duration> {
        processor(self.process.id())
    }

    /// Resolves when the node consults a list with this certificate on it.
    pub(crate) fn revoke(&mut self, fingerprint: Fingerprint) -> Result<()> {
        let input = self.process.stdin.as_mut().ok_or("no standard input")?;
        writeln!(input, "{fingerprint}")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.trim() == "revoked" { Ok(()) } else { Err(format!("the node says {line:?}").into()) }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

// What the process does.

/// Whether this process was started to be the node.
pub(crate) fn is_wanted() -> bool {
    env::var(ROLE).is_ok()
}

/// Serves until standard input ends.
pub(crate) fn serve() -> Result<()> {
    let [authority, certificate, key] = [AUTHORITY, CERTIFICATE, KEY].map(env::var);
    let (authority, certificate, key) = (authority?, certificate?, key?);
    if env::var(ROLE)? == "careless" {
        let most = env::var(LIMITS)?.parse().unwrap_or(usize::MAX);
        let server = careless::Careless::start(&authority, &certificate, &key, most)?;
        return announce(server.address()?, |_| server.trust_nobody_any_more());
    }
    let list = RevocationList::new();
    let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes())?;
    let tls = ServerTls::new(identity).require_client_certificates(Trust::from_pem(authority.as_bytes())?);
    let limits = limits(&env::var(LIMITS)?)?;
    let log = EventLog::builder().within(&limits).build()?;
    log.publish_raw("up")?;
    let router = Router::new()
        .serve_raw(ECHO, |_: Context, params| async move { Ok(params) })
        .serve_items_raw(SUM, |_, _, mut items| async move {
            let mut count = 0_u64;
            while items.next_raw().await?.is_some() {
                count += 1;
            }
            Ok(count.to_string().into())
        })
        .serve_items_raw(WAIT, |_, _, items| async move {
            pending::<()>().await;
            drop(items);
            Ok(Bytes::new())
        })
        .serve_items_raw(ANSWER, |_, _, _| async { Ok(Bytes::from_static(b"early")) })
        .on_notification_raw("attack.note", |_: Context, _| async {})
        .events(log)
        .consumers(|_, name| name.starts_with(CONSUMER));
    let router = with_logs(router)?;
    let executor = Arc::new(async_executor::Executor::new());
    let driving = Arc::clone(&executor);
    thread::spawn(move || async_io::block_on(driving.run(pending::<()>())));
    let endpoint = Endpoint::builder()
        .runtime(AsyncIoRuntime::on(executor).without_gro())
        .server(tls.revocations(&list))
        .limits(limits)
        .router(router)
        .bind(HONEST)?;
    announce(endpoint.local_addr()?, |fingerprint| {
        list.revoke(fingerprint);
        Ok(())
    })
}

/// Adds small logs that keep events for consumers.
fn with_logs(mut router: Router) -> Result<Router> {
    let bounds = EventLog::builder().max_payload_bytes(100).max_events(10).max_bytes(10 * 164);
    let bounds = bounds.keep_unacknowledged(100 * 164);
    let named = (0..LOGS).map(|n| (format!("{LOG}{n}"), bounds.clone()));
    for (name, bounds) in named.chain([(ROOMY_LOG.to_owned(), bounds.clone().max_consumers(100_000))]) {
        let log = bounds.build()?;
        for _ in 0..EVENTS {
            log.publish_raw("reading")?;
        }
        router = router.log(&*name, log);
    }
    Ok(router)
}

/// Says where the node is, and revokes what it is told to, a fingerprint a line.
fn announce(address: SocketAddr, revoke: impl Fn(Fingerprint) -> Result<()>) -> Result<()> {
    let mut output = io::stdout();
    writeln!(output, "{LISTENING}{address}")?;
    output.flush()?;
    for line in io::stdin().lines() {
        revoke(line?.trim().parse()?)?;
        writeln!(output, "revoked")?;
        output.flush()?;
    }
    Ok(())
}

fn limits(text: &str) -> Result<TransportLimits> {
    let mut limits = TransportLimits::builder();
    for setting in text.split(',').filter(|setting| !setting.is_empty()) {
        let (name, number) = setting.split_once('=').ok_or("a limit is name=number")?;
        let number: u32 = number.parse()?;
        let millis = Duration::from_millis(number.into());
        limits = match name {
            "within" => TransportLimits::within(number.into())?.to_builder(),
            "handshake_timeout" => limits.handshake_timeout(millis),
            "request_read_timeout" => limits.request_read_timeout(millis),
            "max_frame_bytes" => limits.max_frame_bytes(number),
            "frame_budget_bytes" => limits.frame_budget_bytes(number),
            "max_connections" => limits.max_connections(number),
            "max_connections_per_address" => limits.max_connections_per_address(number),
            "max_connections_per_identity" => limits.max_connections_per_identity(number),
            "connection_rate" => limits.connection_rate(Rate::per_second(number)),
            "fault_rate" => limits.fault_rate(Rate::per_second(number)),
            "receive_window" => limits.receive_window(number),
            "request_rate" => limits.request_rate(Rate::per_second(number)),
            _ => return Err(format!("no limit is called {name}").into()),
        };
    }
    Ok(limits.build()?)
}
