//! A file system in a file, whose device counts what reaches it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{Result, p50};

const MIB: u64 = 1024 * 1024;

/// A file system, gone when this is dropped.
pub(super) struct Device {
    directory: PathBuf,
    name: String,
}

/// What some work cost.
pub(super) struct Cost {
    /// Bytes that reached the device.
    pub(super) bytes: f64,
    pub(super) flushes: f64,
    /// The median of the times that the work took for each commit, in seconds.
    pub(super) p50: f64,
}

impl Device {
    pub(super) fn new() -> Result<Self> {
        let directory = env::temp_dir().join(format!("palyra-flash-{}", std::process::id()));
        fs::create_dir_all(directory.join("mounted"))?;
        let image = directory.join("image");
        // Written, so that the device itself has no holes to fill.
        fs::write(&image, vec![0; usize::try_from(256 * MIB)?])?;
        let loop_device = output(Command::new("losetup").args(["--show", "--find"]).arg(&image))?;
        let name = loop_device.trim_start_matches("/dev/").to_owned();
        let device = Self { directory, name };
        let lazy = "lazy_itable_init=0,lazy_journal_init=0";
        output(Command::new("mkfs.ext4").args(["-q", "-b", "4096", "-E", lazy, &loop_device]))?;
        output(Command::new("mount").arg(&loop_device).arg(device.mounted()))?;
        Ok(device)
    }

    pub(super) fn mounted(&self) -> PathBuf {
        self.directory.join("mounted")
    }

    /// Everything of this work counts: beginning segments, and what the file system writes later.
    pub(super) fn measure(&self, work: impl FnOnce(&Path) -> Result<Vec<Duration>>) -> Result<Cost> {
        let path = self.mounted().join("work");
        fs::create_dir(&path)?;
        output(&mut Command::new("sync"))?;
        let before = self.counters()?;
        let times = work(&path)?;
        output(Command::new("sync").arg("-f").arg(&path))?;
        let after = self.counters()?;
        fs::remove_dir_all(path)?;
        Ok(Cost { bytes: after.0 - before.0, flushes: after.1 - before.1, p50: p50(times) })
    }

    /// Bytes written, and flushes.
    fn counters(&self) -> Result<(f64, f64)> {
        let text = fs::read_to_string(format!("/sys/block/{}/stat", self.name))?;
        let field = |at| text.split_whitespace().nth(at).and_then(|field| field.parse::<f64>().ok());
        let (Some(sectors), Some(flushes)) = (field(6), field(15)) else { return Err("no counters".into()) };
        Ok((512.0 * sectors, flushes))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.mounted()).status();
        let _ = Command::new("losetup").arg("--detach").arg(format!("/dev/{}", self.name)).status();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
