//! What a process takes, read from outside in Linux's `/proc`.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::Result;

/// How often the peak is looked for.
const SAMPLES: Duration = Duration::from_millis(50);

/// Resident memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// All of it, the program's code that was touched included.
    pub(crate) resident: u64,
    /// What the program has allocated.
    pub(crate) anonymous: u64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let read = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such line")?;
            let kilobytes = line.trim().strip_suffix(" kB").ok_or("not in kB")?;
            Ok(kilobytes.parse::<u64>()? * 1024)
        };
        Ok(Self { resident: read("VmRSS:")?, anonymous: read("RssAnon:")? })
    }

    pub(crate) fn above(self, idle: Self) -> Self {
        Self {
            resident: self.resident.saturating_sub(idle.resident),
            anonymous: self.anonymous.saturating_sub(idle.anonymous),
        }
    }
}

/// Processor time so far, user and system.
pub(crate) fn processor(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may contain anything, but it is the last thing in parentheses.
    let (_, fields) = stat.rsplit_once(')').ok_or("no name")?;
    let mut times = fields.split_whitespace().skip(11);
    let mut next = || -> Result<u64> { Ok(times.next().ok_or("too few fields")?.parse()?) };
    // Ticks are hundredths of a second wherever Linux runs.
    Ok(Duration::from_millis(10 * (next()? + next()?)))
}

/// Looks for the peak of a process's memory until it is dropped.
pub(crate) struct Watch {
    idle: Memory,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    resident: AtomicU64,
    anonymous: AtomicU64,
}

impl Watch {
    /// `idle` is what growth is reckoned from.
    pub(crate) fn start(pid: u32, idle: Memory) -> Self {
        let shared = Arc::new(Shared::default());
        let watching = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            while !watching.over.load(Ordering::Relaxed) {
                // Fails once the process has ended, and then there is nothing more to see.
                let Ok(memory) = Memory::of(pid) else { return };
                watching.resident.fetch_max(memory.resident, Ordering::Relaxed);
                watching.anonymous.fetch_max(memory.anonymous, Ordering::Relaxed);
                thread::sleep(SAMPLES);
            }
        });
        Self { idle, shared, thread: Some(thread) }
    }

    /// The most that the process has been above its idle figure.
    pub(crate) fn growth(&self) -> Memory {
        let peak = Memory {
            resident: self.shared.resident.load(Ordering::Relaxed),
            anonymous: self.shared.anonymous.load(Ordering::Relaxed),
        };
        peak.above(self.idle)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
