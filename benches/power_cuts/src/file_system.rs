//! The kinds of file systems, and how they are made and mounted.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use super::Result;

const MIB: u64 = 1024 * 1024;

pub(super) struct FileSystem {
    pub(super) name: &'static str,
    bytes: u64,
    make: &'static [&'static str],
    mount: &'static [&'static str],
    /// What a machine does before it mounts the file system after a power cut.
    repair: Option<&'static [&'static str]>,
}

pub(super) const ALL: [FileSystem; 4] = [
    FileSystem {
        name: "ext4",
        bytes: 64 * MIB,
        make: &["mkfs.ext4", "-q", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
        mount: &["-t", "ext4"],
        repair: None,
    },
    FileSystem {
        name: "ext4 without journal",
        bytes: 64 * MIB,
        make: &["mkfs.ext4", "-q", "-b", "4096", "-O", "^has_journal", "-E", "lazy_itable_init=0"],
        mount: &["-t", "ext4"],
        repair: Some(&["e2fsck", "-f", "-y"]),
    },
    FileSystem {
        name: "xfs",
        bytes: 320 * MIB,
        make: &["mkfs.xfs", "-q"],
        mount: &["-t", "xfs", "-o", "nouuid"],
        repair: None,
    },
    FileSystem {
        name: "btrfs",
        bytes: 256 * MIB,
        make: &["mkfs.btrfs", "-q"],
        mount: &["-t", "btrfs"],
        repair: None,
    },
];

impl FileSystem {
    /// Whether this machine has the program that makes it.
    pub(super) fn is_available(&self) -> bool {
        self.make.first().is_some_and(|program| Command::new(program).arg("-V").output().is_ok())
    }

    /// Makes it in a new file.
    pub(super) fn make(&self, image: &Path) -> Result<()> {
        File::create(image)?.set_len(self.bytes)?;
        let Some((program, options)) = self.make.split_first() else { return Ok(()) };
        output(Command::new(program).args(options).arg(image))?;
        Ok(())
    }

    /// Repairs it as far as a machine does when it starts, and mounts it.
    pub(super) fn mount_after_cut(&self, image: &Path, directory: &Path) -> Result<Mounted> {
        if let Some((program, options)) = self.repair.and_then(|repair| repair.split_first()) {
            // It also fails if it has found something, which is expected here.
            let repaired = Command::new(program).args(options).arg(image).output()?;
            if repaired.status.code().is_none_or(|code| code > 2) {
                return Err(format!("not repaired: {}", String::from_utf8_lossy(&repaired.stdout)).into());
            }
        }
        self.mount(image, directory)
    }

    pub(super) fn mount(&self, image: &Path, directory: &Path) -> Result<Mounted> {
        fs::create_dir_all(directory)?;
        let device = output(Command::new("losetup").args(["--show", "--find"]).arg(image))?;
        let mounted = Mounted { device, directory: directory.to_owned() };
        output(Command::new("mount").args(self.mount).arg(&mounted.device).arg(directory))?;
        Ok(mounted)
    }
}

/// A file system on a loop device, until this is dropped.
pub(super) struct Mounted {
    device: String,
    pub(super) directory: PathBuf,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily, since after a failure a log may still be open.
        let _ = Command::new("umount").arg("--lazy").arg(&self.directory).output();
        let _ = Command::new("losetup").args(["--detach", &self.device]).output();
    }
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
