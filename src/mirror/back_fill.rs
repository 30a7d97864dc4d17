//! Fills the holes of a mirror.

use std::{
    io,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_lite::future;

use super::status::{MirrorState, StatusCell};
use crate::{
    client::{Client, Subscription, SubscriptionItem},
    error::{Error, ErrorKind},
    events::{Cursor, EventLog, MirroredLog},
    message::EVENT_OVERHEAD,
    runtime::{Clock, Elapsed},
    sync::Event,
    value::Raw,
};

/// The events that are in memory, and then in one file. Larger ones would take more of a small machine's
/// memory, and smaller ones more files.
const RUN_BYTES: usize = 256 * 1024;
/// The least time between two looks, for connections that come and go.
const LEAST_PAUSE: Duration = Duration::from_secs(1);
/// How often a piece of what the mirror keeps is read, so that damage is found while holders still have the
/// events, and how often damage is looked for that a subscriber's read has found.
const DAMAGE_PAUSE: Duration = Duration::from_secs(10);
/// How often the store is read for a piece, each time for about 16 KiB: 1 GiB takes half a day.
const READS_PER_PIECE: u32 = 16;
/// When holders that did not have the events are asked again: they may have been filled themselves.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// A holder that sends neither an event nor a gap for this long has none of the events.
const MAX_SILENCE: Duration = Duration::from_secs(10);
/// The longest pause after a run.
const MAX_REST: Duration = Duration::from_secs(5);

/// Asks holders for what is missing, beside the task that follows the origin.
pub(super) struct BackFill {
    /// That of the log that is followed, and further ones.
    pub(super) holders: Vec<Client>,
    /// The method that serves the log.
    pub(super) name: Box<str>,
    pub(super) log: MirroredLog,
    pub(super) status: Arc<StatusCell>,
    /// Notified when another look is worth it.
    pub(super) look: Arc<Event>,
    pub(super) clock: Clock,
}

/// Why a hole stays, though a holder was asked.
enum Stop {
    /// The holder cannot be reached, or not now.
    Holder(Error),
    /// The holder has another history.
    Other(String),
    /// The store does not take the events.
    Store(io::Error),
    /// The endpoint has ended.
    Closed,
}

/// What a holder is asked for, and what it has sent.
struct Filling {
    epoch: u64,
    hole: Range<u64>,
    /// The event before the hole, until the holder has sent its own.
    overlap: Option<Bytes>,
    run: Run,
    /// When the work on this run began.
    began: Instant,
}

/// What to do after an item.
enum Received {
    /// To receive the next one.
    More,
    /// To write what was received, and receive the next one.
    Enough,
    /// To write what was received. Nothing more comes.
    End,
}

/// Events without a gap, which go into one file.
#[derive(Default)]
struct Run {
    first: u64,
    payloads: Vec<Bytes>,
    bytes: usize,
}

impl BackFill {
    /// Goes on until the mirror stops.
    pub(super) async fn run(self) {
        let mut checked = 0;
        loop {
            let (look, damaged) = (self.look.listen(), self.damaged());
            let asked = self.fill_holes().await;
            let is_over =
                |state: &MirrorState| matches!(state, MirrorState::Closed | MirrorState::Diverged(_));
            if matches!(asked, Err(Stop::Closed)) || is_over(&self.status.get().state) {
                return;
            }
            self.clock.sleep(LEAST_PAUSE).await;
            future::or(look, self.wait_for_damage(damaged, &mut checked)).await;
        }
    }

    /// Resolves when damage was found since it was this much, or it is time to ask again. Looks for damage
    /// meanwhile, from the number `checked` on.
    async fn wait_for_damage(&self, before: Option<u64>, checked: &mut u64) {
        let mut waited = Duration::ZERO;
        while waited < LONGEST_PAUSE && self.damaged() == before {
            self.clock.sleep(DAMAGE_PAUSE).await;
            waited += DAMAGE_PAUSE;
            self.check_piece(checked).await;
        }
    }

    /// Reads a piece of what the mirror keeps, and begins anew behind the last one.
    async fn check_piece(&self, checked: &mut u64) {
        let Some(log) = self.log.get() else { return };
        for _ in 0..READS_PER_PIECE {
            match log.check_from(*checked).await {
                Ok(next) => *checked = next,
                // The disk fails as a whole: the same events are read the next time.
                Err(_) => return,
            }
            if *checked > log.committed_seq() {
                return;
            }
        }
    }

    fn damaged(&self) -> Option<u64> {
        self.log.get().map(|log| log.health().damaged_events)
    }

    /// Asks each holder for each hole.
    async fn fill_holes(&self) -> Result<(), Stop> {
        let Some(log) = self.log.get() else { return Ok(()) };
        let mut failure = None;
        for holder in self.holders.iter().flat_map(Client::at_each_address) {
            match self.fill_from(&holder, &log).await {
                Err(Stop::Closed) => return Err(Stop::Closed),
                Err(Stop::Other(reason)) => {
                    tracing::warn!(log = &*self.name, reason, "a holder does not fill the holes of a mirror");
                    failure = Some(reason);
                }
                Err(Stop::Holder(error)) => failure = failure.or(Some(error.to_string())),
                Err(Stop::Store(error)) => {
                    tracing::warn!(log = &*self.name, %error, "a hole of a mirror is not filled");
                    failure = failure.or(Some(error.to_string()));
                }
                Ok(()) => {}
            }
        }
        let missing = log.holes().await.map_or(0, |holes| count(&holes));
        self.status.change(|status| {
            status.missing = missing;
            status.fill_error = failure.filter(|_| missing > 0);
        });
        Ok(())
    }

    async fn fill_from(&self, holder: &Client, log: &EventLog) -> Result<(), Stop> {
        let holes = log.holes().await.map_err(Stop::Store)?;
        self.status.change(|status| status.missing = count(&holes));
        for hole in holes {
            match self.fill_hole(holder, log, &hole).await {
                // It is no hole any more, or no longer in what is kept.
                Err(Stop::Store(error)) if is_no_hole(&error) => {}
                filled => filled?,
            }
        }
        Ok(())
    }

    /// Receives what the holder has of this hole, and writes it.
    async fn fill_hole(&self, holder: &Client, log: &EventLog, hole: &Range<u64>) -> Result<(), Stop> {
        let (mut subscription, mut filling) = self.begin(holder, log, hole.clone()).await?;
        loop {
            let Some(item) = self.next(&mut subscription).await? else { break };
            match filling.receive(item) {
                Ok(Received::More) => {}
                Ok(Received::Enough) => self.write(log, &mut filling).await?,
                Ok(Received::End) => break,
                Err(Stop::Holder(error)) => {
                    self.write(log, &mut filling).await?;
                    return Err(Stop::Holder(error));
                }
                Err(stop) => return Err(stop),
            }
        }
        self.write(log, &mut filling).await
    }

    /// Begins one event before the hole, if the mirror holds it, so that it is compared.
    async fn begin(
        &self,
        holder: &Client,
        log: &EventLog,
        hole: Range<u64>,
    ) -> Result<(Subscription, Filling), Stop> {
        let began = self.clock.now();
        let before = hole.start.saturating_sub(1);
        let unreadable = |error: Error| Stop::Store(io::Error::other(error));
        let overlap = log.payload_of(before).await.map_err(unreadable)?;
        let from = if overlap.is_some() { before.saturating_sub(1) } else { before };
        let cursor = Cursor::new(Some(log.epoch()), from);
        let subscription = holder.subscribe::<Raw>(&*self.name).resume(cursor).open();
        Ok((subscription, Filling { epoch: log.epoch(), hole, overlap, run: Run::default(), began }))
    }

    /// `None` if the holder sends nothing.
    async fn next(&self, subscription: &mut Subscription) -> Result<Option<SubscriptionItem>, Stop> {
        let deadline = self.clock.deadline(MAX_SILENCE);
        match self.clock.timeout_at(Some(deadline), subscription.next_raw()).await {
            Ok(Ok(item)) => Ok(Some(item)),
            Ok(Err(error)) if *error.kind() == ErrorKind::Closed => Err(Stop::Closed),
            Ok(Err(error)) => Err(Stop::Holder(error)),
            Err(Elapsed) => Ok(None),
        }
    }

    /// Writes what was received, and then rests for as long as that took.
    async fn write(&self, log: &EventLog, filling: &mut Filling) -> Result<(), Stop> {
        let Run { first, payloads, bytes: _ } = std::mem::take(&mut filling.run);
        let count = u64::try_from(payloads.len()).unwrap_or(u64::MAX);
        if count == 0 {
            return Ok(());
        }
        log.fill(first, payloads).await.map_err(Stop::Store)?;
        tracing::info!(log = &*self.name, first, count, "a hole of a mirror is filled");
        self.status.change(|status| {
            status.filled += count;
            status.missing = status.missing.saturating_sub(count);
        });
        self.clock.sleep(self.clock.now().saturating_duration_since(filling.began).min(MAX_REST)).await;
        filling.began = self.clock.now();
        Ok(())
    }
}

impl Filling {
    fn receive(&mut self, item: SubscriptionItem) -> Result<Received, Stop> {
        match item {
            SubscriptionItem::Connected { .. } => Ok(Received::More),
            SubscriptionItem::Disconnected { error } => Err(Stop::Holder(error)),
            SubscriptionItem::Gap(gap) if gap.epoch != self.epoch || gap.missed.is_none() => {
                Err(Stop::Other("the holder has another history".to_owned()))
            }
            SubscriptionItem::Gap(gap) => {
                self.overlap = None;
                Ok(if gap.next_seq >= self.hole.end { Received::End } else { Received::Enough })
            }
            SubscriptionItem::Event { seq, payload, .. } if seq < self.hole.start => {
                if self.overlap.take().is_some_and(|held| held != payload) {
                    let text = format!("event {seq} of a holder is another one than that of the mirror");
                    return Err(Stop::Other(text));
                }
                Ok(Received::More)
            }
            SubscriptionItem::Event { seq, .. } if seq >= self.hole.end => Ok(Received::End),
            SubscriptionItem::Event { seq, payload, .. } => {
                self.run.push(seq, payload);
                Ok(match self.run.bytes {
                    _ if seq + 1 >= self.hole.end => Received::End,
                    RUN_BYTES.. => Received::Enough,
                    _ => Received::More,
                })
            }
        }
    }
}

impl Run {
    fn push(&mut self, seq: u64, payload: Bytes) {
        if self.payloads.is_empty() {
            self.first = seq;
        }
        self.bytes += payload.len() + EVENT_OVERHEAD;
        self.payloads.push(payload);
    }
}

fn is_no_hole(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::AlreadyExists, io::ErrorKind::InvalidInput, io::ErrorKind::StorageFull];
    // Not a disk that is full.
    error.raw_os_error().is_none() && kinds.contains(&error.kind())
}

fn count(holes: &[Range<u64>]) -> u64 {
    holes.iter().map(|hole| hole.end - hole.start).fold(0, u64::saturating_add)
}
