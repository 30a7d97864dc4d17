//! `node put` and `node get`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use palyra_quic::Codec;
use smol::future;

use crate::{
    args::{Get, Peer, Put},
    client::with_connection,
    failure::Failure,
    files::{
        client::{self, Progress, TransferError, Transferred},
        disk::Disk,
        folder::Folder,
        name::FileName,
    },
    lines,
    progress::Display,
    signals::Termination,
};

pub(crate) fn put(Put { peer, file, name, timeout_ms }: &Put) -> Result<(), Failure> {
    let name = match name {
        Some(name) => name.clone(),
        None => name_of(file)?,
    };
    with_connection(peer, async |connection| {
        let display = Display::new(&name);
        let progress = |progress: Progress| display.show(progress);
        let sent = client::put(&connection, Disk::Threads, file, name.clone(), progress);
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
    with_connection(peer, async |connection| {
        let display = Display::new(&local);
        let progress = |progress: Progress| display.show(progress);
        let fetched = client::get(&connection, &folder, name, local.clone(), progress);
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

fn print(kind: &'static str, Transferred { content, offset }: Transferred) -> Result<(), Failure> {
    lines::print(&lines::Transferred {
        kind,
        name: content.name.to_string(),
        size: content.size,
        transferred: content.size - offset,
        sha256: content.hash.to_string(),
    })
}
