//! Peers that mean no harm, and what the attack does to them.

use std::{
    future::pending,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use async_executor::Executor;
use palyra_quic::{AsyncIoRuntime, Bytes, Connection, Endpoint};

use super::{ECHO, HONEST, Result, Stage, victim::Victim};

const CALLS: Duration = Duration::from_millis(2);
/// A call that takes this long counts as failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// An honest peer, in a thread of its own so that it does not wait for the attackers.
pub(crate) struct Probe {
    executor: Arc<Executor<'static>>,
    connection: Connection,
}

/// How long calls took that were due at regular times, from when they were due.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    sorted: Vec<Duration>,
    pub(crate) failed: usize,
}

impl Latencies {
    pub(crate) fn calls(&self) -> usize {
        self.sorted.len()
    }

    pub(crate) fn p99(&self) -> Duration {
        self.at(99)
    }

    pub(crate) fn p50(&self) -> Duration {
        self.at(50)
    }

    fn at(&self, percent: usize) -> Duration {
        let index = (self.sorted.len() * percent / 100).min(self.sorted.len().saturating_sub(1));
        self.sorted.get(index).copied().unwrap_or(Duration::MAX)
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.sorted.extend(other.sorted);
        self.sorted.sort();
        self.failed += other.failed;
    }
}

impl Probe {
    pub(crate) async fn connect(stage: &Stage, victim: &Victim) -> Result<Self> {
        let executor = Arc::new(Executor::new());
        let driving = Arc::clone(&executor);
        thread::spawn(move || async_io::block_on(driving.run(pending::<()>())));
        let endpoint = Endpoint::builder()
            .runtime(AsyncIoRuntime::on(Arc::clone(&executor)))
            .client(stage.client_tls("honest")?)
            .bind(HONEST)?;
        let connection = endpoint.connect(victim.address).await?;
        Ok(Self { executor, connection })
    }

    /// Calls every two milliseconds, whether those before were answered or not.
    pub(crate) async fn measure(&self, duration: Duration) -> Latencies {
        let (connection, executor) = (self.connection.clone(), Arc::clone(&self.executor));
        let measuring = async move {
            let start = Instant::now();
            let mut calls = Vec::new();
            let mut due = start;
            while due < start + duration {
                async_io::Timer::at(due).await;
                let connection = connection.clone();
                calls.push(executor.spawn(async move {
                    let call = connection.call_raw(ECHO, Bytes::from_static(&[7; 64]));
                    let answered = in_time(call).await.is_some_and(|answer| answer.is_ok());
                    answered.then(|| due.elapsed())
                }));
                due += CALLS;
            }
            let mut latencies = Latencies::default();
            for call in calls {
                match call.await {
                    Some(latency) => latencies.sorted.push(latency),
                    None => latencies.failed += 1,
                }
            }
            latencies.sorted.sort();
            latencies
        };
        self.executor.spawn(measuring).await
    }
}

/// How long a peer that has never been there before needs to be let in and answered, if it tries again
/// whenever it is refused; `None` where that is longer than `patience`.
pub(crate) async fn newcomer(
    stage: &Stage,
    victim: &Victim,
    name: &str,
    patience: Duration,
) -> Result<Option<Duration>> {
    let tls = stage.client_tls(name)?;
    let start = Instant::now();
    while start.elapsed() < patience {
        let endpoint = Endpoint::builder().bind(HONEST)?;
        let attempt = async {
            let connection = endpoint.connect_with(&tls, victim.address).await?;
            connection.call_raw(ECHO, "hello").await
        };
        let left = patience.saturating_sub(start.elapsed());
        match futures_lite::future::or(async { Some(attempt.await) }, after(left)).await {
            Some(Ok(_)) => return Ok(Some(start.elapsed())),
            Some(Err(_)) => async_io::Timer::after(Duration::from_millis(20)).await,
            None => return Ok(None),
        };
    }
    Ok(None)
}

async fn in_time<T>(future: impl Future<Output = T>) -> Option<T> {
    futures_lite::future::or(async { Some(future.await) }, after(PATIENCE)).await
}

async fn after<T>(duration: Duration) -> Option<T> {
    async_io::Timer::after(duration).await;
    None
}
