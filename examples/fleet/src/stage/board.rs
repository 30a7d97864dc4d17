//! What is known of the processes while they run.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::check::AcknowledgedEvent;
use crate::report::{LogReport, Report};

/// What is known of all processes, for those who wait for a change.
#[derive(Default)]
pub(crate) struct Board {
    processes: Mutex<Vec<ProcessState>>,
    changed: Condvar,
}

/// What is known of a process.
#[derive(Clone, Debug)]
pub(crate) struct ProcessState {
    pub(crate) name: String,
    pub(crate) is_running: bool,
    /// Since it was started last: whether it has published or received an event.
    pub(crate) has_worked: bool,
    pub(crate) has_stopped: bool,
    /// Where it serves its logs, since it was started last.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) starts: u32,
    pub(crate) kills: u32,
    /// What it has of each log, as it was last heard.
    pub(crate) logs: BTreeMap<String, LogReport>,
    /// The newest events when it was started last.
    at_start: BTreeMap<String, u64>,
    /// The numbers that a mirror had left out when it was started last.
    left_out_before: BTreeMap<String, u64>,
    /// The events of a sensor that are certainly durable.
    pub(crate) acknowledged: Vec<AcknowledgedEvent>,
    /// How often it ended with an error of its own. It may do so when it starts and cannot write.
    pub(crate) failures: u32,
    /// How it ended otherwise, without having been killed: a panic, for instance.
    pub(crate) crashes: Vec<String>,
}

impl Board {
    pub(crate) fn new(names: &[String]) -> Self {
        let processes = Mutex::new(names.iter().map(|name| ProcessState::new(name)).collect());
        Self { processes, changed: Condvar::new() }
    }

    pub(crate) fn update<T>(&self, process: usize, change: impl FnOnce(&mut ProcessState) -> T) -> T {
        let changed = change(&mut self.processes()[process]);
        self.changed.notify_all();
        changed
    }

    pub(crate) fn get(&self) -> Vec<ProcessState> {
        self.processes().clone()
    }

    /// Waits until the processes are as wanted, for no longer than this. Returns whether they are.
    pub(crate) fn wait(&self, limit: Duration, wanted: impl Fn(&[ProcessState]) -> bool) -> bool {
        let waited = self.changed.wait_timeout_while(self.processes(), limit, |processes| !wanted(processes));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// As [`wait`](Self::wait), for as long as the number that `progress` gives changes within `limit`.
    pub(crate) fn wait_while_there_is_progress(
        &self,
        limit: Duration,
        progress: impl Fn(&[ProcessState]) -> u64,
        wanted: impl Fn(&[ProcessState]) -> bool,
    ) -> bool {
        loop {
            let before = progress(&self.processes());
            let ready = |processes: &[ProcessState]| wanted(processes) || progress(processes) != before;
            if !self.wait(limit, ready) {
                return false;
            }
            if wanted(&self.processes()) {
                return true;
            }
        }
    }

    fn processes(&self) -> MutexGuard<'_, Vec<ProcessState>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProcessState {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            is_running: false,
            has_worked: false,
            has_stopped: false,
            address: None,
            starts: 0,
            kills: 0,
            logs: BTreeMap::new(),
            at_start: BTreeMap::new(),
            left_out_before: BTreeMap::new(),
            acknowledged: Vec::new(),
            failures: 0,
            crashes: Vec::new(),
        }
    }

    /// Returns how often it was started, this time included.
    pub(crate) fn start(&mut self) -> u32 {
        self.starts += 1;
        (self.is_running, self.has_worked, self.has_stopped, self.address) = (true, false, false, None);
        self.at_start.clear();
        for (name, log) in &mut self.logs {
            *self.left_out_before.entry(name.clone()).or_default() += std::mem::take(&mut log.skipped);
        }
        self.starts
    }

    pub(crate) fn end(&mut self) {
        (self.is_running, self.address) = (false, None);
    }

    pub(crate) fn hear(&mut self, report: Report) {
        match report {
            Report::Listening(address) => self.address = Some(address),
            Report::Acknowledged { seq, counter } => {
                self.has_worked = true;
                self.acknowledged.push(AcknowledgedEvent { seq, counter, start: self.starts });
            }
            Report::Stopped => self.has_stopped = true,
            Report::Log(log) => {
                let at_start = *self.at_start.entry(log.log.clone()).or_insert(log.last);
                self.has_worked |= log.last > at_start;
                self.logs.insert(log.log.clone(), log);
            }
        }
    }

    /// How many numbers a mirror has left out, as far as it could report them before it was killed.
    pub(crate) fn left_out(&self, log: &str) -> u64 {
        self.left_out_before.get(log).unwrap_or(&0) + self.logs.get(log).map_or(0, |log| log.skipped)
    }

    /// The number of its newest event.
    pub(crate) fn newest(&self, log: &str) -> u64 {
        self.logs.get(log).map_or(0, |log| log.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(last: u64) -> Report {
        let log = "plant.sensor-1".to_owned();
        Report::Log(LogReport { log, epoch: 5, first: 1, last, skipped: 0, state: "following".into() })
    }

    #[test]
    fn a_process_works_when_it_has_more_than_at_its_start() {
        let mut process = ProcessState::new("gateway");
        assert_eq!(process.start(), 1);
        process.hear(log(0));
        assert!(!process.has_worked);
        process.hear(log(3));
        assert!(process.has_worked);
        process.end();
        assert_eq!((process.start(), process.newest("plant.sensor-1")), (2, 3));
        process.hear(log(3));
        assert!(!process.has_worked, "it had these before");
        process.hear(log(4));
        assert!(process.has_worked);
    }

    #[test]
    fn what_a_mirror_left_out_is_added_up_over_its_starts() {
        let mut process = ProcessState::new("gateway");
        for (skipped, total) in [(3, 3), (0, 3), (5, 8)] {
            process.start();
            let Report::Log(log) = log(9) else { unreachable!() };
            process.hear(Report::Log(LogReport { skipped, ..log }));
            assert_eq!(process.left_out("plant.sensor-1"), total);
        }
    }

    #[test]
    fn acknowledged_events_belong_to_a_start() {
        let mut process = ProcessState::new("sensor-1");
        for start in 1..=2 {
            process.start();
            process.hear(Report::Acknowledged { seq: 7, counter: 6 });
            assert!(process.has_worked);
            assert_eq!(process.acknowledged.last(), Some(&AcknowledgedEvent { seq: 7, counter: 6, start }));
            process.end();
        }
    }

    #[test]
    fn waiting_ends_when_it_is_over() {
        let board = Board::new(&["a".into(), "b".into()]);
        assert!(!board.wait(Duration::ZERO, |processes| processes[1].is_running));
        std::thread::scope(|scope| {
            scope.spawn(|| board.update(1, ProcessState::start));
            assert!(board.wait(Duration::from_secs(60), |processes| processes[1].is_running));
        });
        let progress = |processes: &[ProcessState]| u64::from(processes[0].starts);
        let wanted = |processes: &[ProcessState]| processes[0].starts == 3;
        std::thread::scope(|scope| {
            scope.spawn(|| (0..3).for_each(|_| _ = board.update(0, ProcessState::start)));
            assert!(board.wait_while_there_is_progress(Duration::from_secs(60), progress, wanted));
        });
        assert!(!board.wait_while_there_is_progress(Duration::ZERO, progress, |_| false));
    }
}
