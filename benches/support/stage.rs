//! Node and client as processes of their own, and the process that starts them.

use std::{
    env,
    error::Error,
    fmt::Display,
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    str::FromStr,
};

use palyra_quic::{CertificateAuthority, Identity, Trust};

use super::kind::Kind;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const ROLE: &str = "BENCH_ROLE";
const KIND: &str = "BENCH_KIND";
const ADDRESS: &str = "BENCH_ADDRESS";
const AUTHORITY: &str = "BENCH_CA";
const CERTIFICATE: &str = "BENCH_CERT";
const KEY: &str = "BENCH_KEY";

/// What a process of the benchmark is.
pub(crate) enum Role {
    Node,
    Client,
    /// Starts the others.
    Stage,
    /// `cargo test --benches` starts this too, and is not to wait for it.
    Nothing,
}

impl Role {
    pub(crate) fn of_this_process() -> Result<Self> {
        match env::var(ROLE).as_deref() {
            Ok("node") => Ok(Self::Node),
            Ok("client") => Ok(Self::Client),
            Ok(role) => Err(format!("nobody is called {role:?}").into()),
            Err(_) if env::args().all(|arg| arg != "--bench") => Ok(Self::Nothing),
            Err(_) => Ok(Self::Stage),
        }
    }
}

/// Who the two are.
pub(crate) struct Stage {
    authority: CertificateAuthority,
    node: (String, String),
    client: (String, String),
}

impl Stage {
    pub(crate) fn new() -> palyra_quic::Result<Self> {
        let authority = CertificateAuthority::new("Bench CA")?;
        let (node, client) = (authority.issue_server(&[])?, authority.issue_client("bench")?);
        Ok(Self {
            node: (node.cert_pem().to_owned(), node.key_pem().to_owned()),
            client: (client.cert_pem().to_owned(), client.key_pem().to_owned()),
            authority,
        })
    }

    pub(crate) fn node(&self, executable: &Path, kind: Kind) -> Command {
        self.command(executable, "node", kind, &self.node)
    }

    pub(crate) fn client(&self, executable: &Path, kind: Kind, address: &str) -> Command {
        let mut command = self.command(executable, "client", kind, &self.client);
        command.env(ADDRESS, address.trim());
        command
    }

    pub(crate) fn trust(&self) -> Trust {
        self.authority.trust()
    }

    pub(crate) fn client_identity(&self) -> palyra_quic::Result<Identity> {
        Identity::from_pem(self.client.0.as_bytes(), self.client.1.as_bytes())
    }

    pub(crate) fn node_identity(&self) -> palyra_quic::Result<Identity> {
        Identity::from_pem(self.node.0.as_bytes(), self.node.1.as_bytes())
    }

    fn command(&self, executable: &Path, role: &str, kind: Kind, (cert, key): &(String, String)) -> Command {
        let mut command = Command::new(executable);
        command
            .env(ROLE, role)
            .env(KIND, kind.name())
            .env(AUTHORITY, self.authority.cert_pem())
            .env(CERTIFICATE, cert)
            .env(KEY, key);
        command
    }
}

/// A child process, which ends when its standard input does.
pub(crate) struct Actor {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Actor {
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = process.stdout.take().ok_or("no standard output")?;
        Ok(Self { process, output: BufReader::new(output) })
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err("a process of the benchmark has failed".into());
        }
        Ok(line)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// What an actor was given.
pub(crate) fn credentials() -> Result<(Identity, Trust)> {
    let [authority, certificate, key] = [AUTHORITY, CERTIFICATE, KEY].map(env::var);
    let identity = Identity::from_pem(certificate?.as_bytes(), key?.as_bytes())?;
    Ok((identity, Trust::from_pem(authority?.as_bytes())?))
}

pub(crate) fn kind_of_this_process() -> Result<Kind> {
    Kind::parse(&env::var(KIND)?)
}

/// Where the node is.
pub(crate) fn address() -> Result<SocketAddr> {
    Ok(env::var(ADDRESS)?.parse()?)
}

/// A line for whoever started this process.
pub(crate) fn say(line: impl Display) -> io::Result<()> {
    let mut output = io::stdout();
    writeln!(output, "{line}")?;
    output.flush()
}

/// A number from the environment.
pub(crate) fn setting<T: FromStr>(name: &str, default: T) -> T {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
