//! The command line.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use palyra_jetstream::{MissingStream, NatsOptions};
use palyra_quic::ServerAddress;

/// Carries the event logs of palyra-quic nodes into NATS JetStream, and messages back into a log.
#[derive(Debug, Parser)]
#[command(name = "palyra-jetstream")]
pub(crate) struct Command {
    #[command(subcommand)]
    pub(crate) direction: Direction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Direction {
    /// Publish the logs of nodes to a stream.
    ToStream(ToStreamArgs),
    /// Fill the log of a node, which this program then is, from a subject.
    FromStream(FromStreamArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ToStreamArgs {
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
    /// A log, as SUBJECT=HOST:PORT for a node's own or SUBJECT=HOST:PORT/METHOD for another; may be
    /// repeated
    #[arg(long = "log", required = true, value_name = "SUBJECT=ADDRESS")]
    pub(crate) logs: Vec<LogAddress>,
    /// The authorities of the nodes' certificates, in PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: PathBuf,
    /// The certificate with which to connect to the nodes, in PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// The key of that certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// What to do if the stream does not exist, or a subject was emptied
    #[arg(long, value_enum, default_value = "stop")]
    pub(crate) missing_stream: MissingStreamArg,
    /// The deduplication window of a stream that is created, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) duplicate_window: u64,
    /// How many messages may wait for their acknowledgement, at most 256
    #[arg(long, value_name = "MESSAGES", default_value_t = 256)]
    pub(crate) max_in_flight: usize,
    /// The name under which to acknowledge events to the nodes; without it, none are acknowledged
    #[arg(long, value_name = "NAME")]
    pub(crate) consumer: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct FromStreamArgs {
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
    /// The subject, which may contain wildcards
    #[arg(long)]
    pub(crate) subject: String,
    /// The durable consumer, which is created if it does not exist
    #[arg(long, value_name = "NAME")]
    pub(crate) durable: String,
    /// The directory of the log
    #[arg(long, value_name = "DIR")]
    pub(crate) log: PathBuf,
    /// The most bytes that the log may have
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30)]
    pub(crate) max_bytes: u64,
    /// After how many milliseconds JetStream delivers a message again that was not acknowledged
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    pub(crate) ack_wait_ms: u64,
    /// Where to serve the log
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// The certificate of this node, in PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) cert: PathBuf,
    /// The key of that certificate, in PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// The authorities of the subscribers' certificates, in PEM; without it, everybody may subscribe
    #[arg(long, value_name = "FILE")]
    pub(crate) client_ca: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct NatsArgs {
    /// Default: the environment variable NATS_URL
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
    /// The stream
    #[arg(long)]
    pub(crate) stream: String,
    /// The name under which to log in to NATS
    #[arg(long, value_name = "NAME", requires = "nats_password")]
    nats_user: Option<String>,
    /// A file with the password, alone on its line
    #[arg(long, value_name = "FILE", requires = "nats_user")]
    nats_password: Option<PathBuf>,
    /// The authorities of the server's certificate, in PEM; requires TLS
    #[arg(long, value_name = "FILE")]
    nats_ca: Option<PathBuf>,
    /// The certificate with which to connect to NATS, in PEM; requires TLS
    #[arg(long, value_name = "FILE", requires = "nats_key")]
    nats_cert: Option<PathBuf>,
    /// The key of that certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "nats_cert")]
    nats_key: Option<PathBuf>,
    /// A credentials file with a JWT and its seed
    #[arg(long, value_name = "FILE")]
    nats_creds: Option<PathBuf>,
    /// A file with the seed of an nkey
    #[arg(long, value_name = "FILE")]
    nats_nkey: Option<PathBuf>,
    /// How long JetStream may take to answer, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    nats_timeout_ms: u64,
}

impl NatsArgs {
    pub(crate) fn options(&self) -> Result<NatsOptions, String> {
        let url = self.nats.clone().or_else(|| std::env::var("NATS_URL").ok());
        let mut options = NatsOptions::new(url.ok_or("neither --nats nor NATS_URL is given")?);
        if let Some((name, file)) = self.nats_user.clone().zip(self.nats_password.as_ref()) {
            let password =
                std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
            options.user = Some((name, password.trim_end().to_owned()));
        }
        options.authorities.clone_from(&self.nats_ca);
        options.certificate = self.nats_cert.clone().zip(self.nats_key.clone());
        options.credentials.clone_from(&self.nats_creds);
        options.nkey_seed.clone_from(&self.nats_nkey);
        options.timeout = Some(Duration::from_millis(self.nats_timeout_ms));
        Ok(options)
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum MissingStreamArg {
    Stop,
    Recreate,
}

impl From<MissingStreamArg> for MissingStream {
    fn from(argument: MissingStreamArg) -> Self {
        match argument {
            MissingStreamArg::Stop => Self::Stop,
            MissingStreamArg::Recreate => Self::Recreate,
        }
    }
}

/// `SUBJECT=HOST:PORT[/METHOD]`.
#[derive(Debug, Clone)]
pub(crate) struct LogAddress {
    pub(crate) subject: String,
    pub(crate) node: ServerAddress,
    pub(crate) log: String,
}

impl FromStr for LogAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (subject, rest) = text.split_once('=').ok_or("a log is SUBJECT=HOST:PORT[/METHOD]")?;
        if subject.is_empty() || subject.contains(['*', '>', ' ']) {
            return Err(format!("{subject:?} is not the subject of a single log"));
        }
        let (node, log) = rest.split_once('/').unwrap_or((rest, "node.stream_events"));
        let node = node.parse().map_err(|error| format!("{node}: {error}"))?;
        Ok(Self { subject: subject.to_owned(), node, log: log.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_a_subject_of_its_own_a_node_and_a_name() {
        let own: LogAddress = "plant.press=[::1]:7443".parse().unwrap();
        assert_eq!((own.subject.as_str(), own.log.as_str()), ("plant.press", "node.stream_events"));
        let named: LogAddress = "plant.alarms=gateway.example:7443/alarms.stream".parse().unwrap();
        assert_eq!(named.log, "alarms.stream");
        for wrong in ["plant", "=[::1]:7443", "plant.*=[::1]:7443", "plant.>=[::1]:7443", "plant=nowhere"] {
            assert!(wrong.parse::<LogAddress>().is_err(), "{wrong}");
        }
    }
}
