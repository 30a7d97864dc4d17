//! The processes that are measured, and what the system knows about them.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, BufRead, BufReader, Write},
    num::ParseFloatError,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

use crate::{
    Error, Result,
    link::{Failure, Measured},
};

/// Longer than any command takes that does not hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a process may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cores {
    All,
    First,
}

/// A child process, which does not outlive this.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    /// `peers` in another role.
    pub fn peers(args: &[&str], cores: Cores) -> Result<Self> {
        let program = env::current_exe()?;
        let mut command = match cores {
            Cores::All => Command::new(program),
            Cores::First => {
                let mut command = Command::new("taskset");
                command.args(["-c", "0"]).arg(program);
                command
            }
        };
        command.args(args);
        Self::start(command)
    }

    pub fn start(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or("no standard output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(io::Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    pub fn line(&self) -> Result<String> {
        self.lines.recv_timeout(PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("no answer within {} s", PATIENCE.as_secs()).into(),
            RecvTimeoutError::Disconnected => "the process ended".into(),
        })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX))
    }

    /// User and system time of all threads so far, in seconds.
    pub fn cpu(&self) -> Result<f64> {
        let time = clock_gettime(clock_getcpuclockid(self.pid())?)?;
        Ok(Duration::from(time).as_secs_f64())
    }

    /// How often a thread went to sleep of its own accord, in all.
    pub fn sleeps(&self) -> Result<f64> {
        let mut sum = 0.0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.id()))? {
            let status = fs::read_to_string(thread?.path().join("status"))?;
            sum += field(&status, "voluntary_ctxt_switches:").ok_or("no count of context switches")?;
        }
        Ok(sum)
    }

    /// Resident bytes: all, and those that are not a file's.
    pub fn resident(&self) -> Result<Resident> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.id()))?;
        let kilobytes = |name| field(&rollup, name).ok_or("no such line in smaps_rollup");
        Ok(Resident { all: kilobytes("Rss:")? * 1024.0, anonymous: kilobytes("Anonymous:")? * 1024.0 })
    }

    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    pub fn interrupt(&self) -> Result<()> {
        Ok(kill(self.pid(), Signal::SIGINT)?)
    }

    pub fn terminate(&self) -> Result<()> {
        Ok(kill(self.pid(), Signal::SIGTERM)?)
    }

    pub fn wait(&mut self) -> io::Result<()> {
        self.child.wait().map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Copy)]
pub struct Resident {
    pub all: f64,
    pub anonymous: f64,
}

/// The number behind this name at the start of a line.
fn field(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// The answer to a command: figures by name.
pub struct Figures(BTreeMap<String, f64>);

impl Figures {
    pub fn of(&self, name: &str) -> Measured<f64> {
        self.0.get(name).copied().ok_or_else(|| format!("the client does not say {name}").into())
    }

    pub fn rate(&self) -> Measured<f64> {
        Ok(self.of("count")? / self.of("seconds")?)
    }
}

/// A client that does as it is told; see [`drive`](crate::drive).
pub struct Client(Process);

impl Client {
    pub fn start(contender: &str, pki: &Path, address: &str, events: u32, cores: Cores) -> Result<Self> {
        let pki = pki.to_str().ok_or("a path that is no text")?;
        Ok(Self(Process::peers(&["client", contender, address, pki, &events.to_string(), "0"], cores)?))
    }

    pub fn process(&self) -> &Process {
        &self.0
    }

    pub fn ask(&mut self, command: &str) -> Measured<Figures> {
        let input = self.0.child.stdin.as_mut().ok_or("no standard input")?;
        writeln!(input, "{command}")?;
        let line = self.0.line()?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("ok", figures) => {
                let pairs = figures.split_whitespace().filter_map(|pair| pair.split_once('='));
                let parsed = pairs.map(|(name, value)| Ok((name.to_owned(), value.parse()?)));
                Ok(Figures(parsed.collect::<std::result::Result<_, ParseFloatError>>().map_err(Error::from)?))
            }
            // Reasons are few and known; they may as well live for ever.
            ("n/a", why) => Err(Failure::NotOffered(why.to_owned().leak())),
            (_, why) => Err(Failure::Failed(format!("`{command}`: {why}").into())),
        }
    }
}

/// Counts the system calls of a process while it works.
pub struct Strace {
    process: Process,
    report: std::path::PathBuf,
}

impl Strace {
    /// Waits until it is attached.
    pub fn attach(target: &Process, report: &Path) -> Result<Self> {
        let mut command = Command::new("strace");
        command.args(["-c", "-f", "-p", &target.id().to_string(), "-o"]).arg(report).stderr(Stdio::null());
        let process = Process::start(command)?;
        let status = format!("/proc/{}/status", target.id());
        for _ in 0..500 {
            let status = fs::read_to_string(&status)?;
            if field(&status, "TracerPid:").is_some_and(|tracer| tracer > 0.0) {
                // The other threads are next.
                thread::sleep(Duration::from_millis(50));
                return Ok(Self { process, report: report.to_owned() });
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err("strace does not attach".into())
    }

    /// How many there were, in all and by name.
    pub fn finish(mut self) -> Result<BTreeMap<String, f64>> {
        self.process.interrupt()?;
        self.process.wait()?;
        let report = fs::read_to_string(&self.report)?;
        let mut calls = BTreeMap::new();
        for line in report.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            // % time, seconds, usecs/call, calls, errors where there are any, name.
            if let [_, _, _, count, .., name] = words.as_slice()
                && let Ok(count) = count.parse()
            {
                calls.insert((*name).to_owned(), count);
            }
        }
        if calls.contains_key("total") { Ok(calls) } else { Err(format!("strace says {report:?}").into()) }
    }
}
