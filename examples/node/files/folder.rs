//! A folder with files: which of them can be read, and who writes which.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use super::{
    content::{Content, Hash, Hasher},
    disk::Disk,
    error::FileError,
    name::FileName,
    name_lock::{NameLocks, Writer},
    partial::{Completed, Partial},
};

/// How many bytes are hashed in one call of the disk, after which a caller that has left is noticed.
const HASHED_AT_A_TIME: usize = 256 * 1024;

/// How many hashes are remembered. All are forgotten when there are more.
const MAX_KNOWN_HASHES: usize = 256;

/// A folder, shared by those who use it.
#[derive(Clone)]
pub(crate) struct Folder(Arc<Shared>);

struct Shared {
    path: PathBuf,
    disk: Disk,
    /// The names that somebody writes.
    locks: NameLocks,
    /// The hashes of files that were read or written, and what the files were then.
    hashes: Mutex<BTreeMap<FileName, (Stamp, Hash)>>,
}

/// Changes when a file does.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: Option<SystemTime>,
    inode: u64,
}

/// What [`Folder::begin`] found.
pub(crate) enum Begun {
    /// The file has this content already.
    Complete,
    /// The bytes behind [`Partial::written`] are to be written.
    Partial(Partial),
}

impl Folder {
    /// # Errors
    ///
    /// Where there is no such folder.
    pub(crate) fn new(path: impl Into<PathBuf>, disk: Disk) -> io::Result<Self> {
        let path = path.into();
        if !fs::metadata(&path)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self(Arc::new(Shared { path, disk, locks: NameLocks::default(), hashes: Mutex::default() })))
    }

    pub(crate) fn disk(&self) -> Disk {
        self.0.disk
    }

    /// Opens a file, and computes its hash unless it is known.
    pub(crate) async fn stat(&self, name: FileName) -> Result<(File, Content), FileError> {
        let path = self.0.path.join(name.as_str());
        let opened = self.disk().run(move || {
            let file = open_plain(&path, OpenOptions::new().read(true))?;
            let stamp = Stamp::of(&file.metadata()?);
            Ok((file, stamp))
        });
        let (file, stamp) = opened.await.map_err(FileError::of_reading)?;
        let known = lock(&self.0.hashes).get(&name).filter(|(then, _)| *then == stamp).map(|(_, hash)| *hash);
        if let Some(hash) = known {
            return Ok((file, Content { name, size: stamp.size, hash }));
        }
        let (file, hash) = hash(self.disk(), file, stamp.size, |_| {}).await?;
        let (file, after) =
            self.disk().run(move || Ok((Stamp::of(&file.metadata()?), file))).await.map(swap)?;
        if after != stamp {
            return Err(FileError::Changed);
        }
        self.remember(name.clone(), stamp, hash);
        Ok((file, Content { name, size: stamp.size, hash }))
    }

    /// How many bytes of this content are here, and whether the file has its name. An upload of the name that
    /// this writer has left behind ends before.
    pub(crate) async fn find(&self, content: &Content, writer: &Writer) -> Result<(u64, bool), FileError> {
        self.0.locks.wait_until_free(&content.name, Some(writer)).await?;
        if self.has(content).await? {
            return Ok((content.size, true));
        }
        let (shared, wanted) = (Arc::clone(&self.0), content.clone());
        let len = self.disk().run(move || Ok(Partial::len_on_disk(&shared.path, &wanted))).await?;
        Ok((if len > content.size { 0 } else { len }, false))
    }

    /// Locks the name, opens the partial file, and hashes what is in it. `progress` is told how much.
    ///
    /// # Errors
    ///
    /// `Busy` while another writer has the name; `TakenOver` if this one has come back on another connection.
    pub(crate) async fn begin(
        &self,
        content: &Content,
        writer: Option<&Writer>,
        mut progress: impl FnMut(u64),
    ) -> Result<Begun, FileError> {
        let name_lock = self.0.locks.lock(&content.name, writer).await?;
        if self.has(content).await? {
            return Ok(Begun::Complete);
        }
        let (shared, wanted) = (Arc::clone(&self.0), content.clone());
        let opened = self.disk().run(move || Partial::open(&shared.path, wanted, name_lock)).await;
        let mut partial = opened.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => FileError::Busy,
            _ => FileError::Io(error),
        })?;
        let mut buffer = Vec::new();
        loop {
            let step = self.disk().run(move || {
                buffer.resize(HASHED_AT_A_TIME, 0);
                let more = partial.hash_more(&mut buffer)?;
                Ok((partial, buffer, more))
            });
            let more;
            (partial, buffer, more) = step.await?;
            if !more {
                return Ok(Begun::Partial(partial));
            }
            if partial.name_lock().is_taken_over() {
                return Err(FileError::TakenOver);
            }
            progress(partial.written());
        }
    }

    /// Gives a partial file its name.
    pub(crate) async fn complete(&self, partial: Partial) -> Result<(), FileError> {
        let content = partial.content().clone();
        let path = self.0.path.join(content.name.as_str());
        let completed = self.disk().run(move || match partial.complete()? {
            Completed::Renamed => Ok(Some(Stamp::of(&fs::symlink_metadata(path)?))),
            Completed::AnotherHash => Ok(None),
        });
        let stamp = completed.await?.ok_or(FileError::AnotherHash)?;
        self.remember(content.name, stamp, content.hash);
        Ok(())
    }

    /// Whether the file has its name and this content.
    async fn has(&self, content: &Content) -> Result<bool, FileError> {
        let path = self.0.path.join(content.name.as_str());
        let size = self.disk().run(move || fs::symlink_metadata(path).map(|found| found.len())).await;
        if size.ok() != Some(content.size) {
            return Ok(false);
        }
        match self.stat(content.name.clone()).await {
            Ok((_, found)) => Ok(found == *content),
            // No regular file, or one that changes: it is replaced.
            Err(_) => Ok(false),
        }
    }

    fn remember(&self, name: FileName, stamp: Stamp, hash: Hash) {
        let mut hashes = lock(&self.0.hashes);
        if hashes.len() >= MAX_KNOWN_HASHES {
            hashes.clear();
        }
        hashes.insert(name, (stamp, hash));
    }
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(file);
        #[cfg(not(unix))]
        let inode = 0;
        Self { size: file.len(), modified: file.modified().ok(), inode }
    }
}

/// Opens a regular file, and follows no symbolic link to it.
pub(crate) fn open_plain(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        // Without NONBLOCK, opening a pipe would wait for its other end.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
        std::os::unix::fs::OpenOptionsExt::custom_flags(options, flags);
    }
    let no_file = || io::Error::from(io::ErrorKind::NotFound);
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => return Err(no_file()),
        _ => {}
    }
    let file = options.open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(no_file()) }
}

/// The hash of the first `size` bytes of a file. `progress` is told how many have been read.
pub(crate) async fn hash(
    disk: Disk,
    mut file: File,
    size: u64,
    mut progress: impl FnMut(u64),
) -> Result<(File, Hash), FileError> {
    let (mut hasher, mut buffer, mut left) = (Hasher::new(), vec![0; HASHED_AT_A_TIME], size);
    while left > 0 {
        let step = disk.run(move || {
            let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            let part = buffer.get_mut(..wanted).unwrap_or_default();
            file.read_exact(part)?;
            hasher.update(part);
            let left = left - u64::try_from(wanted).map_err(io::Error::other)?;
            Ok((file, hasher, buffer, left))
        });
        (file, hasher, buffer, left) = step.await.map_err(FileError::of_reading)?;
        progress(size - left);
    }
    Ok((file, hasher.finish()))
}

fn swap<A, B>((a, b): (A, B)) -> (B, A) {
    (b, a)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
