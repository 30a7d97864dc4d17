//! `node serve`: health, event logs, methods for tests, and the files of a folder.

use std::{sync::Arc, time::Duration};

use palyra_quic::{
    Endpoint, Error, ErrorKind, Peers, PollRuntime, RevocationList, Rotation, Router, ServerTls,
    TransportLimits, quinn::Runtime,
};
use smol::future;

use crate::{
    args::Serve,
    event_logs::Logs,
    failure::{Failure, tell},
    files::{disk::Disk, folder::Folder, methods::ServedFolder},
    lines::{self, Listening},
    pki::Directory,
    signals::{Hangup, Termination},
};

/// The time that requests have to finish when the node shuts down.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) fn run(args: &Serve) -> Result<(), Failure> {
    let pki = LoadedPki::read(args, None)?;
    let limits = limits(args)?;
    let logs = Logs::open(args, &limits)?;
    let files = files(args, &limits)?;
    let mut runtime = PollRuntime::new()?;
    if args.memory.is_some() {
        // With GRO, the receive buffer alone takes 2 MiB.
        runtime = runtime.without_gro();
    }
    let handle = runtime.handle();
    runtime.block_on(async {
        // Before the node prints its address: a signal may arrive from then on.
        let (mut termination, mut hangup) = (Termination::new()?, Hangup::new()?);
        let endpoint = bind(args, &handle, &pki.tls, &limits, || methods(&logs, files.as_ref()))?;
        lines::print(&Listening { listening: endpoint.local_addr()? })?;

        let asked = async {
            let working =
                future::or(logs.tick(args.publish_every), reload(args, &endpoint, pki, &mut hangup));
            future::or(termination.asked(), working).await;
            Ok(())
        };
        let failed = async { Err(Failure::from(endpoint.closed().await)) };
        let outcome = future::or(asked, failed).await;
        if outcome.is_ok() {
            // A second signal ends the node without delay.
            future::or(endpoint.shutdown(GRACE), termination.asked()).await;
        }
        logs.flush().await?;
        outcome
    })
}

fn limits(args: &Serve) -> Result<TransportLimits, Error> {
    let limits = match args.memory {
        Some(mib) => TransportLimits::within(u64::from(mib) * 1024 * 1024)?.to_builder(),
        None => TransportLimits::builder(),
    };
    let limits = args.datagrams.limits(limits);
    match args.max_connections {
        Some(max) => limits.max_connections(max).build(),
        None => limits.build(),
    }
}

/// The contents of the PKI directory and of the revocation lists at one time.
struct LoadedPki {
    tls: ServerTls,
    revocations: Option<RevocationList>,
    /// A summary for people.
    summary: String,
}

impl LoadedPki {
    /// `before` is the present configuration; it is not changed.
    fn read(args: &Serve, before: Option<&Self>) -> Result<Self, Failure> {
        let pki = Directory(&args.pki);
        let identity = pki.server()?;
        let mut summary = format!("certificate {}", identity.fingerprint());
        let mut tls = ServerTls::new(identity);
        if !args.no_client_auth {
            let trust = pki.trust()?;
            summary += &format!(", authorities: {}", trust.len());
            tls = tls.require_client_certificates(trust);
        }
        let held = before.and_then(|before| before.revocations.as_ref());
        let revocations = pki.revocations(&args.revocations, held)?;
        if let Some(list) = &revocations {
            summary += &format!(", certificates revoked: {}", list.len());
            tls = tls.revocations(list);
        }
        Ok(Self { tls, revocations, summary })
    }
}

/// At each SIGHUP, reads the files and replaces the present configuration with them: all of it, or nothing.
async fn reload(args: &Serve, endpoint: &Endpoint, mut loaded: LoadedPki, hangup: &mut Hangup) {
    loop {
        hangup.received().await;
        let rotated = LoadedPki::read(args, Some(&loaded)).and_then(|next| {
            endpoint.rotate(Rotation::new().server(next.tls.clone()))?;
            Ok(next)
        });
        match rotated {
            Ok(next) => {
                tell("rotated", &next.summary);
                loaded = next;
            }
            Err(failure) => failure.report("not rotated"),
        }
    }
}

/// Listens on the first address that can be bound.
fn bind(
    args: &Serve,
    runtime: &Arc<dyn Runtime>,
    tls: &ServerTls,
    limits: &TransportLimits,
    router: impl Fn() -> Router,
) -> Result<Endpoint, Failure> {
    let mut addresses = args.listen.resolve()?.into_iter().peekable();
    loop {
        let Some(address) = addresses.next() else { return Err(Failure::new("no address to listen on")) };
        let endpoint = Endpoint::builder().shared_runtime(Arc::clone(runtime)).server(tls.clone());
        let endpoint = endpoint.limits(limits.clone()).router(router());
        match endpoint.bind(address) {
            Err(error) if *error.kind() == ErrorKind::Io && addresses.peek().is_some() => {}
            Err(error) => {
                return Err(Failure::from(error).during(format_args!("cannot listen on {address}")));
            }
            Ok(endpoint) => return Ok(endpoint),
        }
    }
}

fn methods(logs: &Logs, files: Option<&ServedFolder>) -> Router {
    let router = Router::new().serve_raw("demo.echo", |_, params| async move { Ok(params) });
    let router = logs.methods(router);
    match files {
        Some(files) => files.methods(router),
        None => router,
    }
}

/// The folder that the command line names, and who may write to it.
fn files(args: &Serve, limits: &TransportLimits) -> Result<Option<ServedFolder>, Failure> {
    let Some(path) = &args.files else { return Ok(None) };
    let folder = Folder::new(path, Disk::Threads);
    let folder =
        folder.map_err(|error| Failure::new(error).during(format_args!("--files {}", path.display())))?;
    let writers = match &*args.writers {
        [] => Peers::identified(),
        ids => {
            ids.iter().fold(Peers::nobody(), |peers, id| peers.uri(format!("palyra:device:{}", id.as_str())))
        }
    };
    Ok(Some(ServedFolder::new(folder, writers, limits.max_frame_bytes())))
}
