//! A second holder of another node's history.

mod back_fill;
mod directory;
mod follow;
#[cfg(test)]
mod sabotage;
mod status;
#[cfg(all(test, feature = "cert", feature = "sim"))]
mod tests;

use std::{fmt, path::Path, sync::Arc};

use futures_lite::future;

pub use self::status::{MirrorState, MirrorStatus};
use self::{
    back_fill::BackFill,
    directory::{Directories, EpochDirectory, EpochLogs},
    follow::{Follow, Origin},
    status::StatusCell,
};
use crate::{
    client::Client,
    error::Result,
    events::{EventLog, EventLogBuilder, MirroredLog, ServedLog},
    method::{LogMethod, MethodName},
    sync::{AtomicBool, Event, wait_until},
};

/// Follows a log of another node, the origin, into a directory, and serves it under the same epoch and
/// numbers: a subscriber's cursor is valid at both.
///
/// Gaps of the origin are gaps of the mirror. What is held is never overwritten: when the origin begins
/// another epoch, so does the mirror, in another directory, and when the origin has other events under the
/// numbers of events that the mirror holds, the mirror stops, keeps what it has and says
/// [`Diverged`](MirrorState::Diverged). An origin that has lost events begins another epoch if
/// [`Router::mirrors`](crate::Router::mirrors) names the mirror. A subscriber that has seen more than the
/// mirror is told to try another holder, and goes on there if its [`Client`] has several addresses.
///
/// A hole in what the mirror holds, because the holder that it follows had a gap there or because its own
/// disk was damaged, is filled with the events of another holder that still has them: one of the addresses of
/// the [`Client`], or of the [further](MirrorBuilder::fill_from) ones. That is done beside what arrives, and
/// half of the time. A subscriber that passed the hole before has got its gap; one that comes later gets the
/// events.
///
/// A mirror can follow another mirror. It must be one that is nearer to the origin: two that follow each
/// other never receive anything.
///
/// ```no_run
/// # async fn example(endpoint: palyra_quic::Endpoint) -> palyra_quic::Result<()> {
/// use palyra_quic::{Client, EventLog, LogMethod, Mirror, Router};
///
/// const READINGS: LogMethod<i32> = LogMethod::new("plant.readings");
///
/// let sensor = Client::builder(endpoint).address(("sensor.example", 7443)).build()?;
/// let bounds = EventLog::builder().max_bytes(64 << 20);
/// let mirror = Mirror::builder(&sensor, READINGS).bounds(bounds).consumer("gateway").open("readings")?;
/// let router = Router::new().log(READINGS, mirror.served());
/// # drop(router);
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping it ends the mirror"]
pub struct Mirror {
    log: MirroredLog,
    shared: Arc<Shared>,
}

struct Shared {
    status: Arc<StatusCell>,
    ends: AtomicBool,
    ended: Event,
}

/// A mirror before it is opened; see [`Mirror::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before `open`"]
pub struct MirrorBuilder {
    client: Client,
    log: Box<str>,
    bounds: EventLogBuilder,
    consumer: Option<Box<str>>,
    holders: Vec<Client>,
}

impl Mirror {
    /// Prepares to follow the log `log` of the peer of `client`.
    pub fn builder<T>(client: &Client, log: impl MethodName<LogMethod<T>>) -> MirrorBuilder {
        let (client, log, bounds) = (client.clone(), log.method_name().into(), EventLog::builder());
        MirrorBuilder { client, log, bounds, consumer: None, holders: Vec::new() }
    }
}

impl MirrorBuilder {
    /// The bounds of the mirror: it may keep more than its origin, or less. They hold for each epoch of the
    /// origin; the newest four are kept, and the newest is served. Default: those of [`EventLog::builder`].
    pub fn bounds(self, bounds: EventLogBuilder) -> Self {
        Self { bounds, ..self }
    }

    /// Acknowledges to the origin, under this name, what is durable in the mirror, so that the origin [keeps
    /// it](EventLogBuilder::keep_unacknowledged) until then. Default: nothing is acknowledged.
    pub fn consumer(self, name: impl Into<Box<str>>) -> Self {
        Self { consumer: Some(name.into()), ..self }
    }

    /// Adds a client of a node that is asked, under the same name of the log, for events that the mirror is
    /// missing. May be called several times. The addresses of the client that is followed are asked in any
    /// case. Each must be nearer to the origin, or the origin itself.
    ///
    /// Only holders of the same epoch are asked for anything, and one whose event before the hole differs
    /// from that of the mirror fills nothing: [`MirrorStatus::fill_error`] says so. All are asked when the
    /// mirror is opened, when it connects, when it leaves numbers out, when damage is found, and every 10
    /// minutes. Holes older than the first event that the mirror keeps are not filled.
    pub fn fill_from(mut self, client: &Client) -> Self {
        self.holders.push(client.clone());
        self
    }

    /// Opens the directory `path`, or makes it in an existing one, and begins to follow in a task of the
    /// client's endpoint. Blocks as [`EventLogBuilder::open`] does.
    ///
    /// # Errors
    ///
    /// As for [`EventLogBuilder::open`]; [`Io`](crate::ErrorKind::Io), too, for a directory with anything
    /// else than a mirror.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Mirror> {
        let logs = Directories::open(path.as_ref())?;
        self.open_in(Arc::new(logs))
    }

    fn open_in(self, logs: Arc<dyn EpochLogs>) -> Result<Mirror> {
        let Self { client, log, bounds, consumer, holders } = self;
        let mirrored = bounds.mirrored();
        let (directory, held) = EpochDirectory::open(logs, bounds)?;
        let status = Arc::new(StatusCell::new());
        if let Some(held) = held {
            let (epoch, last_seq) = (Some(held.epoch()), held.last_seq());
            status.change(|status| (status.epoch, status.last_seq) = (epoch, last_seq));
            mirrored.set(held);
        }
        let look = Arc::new(Event::new());
        let back_fill = BackFill {
            holders: std::iter::once(client.clone()).chain(holders).collect(),
            name: log.clone(),
            log: mirrored.clone(),
            status: Arc::clone(&status),
            look: Arc::clone(&look),
            clock: client.clock().clone(),
        };
        let origin = Origin { client: client.clone(), log, consumer };
        let follow = Follow::new(origin, directory, mirrored.clone(), Arc::clone(&status), look);
        let shared = Arc::new(Shared { status, ends: AtomicBool::new(false), ended: Event::new() });
        let ends = Arc::clone(&shared);
        client.clock().spawn(async move { future::or(follow.run(), ends.until_ended()).await });
        let ends = Arc::clone(&shared);
        client.clock().spawn(async move { future::or(back_fill.run(), ends.until_ended()).await });
        Ok(Mirror { log: mirrored, shared })
    }
}

impl Mirror {
    /// What to give to [`Router::log`](crate::Router::log). Subscribers are answered `unavailable` before the
    /// origin was first heard of.
    #[must_use]
    pub fn served(&self) -> ServedLog {
        ServedLog::mirrored(self.log.clone())
    }

    /// The log of the epoch that the mirror holds now; `None` before the origin was first heard of. It
    /// cannot be published to.
    #[must_use]
    pub fn log(&self) -> Option<EventLog> {
        self.log.get()
    }

    /// What the mirror has, and what it does.
    #[must_use]
    pub fn status(&self) -> MirrorStatus {
        self.shared.status.get()
    }

    /// Resolves when the status is as wanted.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn wait_for(&self, condition: impl Fn(&MirrorStatus) -> bool) {
        self.shared.status.wait_for(condition).await;
    }

    /// Follows no longer, writes what was received, and releases the directory.
    ///
    /// # Errors
    ///
    /// As for [`EventLog::close`].
    ///
    /// # Cancellation
    ///
    /// The mirror ends all the same; see [`EventLog::close`].
    pub async fn close(self) -> Result<()> {
        self.shared.end();
        match self.log.get() {
            Some(log) => log.close().await,
            None => Ok(()),
        }
    }
}

impl Shared {
    fn end(&self) {
        self.ends.store(true, std::sync::atomic::Ordering::Release);
        self.ended.notify(usize::MAX);
        self.status.change(|status| status.state = MirrorState::Closed);
    }

    async fn until_ended(&self) {
        wait_until(&self.ended, || self.ends.load(std::sync::atomic::Ordering::Acquire)).await;
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("status", &self.status()).finish_non_exhaustive()
    }
}
