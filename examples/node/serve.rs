//! `node serve`: health, events, two methods for tests, and the files of a folder.

use std::{num::NonZeroU64, time::Duration};

use palyra_quic::{
    AsyncIoRuntime, Endpoint, Error, ErrorKind, EventLog, EventLogBuilder, MethodError, Peers,
    RevocationList, Rotation, Router, ServerTls, TransportLimits,
};
use smol::future;

use crate::{
    args::Serve,
    failure::{Failure, tell},
    files::{copy::max_piece, disk::Disk, folder::Folder, methods::ServedFolder},
    lines::{self, Listening},
    pki::Directory,
    signals::{Hangup, Termination},
};

/// The time that requests have to finish when the node shuts down.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) fn run(args: &Serve) -> Result<(), Failure> {
    let pki = LoadedPki::read(args, None)?;
    let limits = limits(args)?;
    let log = event_log(args, &limits)?;
    let files = files(args, &limits)?;
    smol::block_on(async {
        // Before the node prints its address: a signal may arrive from then on.
        let (mut termination, mut hangup) = (Termination::new()?, Hangup::new()?);
        let endpoint = bind(args, &pki.tls, &limits, || methods(&log, files.as_ref()))?;
        lines::print(&Listening { listening: endpoint.local_addr()? })?;

        let asked = async {
            let working =
                future::or(tick(&log, args.publish_every), reload(args, &endpoint, pki, &mut hangup));
            future::or(termination.asked(), working).await;
            Ok(())
        };
        let failed = async { Err(Failure::from(endpoint.closed().await)) };
        let outcome = future::or(asked, failed).await;
        if outcome.is_ok() {
            // A second signal ends the node without delay.
            future::or(endpoint.shutdown(GRACE), termination.asked()).await;
        }
        log.flush().await?;
        outcome
    })
}

fn limits(args: &Serve) -> Result<TransportLimits, Error> {
    let limits = match args.memory {
        Some(mib) => TransportLimits::within(u64::from(mib) * 1024 * 1024)?.to_builder(),
        None => TransportLimits::builder(),
    };
    match args.max_connections {
        Some(max) => limits.max_connections(max).build(),
        None => limits.build(),
    }
}

/// A follower that was offline for a night should receive the events that it missed. So the log stores as
/// many small events as fit into some megabytes.
const DURABLE_EVENTS: usize = 65_536;
const DURABLE_BYTES: u64 = 16 * 1024 * 1024;

fn event_log(args: &Serve, limits: &TransportLimits) -> Result<EventLog, Failure> {
    let within = |builder: EventLogBuilder| match args.memory {
        Some(_) => builder.within(limits),
        None => builder,
    };
    let Some(path) = &args.durable else { return Ok(within(EventLog::builder()).build()?) };
    let builder = within(EventLog::builder().max_events(DURABLE_EVENTS).max_bytes(DURABLE_BYTES));
    let builder = match args.commit_interval {
        Some(ms) => builder.commit_interval(Duration::from_millis(ms)),
        None => builder,
    };
    let log = builder.open(path).map_err(|error| Failure::from(error).during(path.display()))?;
    let lost = log.health().damaged_events;
    if lost > 0 {
        let report = path.join("damage");
        Failure::new(format_args!(
            "{}: {lost} events are lost to damage; {} lists them, and this is said until it is removed",
            path.display(),
            report.display()
        ))
        .report("damaged");
    }
    Ok(log)
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
    tls: &ServerTls,
    limits: &TransportLimits,
    router: impl Fn() -> Router,
) -> Result<Endpoint, Failure> {
    let mut addresses = args.listen.resolve()?.into_iter().peekable();
    loop {
        let Some(address) = addresses.next() else { return Err(Failure::new("no address to listen on")) };
        let endpoint = Endpoint::builder().server(tls.clone()).limits(limits.clone()).router(router());
        let endpoint = match args.memory {
            // With GRO, the receive buffer alone takes 2.9 MiB.
            Some(_) => endpoint.runtime(AsyncIoRuntime::global().without_gro()),
            None => endpoint,
        };
        match endpoint.bind(address) {
            Err(error) if *error.kind() == ErrorKind::Io && addresses.peek().is_some() => {}
            Err(error) => {
                return Err(Failure::from(error).during(format_args!("cannot listen on {address}")));
            }
            Ok(endpoint) => return Ok(endpoint),
        }
    }
}

fn methods(log: &EventLog, files: Option<&ServedFolder>) -> Router {
    let (asked, notified) = (log.clone(), log.clone());
    let router = Router::new()
        .serve_raw("demo.echo", |_, params| async move { Ok(params) })
        .serve_raw("demo.publish", move |_, payload| {
            let log = asked.clone();
            async move {
                let seq = log.publish_durable_raw(payload).await.map_err(|error| refusal(&error))?;
                Ok(seq.to_string().into())
            }
        })
        .on_notification_raw("demo.publish", move |_, payload| {
            let log = notified.clone();
            async move {
                // No caller waits for this task. Only a shutdown does, and it must not interrupt the task.
                if let Err(error) = log.publish_durable_raw(payload).await {
                    not_published(error);
                }
            }
        })
        .events(log.clone());
    match files {
        Some(files) => files.methods(router),
        None => router,
    }
}

/// The folder that the command line names, and who may write to it.
fn files(args: &Serve, limits: &TransportLimits) -> Result<Option<ServedFolder>, Failure> {
    let Some(path) = &args.files else { return Ok(None) };
    let folder = Folder::new(path, Disk::Threads);
    let folder = folder.map_err(|error| Failure::new(error).during(path.display()))?;
    let writers = match &*args.writers {
        [] => Peers::identified(),
        ids => {
            ids.iter().fold(Peers::nobody(), |peers, id| peers.uri(format!("palyra:device:{}", id.as_str())))
        }
    };
    Ok(Some(ServedFolder { folder, writers, max_piece: max_piece(limits.max_frame_bytes()) }))
}

fn refusal(error: &Error) -> MethodError {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::MessageTooLarge => MethodError::invalid_request(text),
        ErrorKind::Exhausted => {
            let exhausted = MethodError::resource_exhausted(text);
            match error.retry_after() {
                Some(after) => exhausted.retry_after(after),
                None => exhausted,
            }
        }
        _ => MethodError::internal(text),
    }
}

/// The sender of a notification gets no answer, so this node reports the error.
fn not_published(error: Error) {
    Failure::from(error).during("not published").report("error");
}

/// Publishes a tick at each interval, if the command line asks for it.
async fn tick(log: &EventLog, every_ms: Option<NonZeroU64>) {
    let Some(every_ms) = every_ms else { return future::pending().await };
    let mut timer = smol::Timer::interval(Duration::from_millis(every_ms.get()));
    for count in 1_u64.. {
        let _ = smol::stream::StreamExt::next(&mut timer).await;
        if let Err(error) = log.publish_raw(format!("tick {count}")) {
            not_published(error);
        }
    }
}
