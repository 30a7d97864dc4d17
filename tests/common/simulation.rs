//! Nodes in a simulated network, and the seeds that a scenario is run with.

#![allow(dead_code, reason = "not every test needs all of this")]

use std::{
    env,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::OnceLock,
    time::Duration,
};

use palyra_quic::{
    CertificateAuthority, Client, ClientTls, Endpoint, IssuedCertificate, Router, ServerTls, TransportLimits,
    sim::{Host, Link, Sim},
};

pub(crate) const PORT: u16 = 7443;
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// Runs a scenario with each seed: `PALYRA_SEEDS` of them (200 by default), or `PALYRA_SEED` alone.
///
/// A seed that fails is named, and fails again when it is asked for.
pub(crate) fn for_each_seed(scenario: impl Fn(u64)) {
    for seed in seeds() {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| scenario(seed))) {
            eprintln!("failed with seed {seed}; PALYRA_SEED={seed} repeats it");
            resume_unwind(panic);
        }
    }
}

fn seeds() -> Range<u64> {
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    match number("PALYRA_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PALYRA_SEEDS").unwrap_or(200),
    }
}

/// Certificates, made once: they take longer than a scenario.
struct Pki {
    authority: CertificateAuthority,
    server: IssuedCertificate,
    client: IssuedCertificate,
}

fn pki() -> &'static Pki {
    static PKI: OnceLock<Pki> = OnceLock::new();
    PKI.get_or_init(|| {
        let authority = CertificateAuthority::new("Simulated CA").unwrap();
        // Of each host that serves in some test, so that it can be dialled by its address alone.
        let server =
            authority.issue_server(&["gateway.example", "10.0.0.1", "10.0.0.2", "10.0.0.3"]).unwrap();
        let client = authority.issue_client("sensor-7").unwrap();
        Pki { authority, server, client }
    })
}

pub(crate) fn server_tls() -> ServerTls {
    ServerTls::new(pki().server.identity()).require_client_certificates(pki().authority.trust())
}

pub(crate) fn client_tls() -> ClientTls {
    ClientTls::new(pki().authority.trust()).identity(pki().client.identity())
}

/// Issued what the hosts show.
pub(crate) fn authority() -> &'static CertificateAuthority {
    &pki().authority
}

/// What [`client_tls`] shows.
pub(crate) fn client_identity() -> &'static IssuedCertificate {
    &pki().client
}

/// Two hosts with a link between them, the same in both directions.
pub(crate) struct Pair {
    pub(crate) sim: Sim,
    pub(crate) gateway: Host,
    pub(crate) sensor: Host,
}

impl Pair {
    pub(crate) fn new(seed: u64, link: Link) -> Self {
        let sim = Sim::new(seed);
        sim.set_default_link(link);
        let (gateway, sensor) = (sim.host([10, 0, 0, 1]), sim.host([10, 0, 0, 2]));
        Self { sim, gateway, sensor }
    }

    pub(crate) fn serve(&self, router: Router, limits: TransportLimits) -> Endpoint {
        let builder = Endpoint::builder().server(server_tls()).router(router).limits(limits);
        self.gateway.bind(builder, PORT).unwrap()
    }

    pub(crate) fn dialler(&self, limits: TransportLimits) -> Endpoint {
        self.sensor.bind(Endpoint::builder().client(client_tls()).limits(limits), 0).unwrap()
    }

    pub(crate) fn client(&self, limits: TransportLimits) -> Client {
        Client::builder(self.dialler(limits)).address(self.gateway.address(PORT)).build().unwrap()
    }
}

/// Bad links double the time until the next probe again and again (RFC 9002, section 6.2.1), up to minutes.
pub(crate) fn patient() -> TransportLimits {
    TransportLimits::builder()
        .handshake_timeout(600 * SECOND)
        .idle_timeout(600 * SECOND)
        .request_read_timeout(600 * SECOND)
        .handler_timeout(600 * SECOND)
        .build()
        .unwrap()
}
