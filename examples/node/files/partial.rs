//! Files that are not complete yet.
//!
//! The partial file of `NAME` is `.NAME.SIZE.HASH.part` in the same folder: hidden, and so never served; and
//! another content of the same name never continues it. What a crash has left in it may be wrong, which the
//! hash of the whole content shows in the end; then it is deleted.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

use palyra_quic::Bytes;

use super::{
    content::{Content, Hasher},
    folder::open_plain,
    name_lock::NameLock,
};

/// A partial file, open for one writer.
pub(crate) struct Partial {
    file: File,
    path: PathBuf,
    content: Content,
    /// How many bytes are in the file, and in the hash.
    written: u64,
    hasher: Hasher,
    /// In here, so that the name stays locked while a thread still writes for a handler that was dropped.
    name_lock: NameLock,
}

/// How the file of a content was completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Completed {
    Renamed,
    /// The hash was wrong, and the partial file is deleted.
    AnotherHash,
}

impl Partial {
    /// Opens the partial file, or makes it, and deletes those of other contents of that name.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if another process writes a file of that name.
    pub(crate) fn open(folder: &Path, content: Content, name_lock: NameLock) -> io::Result<Self> {
        remove_others(folder, &content)?;
        let path = folder.join(file_name(&content));
        let file = open_plain(&path, OpenOptions::new().read(true).write(true).create(true))?;
        lock_file(&file)?;
        // Before the lock was taken, another process may have deleted the file, or given it its name.
        if !is_at(&file, &path)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if file.metadata()?.len() > content.size {
            file.set_len(0)?;
        }
        Ok(Self { file, path, content, written: 0, hasher: Hasher::new(), name_lock })
    }

    /// How many bytes an earlier transfer has left, of a file that is not open.
    pub(crate) fn len_on_disk(folder: &Path, content: &Content) -> u64 {
        let found = fs::symlink_metadata(folder.join(file_name(content)));
        found.ok().filter(fs::Metadata::is_file).map_or(0, |found| found.len())
    }

    pub(crate) fn content(&self) -> &Content {
        &self.content
    }

    pub(crate) fn name_lock(&self) -> &NameLock {
        &self.name_lock
    }

    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Takes what an earlier transfer has left into the hash, as much as `buffer` holds. Returns whether
    /// there was any.
    pub(crate) fn hash_more(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let read = self.file.read(buffer)?;
        self.hasher.update(buffer.get(..read).unwrap_or_default());
        self.written += u64::try_from(read).map_err(io::Error::other)?;
        Ok(read > 0)
    }

    pub(crate) fn write(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        for piece in pieces {
            self.hasher.update(piece);
            self.file.write_all(piece)?;
            self.written += u64::try_from(piece.len()).map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Gives the file its name, if the content is what it should be.
    pub(crate) fn complete(self) -> io::Result<Completed> {
        let Self { mut file, path, content, hasher, .. } = self;
        let is_whole = file.stream_position()? == content.size && hasher.finish() == content.hash;
        if !is_whole {
            fs::remove_file(&path)?;
            return Ok(Completed::AnotherHash);
        }
        file.sync_all()?;
        fs::rename(&path, path.with_file_name(content.name.as_str()))?;
        sync_folder(&path)?;
        Ok(Completed::Renamed)
    }

    /// Deletes what has arrived.
    pub(crate) fn discard(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

fn file_name(content: &Content) -> String {
    format!(".{}.{}.{}.part", content.name, content.size, content.hash)
}

/// At most one partial file of each name takes room. One that another process writes is left to it.
fn remove_others(folder: &Path, content: &Content) -> io::Result<()> {
    let wanted = file_name(content);
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Some(other) = entry.file_name().to_str()
            && other != wanted
            && is_partial_of(content.name.as_str(), other)
        {
            remove_unless_locked(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_unless_locked(path: &Path) -> io::Result<()> {
    match open_plain(path, OpenOptions::new().read(true).write(true)) {
        // It is locked until it is deleted, so that no other process begins to write it between.
        Ok(file) => {
            lock_file(&file)?;
            if is_at(&file, path)? { fs::remove_file(path) } else { Ok(()) }
        }
        // A link or a directory, which no process writes; or the file is gone by now.
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        },
        Err(error) => Err(error),
    }
}

/// Whether this open file is the one of that path.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let opened = file.metadata()?;
        match fs::symlink_metadata(path) {
            Ok(found) => Ok((found.dev(), found.ino()) == (opened.dev(), opened.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
    #[cfg(not(unix))]
    {
        let _ = (file, path);
        Ok(true)
    }
}

/// Whether this is `.NAME.SIZE.HASH.part`, of any size and hash.
fn is_partial_of(name: &str, file: &str) -> bool {
    let rest = file.strip_prefix('.').and_then(|file| file.strip_prefix(name));
    let rest = rest.and_then(|rest| rest.strip_prefix('.')).and_then(|rest| rest.strip_suffix(".part"));
    rest.and_then(|rest| rest.split_once('.')).is_some_and(|(size, hash)| {
        size.bytes().all(|byte| byte.is_ascii_digit())
            && hash.len() == 64
            && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// Another process may have the same folder. The lock belongs to the process: a child that is being started
/// has a copy of each open file for a moment, and would keep a lock that belongs to the file.
fn lock_file(file: &File) -> io::Result<()> {
    #[cfg(unix)]
    rustix::fs::fcntl_lock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}

/// Makes the new name survive a loss of power.
fn sync_folder(file: &Path) -> io::Result<()> {
    #[cfg(unix)]
    if let Some(folder) = file.parent() {
        File::open(folder)?.sync_all()?;
    }
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}
