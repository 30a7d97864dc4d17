//! `node put` and `node get`.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use palyra_quic::{Codec, Error, ErrorKind, WireError};
use smol::{Timer, future};

use crate::{
    args::{Get, Peer, Put},
    client::with_connection_on_this_thread,
    failure::Failure,
    files::{
        client::{self, Outgoing, Progress, TransferError, Transferred},
        disk::Disk,
        folder::Folder,
        name::FileName,
    },
    lines,
    progress::Display,
    signals::Termination,
};

/// Of a peer that is a node of the tokio implementation.
const NO_FILES: &str = "it transfers no files";

pub(crate) fn put(Put { peer, file, name, timeout_ms }: &Put) -> Result<(), Failure> {
    let name = match name {
        Some(name) => name.clone(),
        None => name_of(file)?,
    };
    // Before the node is dialled, which may take long.
    readable(file).map_err(|failure| failure.during(file.display()))?;
    let longest = Duration::from_millis(*timeout_ms);
    with_connection_on_this_thread(peer, longest, NO_FILES, async |connection| {
        let display = Display::new(&name);
        let progress = |progress: Progress| display.show(progress);
        let sent = async {
            let outgoing = Outgoing::open(Disk::Threads, file, name.clone(), progress).await?;
            retrying(&display, longest, async || outgoing.send(&connection, progress).await).await
        };
        let sent = watch(peer, &display, longest, file, sent).await?;
        print("put", sent)
    })
}

pub(crate) fn get(Get { peer, name, to, timeout_ms }: &Get) -> Result<(), Failure> {
    let to = to.clone().unwrap_or_else(|| PathBuf::from(name.as_str()));
    let local = name_of(&to)?;
    let parent = to.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let folder = Folder::new(parent, Disk::Threads);
    let folder = folder.map_err(|error| Failure::new(error).during(parent.display()))?;
    let longest = Duration::from_millis(*timeout_ms);
    with_connection_on_this_thread(peer, longest, NO_FILES, async |connection| {
        let display = Display::new(&local);
        let progress = |progress: Progress| display.show(progress);
        let fetch = async || client::get(&connection, &folder, name, local.clone(), progress).await;
        let fetched = retrying(&display, longest, fetch);
        let fetched = watch(peer, &display, longest, &to, fetched).await?;
        print("get", fetched)
    })
}

/// Fails if there is no such file, or no right to read it.
fn readable(file: &Path) -> Result<(), Failure> {
    let metadata = File::open(file).and_then(|file| file.metadata()).map_err(Failure::new)?;
    if metadata.is_dir() { Err(Failure::new("this is a directory")) } else { Ok(()) }
}

/// Why the peer has ended a transfer, and what helps.
fn explained(error: Error, longest: Duration) -> Failure {
    // The peer would have been asked again, unless that had taken too long.
    if matches!(error.kind(), ErrorKind::Remote(_)) && error.retry_after().is_some() {
        let longest = longest.as_millis();
        let given_up = format!("given up: no further byte could be moved within --timeout-ms {longest}");
        return Failure::from(error).adding(&given_up);
    }
    Failure::hinting(error, |kind| match kind {
        ErrorKind::Remote(WireError::UnsupportedMethod) => {
            Some("this node serves no folder; `node serve --files DIR` does")
        }
        ErrorKind::ConnectionLost => Some("the same command continues where the transfer ended"),
        _ => None,
    })
}

fn name_of(path: &Path) -> Result<FileName, Failure> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.parse().map_err(|error| Failure::new(error).during(path.display()))
}

/// Runs a transfer until it is done, does nothing for too long, or a signal asks the program to end.
async fn watch(
    peer: &Peer,
    display: &Display,
    longest: Duration,
    file: &Path,
    transfer: impl Future<Output = Result<Transferred, TransferError>>,
) -> Result<Transferred, Failure> {
    if Codec::from(peer.codec) == Codec::Json {
        return Err(Failure::new("files are only transferred in CBOR"));
    }
    let mut termination = Termination::new()?;
    let asked = async {
        termination.asked().await;
        Err(Failure::new("interrupted; the next transfer continues here"))
    };
    let stalled = async { Err(display.stalled(longest).await) };
    let transfer = async {
        transfer.await.map_err(|error| match error {
            TransferError::Peer(error) => explained(error, longest),
            TransferError::Here(error) => Failure::new(error).during(file.display()),
        })
    };
    let outcome = future::or(transfer, future::or(asked, stalled)).await;
    display.end();
    outcome
}

/// Repeats a transfer for which the peer asks for patience, after the delay that it names, and later each
/// time: an attempt is two requests, and a peer that limits their rate may always have room for the first
/// alone. Gives up when no byte beyond the furthest one has been moved for this long: a peer that takes back
/// what it had would otherwise be asked for ever.
async fn retrying(
    display: &Display,
    longest: Duration,
    mut transfer: impl AsyncFnMut() -> Result<Transferred, TransferError>,
) -> Result<Transferred, TransferError> {
    let mut refused: Option<Refused> = None;
    loop {
        let error = match transfer().await {
            Err(TransferError::Peer(error)) if matches!(error.kind(), ErrorKind::Remote(_)) => error,
            outcome => return outcome,
        };
        let Some(delay) = error.retry_after() else { return Err(error.into()) };
        let furthest = display.furthest();
        let refused = match &mut refused {
            Some(refused) if refused.furthest == furthest => refused,
            refused => refused.insert(Refused { since: Instant::now(), furthest, times: 0 }),
        };
        refused.times = refused.times.saturating_add(1);
        let delay = delay.max(SHORTEST_DELAY).saturating_mul(refused.times.min(MOST_DELAYS));
        if refused.since.elapsed().saturating_add(delay) > longest {
            return Err(error.into());
        }
        if refused.times == 1 {
            display.report_waiting(&Failure::from(error));
        }
        Timer::after(delay).await;
    }
}

/// Refusals in a row, between which no byte was moved.
struct Refused {
    since: Instant,
    /// How far the transfer had come.
    furthest: u64,
    times: u32,
}

/// A peer may ask for less, and would be asked in a busy loop.
const SHORTEST_DELAY: Duration = Duration::from_millis(100);
/// At most this many of the delays that a peer asks for are between two attempts.
const MOST_DELAYS: u32 = 4;

fn print(kind: &'static str, Transferred { content, offset }: Transferred) -> Result<(), Failure> {
    lines::print(&lines::Transferred {
        kind,
        name: content.name.to_string(),
        size: content.size,
        transferred: content.size - offset,
        blake3: content.hash.to_string(),
    })
}
