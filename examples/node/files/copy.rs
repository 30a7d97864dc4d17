//! Between a file and a stream of pieces: while one batch of pieces is with the disk, the next is with the
//! network.

use std::{fs::File, io, sync::Arc};

use palyra_quic::Bytes;

use super::{
    disk::{Disk, DiskTask},
    error::FileError,
    folder::Folder,
    partial::Partial,
};

/// The largest piece, in bytes: one item or one answer. Larger ones take more memory and are no faster.
pub(crate) const MAX_PIECE: usize = 64 * 1024;

/// The smallest frame that a node can be limited to is 1,024 bytes, and the rest of an item takes less.
const MIN_PIECE: usize = 512;

/// How many pieces one call of the disk reads or writes.
const BATCH: usize = 8;

/// The largest piece that fits into a frame.
pub(super) fn max_piece(max_frame_bytes: u32) -> usize {
    let frame = usize::try_from(max_frame_bytes).unwrap_or(usize::MAX);
    frame.saturating_sub(MIN_PIECE).clamp(MIN_PIECE, MAX_PIECE)
}

/// Reads a file ahead.
pub(crate) struct FileReader {
    disk: Disk,
    piece: usize,
    batch: Bytes,
    next: Option<DiskTask<(Bytes, Unread)>>,
}

/// What is left to read of a file.
struct Unread {
    file: Arc<File>,
    offset: u64,
    size: u64,
    /// In bytes.
    batch: usize,
}

impl FileReader {
    /// Reads the part from `offset` to `size` in pieces of this many bytes.
    pub(crate) fn new(disk: Disk, file: Arc<File>, offset: u64, size: u64, piece: usize) -> Self {
        let unread = Unread { file, offset, size, batch: piece * BATCH };
        Self { disk, piece, batch: Bytes::new(), next: Some(disk.begin(move || unread.read())) }
    }

    /// The next piece, or `None` behind the last.
    ///
    /// # Errors
    ///
    /// `Changed` if the file has become shorter.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, FileError> {
        if self.batch.is_empty() {
            let Some(next) = self.next.take() else { return Ok(None) };
            let (bytes, unread) = next.result().await.map_err(FileError::of_reading)?;
            self.batch = bytes;
            if unread.offset < unread.size {
                self.next = Some(self.disk.begin(move || unread.read()));
            }
        }
        let piece = self.batch.split_to(self.piece.min(self.batch.len()));
        Ok(Some(piece).filter(|piece| !piece.is_empty()))
    }
}

impl Unread {
    /// Reads the next batch.
    fn read(mut self) -> io::Result<(Bytes, Self)> {
        let left = self.size.saturating_sub(self.offset);
        let mut bytes = vec![0; usize::try_from(left).map_or(self.batch, |left| left.min(self.batch))];
        // By position: an earlier attempt may still read the same file.
        read_exact_at(&self.file, &mut bytes, self.offset)?;
        self.offset += u64::try_from(bytes.len()).map_err(io::Error::other)?;
        Ok((bytes.into(), self))
    }
}

fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)?;
    #[cfg(not(unix))]
    {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = file;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(bytes)?;
    }
    Ok(())
}

/// Writes a partial file behind.
pub(crate) struct FileWriter {
    folder: Folder,
    size: u64,
    /// How many bytes the file has when everything is written.
    received: u64,
    batch: Vec<Bytes>,
    batch_bytes: usize,
    writing: DiskTask<Partial>,
}

impl FileWriter {
    pub(crate) fn new(folder: &Folder, partial: Partial) -> Self {
        Self {
            folder: folder.clone(),
            size: partial.content().size,
            received: partial.written(),
            batch: Vec::new(),
            batch_bytes: 0,
            writing: DiskTask::Done(Ok(partial)),
        }
    }

    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Takes the next piece. Waits while the disk is slower.
    ///
    /// # Errors
    ///
    /// `EmptyPiece` if it has no bytes: a peer could send such pieces for ever. `TooMuch` if the content
    /// has no room for it: then the partial file is deleted. Or what the disk says.
    pub(crate) async fn push(mut self, piece: Bytes) -> Result<Self, FileError> {
        if piece.is_empty() {
            return Err(FileError::EmptyPiece);
        }
        self.received += u64::try_from(piece.len()).map_err(io::Error::other)?;
        if self.received > self.size {
            let partial = self.writing.result().await?;
            self.folder.disk().run(move || partial.discard()).await?;
            return Err(FileError::TooMuch);
        }
        self.batch_bytes += piece.len();
        self.batch.push(piece);
        if self.batch_bytes >= BATCH * MAX_PIECE || self.batch.len() >= MAX_BATCH {
            self.flush().await?;
        }
        Ok(self)
    }

    /// Writes what has arrived, for the next transfer to continue there.
    pub(crate) async fn keep(mut self) -> Result<Partial, FileError> {
        self.flush().await?;
        Ok(self.writing.result().await?)
    }

    /// Writes the rest, and gives the file its name.
    ///
    /// # Errors
    ///
    /// `TooLittle` if pieces are missing: the partial file stays. `AnotherHash`: it is deleted. Or what the
    /// disk says.
    pub(crate) async fn finish(self) -> Result<(), FileError> {
        let folder = self.folder.clone();
        let partial = self.keep().await?;
        if partial.written() < partial.content().size {
            return Err(FileError::too_little(partial.content(), partial.written()));
        }
        folder.complete(partial).await
    }

    async fn flush(&mut self) -> Result<(), FileError> {
        let gone = DiskTask::Done(Err(io::ErrorKind::BrokenPipe.into()));
        let mut partial = std::mem::replace(&mut self.writing, gone).result().await?;
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        self.writing = self.folder.disk().begin(move || {
            partial.write(&batch)?;
            Ok(partial)
        });
        Ok(())
    }
}

/// How many pieces wait for the disk, however small they are.
const MAX_BATCH: usize = 64;
