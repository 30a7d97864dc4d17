//! A peer whose certificate is revoked, with everything that it kept from better days.

use std::time::{Duration, Instant};

use futures_lite::future;
use palyra_quic::{
    Code,
    quinn::{ClientConfig, Connection, ConnectionError, Endpoint},
};

use super::{
    ECHO, Result, Stage,
    peer::{NAME, code, crypto, endpoint, request, tls},
    victim::Victim,
};

const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) struct Scale {
    /// Connected peers, of which one is revoked.
    pub(crate) peers: u16,
}

#[derive(Debug)]
pub(crate) struct Revoked {
    /// Whether the node left something to resume with.
    pub(crate) kept: bool,
    /// Whether the peer was answered after its revocation, on a connection that was new.
    pub(crate) fresh: bool,
    /// The same, with what it had kept.
    pub(crate) resumed: bool,
    /// How long its open connection lasted, and how it was closed; `None` where it was not.
    pub(crate) closed: Option<(Duration, Option<Code>)>,
    /// Others that are still connected and answered.
    pub(crate) others: usize,
}

pub(crate) async fn revoke(stage: &Stage, victim: &mut Victim, scale: &Scale) -> Result<Revoked> {
    let issued = stage.authority.issue_client("revoked")?;
    let config = || -> Result<ClientConfig> { Ok(ClientConfig::new(crypto(tls(stage, &issued)?)?)) };
    let endpoint = endpoint(1)?;
    let mut others = Vec::new();
    for n in 1..scale.peers {
        let issued = stage.authority.issue_client(&format!("peer-{n}"))?;
        let config = ClientConfig::new(crypto(tls(stage, &issued)?)?);
        others.push(endpoint.connect_with(config, victim.address, NAME)?.await?);
    }
    let keeping = config()?;
    let earlier = endpoint.connect_with(keeping.clone(), victim.address, NAME)?.await?;
    if !is_answered(&earlier).await {
        return Err("refused before it was revoked".into());
    }
    earlier.close(0_u32.into(), b"");
    let live = endpoint.connect_with(config()?, victim.address, NAME)?.await?;
    if !is_answered(&live).await {
        return Err("refused before it was revoked".into());
    }

    let start = Instant::now();
    victim.revoke(issued.fingerprint())?;
    let closed = async { Some(live.closed().await) };
    let closed = future::or(closed, after(PATIENCE)).await;
    let closed = closed.map(|error: ConnectionError| (start.elapsed(), code(&error)));

    let (fresh, _) = gets_in(&endpoint, config()?, victim).await?;
    let (resumed, kept) = gets_in(&endpoint, keeping, victim).await?;
    let mut left = 0;
    for other in &others {
        left += usize::from(is_answered(other).await);
    }
    Ok(Revoked { kept, fresh, resumed, closed, others: left })
}

/// Whether the peer gets in and is answered, and whether it had something to resume with.
async fn gets_in(endpoint: &Endpoint, config: ClientConfig, victim: &Victim) -> Result<(bool, bool)> {
    let connecting = endpoint.connect_with(config, victim.address, NAME)?;
    match connecting.into_0rtt() {
        // What is sent now goes out as early data.
        Ok((connection, _accepted)) => Ok((is_answered(&connection).await, true)),
        Err(connecting) => match future::or(async { Some(connecting.await) }, after(PATIENCE)).await {
            Some(Ok(connection)) => Ok((is_answered(&connection).await, false)),
            Some(Err(_)) | None => Ok((false, false)),
        },
    }
}

/// Whether a call is answered.
async fn is_answered(connection: &Connection) -> bool {
    let call = async {
        let (mut send, mut recv) = connection.open_bi().await?;
        send.write_all(&request(ECHO, b"hello".to_vec())?).await?;
        send.finish()?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(recv.read_to_end(1024).await?)
    };
    let answered = async { call.await.ok().filter(|answer| answer.ends_with(b"hello")) };
    future::or(answered, after(PATIENCE)).await.is_some()
}

async fn after<T>(duration: Duration) -> Option<T> {
    async_io::Timer::after(duration).await;
    None
}
