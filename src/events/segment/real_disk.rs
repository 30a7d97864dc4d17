//! A directory of the operating system.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

#[cfg(any(target_os = "linux", target_os = "android"))]
use rustix::fs::statfs;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, getrlimit};

use super::{
    disk::{Disk, DiskFile},
    names::LOCK,
    number::to_u64,
};
use crate::sync::{Mutex, lock};

pub(super) struct RealDisk {
    path: PathBuf,
    directory: File,
    /// `None` after [`unlock`](Disk::unlock).
    lock: Mutex<Option<RealFile>>,
}

struct RealFile {
    file: File,
    /// Whether it keeps others out.
    is_locked: bool,
}

/// How redb's files begin, in which earlier versions of this crate kept events.
const REDB_MAGIC: &[u8] = b"redb";

impl RealDisk {
    /// Opens and locks the directory, or creates it in an existing directory.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(metadata) => return Err(not_a_directory(path, metadata.is_file())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(path, error)?,
            Err(error) => return Err(error),
        }
        let directory = File::open(path)?;
        let lock =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path.join(LOCK))?;
        let lock = locked(lock, path)?;
        Ok(Self { path: path.to_owned(), directory, lock: Mutex::new(Some(lock)) })
    }
}

fn create(path: &Path, error: io::Error) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        return Err(dangling(path, error.kind()));
    }
    fs::create_dir(path)?;
    parent_of(path)?.sync_all()
}

/// Looks into a file alone: to open a pipe would wait for its other end.
fn not_a_directory(path: &Path, is_file: bool) -> io::Error {
    use io::Read;
    let mut start = Vec::new();
    let is_redb = is_file
        && File::open(path)
            .and_then(|file| file.take(to_u64(REDB_MAGIC.len())).read_to_end(&mut start))
            .is_ok_and(|_| start == REDB_MAGIC);
    let what = if is_redb {
        "a redb database, in which earlier versions of palyra-quic kept events: choose another path"
    } else {
        "not a directory"
    };
    io::Error::new(io::ErrorKind::InvalidInput, format!("{} is {what}", path.display()))
}

/// Opens and locks a file, or creates it with the content that `initialize` gives it: under another name
/// first, so that one which is not complete does not take the name.
pub(in crate::events) fn open_locked_file(
    path: &Path,
    initialize: impl Fn(&dyn DiskFile) -> io::Result<()>,
) -> io::Result<Arc<dyn DiskFile>> {
    if !path.try_exists()? {
        if fs::symlink_metadata(path).is_ok() {
            return Err(dangling(path, io::ErrorKind::NotFound));
        }
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(Path::new(&new))?;
        let file = locked(file, path)?;
        // Another process may have finished the same.
        if !path.try_exists()? {
            file.file.set_len(0)?;
            initialize(&file)?;
            file.file.sync_all()?;
            fs::rename(&new, path)?;
            parent_of(path)?.sync_all()?;
            return Ok(Arc::new(file));
        }
        fs::remove_file(&new)?;
    }
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    Ok(Arc::new(locked(file, path)?))
}

/// Locks a file until this is dropped.
fn locked(file: File, path: &Path) -> io::Result<RealFile> {
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error.into() {
        error if io::Error::kind(&error) == io::ErrorKind::WouldBlock => io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("{} is already open, in this process or another", path.display()),
        ),
        error => error,
    })?;
    Ok(RealFile { file, is_locked: true })
}

impl Drop for RealFile {
    fn drop(&mut self) {
        if self.is_locked {
            // Closing it is not enough: a child that another thread starts has it open, too, until the child
            // has become another program.
            let _ = flock(&self.file, FlockOperation::Unlock);
        }
    }
}

fn dangling(path: &Path, kind: io::ErrorKind) -> io::Error {
    io::Error::new(kind, format!("{} is a symbolic link to a path that does not exist", path.display()))
}

fn parent_of(path: &Path) -> io::Result<File> {
    File::open(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.path)?;
        names.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(self.path.join(name))?;
        Ok(Arc::new(RealFile { file, is_locked: false }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
        Ok(Arc::new(RealFile { file, is_locked: false }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    /// On ext4 and xfs, a write into space that was only allocated writes to the journal as well. File
    /// systems that never write in place gain nothing, nor do those in memory.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn prefers_filled_files(&self) -> bool {
        const BTRFS: u64 = 0x9123_683E;
        const ZFS: u64 = 0x2FC1_2FC1;
        const BCACHEFS: u64 = 0xCA45_1A4E;
        const F2FS: u64 = 0xF2F5_2010;
        const TMPFS: u64 = 0x0102_1994;
        const OVERLAY_AND_OTHERS_FILL: bool = true;
        let Ok(statistics) = statfs(&self.path) else { return OVERLAY_AND_OTHERS_FILL };
        let kind = u64::try_from(statistics.f_type).unwrap_or_default() & 0xFFFF_FFFF;
        ![BTRFS, ZFS, BCACHEFS, F2FS, TMPFS].contains(&kind)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn prefers_filled_files(&self) -> bool {
        true
    }

    fn unlock(&self) {
        lock(&self.lock).take();
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.file, buffer, offset)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn read_cached_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        use rustix::io::{ReadWriteFlags, preadv2};
        let mut buffers = [io::IoSliceMut::new(buffer)];
        Ok(preadv2(&self.file, &mut buffers, offset, ReadWriteFlags::NOWAIT)?)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        check_limit(offset, bytes.len(), getrlimit(Resource::Fsize).current)?;
        std::os::unix::fs::FileExt::write_at(&self.file, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(size_and_links(&self.file)?.0)
    }

    fn linked_len(&self) -> io::Result<Option<u64>> {
        let (len, links) = size_and_links(&self.file)?;
        Ok((links > 0).then_some(len))
    }
}

/// The length of a file, and how many names it has.
///
/// Does not read the times of the file where that can be avoided: Linux then gives the next write a time of
/// its own, and so writes the inode as well, which takes about a third of the time of a commit on ext4.
fn size_and_links(file: &File) -> io::Result<(u64, u64)> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::fs::{AtFlags, StatxFlags, statx};
        let wanted = StatxFlags::SIZE | StatxFlags::NLINK;
        if let Ok(found) = statx(file, "", AtFlags::EMPTY_PATH, wanted) {
            return Ok((found.stx_size, found.stx_nlink.into()));
        }
    }
    let metadata = file.metadata()?;
    Ok((metadata.len(), std::os::unix::fs::MetadataExt::nlink(&metadata)))
}

/// Refuses a write for which the kernel would end the process with SIGXFSZ.
fn check_limit(offset: u64, len: usize, limit: Option<u64>) -> io::Result<()> {
    let end = offset.saturating_add(to_u64(len));
    if limit.is_some_and(|limit| end > limit) { Err(rustix::io::Errno::FBIG.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_closed_is_free_though_a_child_has_the_file_open() {
        let path = std::env::temp_dir().join(format!("palyra-lock-{}", std::process::id()));
        let disk = RealDisk::open(&path).unwrap();
        assert_eq!(RealDisk::open(&path).err().unwrap().kind(), io::ErrorKind::ResourceBusy);
        // It shares the lock, as the copy of a child does.
        let copy = lock(&disk.lock).as_ref().unwrap().file.try_clone().unwrap();
        drop(disk);
        let disk = RealDisk::open(&path).unwrap();
        drop(copy);
        assert_eq!(RealDisk::open(&path).err().unwrap().kind(), io::ErrorKind::ResourceBusy);
        drop(disk);
        fs::remove_dir_all(&path).unwrap();
    }

    /// To open one for reading would wait until somebody writes.
    #[test]
    fn a_pipe_in_the_place_of_the_directory_is_refused() {
        let path = std::env::temp_dir().join(format!("palyra-pipe-{}", std::process::id()));
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let (send, receive) = std::sync::mpsc::channel();
        let opened = path.clone();
        std::thread::spawn(move || {
            send.send(RealDisk::open(&opened).map(drop).map_err(|error| error.kind()))
        });
        let refused = receive.recv_timeout(std::time::Duration::from_secs(20));
        fs::remove_file(&path).unwrap();
        assert_eq!(refused, Ok(Err(io::ErrorKind::InvalidInput)));
    }

    #[test]
    fn a_write_beyond_the_limit_of_the_process_is_an_error() {
        check_limit(u64::MAX, 9, None).unwrap();
        check_limit(90, 10, Some(100)).unwrap();
        let error = check_limit(90, 11, Some(100)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
