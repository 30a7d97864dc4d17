//! One attacker who wants more than his share: of connections, and of calls.

use std::time::Duration;

use palyra_quic::{
    Code,
    quinn::{ClientConfig, Connection},
};

use super::{
    ECHO, Result, Stage,
    peer::{NAME, code, crypto, endpoint, request, tls},
    probe::{Latencies, Probe, newcomer},
    victim::Victim,
};

/// What all connections of a flood have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Same {
    Certificate,
    Address,
}

#[derive(Debug)]
pub(crate) struct Crowded {
    /// Connections that the attacker has in the end.
    pub(crate) inside: usize,
    /// Attempts that got as far as a handshake.
    pub(crate) connected: usize,
    pub(crate) processor: Duration,
    pub(crate) others: Latencies,
    pub(crate) newcomer: Option<Duration>,
}

/// Connects so many times.
pub(crate) async fn connect(stage: &Stage, victim: &Victim, same: Same, attempts: u16) -> Result<Crowded> {
    let probe = Probe::connect(stage, victim).await?;
    let before = victim.processor()?;
    let issued = stage.authority.issue_client("greedy")?;
    let shared = endpoint(1)?;
    let (mut endpoints, mut connections) = (Vec::new(), Vec::new());
    for n in 0..attempts {
        let (endpoint, issued) = match same {
            Same::Certificate => (endpoint(2 + n)?, issued.clone()),
            Same::Address => (shared.clone(), stage.authority.issue_client(&format!("greedy-{n}"))?),
        };
        let config = ClientConfig::new(crypto(tls(stage, &issued)?)?);
        connections.extend(endpoint.connect_with(config, victim.address, NAME)?.await.ok());
        endpoints.push(endpoint);
    }
    let others = probe.measure(Duration::from_millis(500)).await;
    let newcomer = newcomer(stage, victim, "newcomer", Duration::from_secs(5)).await?;
    let inside = connections.iter().filter(|connection: &&Connection| connection.close_reason().is_none());
    Ok(Crowded {
        inside: inside.count(),
        connected: connections.len(),
        processor: victim.processor()? - before,
        others,
        newcomer,
    })
}

#[derive(Debug)]
pub(crate) struct Hurried {
    /// Calls that were sent.
    pub(crate) calls: u32,
    /// Those that were answered as they wanted to be.
    pub(crate) answered: u32,
    pub(crate) closed: Option<Code>,
    pub(crate) processor: Duration,
}

/// Calls as fast as it can on one connection, so many times.
pub(crate) async fn hurry(stage: &Stage, victim: &Victim, most: u32) -> Result<Hurried> {
    let issued = stage.authority.issue_client("hasty")?;
    let config = ClientConfig::new(crypto(tls(stage, &issued)?)?);
    let endpoint = endpoint(1)?;
    let connection = endpoint.connect_with(config, victim.address, NAME)?.await?;
    let before = victim.processor()?;
    let (mut calls, mut answered) = (0, 0);
    while calls < most {
        let answer = async {
            let (mut send, mut recv) = connection.open_bi().await?;
            send.write_all(&request(ECHO, b"hello".to_vec())?).await?;
            send.finish()?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(recv.read_to_end(1024).await?)
        };
        match answer.await {
            Ok(answer) => answered += u32::from(answer.ends_with(b"hello")),
            Err(_) => break,
        }
        calls += 1;
    }
    let closed = connection.close_reason().and_then(|error| code(&error));
    Ok(Hurried { calls, answered, closed, processor: victim.processor()? - before })
}
