//! `node put` and `node get`.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use palyra_quic::{Codec, ErrorKind};
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
    with_connection_on_this_thread(peer, NO_FILES, async |connection| {
        let display = Display::new(&name);
        let progress = |progress: Progress| display.show(progress);
        let sent = async {
            let outgoing = Outgoing::open(Disk::Threads, file, name.clone(), progress).await?;
            retrying(&display, *timeout_ms, async || outgoing.send(&connection, progress).await).await
        };
        let sent = watch(peer, &display, *timeout_ms, file, sent).await?;
        print("put", sent)
    })
}

pub(crate) fn get(Get { peer, name, to, timeout_ms }: &Get) -> Result<(), Failure> {
    let to = to.clone().unwrap_or_else(|| PathBuf::from(name.as_str()));
    let local = name_of(&to)?;
    let parent = to.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let folder = Folder::new(parent, Disk::Threads);
    let folder = folder.map_err(|error| Failure::new(error).during(parent.display()))?;
    with_connection_on_this_thread(peer, NO_FILES, async |connection| {
        let display = Display::new(&local);
        let progress = |progress: Progress| display.show(progress);
        let fetch = async || client::get(&connection, &folder, name, local.clone(), progress).await;
        let fetched = retrying(&display, *timeout_ms, fetch);
        let fetched = watch(peer, &display, *timeout_ms, &to, fetched).await?;
        print("get", fetched)
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
    timeout_ms: u64,
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
    let stalled = async { Err(display.stalled(Duration::from_millis(timeout_ms)).await) };
    let transfer = async {
        transfer.await.map_err(|error| match error {
            TransferError::Peer(error) => Failure::from(error),
            TransferError::Here(error) => Failure::new(error).during(file.display()),
        })
    };
    let outcome = future::or(transfer, future::or(asked, stalled)).await;
    display.end();
    outcome
}

/// Repeats a transfer for which the peer asks for patience, after the delay that it names. Gives up when no
/// byte has been moved for this long.
async fn retrying(
    display: &Display,
    timeout_ms: u64,
    mut transfer: impl AsyncFnMut() -> Result<Transferred, TransferError>,
) -> Result<Transferred, TransferError> {
    let longest = Duration::from_millis(timeout_ms);
    let mut refused: Option<(Instant, u64)> = None;
    loop {
        let error = match transfer().await {
            Err(TransferError::Peer(error)) if matches!(error.kind(), ErrorKind::Remote(_)) => error,
            outcome => return outcome,
        };
        let Some(delay) = error.retry_after() else { return Err(error.into()) };
        let (delay, moved) = (delay.max(SHORTEST_DELAY), display.moved());
        let since = match refused {
            Some((since, before)) if before == moved => since,
            _ => Instant::now(),
        };
        if since.elapsed().saturating_add(delay) > longest {
            return Err(error.into());
        }
        // Only the first of several refusals in a row.
        if refused.replace((since, moved)).is_none_or(|(_, before)| before != moved) {
            display.report_waiting(&Failure::from(error));
        }
        Timer::after(delay).await;
    }
}

/// A peer may ask for less, and would be asked in a busy loop.
const SHORTEST_DELAY: Duration = Duration::from_millis(100);

fn print(kind: &'static str, Transferred { content, offset }: Transferred) -> Result<(), Failure> {
    lines::print(&lines::Transferred {
        kind,
        name: content.name.to_string(),
        size: content.size,
        transferred: content.size - offset,
        blake3: content.hash.to_string(),
    })
}
