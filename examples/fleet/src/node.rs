//! What every process of the fleet has in common: certificates, limits, and the pipes to the process that has
//! started it.

use std::{
    fs,
    future::Future,
    io::{self, Write},
    net::UdpSocket,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use palyra_quic::{
    CertificateAuthority, ClientTls, Endpoint, Identity, PeerIdentity, Router, ServerTls, TransportLimits,
    Trust,
};
use smol::{
    Timer, Unblock,
    io::{AsyncBufReadExt, BufReader},
};

use crate::{Outcome, args::NodeArgs, report::Report};

/// A connection ends when nothing was received for this long. Some cuts are shorter, some are longer.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(500);
/// For mirrors: a process that is killed is back within this time, and does not know of earlier attempts.
pub(crate) const SHORT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);
/// For those who dial a process that runs, and do not try again.
pub(crate) const LONG_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
const GRACE: Duration = Duration::from_millis(200);
/// The state of a log whose origin is connected.
pub(crate) const FOLLOWING: &str = "following";
/// What the process that has started this one writes in order to end the publishing of events.
pub(crate) const STOP: &str = "stop";

/// Makes the certificates of these processes, each a server and a client.
pub(crate) fn make_certificates(directory: &Path, names: &[String]) -> Outcome {
    fs::create_dir(directory)?;
    let authority = CertificateAuthority::new("Fleet CA")?;
    fs::write(directory.join("ca.pem"), authority.cert_pem())?;
    for name in names {
        for (kind, issued) in
            [("server", authority.issue_server(&[])?), ("client", authority.issue_client(name)?)]
        {
            fs::write(directory.join(format!("{name}-{kind}.pem")), issued.cert_pem())?;
            fs::write(directory.join(format!("{name}-{kind}.key")), issued.key_pem())?;
        }
    }
    Ok(())
}

/// An endpoint that dials in the name of a process.
pub(crate) fn dialler(certificates: &Path, name: &str, handshake_timeout: Duration) -> Outcome<Endpoint> {
    let tls = ClientTls::new(trust(certificates)?).identity(identity(certificates, name, "client")?);
    Ok(Endpoint::builder().client(tls).limits(limits(handshake_timeout)?).bind(([127, 0, 0, 1], 0).into())?)
}

/// Serves a router at the address where this process was before, or, if another one has taken that, at a new
/// one. At the old address, the peers learn at once that the process was started again.
pub(crate) fn serve(args: &NodeArgs, router: Router) -> Outcome<Endpoint> {
    let certificates = args.dir.join("pki");
    let tls = ServerTls::new(identity(&certificates, &args.name, "server")?)
        .require_client_certificates(trust(&certificates)?);
    // Each process may acknowledge for itself alone.
    let router = router.consumers(PeerIdentity::has_name);
    let socket = UdpSocket::bind(args.listen).or_else(|_| UdpSocket::bind((args.listen.ip(), 0)))?;
    let endpoint = Endpoint::builder()
        .server(tls)
        .limits(limits(LONG_HANDSHAKE_TIMEOUT)?)
        .router(router)
        .bind_socket(socket)?;
    print(&Report::Listening(endpoint.local_addr()?))?;
    Ok(endpoint)
}

/// Does the work of a node, and reports, until the process that has started it ends its input.
pub(crate) async fn work(
    endpoint: &Endpoint,
    orders: impl Future<Output = ()>,
    work: impl Future<Output = Outcome>,
    report: impl Fn() -> Vec<Report>,
) -> Outcome {
    let reports = async {
        loop {
            for line in report() {
                print(&line)?;
            }
            Timer::after(REPORT_INTERVAL).await;
        }
    };
    let ended = async {
        orders.await;
        Ok(())
    };
    let failed = async { Err(endpoint.closed().await.into()) };
    smol::future::or(smol::future::or(ended, failed), smol::future::or(work, reports)).await?;
    endpoint.shutdown(GRACE).await;
    Ok(())
}

/// Resolves when the process that has started this one has ended its input, or has ended itself. Sets
/// `stopped` when it says so.
pub(crate) async fn orders(stopped: Arc<AtomicBool>) {
    let mut lines = BufReader::new(Unblock::new(io::stdin()));
    let mut line = String::new();
    while matches!(lines.read_line(&mut line).await, Ok(1..)) {
        if line.trim() == STOP {
            stopped.store(true, Ordering::Release);
        }
        line.clear();
    }
}

pub(crate) fn print(report: &Report) -> io::Result<()> {
    // In one write, so that a kill leaves no half of a line that reads like a whole one.
    io::stdout().lock().write_all(format!("{report}\n").as_bytes())
}

fn limits(handshake_timeout: Duration) -> palyra_quic::Result<TransportLimits> {
    TransportLimits::builder()
        .idle_timeout(IDLE_TIMEOUT)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .handshake_timeout(handshake_timeout)
        .build()
}

fn trust(certificates: &Path) -> Outcome<Trust> {
    Ok(Trust::from_pem(&fs::read(certificates.join("ca.pem"))?)?)
}

fn identity(certificates: &Path, name: &str, kind: &str) -> Outcome<Identity> {
    let read = |extension| fs::read(certificates.join(format!("{name}-{kind}.{extension}")));
    Ok(Identity::from_pem(&read("pem")?, &read("key")?)?)
}
