//! The run: harms the fleet by the schedule while a table shows how it fares, and waits until it has
//! recovered.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, Scope},
    time::{Duration, Instant},
};

use fastrand::Rng;
use palyra_quic::{Cursor, Raw};

use super::{
    board::ProcessState,
    check::{Evidence, Verdict, check},
    collect::{collect, falsify},
    fleet::{Fleet, GATEWAY, SensorLog},
    schedule::{Amounts, Harm, Moment, Step, schedule},
    table::{self, View},
};
use crate::{
    Outcome,
    args::{Plant, StageArgs},
    bounds::consumer,
    node,
};

/// A process that has done nothing for this long is killed all the same.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// A fleet without harm that makes no progress for this long does not recover.
const LONGEST_RECOVERY: Duration = Duration::from_secs(30);
/// Every sensor has published this many events at the end, if nothing is harmed either.
const FEWEST_EVENTS: u64 = 100;
const REDRAW_INTERVAL: Duration = Duration::from_millis(200);
/// Where nothing can be drawn again.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// A run with what it has done.
pub(crate) struct FleetRun<'a> {
    args: &'a StageArgs,
    seed: u64,
    fleet: &'a Fleet,
    begun: Instant,
    done: Mutex<HarmCount>,
}

/// What was done to the fleet.
#[derive(Clone, Debug, Default)]
pub(crate) struct HarmCount {
    pub(crate) kills: u32,
    /// Kills of processes that had published or received events since they were started.
    pub(crate) kills_at_work: u32,
    pub(crate) cuts: u32,
    pub(crate) full_disks: u32,
}

/// The whole run.
pub(crate) struct Totals {
    pub(crate) seed: u64,
    pub(crate) elapsed: Duration,
    pub(crate) done: HarmCount,
    pub(crate) processes: Vec<ProcessState>,
    pub(crate) lost_datagrams: u64,
}

/// What became of a log.
pub(crate) struct Account {
    pub(crate) log: SensorLog,
    pub(crate) acknowledged: usize,
    pub(crate) verdict: Verdict,
}

impl<'a> FleetRun<'a> {
    pub(crate) fn new(args: &'a StageArgs, seed: u64, fleet: &'a Fleet) -> Self {
        Self { args, seed, fleet, begun: Instant::now(), done: Mutex::default() }
    }

    /// Does all harm, ends the publishing, and waits until the centre has everything.
    pub(crate) fn harm_and_recover(&self, rng: &mut Rng) -> Outcome {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let table = scope.spawn(|| self.show(&is_over));
            let outcome = self.harm(scope, rng).map(|()| self.recover());
            is_over.store(true, Ordering::Release);
            table.thread().unpark();
            outcome
        })
    }

    fn harm<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, rng: &mut Rng) -> Outcome {
        let StageArgs { kills, cuts, full_disks, .. } = *self.args;
        let (processes, links) = (self.fleet.processes.len(), self.fleet.links.len());
        self.wait_for_events(1);
        for Step { pause, harm } in schedule(rng, Amounts { processes, links, kills, cuts, full_disks }) {
            thread::sleep(pause);
            match harm {
                Harm::Kill { process, moment } => self.kill(process, moment)?,
                Harm::Cut { link, length } => self.cut(link, length),
                Harm::FullDisk { process, length } => self.fill_disk(scope, process, length)?,
            }
        }
        if self.args.plant == Some(Plant::Acknowledge) {
            smol::block_on(self.acknowledge_falsely())?;
        }
        self.wait_for_events(FEWEST_EVENTS);
        Ok(())
    }

    fn kill(&self, process: usize, moment: Moment) -> Outcome {
        loop {
            let has_worked = self.fleet.board.wait(LONGEST_WAIT, |processes| {
                let ProcessState { is_running, has_worked, .. } = processes[process];
                is_running && (has_worked || moment == Moment::Starting)
            });
            let at_work = has_worked && moment == Moment::Working;
            if self.fleet.processes[process].kill()? {
                let mut done = self.done();
                done.kills += 1;
                done.kills_at_work += u32::from(at_work);
                return Ok(());
            }
        }
    }

    /// Cuts a link that works: one that was cut before must have carried an event since.
    fn cut(&self, link: usize, length: Duration) {
        let Fleet { board, links, logs, .. } = self.fleet;
        let (gateway, centre) = (self.fleet.gateway(), self.fleet.centre());
        let received = |processes: &[ProcessState]| match logs.get(link) {
            Some(log) => processes[gateway].newest(&log.log),
            None => logs.iter().map(|log| processes[centre].newest(&log.log)).sum(),
        };
        let link = &links[link].link;
        if let Some(left) = link.is_cut_for() {
            thread::sleep(left);
            let before = received(&board.get());
            board.wait(LONGEST_WAIT, |processes| received(processes) > before);
        }
        link.cut(length);
        self.done().cuts += 1;
    }

    fn fill_disk<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        process: usize,
        length: Duration,
    ) -> Outcome {
        let board = &self.fleet.board;
        let process_to_fill = &self.fleet.processes[process];
        loop {
            board.wait(LONGEST_WAIT, |processes| processes[process].address.is_some());
            if process_to_fill.fill_disk()? {
                break;
            }
        }
        self.done().full_disks += 1;
        // If the process is killed meanwhile, the next one has room again.
        scope.spawn(move || {
            thread::sleep(length);
            process_to_fill.empty_disk().is_ok()
        });
        Ok(())
    }

    /// Waits until the centre has this many events of each sensor, or for long enough.
    fn wait_for_events(&self, count: u64) {
        let Fleet { board, logs, .. } = self.fleet;
        let centre = self.fleet.centre();
        board.wait(LONGEST_RECOVERY, |processes| {
            logs.iter().all(|log| processes[centre].newest(&log.log) >= count)
        });
    }

    /// Ends the publishing, and waits until the gateway and the centre have everything, or make no progress.
    fn recover(&self) {
        let Fleet { board, processes, links, logs, .. } = self.fleet;
        links.iter().for_each(|named| named.link.mend());
        processes.iter().for_each(|process| process.stop());
        let (gateway, centre) = (self.fleet.gateway(), self.fleet.centre());
        let has_everything = |processes: &[ProcessState]| {
            logs.iter().zip(processes).all(|(SensorLog { log, .. }, sensor)| {
                let newest = sensor.newest(log);
                sensor.has_stopped && [gateway, centre].iter().all(|&at| processes[at].newest(log) == newest)
            }) && processes.iter().all(|process| process.address.is_some())
        };
        let progress = |processes: &[ProcessState]| {
            let newest = |process: &ProcessState| process.logs.values().map(|log| log.last).sum::<u64>();
            processes.iter().map(newest).sum()
        };
        board.wait_while_there_is_progress(LONGEST_RECOVERY, progress, has_everything);
    }

    /// Cuts the first sensor off, tells it again and again that the gateway has all events, and waits until
    /// the sensor has dropped some that the gateway cannot have.
    async fn acknowledge_falsely(&self) -> Outcome {
        let Fleet { board, links, logs, certificates, .. } = self.fleet;
        let (SensorLog { log, .. }, dialler) =
            (&logs[0], node::dialler(certificates, GATEWAY, node::LONG_HANDSHAKE_TIMEOUT)?);
        let gateway = self.fleet.gateway();
        let follows = |processes: &[ProcessState]| {
            processes[gateway].logs.get(log).is_some_and(|report| report.state == node::FOLLOWING)
        };
        // Otherwise an old report could look like the cut.
        if !board.wait(LONGEST_WAIT, follows) {
            return Err("the gateway does not follow the sensor".into());
        }
        // Until it is mended at the end.
        links[0].link.cut(Duration::from_secs(3600));
        // A connection that survived would still deliver what the sensor had put into it.
        if !board.wait(LONGEST_WAIT, |processes| !follows(processes)) {
            return Err("the gateway still follows the sensor".into());
        }
        let mut newest_at_cut = None;
        loop {
            let before = board.get()[0].newest(log);
            if !board.wait(LONGEST_WAIT, |processes| processes[0].newest(log) > before) {
                return Err("the sensor publishes nothing".into());
            }
            let sensor = board.get().swap_remove(0);
            let (Some(report), Some(address)) = (sensor.logs.get(log), sensor.address) else { continue };
            // This report came after the cut.
            let newest_at_cut = *newest_at_cut.get_or_insert(report.last);
            if report.first > newest_at_cut + 1 {
                return Ok(());
            }
            let cursor = Cursor::new(Some(report.epoch), report.last);
            let connection = dialler.connect(address).await?;
            connection.ack_events::<Raw>(&**log, &consumer(GATEWAY), cursor).await?;
        }
    }

    /// Reads what the processes hold, and checks it.
    pub(crate) fn accounts(&self) -> Outcome<Vec<Account>> {
        let processes = self.fleet.board.get();
        let holders = |sensor| [sensor, self.fleet.gateway(), self.fleet.centre()];
        let mut accounts = Vec::new();
        for (index, log) in self.fleet.logs.iter().enumerate() {
            let mut records = Vec::new();
            for holder in holders(index) {
                let ProcessState { name, address, .. } = &processes[holder];
                let address = address.ok_or_else(|| format!("{name} does not come back"))?;
                let record = smol::block_on(collect(&self.fleet.certificates, address, &log.log));
                records.push(record.map_err(|error| format!("cannot read {} at {name}: {error}", log.log))?);
            }
            let [sensor, gateway, centre] = &mut records[..] else { continue };
            if let Some(plant) = self.args.plant.filter(|_| index == 0) {
                falsify(centre, plant);
            }
            let acknowledged = &processes[index].acknowledged;
            let verdict = check(Evidence {
                sensor_name: &log.sensor,
                bounds: log.bounds,
                acknowledged,
                sensor,
                gateway,
                centre,
            });
            accounts.push(Account { log: log.clone(), acknowledged: acknowledged.len(), verdict });
        }
        Ok(accounts)
    }

    pub(crate) fn totals(&self) -> Totals {
        let processes = self.fleet.board.get();
        let lost_datagrams = self.fleet.links.iter().map(|named| named.link.lost()).sum();
        let (seed, elapsed, done) = (self.seed, self.begun.elapsed(), self.done().clone());
        Totals { seed, elapsed, done, processes, lost_datagrams }
    }

    /// Draws the table again and again, or writes a line now and then if this is no terminal.
    fn show(&self, is_over: &AtomicBool) {
        let is_terminal = io::stdout().is_terminal();
        let mut drawn = 0;
        loop {
            let is_last = is_over.load(Ordering::Acquire);
            let text = self.drawing(is_terminal, drawn);
            drawn = if is_terminal { text.lines().count() } else { 0 };
            // The run does not depend on whether anybody looks.
            drop(write!(io::stdout(), "{text}"));
            if is_last {
                return;
            }
            let interval = if is_terminal { REDRAW_INTERVAL } else { LINE_INTERVAL };
            thread::park_timeout(interval);
        }
    }

    fn drawing(&self, is_terminal: bool, drawn: usize) -> String {
        let (processes, done) = (self.fleet.board.get(), self.done().clone());
        let Fleet { links, logs, .. } = self.fleet;
        let view = View {
            args: self.args,
            seed: self.seed,
            elapsed: self.begun.elapsed(),
            done: &done,
            processes: &processes,
            links,
            logs,
        };
        if is_terminal { table::redraw(&table::live(&view), drawn) } else { table::line(&view) }
    }

    fn done(&self) -> MutexGuard<'_, HarmCount> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
