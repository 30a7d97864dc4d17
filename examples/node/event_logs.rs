//! The event logs of `node serve`: the node's own one, and those that the command line names.

use std::{
    num::NonZeroU64,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use palyra_quic::{
    Bytes, Error, ErrorKind, EventLog, EventLogBuilder, MethodError, PeerIdentity, Router, TransportLimits,
};
use smol::future;

use crate::{args::Serve, failure::Failure};

/// What publishes to the log of a name has the name, a dot and this as its own name.
const PUBLISH: &str = "publish";
/// What publishes to the node's own log is `demo.publish`.
const OWN: &str = "demo";
/// The longest name of a log, so that the method that publishes to it has at most 128 bytes.
const MAX_NAME_BYTES: usize = 128 - ".publish".len();

/// A follower that was offline for a night should receive the events that it missed. So a stored log holds
/// as many small events as fit into some megabytes.
const DURABLE_EVENTS: usize = 65_536;
const DURABLE_BYTES: u64 = 16 * 1024 * 1024;
/// A log with a store may take three times its `memory_bytes`.
const SHARES_OF_A_STORED_LOG: usize = 3;

/// A log that the command line names: `NAME=PATH`.
#[derive(Clone)]
pub(crate) struct NamedLog {
    /// Of the method that serves it.
    name: String,
    path: PathBuf,
}

impl FromStr for NamedLog {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, path) = text.split_once('=').ok_or("not NAME=PATH")?;
        match name {
            _ if !(1..=MAX_NAME_BYTES).contains(&name.len()) => Err("the name does not have 1 to 120 bytes"),
            _ if name.starts_with("node.") => Err("names that begin with `node.` belong to the protocol"),
            _ if name.starts_with('.') || name.ends_with('.') => Err("the name has a dot at one of its ends"),
            _ if path.is_empty() => Err("the path is empty"),
            _ => Ok(Self { name: name.into(), path: path.into() }),
        }
    }
}

/// The logs of a node.
pub(crate) struct Logs {
    own: EventLog,
    /// With their names.
    named: Vec<(String, EventLog)>,
}

impl Logs {
    pub(crate) fn open(args: &Serve, limits: &TransportLimits) -> Result<Self, Failure> {
        let opening = Opening { args, limits };
        let own = match &args.durable {
            Some(path) => opening.stored(path)?,
            None => opening.within(EventLog::builder()).build()?,
        };
        let named = args.logs.iter().map(|NamedLog { name, path }| Ok((name.clone(), opening.stored(path)?)));
        Ok(Self { own, named: named.collect::<Result<_, Failure>>()? })
    }

    /// Adds the logs, and what publishes to each of them.
    pub(crate) fn methods(&self, router: Router) -> Router {
        let Self { own, named } = self;
        let router = router.consumers(PeerIdentity::has_name);
        let router = router.events(own.clone()).nest(OWN, publishing(own));
        named
            .iter()
            .fold(router, |router, (name, log)| router.log(name, log.clone()).nest(name, publishing(log)))
    }

    /// Writes what is pending, in all logs although one fails.
    pub(crate) async fn flush(&self) -> Result<(), Failure> {
        let Self { own, named } = self;
        let mut outcome = own.flush().await.map_err(Failure::from);
        for (name, log) in named {
            let flushed = log.flush().await.map_err(|error| Failure::from(error).during(name));
            outcome = outcome.and(flushed);
        }
        outcome
    }

    /// Publishes a tick to the node's own log at each interval, if the command line asks for it.
    pub(crate) async fn tick(&self, every_ms: Option<NonZeroU64>) {
        let Some(every_ms) = every_ms else { return future::pending().await };
        let mut timer = smol::Timer::interval(Duration::from_millis(every_ms.get()));
        for count in 1_u64.. {
            let _ = smol::stream::StreamExt::next(&mut timer).await;
            if let Err(error) = self.own.publish_raw(format!("tick {count}")) {
                not_published(error);
            }
        }
    }
}

/// How the logs of a command line are opened.
struct Opening<'a> {
    args: &'a Serve,
    limits: &'a TransportLimits,
}

impl Opening<'_> {
    /// One of the logs of this node, within the memory that the command line grants.
    fn within(&self, builder: EventLogBuilder) -> EventLogBuilder {
        let Serve { memory, durable, logs, .. } = self.args;
        if memory.is_none() {
            return builder;
        }
        let own = if durable.is_some() { SHARES_OF_A_STORED_LOG } else { 1 };
        let shares = own + logs.len() * SHARES_OF_A_STORED_LOG;
        builder.within_one_of(self.limits, u32::try_from(shares).unwrap_or(u32::MAX))
    }

    fn stored(&self, path: &Path) -> Result<EventLog, Failure> {
        let builder = EventLog::builder().max_events(DURABLE_EVENTS).max_bytes(DURABLE_BYTES);
        let builder = match self.args.commit_interval {
            Some(ms) => self.within(builder).commit_interval(Duration::from_millis(ms)),
            None => self.within(builder),
        };
        let builder = match self.args.keep_unacknowledged {
            // At least what the log keeps anyway.
            Some(mib) => builder.keep_unacknowledged((u64::from(mib.get()) * 1024 * 1024).max(DURABLE_BYTES)),
            None => builder,
        };
        let log = builder.open(path).map_err(|error| Failure::from(error).during(path.display()))?;
        let lost = log.health().damaged_events;
        if lost > 0 {
            let report = path.join("damage");
            Failure::new(format_args!(
                "{}: {lost} events are lost to damage; {} lists them, and this is said until it is removed",
                path.display(),
                report.display()
            ))
            .report("damaged");
        }
        Ok(log)
    }
}

/// A method and a notification that publish to a log.
fn publishing(log: &EventLog) -> Router {
    let (asked, notified) = (log.clone(), log.clone());
    Router::new()
        .serve_raw(PUBLISH, move |_, payload| {
            let log = asked.clone();
            async move {
                let seq = log.publish_durable_raw(payload).await.map_err(|error| refusal(&error))?;
                Ok(Bytes::from(seq.to_string()))
            }
        })
        .on_notification_raw(PUBLISH, move |_, payload| {
            let log = notified.clone();
            async move {
                // No caller waits for this task. Only a shutdown does, and it must not interrupt the task.
                if let Err(error) = log.publish_durable_raw(payload).await {
                    not_published(error);
                }
            }
        })
}

fn refusal(error: &Error) -> MethodError {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::MessageTooLarge => MethodError::invalid_request(text),
        ErrorKind::Exhausted => {
            let exhausted = MethodError::resource_exhausted(text);
            match error.retry_after() {
                Some(after) => exhausted.retry_after(after),
                None => exhausted,
            }
        }
        _ => MethodError::internal(text),
    }
}

/// The sender of a notification gets no answer, so this node reports the error.
fn not_published(error: Error) {
    Failure::from(error).during("not published").report("error");
}
