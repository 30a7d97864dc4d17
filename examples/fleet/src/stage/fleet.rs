//! The processes and links of a fleet.

use std::{ffi::OsString, path::Path, sync::Arc};

use fastrand::Rng;

use super::{
    board::{Board, ProcessState},
    collect::READER,
    process::{Launch, Process},
    relay::Link,
};
use crate::{
    Outcome,
    args::{StageArgs, Upstream},
    bounds::Bounds,
    node,
    reading::log_of,
};

pub(crate) const GATEWAY: &str = "gateway";
pub(crate) const CENTRE: &str = "centre";

/// What the stage has started.
pub(crate) struct Fleet {
    pub(crate) board: Arc<Board>,
    /// The sensors, the gateway, the centre; as on the board.
    pub(crate) processes: Vec<Process>,
    /// From the gateway to each sensor, then from the centre to the gateway.
    pub(crate) links: Vec<NamedLink>,
    /// One of each sensor.
    pub(crate) logs: Vec<SensorLog>,
    pub(crate) certificates: std::path::PathBuf,
}

pub(crate) struct NamedLink {
    pub(crate) name: String,
    pub(crate) link: Arc<Link>,
}

/// The log of a sensor, whose index on the board is that of the log.
#[derive(Clone, Debug)]
pub(crate) struct SensorLog {
    pub(crate) sensor: String,
    pub(crate) log: String,
    pub(crate) bounds: Bounds,
}

impl Fleet {
    pub(crate) fn start(args: &StageArgs, directory: &Path, rng: &mut Rng) -> Outcome<Self> {
        let logs: Vec<_> = (1..=args.sensors).map(|number| SensorLog::new(number, args.sensors)).collect();
        let mut names: Vec<_> = logs.iter().map(|log| log.sensor.clone()).collect();
        names.extend([GATEWAY.to_owned(), CENTRE.to_owned()]);
        let certificates = directory.join("pki");
        let owners = [names.as_slice(), &[READER.to_owned()]].concat();
        node::make_certificates(&certificates, &owners)?;

        let mut links = Vec::new();
        for log in &logs {
            links.push(NamedLink::new(format!("{GATEWAY} to {}", log.sensor))?);
        }
        links.push(NamedLink::new(format!("{CENTRE} to {GATEWAY}"))?);

        let board = Arc::new(Board::new(&names));
        let mut fleet = Self { board, processes: Vec::new(), links, logs, certificates };
        for (index, name) in names.iter().enumerate() {
            let launch = fleet.launch_of(index, args, directory, rng.fork());
            let errors = directory.join(format!("{name}.err"));
            fleet.processes.push(Process::start(index, &fleet.board, launch, &errors)?);
        }
        Ok(fleet)
    }

    pub(crate) fn gateway(&self) -> usize {
        self.logs.len()
    }

    pub(crate) fn centre(&self) -> usize {
        self.logs.len() + 1
    }

    /// Ends all processes in good order: readers first, so that they do not dial in vain.
    /// Returns what is known of them then.
    pub(crate) fn end(self) -> Outcome<Vec<ProcessState>> {
        self.processes.into_iter().rev().try_for_each(Process::end)?;
        Ok(self.board.get())
    }

    /// What process `index` is started with.
    fn launch_of(&self, index: usize, args: &StageArgs, directory: &Path, rng: Rng) -> Launch {
        let common = |name: &str| -> Vec<OsString> {
            vec![format!("--name={name}").into(), "--dir".into(), directory.into()]
        };
        let link = self.links.get(index).map(|named| Arc::clone(&named.link));
        if let Some(log) = self.logs.get(index) {
            let own = [
                format!("--rate={}", args.rate),
                format!("--bounds={}", log.bounds),
                format!("--reader={GATEWAY}"),
            ];
            let arguments = common(&log.sensor).into_iter().chain(own.map(OsString::from)).collect();
            return Launch { role: "sensor", arguments, counts_starts: true, link, rng };
        }
        let is_gateway = index == self.gateway();
        let mut arguments = common(if is_gateway { GATEWAY } else { CENTRE });
        if is_gateway {
            arguments.push(format!("--reader={CENTRE}").into());
        }
        for (number, SensorLog { log, bounds, .. }) in self.logs.iter().enumerate() {
            let origin = &self.links[if is_gateway { number } else { self.gateway() }];
            // The gateway keeps all of a log that has gaps, in order to tell who has made them.
            let bounds = if is_gateway && *bounds == Bounds::Unacknowledged { *bounds } else { Bounds::All };
            let upstream = Upstream { log: log.clone(), bounds, origin: origin.link.address() };
            arguments.push(format!("--log={upstream}").into());
        }
        Launch { role: "mirror", arguments, counts_starts: false, link, rng }
    }
}

impl NamedLink {
    fn new(name: String) -> Outcome<Self> {
        Ok(Self { name, link: Arc::new(Link::new()?) })
    }
}

impl SensorLog {
    fn new(number: u32, sensors: u32) -> Self {
        let sensor = format!("sensor-{number}");
        // Of several, so that there is one whose gaps would be faults.
        let has_gaps = number == sensors && sensors > 1;
        let bounds = if has_gaps { Bounds::Newest } else { Bounds::Unacknowledged };
        Self { log: log_of(&sensor), sensor, bounds }
    }
}
