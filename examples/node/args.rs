//! The arguments of the command line, parsed once.

use std::{
    fs::File,
    io::{self, Read},
    num::{NonZeroU32, NonZeroU64},
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use palyra_quic::{Codec, Fingerprint, Pin, TransportLimitsBuilder, rustls::pki_types::ServerName};

use crate::{
    address::{Address, peer_address},
    event_logs::NamedLog,
    failure::Failure,
    files::name::FileName,
    log::LogLevel,
};

/// A Palyra node on the command line.
///
/// Answers are lines of JSON on standard output; an error is one line on standard error. The exit code is 0
/// for success, 1 for a failure, and 2 for an error in the command line.
#[derive(Parser)]
#[command(name = "node", version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Write log messages of the library to standard error, from this level up.
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t, global = true)]
    pub(crate) log_level: LogLevel,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make an authority and certificates from it, for tests.
    Pki(Pki),
    /// Serve health, events, demo.echo and demo.publish until SIGINT or SIGTERM. SIGHUP reads the PKI
    /// again. Each event log of --log has a method NAME.publish besides.
    Serve(Serve),
    /// Ask a node for its health; fails if the node reports that it is not well.
    Health(Health),
    /// Print a table of the methods that a node lets this one call, and its limits.
    Describe(Describe),
    /// Call a method, and print each answer.
    Call(Call),
    /// Notify a node, and wait until it has received the notification.
    Notify(Notify),
    /// Print a node's events, and the gaps between them.
    Events(Events),
    /// Follow an event log of a node into a directory, and serve it under the same epoch and numbers, until
    /// SIGINT or SIGTERM. What the mirror does is told on standard error.
    Mirror(Mirror),
    /// Store a file in the folder of a node that serves one. If a part of it is there, only the rest is sent.
    Put(Put),
    /// Fetch a file from the folder of a node. If a part of it is here, only the rest is fetched.
    Get(Get),
}

#[derive(Args)]
pub(crate) struct Pki {
    /// The directory for the files. If it contains an authority already, that authority issues the
    /// certificates that are missing or named.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// A name or IP address of the server, beside localhost, 127.0.0.1 and ::1. Makes a new server
    /// certificate.
    #[arg(long = "name", value_name = "NAME", value_parser = server_name)]
    pub(crate) names: Vec<String>,
    /// A client to make a new certificate for: ID.pem and ID.key [default: client, unless it exists]
    #[arg(long = "client", value_name = "ID")]
    pub(crate) clients: Vec<ClientId>,
}

/// The arguments that name event logs in files.
const STORED_LOGS: &str = "stored_logs";

#[derive(Args)]
#[command(group = ArgGroup::new(STORED_LOGS).multiple(true))]
pub(crate) struct Serve {
    /// Where to listen: IP:PORT, [IPV6%INTERFACE]:PORT or HOST:PORT. Port 0 lets the system choose.
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Address,
    /// The directory that `node pki` has filled.
    #[arg(long, value_name = "DIR")]
    pub(crate) pki: PathBuf,
    #[command(flatten)]
    pub(crate) revocations: Revocations,
    /// Accept clients without a certificate. Default: refuse them.
    #[arg(long, conflicts_with_all = ["crls", "revoked"])]
    pub(crate) no_client_auth: bool,
    /// How many connections may be open at a time [default: 256]
    #[arg(long, value_name = "N")]
    pub(crate) max_connections: Option<u32>,
    /// Derive every limit from this much memory, in MiB: 16 are enough for 64 peers. Default: the limits of
    /// the protocol.
    #[arg(long, value_name = "MIB")]
    pub(crate) memory: Option<u32>,
    #[command(flatten)]
    pub(crate) datagrams: Datagrams,
    /// Publish a tick event to the node's own log at this interval, in milliseconds.
    #[arg(long, value_name = "MS", value_parser = at_least_one::<NonZeroU64>)]
    pub(crate) publish_every: Option<NonZeroU64>,
    /// Store the events in this directory, so that they survive a restart: the newest 65,536 or 16 MiB.
    /// Default: in memory.
    #[arg(long, value_name = "DIR", group = STORED_LOGS)]
    pub(crate) durable: Option<PathBuf>,
    /// Serve another event log under this method name, such as plant.temperature, and store it in this
    /// directory, as --durable does. NAME.publish publishes to it. Can be given several times.
    #[arg(long = "log", value_name = "NAME=PATH", group = STORED_LOGS)]
    pub(crate) logs: Vec<NamedLog>,
    /// The shortest time between two writes to a stored log, in milliseconds [default: 20]
    #[arg(long, value_name = "MS", requires = STORED_LOGS)]
    pub(crate) commit_interval: Option<u64>,
    /// Keep the events of stored logs until those that acknowledge them have done so, up to this many MiB of
    /// each log. A client acknowledges under a name in its certificate.
    #[arg(long, value_name = "MIB", requires = STORED_LOGS, value_parser = at_least_one::<NonZeroU32>)]
    pub(crate) keep_unacknowledged: Option<NonZeroU32>,
    /// Serve the files of this folder, and store those that peers put. Only for peers with a certificate.
    #[arg(long, value_name = "DIR")]
    pub(crate) files: Option<PathBuf>,
    /// A client that may put files: the ID of its certificate. Can be given several times [default: every
    /// client with a certificate]
    #[arg(long = "writer", value_name = "ID", requires = "files")]
    pub(crate) writers: Vec<ClientId>,
}

/// How large datagrams may be.
#[derive(Args, Clone, Copy)]
pub(crate) struct Datagrams {
    /// The largest datagram in bytes, without headers: 1200 to 65527, or auto for what the interface takes
    /// that the socket is bound to, up to 32768. Larger ones are faster on loopback and on networks with
    /// jumbo frames, if both sides allow them [default: 1452]
    #[arg(long = "max-datagram", value_name = "auto|BYTES")]
    max: Option<MaxDatagram>,
}

#[derive(Clone, Copy)]
enum MaxDatagram {
    Auto,
    Bytes(u16),
}

/// As fast as any on loopback: of larger ones, few fit the receive buffer that Linux gives a socket.
const AUTO_BYTES: u16 = 32 * 1024;

impl FromStr for MaxDatagram {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            bytes => bytes.parse().map(Self::Bytes).map_err(|_| "neither auto nor 1200 to 65527"),
        }
    }
}

impl Datagrams {
    pub(crate) fn limits(self, limits: TransportLimitsBuilder) -> TransportLimitsBuilder {
        match self.max {
            None => limits,
            Some(MaxDatagram::Auto) => limits.max_datagram_bytes(AUTO_BYTES).fit_datagrams_to_interface(),
            Some(MaxDatagram::Bytes(bytes)) => limits.max_datagram_bytes(bytes),
        }
    }
}

/// Certificates of peers that are refused although an authority has signed them.
#[derive(Args)]
pub(crate) struct Revocations {
    /// Certificate revocation lists of the authorities in the directory, in PEM or one in DER. Can be given
    /// several times.
    #[arg(long = "crl", value_name = "FILE")]
    pub(crate) crls: Vec<PathBuf>,
    /// The SHA-256 fingerprint of a certificate that is revoked. Can be given several times.
    #[arg(long = "revoke", value_name = "FINGERPRINT")]
    pub(crate) revoked: Vec<Fingerprint>,
}

/// The node to connect to, and the certificate to present.
#[derive(Args)]
pub(crate) struct Peer {
    /// The node: IP:PORT, [IPV6%INTERFACE]:PORT or HOST:PORT.
    #[arg(value_name = "ADDR", value_parser = peer_address)]
    pub(crate) address: Address,
    /// The directory that `node pki` has filled.
    #[arg(long, value_name = "DIR")]
    pub(crate) pki: PathBuf,
    /// The certificate to present: ID.pem and ID.key [default: client; none if there is no client.pem]
    #[arg(long = "as", value_name = "ID")]
    pub(crate) identity: Option<ClientId>,
    /// The name or IP address that the node's certificate must be valid for; nodes of the tokio
    /// implementation have one for localhost [default: the host of ADDR]
    #[arg(long, value_name = "NAME", value_parser = server_name)]
    server_name: Option<String>,
    /// The SHA-256 fingerprint that the node's certificate must have, with or without colons as openssl
    /// writes it. With spki: in front, the fingerprint of its public key. If there are several, one must
    /// match.
    #[arg(long = "pin", value_name = "HEX")]
    pub(crate) pins: Vec<Pin>,
    #[command(flatten)]
    pub(crate) revocations: Revocations,
    #[command(flatten)]
    pub(crate) datagrams: Datagrams,
    /// The encoding of requests; nodes of the tokio implementation need json.
    #[arg(long, value_enum, value_name = "CODEC", default_value_t)]
    pub(crate) codec: Encoding,
}

#[derive(Args)]
pub(crate) struct Health {
    #[command(flatten)]
    pub(crate) peer: Peer,
    /// How long to wait for the connection, 10 s at most, and then for the answer, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    pub(crate) timeout_ms: u64,
}

#[derive(Args)]
pub(crate) struct Describe {
    #[command(flatten)]
    pub(crate) peer: Peer,
    /// How long to wait for the connection, 10 s at most, and then for the answer, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    pub(crate) timeout_ms: u64,
}

#[derive(Args)]
pub(crate) struct Call {
    #[command(flatten)]
    pub(crate) peer: Peer,
    #[command(flatten)]
    pub(crate) message: Message,
    /// How long to wait for the connection, 10 s at most, and then for all answers, in milliseconds. Requests
    /// contain this limit, except in JSON.
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    pub(crate) timeout_ms: u64,
}

#[derive(Args)]
pub(crate) struct Notify {
    #[command(flatten)]
    pub(crate) peer: Peer,
    #[command(flatten)]
    pub(crate) message: Message,
    /// How long to wait for the connection, 10 s at most, and then for the node to receive it, in
    /// milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    pub(crate) timeout_ms: u64,
}

#[derive(Args)]
pub(crate) struct Message {
    /// The method's name, such as demo.echo.
    #[arg(value_name = "METHOD", value_parser = method_name)]
    pub(crate) method: String,
    /// Parameters, as text [default: none]
    #[arg(long, value_name = "TEXT", conflicts_with = "params_hex", allow_hyphen_values = true)]
    params: Option<String>,
    /// Parameters, as bytes in hexadecimal.
    #[arg(long, value_name = "HEX", conflicts_with = "params_file")]
    params_hex: Option<Hex>,
    /// Parameters, as the bytes of this file; - is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "params")]
    params_file: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Events {
    #[command(flatten)]
    pub(crate) peer: Peer,
    /// The name of the log.
    #[arg(long, value_name = "NAME", value_parser = method_name, default_value = "node.stream_events")]
    pub(crate) log: String,
    /// Print only events after this sequence number, the last one processed [default: all stored events]
    #[arg(long, value_name = "N")]
    pub(crate) resume_from: Option<u64>,
    /// The epoch that the sequence number belongs to [default: the node's present one]
    #[arg(long, value_name = "N")]
    pub(crate) epoch: Option<u64>,
    /// Wait for new events until SIGINT or SIGTERM, also for a node that is not running yet. In CBOR,
    /// reconnect when the node is lost, or sends nothing for 20 s, not even a heartbeat. In JSON, end with
    /// the connection. Nodes of the tokio implementation cannot be followed.
    #[arg(long)]
    pub(crate) follow: bool,
    /// End after this number of events; gaps do not count.
    #[arg(long, value_name = "N", value_parser = at_least_one::<NonZeroU64>)]
    pub(crate) count: Option<NonZeroU64>,
    /// Acknowledge to the node what was printed, under this name of 1 to 64 bytes, so that the node keeps
    /// events until then. The node decides who may use which name. Not with --codec json.
    #[arg(long, value_name = "NAME", value_parser = consumer_name)]
    pub(crate) consumer: Option<String>,
    /// How long to wait for the connection, 10 s at most, and then for each event, in milliseconds
    /// [default: 30000]. With --follow: how long to wait for the node, at the start or after it is lost
    /// [default: without limit]
    #[arg(long, value_name = "MS")]
    pub(crate) timeout_ms: Option<u64>,
}

#[derive(Args)]
pub(crate) struct Mirror {
    /// The origin of the log, or a mirror of it that is nearer to the origin than this one.
    #[command(flatten)]
    pub(crate) peer: Peer,
    /// Another holder of the log, nearer to the origin than this one: it is followed while the node cannot be
    /// reached, and asked for events that this one is missing. Can be given several times.
    #[arg(long, value_name = "ADDR", value_parser = peer_address)]
    pub(crate) also: Vec<Address>,
    /// The name of the log.
    #[arg(long, value_name = "NAME", value_parser = method_name, default_value = "node.stream_events")]
    pub(crate) log: String,
    /// Acknowledge what is stored to the node, under this name of 1 to 64 bytes.
    #[arg(long, value_name = "NAME", value_parser = consumer_name)]
    pub(crate) consumer: Option<String>,
    /// The directory for the events: up to 64 MiB of each of the newest four epochs.
    #[arg(long, value_name = "DIR")]
    pub(crate) durable: PathBuf,
    /// Where to listen: IP:PORT, [IPV6%INTERFACE]:PORT or HOST:PORT. Port 0 lets the system choose.
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Address,
}

#[derive(Args)]
pub(crate) struct Put {
    #[command(flatten)]
    pub(crate) peer: Peer,
    /// The file to send.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The name that it gets there: 1 to 128 bytes of letters, digits, spaces and -._~+=@,() without a dot in
    /// front [default: that of FILE]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<FileName>,
    /// How long to wait for the connection, 10 s at most, and then for progress, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 60_000)]
    pub(crate) timeout_ms: u64,
}

#[derive(Args)]
pub(crate) struct Get {
    #[command(flatten)]
    pub(crate) peer: Peer,
    /// The name of the file in the folder of the node.
    #[arg(value_name = "NAME")]
    pub(crate) name: FileName,
    /// Where to store it [default: NAME in the current directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
    /// How long to wait for the connection, 10 s at most, and then for progress, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 60_000)]
    pub(crate) timeout_ms: u64,
}

impl Peer {
    /// What the node's certificate must be valid for.
    pub(crate) fn server_name(&self) -> String {
        self.server_name_at(&self.address)
    }

    /// The same for another node.
    pub(crate) fn server_name_at(&self, address: &Address) -> String {
        self.server_name.clone().unwrap_or_else(|| address.host())
    }
}

impl Message {
    pub(crate) fn params(&self) -> Result<Option<Vec<u8>>, Failure> {
        if let Some(file) = &self.params_file {
            return read_params(file).map(Some);
        }
        let text = self.params.as_ref().map(|text| text.clone().into_bytes());
        Ok(text.or_else(|| self.params_hex.as_ref().map(|Hex(bytes)| bytes.clone())))
    }
}

fn read_params(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut params = Vec::new();
    let read = if file == Path::new("-") {
        io::stdin().lock().read_to_end(&mut params)
    } else {
        File::open(file).and_then(|mut file| file.read_to_end(&mut params))
    };
    read.map_err(|error| Failure::new(error).during(format_args!("cannot read {}", file.display())))?;
    Ok(params)
}

/// [`Codec`], with the trait that clap needs.
#[derive(Clone, Copy, Default, ValueEnum)]
pub(crate) enum Encoding {
    #[default]
    Cbor,
    Json,
}

impl Encoding {
    pub(crate) fn is_cbor(self) -> bool {
        matches!(self, Self::Cbor)
    }
}

impl From<Encoding> for Codec {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Cbor => Self::Cbor,
            Encoding::Json => Self::Json,
        }
    }
}

fn server_name(text: &str) -> Result<String, &'static str> {
    ServerName::try_from(text).map_err(|_| "neither a DNS name nor an IP address")?;
    Ok(text.into())
}

fn at_least_one<N: FromStr>(text: &str) -> Result<N, &'static str> {
    text.parse().map_err(|_| "not a number from 1 on, or too large")
}

/// A name within the limit of the protocol.
fn method_name(text: &str) -> Result<String, &'static str> {
    if (1..=128).contains(&text.len()) { Ok(text.into()) } else { Err("not 1 to 128 bytes") }
}

fn consumer_name(text: &str) -> Result<String, &'static str> {
    if (1..=64).contains(&text.len()) { Ok(text.into()) } else { Err("not 1 to 64 bytes") }
}

#[derive(Clone)]
struct Hex(Vec<u8>);

impl FromStr for Hex {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "not pairs of hexadecimal digits";
        let nibble = |digit: u8| {
            let digit = char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
            digit.ok_or(wrong)
        };
        let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
            &[high, low] => Ok(nibble(high)? << 4 | nibble(low)?),
            _ => Err(wrong),
        });
        pairs.collect::<Result<_, _>>().map(Self)
    }
}

/// A client's name in the PKI directory. It consists of the characters of a device id in a certificate, so
/// it is a safe file name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClientId(String);

impl ClientId {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The names in the PKI directory that no client can have.
pub(crate) struct ReservedName;

impl ReservedName {
    pub(crate) const CA: &str = "ca";
    pub(crate) const SERVER: &str = "server";
}

impl FromStr for ClientId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        match text {
            // A file system that ignores case would use the same file for both.
            _ if [ReservedName::CA, ReservedName::SERVER]
                .iter()
                .any(|name| text.eq_ignore_ascii_case(name)) =>
            {
                Err("the names of the authority and of the server are taken")
            }
            _ if (1..=50).contains(&text.len()) && text.bytes().all(plain) => Ok(Self(text.into())),
            _ => Err("not 1 to 50 letters, digits, `-`, `.`, `_` and `~`"),
        }
    }
}
