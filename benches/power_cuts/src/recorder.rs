//! A file in user space that remembers what is written to it, and when that was flushed.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite, Request,
    WriteFlags,
};

/// What reached the device, oldest first.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Write {
        offset: u64,
        bytes: Vec<u8>,
    },
    /// Everything before is durable.
    Flush,
}

/// The steps so far, shared with the file system that records them.
#[derive(Clone, Default)]
pub(super) struct Recording(Arc<Mutex<Vec<Step>>>);

impl Recording {
    pub(super) fn steps(&self) -> MutexGuard<'_, Vec<Step>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many steps there are: what is durable now, a flush among them has made so.
    pub(super) fn position(&self) -> usize {
        self.steps().len()
    }
}

/// The name of the file.
pub(super) const NAME: &str = "device";
const INODE: u64 = 2;
const FOREVER: Duration = Duration::from_secs(3600);

struct Recorder {
    image: File,
    bytes: u64,
    recording: Recording,
}

/// Shows the image as a file in this directory until the session is dropped.
pub(super) fn mount(image: &Path, directory: &Path, recording: &Recording) -> io::Result<BackgroundSession> {
    let image = File::options().read(true).write(true).open(image)?;
    let bytes = image.metadata()?.len();
    let recorder = Recorder { image, bytes, recording: recording.clone() };
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("palyra-power-cuts".into())];
    fuser::spawn_mount(recorder, directory, &config)
}

impl Recorder {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let is_file = u64::from(inode) == INODE;
        FileAttr {
            ino: inode,
            size: if is_file { self.bytes } else { 0 },
            blocks: self.bytes / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_file { FileType::RegularFile } else { FileType::Directory },
            perm: if is_file { 0o600 } else { 0o700 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Recorder {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == NAME {
            reply.entry(&FOREVER, &self.attributes(INodeNo(INODE)), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes(inode));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let len = u64::from(len).min(self.bytes.saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        match self.image.read_exact_at(&mut bytes, offset) {
            Ok(()) => reply.data(&bytes),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut steps = self.recording.steps();
        match (self.image.write_all_at(bytes, offset), u32::try_from(bytes.len())) {
            (Ok(()), Ok(len)) => {
                steps.push(Step::Write { offset, bytes: bytes.to_vec() });
                reply.written(len);
            }
            _ => reply.error(Errno::EIO),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.recording.steps().push(Step::Flush);
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // When a descriptor is closed; this says nothing about the device.
        reply.ok();
    }
}
