//! Brokers: programs that are installed, and take the place of the server with a configuration of ours.

use std::{
    env, fs,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Result,
    processes::Process,
    setup::{LOOPBACK, Setup, announce},
};

/// Longer than any broker takes to start.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// Where this program is. Daemons are often outside of the path of ordinary users.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(usual).map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// nats-server with JetStream, which alone stores messages; the stream itself is made by the client.
pub fn serve_nats(setup: &Setup) -> Result<()> {
    let [authority, certificate, key] = pki(setup);
    let (address, directory) = (free_port()?, directory(setup)?);
    let config = directory.join("nats.conf");
    let text = format!(
        "listen: \"{address}\"\n\
         jetstream {{ store_dir: {:?}, max_memory_store: 1GB }}\n\
         tls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {authority:?}, verify: true }}\n",
        directory.join("store")
    );
    fs::write(&config, text)?;
    become_broker("nats-server", address, |command| {
        command.arg("-c").arg(&config).arg("-l").arg(directory.join("nats.log"));
    })
}

pub fn serve_mosquitto(setup: &Setup) -> Result<()> {
    let [authority, certificate, key] = pki(setup).map(|path| path.display().to_string());
    let address = free_port()?;
    let config = directory(setup)?.join("mosquitto.conf");
    // Without limits on what may be queued, which would drop stored messages, or have a subscriber wait for
    // the acknowledgement of every twentieth. Where root starts it, it stays root, and can read the key.
    let text = format!(
        "listener {} {}\n\
         cafile {authority}\ncertfile {certificate}\nkeyfile {key}\n\
         require_certificate true\nuse_identity_as_username true\ntls_version tlsv1.3\n\
         user root\nset_tcp_nodelay true\nmax_queued_messages 0\nmax_inflight_messages 0\n\
         persistence false\nsys_interval 0\nlog_dest none\n",
        address.port(),
        address.ip()
    );
    fs::write(&config, text)?;
    become_broker("mosquitto", address, |command| {
        command.arg("-c").arg(&config);
    })
}

/// The broker gets this process, with its number, its cores, and its end with that of the harness.
fn become_broker(program: &str, address: SocketAddr, args: impl FnOnce(&mut Command)) -> Result<()> {
    let program = find(program).ok_or_else(|| format!("{program} is not installed"))?;
    announce(address)?;
    let mut command = Command::new(program);
    args(&mut command);
    // Warnings would stand among the figures.
    command.stderr(Stdio::null());
    Err(command.exec().into())
}

/// A broker cannot be given a socket, and not all of them choose a port themselves.
fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind(LOOPBACK)?.local_addr()?)
}

/// A directory for this process, which goes with that of the keys.
fn directory(setup: &Setup) -> Result<PathBuf> {
    let directory = setup.pki().join(format!("broker-{}", process::id()));
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

fn pki(setup: &Setup) -> [PathBuf; 3] {
    ["ca.pem", "server.pem", "server.key"].map(|name| setup.pki().join(name))
}

/// Waits until the broker takes connections; fails if it has ended, as it does if another process has taken
/// the port meanwhile.
pub fn wait_until_listening(broker: &mut Process, address: &str) -> Result<()> {
    let address: SocketAddr = address.parse()?;
    let start = Instant::now();
    while start.elapsed() < STARTS_WITHIN {
        if broker.has_ended()? {
            return Err("the broker ended".into());
        }
        if TcpStream::connect(address).is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(2));
    }
    Err("the broker does not listen".into())
}

/// What the broker said of itself, for the report.
pub fn version(program: &Path) -> String {
    // mosquitto says it with its help, and ends as if that were a fault.
    let said = |arg| Command::new(program).arg(arg).output().ok().map(|output| output.stdout);
    let flag = if program.ends_with("mosquitto") { "-h" } else { "--version" };
    let text = String::from_utf8(said(flag).unwrap_or_default()).unwrap_or_default();
    text.lines().next().unwrap_or("of an unknown version").to_owned()
}
