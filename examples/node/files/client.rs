//! The side that sends a file, or fetches one.

use std::{
    fs::{File, OpenOptions},
    path::Path,
    sync::Arc,
};

use palyra_quic::{Connection, Error, Raw};

use super::{
    From, GET, OFFER, PUT, STAT,
    content::Content,
    copy::{FileReader, FileWriter, MAX_PIECE},
    disk::Disk,
    error::FileError,
    folder::{Begun, Folder, hash, open_plain},
    name::FileName,
};

/// What a transfer does now, and how many bytes are behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Bytes on this side were hashed.
    Hashed,
    /// Of the file, this many bytes are at the other side.
    Moved { bytes: u64, size: u64 },
}

/// A transfer that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transferred {
    pub(crate) content: Content,
    /// Where this transfer began: the size if nothing was left to do.
    pub(crate) offset: u64,
}

/// Why a transfer ended.
#[derive(Debug)]
pub(crate) enum TransferError {
    /// What the peer or the connection says.
    Peer(Error),
    /// The file on this side.
    Here(FileError),
}

impl std::convert::From<Error> for TransferError {
    fn from(error: Error) -> Self {
        Self::Peer(error)
    }
}

impl std::convert::From<FileError> for TransferError {
    fn from(error: FileError) -> Self {
        Self::Here(error)
    }
}

/// Sends what the peer does not have of a file, which gets this name.
#[allow(dead_code, reason = "the command line sends again if the peer asks for it")]
pub(crate) async fn put(
    connection: &Connection,
    disk: Disk,
    path: &Path,
    name: FileName,
    progress: impl Fn(Progress),
) -> Result<Transferred, TransferError> {
    Outgoing::open(disk, path, name, &progress).await?.send(connection, &progress).await
}

/// A file to be sent, with its hash.
pub(crate) struct Outgoing {
    disk: Disk,
    file: Arc<File>,
    content: Content,
}

impl Outgoing {
    /// Opens a file, which gets this name at the peer, and computes its hash.
    pub(crate) async fn open(
        disk: Disk,
        path: &Path,
        name: FileName,
        progress: impl Fn(Progress),
    ) -> Result<Self, FileError> {
        let path = path.to_owned();
        let opened = disk.run(move || {
            // A link on this side is the user's own.
            let file = open_plain(&path.canonicalize()?, OpenOptions::new().read(true))?;
            let size = file.metadata()?.len();
            Ok((file, size))
        });
        let (file, size) = opened.await.map_err(FileError::of_reading)?;
        let (file, hash) = hash(disk, file, size, |_| progress(Progress::Hashed)).await?;
        Ok(Self { disk, file: Arc::new(file), content: Content { name, size, hash } })
    }

    /// Sends what the peer does not have of it.
    pub(crate) async fn send(
        &self,
        connection: &Connection,
        progress: impl Fn(Progress),
    ) -> Result<Transferred, TransferError> {
        let content = self.content.clone();
        let size = content.size;
        let offer = connection.call(OFFER, &content).await?;
        if offer.complete {
            return Ok(Transferred { content, offset: size });
        }
        let offset = offer.offset;
        if offset > size {
            return Err(FileError::BeyondEnd { size }.into());
        }
        let from = From { content, offset };
        let mut upload = connection.request(PUT, &from)?.send_items::<Raw>().await?;
        let piece = usize::try_from(offer.max_piece).map_or(MAX_PIECE, |piece| piece.clamp(1, MAX_PIECE));
        let mut reader = FileReader::new(self.disk, Arc::clone(&self.file), offset, size, piece);
        let mut bytes = offset;
        progress(Progress::Moved { bytes, size });
        while let Some(piece) = reader.next().await? {
            bytes += u64::try_from(piece.len()).unwrap_or(u64::MAX);
            upload.send_raw(piece).await?;
            progress(Progress::Moved { bytes, size });
        }
        upload.finish().await?;
        Ok(Transferred { content: from.content, offset })
    }
}

/// Fetches what this folder does not have of a file of the peer, and stores it under this name.
pub(crate) async fn get(
    connection: &Connection,
    folder: &Folder,
    remote: &FileName,
    local: FileName,
    progress: impl Fn(Progress),
) -> Result<Transferred, TransferError> {
    let content = connection.call(STAT, remote).await?;
    let stored = Content { name: local, ..content.clone() };
    let size = content.size;
    let partial = match folder.begin(&stored, None, |_| progress(Progress::Hashed)).await? {
        Begun::Complete => return Ok(Transferred { content: stored, offset: size }),
        Begun::Partial(partial) => partial,
    };
    let offset = partial.written();
    let mut writer = FileWriter::new(folder, partial);
    progress(Progress::Moved { bytes: offset, size });
    if offset < size {
        let (none, mut pieces) = connection.request(GET, &From { content, offset })?.bidi::<Raw>().await?;
        none.finish().await?;
        loop {
            let piece = match pieces.next_raw().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(error) => {
                    writer.keep().await?;
                    return Err(error.into());
                }
            };
            writer = writer.push(piece).await?;
            progress(Progress::Moved { bytes: writer.received(), size });
        }
    }
    writer.finish().await?;
    Ok(Transferred { content: stored, offset })
}
