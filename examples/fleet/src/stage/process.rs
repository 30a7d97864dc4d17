//! A process of the fleet: started, killed, started again.

use std::{
    env,
    ffi::OsString,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use fastrand::Rng;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::{
    board::{Board, ProcessState},
    relay::Link,
};
use crate::{Outcome, node::STOP, report::Report};

/// The longest pause before a process that has ended is started again.
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// A process that was asked to end does so within this time.
const LONGEST_END: Duration = Duration::from_secs(10);
/// The signal of `Child::kill`.
const SIGKILL: i32 = 9;

/// A process, and the thread that starts it again whenever it has ended.
pub(crate) struct Process {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Outcome>>,
}

/// What a process is started with.
pub(crate) struct Launch {
    pub(crate) role: &'static str,
    /// What every start gets, besides where to listen and how many starts there were.
    pub(crate) arguments: Vec<OsString>,
    /// Whether the process wants to know how often it was started.
    pub(crate) counts_starts: bool,
    /// The link of its readers.
    pub(crate) link: Option<Arc<Link>>,
    /// What decides the pauses.
    pub(crate) rng: Rng,
}

struct Shared {
    index: usize,
    board: Arc<Board>,
    /// The process that runs now, with its input.
    child: Mutex<Option<Child>>,
    /// It is to publish nothing more.
    stops: AtomicBool,
    /// It is not to be started again.
    ends: AtomicBool,
}

impl Process {
    /// Process `index` of the board. What it writes to stderr goes to the end of this file.
    pub(crate) fn start(index: usize, board: &Arc<Board>, launch: Launch, errors: &Path) -> Outcome<Self> {
        let errors = File::options().create(true).append(true).open(errors)?;
        let (stops, ends) = (AtomicBool::new(false), AtomicBool::new(false));
        let shared = Shared { index, board: Arc::clone(board), child: Mutex::default(), stops, ends };
        let shared = Arc::new(shared);
        let supervised = Arc::clone(&shared);
        let thread = thread::spawn(move || supervised.keep_running(launch, &errors));
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Kills the process (SIGKILL), if it runs. Returns whether it did.
    pub(crate) fn kill(&self) -> io::Result<bool> {
        let mut child = self.shared.child();
        let Some(child) = child.as_mut() else { return Ok(false) };
        // One that has ended by itself meanwhile is no success of this.
        if child.try_wait()?.is_some() {
            return Ok(false);
        }
        child.kill()?;
        self.shared.update(|state| state.kills += 1);
        Ok(true)
    }

    /// Has every write to a file fail from now on, as if the disk were full. Returns whether there was a
    /// process.
    pub(crate) fn fill_disk(&self) -> Outcome<bool> {
        self.limit_files(Some(1))
    }

    /// Ends what [`fill_disk`](Self::fill_disk) did.
    pub(crate) fn empty_disk(&self) -> Outcome<bool> {
        self.limit_files(getrlimit(Resource::Fsize).current)
    }

    fn limit_files(&self, bytes: Option<u64>) -> Outcome<bool> {
        let child = self.shared.child();
        let Some(child) = child.as_ref() else { return Ok(false) };
        let limit = Rlimit { current: bytes, ..getrlimit(Resource::Fsize) };
        // A process that has ended has no limits.
        Ok(prlimit(Pid::from_raw(i32::try_from(child.id())?), Resource::Fsize, limit).is_ok())
    }

    /// Asks the process to publish nothing more, also after further starts.
    pub(crate) fn stop(&self) {
        self.shared.stops.store(true, Ordering::Release);
        self.shared.send_stop();
    }

    /// Ends the process in good order.
    pub(crate) fn end(mut self) -> Outcome {
        let Shared { index, board, .. } = &*self.shared;
        self.shared.end();
        if !board.wait(LONGEST_END, |processes| !processes[*index].is_running) {
            return Err(format!("{} does not end", board.get()[*index].name).into());
        }
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err("the thread of a process has panicked".into()))
    }
}

/// If the run fails, the processes end, too.
impl Drop for Process {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.shared.end();
        drop(self.kill());
        drop(thread.join());
    }
}

impl Shared {
    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update<T>(&self, change: impl FnOnce(&mut ProcessState) -> T) -> T {
        self.board.update(self.index, change)
    }

    fn end(&self) {
        self.ends.store(true, Ordering::Release);
        // The process ends when its input does.
        if let Some(child) = self.child().as_mut() {
            child.stdin = None;
        }
    }

    fn send_stop(&self) {
        if let Some(input) = self.child().as_mut().and_then(|child| child.stdin.as_mut()) {
            // One that has just been killed is told so when it is started again.
            drop(writeln!(input, "{STOP}"));
        }
    }

    fn keep_running(&self, mut launch: Launch, errors: &File) -> Outcome {
        let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
        while !self.ends.load(Ordering::Acquire) {
            let output = self.spawn(&launch, address, errors)?;
            address = self.follow(output, launch.link.as_deref())?.unwrap_or(address);
            let Some(mut child) = self.child().take() else { break };
            let status = child.wait()?;
            self.update(|state| {
                state.end();
                match (status.code(), status.signal()) {
                    (Some(0), _) | (_, Some(SIGKILL)) => {}
                    // What `main` returns after an error.
                    (Some(1), _) => state.failures += 1,
                    _ => state.crashes.push(status.to_string()),
                }
            });
            if !self.ends.load(Ordering::Acquire) {
                thread::sleep(LONGEST_PAUSE.mul_f64(launch.rng.f64()));
            }
        }
        Ok(())
    }

    fn spawn(&self, launch: &Launch, address: SocketAddr, errors: &File) -> Outcome<ChildStdout> {
        let start = self.update(ProcessState::start);
        let mut command = Command::new(env::current_exe()?);
        command.arg(launch.role).args(&launch.arguments).arg(format!("--listen={address}"));
        if launch.counts_starts {
            command.arg(format!("--start={start}"));
        }
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take().ok_or("the process has no output")?;
        let (mut written, mut errors) =
            (child.stderr.take().ok_or("the process has no stderr")?, errors.try_clone()?);
        // Through a pipe, because a process whose disk is full cannot write to a file.
        thread::spawn(move || io::copy(&mut written, &mut errors));
        *self.child() = Some(child);
        if self.stops.load(Ordering::Acquire) {
            self.send_stop();
        }
        if self.ends.load(Ordering::Acquire) {
            self.end();
        }
        Ok(output)
    }

    /// Reads what the process reports until it ends. Returns where it was.
    fn follow(&self, output: ChildStdout, link: Option<&Link>) -> Outcome<Option<SocketAddr>> {
        let (mut output, mut line, mut address) = (BufReader::new(output), String::new(), None);
        // A line without an end is what a kill has left of it.
        while output.read_line(&mut line)? > 0 && line.ends_with('\n') {
            if let Some(report) = Report::parse(line.trim_end()) {
                if let Report::Listening(listening) = report {
                    address = Some(listening);
                    if let Some(link) = link {
                        link.lead_to(listening);
                    }
                }
                self.update(|state| state.hear(report));
            }
            line.clear();
        }
        Ok(address)
    }
}
