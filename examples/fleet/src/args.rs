//! The command line: of the program that people start, and of the processes that it starts.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{Args as Group, Parser, Subcommand, ValueEnum};

use crate::bounds::Bounds;

/// Runs sensors, a gateway and a centre, kills them, cuts their links, and accounts for every event.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
    #[command(flatten)]
    pub(crate) stage: StageArgs,
}

#[derive(Clone, Debug, Group)]
pub(crate) struct StageArgs {
    /// How often a process is killed (SIGKILL)
    #[arg(long, default_value_t = 200)]
    pub(crate) kills: u32,
    /// How often a link is cut, for up to 4 s each
    #[arg(long, default_value_t = 50)]
    pub(crate) cuts: u32,
    /// How often a process is refused every write to its disk, for up to 1.5 s each
    #[arg(long, default_value_t = 10)]
    pub(crate) full_disks: u32,
    /// How many sensors there are. The last one keeps its newest events only
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(crate) sensors: u32,
    /// How many events each sensor publishes per second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,
    /// What is harmed, when and for how long follows from this number. Default: another one each time
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Keeps all files in this directory, which must not exist. Default: they are removed
    #[arg(long)]
    pub(crate) keep: Option<PathBuf>,
    /// Falsifies one event, which the check must find
    #[arg(long, hide = true)]
    pub(crate) plant: Option<Plant>,
}

/// A fault that is made on purpose, in order to see that the check finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Plant {
    /// The reader of the centre loses an event.
    Lose,
    /// The reader of the centre gets an event twice.
    Duplicate,
    /// The reader of the centre gets two events in the wrong order.
    Swap,
    /// The reader of the centre gets another value.
    Alter,
    /// A sensor is told that the gateway has events which it does not have, and drops them.
    Acknowledge,
}

/// What a process is. The program starts itself with these.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    #[command(hide = true)]
    Sensor(SensorArgs),
    #[command(hide = true)]
    Mirror(MirrorArgs),
}

/// What every process must know.
#[derive(Clone, Debug, Group)]
pub(crate) struct NodeArgs {
    #[arg(long)]
    pub(crate) name: String,
    /// Holds the certificates of all processes, and a directory of events for each.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    #[arg(long)]
    pub(crate) listen: SocketAddr,
}

#[derive(Clone, Debug, Group)]
pub(crate) struct SensorArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// How often this sensor was started, this time included.
    #[arg(long)]
    pub(crate) start: u32,
    #[arg(long)]
    pub(crate) rate: u32,
    #[arg(long)]
    pub(crate) bounds: Bounds,
    /// The name of the process for which events are kept.
    #[arg(long)]
    pub(crate) reader: String,
}

#[derive(Clone, Debug, Group)]
pub(crate) struct MirrorArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// The name of the process for which events are kept.
    #[arg(long)]
    pub(crate) reader: Option<String>,
    #[arg(long = "log", required = true)]
    pub(crate) logs: Vec<Upstream>,
}

/// A log that a mirror follows, and what it keeps of it: `LOG,BOUNDS,ADDRESS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upstream {
    pub(crate) log: String,
    pub(crate) bounds: Bounds,
    pub(crate) origin: SocketAddr,
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{}", self.log, self.bounds, self.origin)
    }
}

impl FromStr for Upstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let [log, bounds, origin] = text.split(',').collect::<Vec<_>>()[..] else {
            return Err("not LOG,BOUNDS,ADDRESS".into());
        };
        let origin = origin.parse().map_err(|error| format!("{origin}: {error}"))?;
        Ok(Self { log: log.into(), bounds: bounds.parse()?, origin })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_followed_log_is_read_as_it_is_written() {
        let upstream = Upstream {
            log: "plant.sensor-1".into(),
            bounds: Bounds::Unacknowledged,
            origin: ([127, 0, 0, 1], 7443).into(),
        };
        assert_eq!(upstream.to_string().parse(), Ok(upstream));
        for wrong in ["", "a,all", "a,all,127.0.0.1", "a,some,127.0.0.1:1", "a,all,127.0.0.1:1,b"] {
            assert!(wrong.parse::<Upstream>().is_err(), "{wrong}");
        }
    }
}
