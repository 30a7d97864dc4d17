//! Who publishes at the sensor, and who processes the events at the centre.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fastrand::Rng;
use quinn::Runtime;

use super::{
    fleet::{Fleet, client},
    ledger::{Rule, SharedLedger},
    settings::{CENTRE, GATEWAY, SENSOR},
};
use crate::{
    Client, Subscription, SubscriptionItem,
    events::{Cursor, EventLog},
    sim::{Host, Sim},
    sync::{Event, Mutex, lock, wait_until},
};

/// A fault of the application, planted for the checker to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ApplicationFault {
    Nothing,
    /// It resumes one event early.
    ResumesEarly,
    /// It resumes one event late.
    ResumesLate,
    /// It says nothing of gaps.
    HidesGaps,
}

/// Publishes events while the sensor has power.
#[derive(Clone)]
pub(super) struct Publisher {
    sim: Sim,
    ledger: SharedLedger,
    log: Arc<Mutex<Option<EventLog>>>,
    /// How many events were published.
    count: Arc<Mutex<u32>>,
    /// One for each event that may still become durable, and one until all are published.
    unfinished: Arc<()>,
    largest_payload: usize,
}

impl Publisher {
    pub(super) fn new(fleet: &Fleet) -> Self {
        Self {
            sim: fleet.sim.clone(),
            ledger: fleet.ledger.clone(),
            log: Arc::clone(&fleet.publishes),
            count: Arc::default(),
            unfinished: Arc::default(),
            largest_payload: fleet.settings.largest_payload,
        }
    }

    /// Publishes this many events, in groups with pauses.
    pub(super) async fn publish_all(self, events: u32, mut random: Rng) {
        let mut left = events;
        while left > 0 {
            self.sim.sleep(Duration::from_millis(random.u64(0..400))).await;
            for _ in 0..random.u32(1..8).min(left) {
                left -= 1;
                let payload = self.payload(&mut random);
                let Some(log) = lock(&self.log).clone() else { break };
                if random.u8(..4) == 0 {
                    let _ = log.publish_raw(payload);
                    continue;
                }
                let (ledger, unfinished) = (self.ledger.clone(), Arc::clone(&self.unfinished));
                self.sim.spawn(async move {
                    let _unfinished = unfinished;
                    if let Ok(seq) = log.publish_durable_raw(payload.clone()).await {
                        ledger.lock().set_durable(seq, payload);
                    }
                });
            }
        }
    }

    /// Resolves when all others have ended.
    pub(super) async fn until_ended(&self) {
        while Arc::strong_count(&self.unfinished) > 1 {
            self.sim.sleep(Duration::from_millis(100)).await;
        }
    }

    /// Publishes an event, again and again until it is durable. Returns its number.
    pub(super) async fn publish_one(&self, random: &mut Rng) -> u64 {
        loop {
            let (payload, log) = (self.payload(random), lock(&self.log).clone());
            if let Some(log) = log
                && let Ok(seq) = log.publish_durable_raw(payload.clone()).await
            {
                self.ledger.lock().set_durable(seq, payload);
                return seq;
            }
            self.sim.sleep(Duration::from_millis(500)).await;
        }
    }

    /// Another payload than all before.
    fn payload(&self, random: &mut Rng) -> Bytes {
        let number = {
            let mut count = lock(&self.count);
            *count = count.saturating_add(1);
            *count
        };
        let mut payload = format!("{number} {:x} ", random.u64(..)).into_bytes();
        payload.resize(payload.len() + random.usize(..self.largest_payload), b'.');
        let payload = Bytes::from(payload);
        self.ledger.lock().publish(payload.clone());
        payload
    }
}

/// Processes the events that arrive at the centre.
pub(super) struct Application {
    /// Not the simulation itself, which ends with its last handle: the application never ends.
    clock: Arc<dyn Runtime>,
    began: Instant,
    ledger: SharedLedger,
    host: Host,
    peers: Vec<Host>,
    consumer: Option<&'static str>,
    epoch: u64,
    fault: ApplicationFault,
    /// Has the subscription end, and begin anew behind the last event.
    pub(super) restart: Arc<Event>,
    pub(super) progress: Arc<Event>,
}

impl Application {
    pub(super) fn new(fleet: &Fleet, epoch: u64, fault: ApplicationFault) -> Self {
        let nodes: &[usize] = if fleet.settings.fails_over { &[CENTRE, GATEWAY, SENSOR] } else { &[CENTRE] };
        Self {
            clock: fleet.sim.runtime(),
            began: fleet.sim.now(),
            ledger: fleet.ledger.clone(),
            host: fleet.sim.host([10, 0, 0, 4]),
            peers: nodes.iter().map(|node| fleet.hosts[*node].clone()).collect(),
            consumer: fleet.settings.consumer_of(CENTRE),
            epoch,
            fault,
            restart: Arc::default(),
            progress: Arc::default(),
        }
    }

    pub(super) async fn run(self, mut random: Rng) {
        loop {
            let restarts = self.restart.listen();
            let (client, mut subscription) = self.subscribe();
            let processed = async {
                while self.process(&mut subscription, &mut random).await {}
                true
            };
            let restarted = async {
                restarts.await;
                false
            };
            if futures_lite::future::or(processed, restarted).await {
                return;
            }
            drop((subscription, client));
        }
    }

    fn elapsed(&self) -> Duration {
        self.clock.now() - self.began
    }

    fn subscribe(&self) -> (Client, Subscription) {
        let client = client(&self.host, &self.peers.iter().collect::<Vec<_>>());
        let last = self.ledger.lock().last;
        let subscribe = client.subscribe_raw();
        let subscribe = match self.consumer {
            Some(consumer) => subscribe.consumer(consumer),
            None => subscribe,
        };
        let last = match self.fault {
            ApplicationFault::ResumesEarly => last.saturating_sub(1),
            ApplicationFault::ResumesLate if last > 0 => last + 1,
            _ => last,
        };
        let subscription = subscribe.resume(Cursor::new(Some(self.epoch), last)).open();
        (client, subscription)
    }

    /// Processes one item. Whether there may be another one.
    async fn process(&self, subscription: &mut Subscription, random: &mut Rng) -> bool {
        let item = subscription.next_raw().await;
        let mut ledger = self.ledger.lock();
        match item {
            Ok(SubscriptionItem::Event { seq, epoch, payload }) => {
                ledger.trace((seq, self.elapsed()));
                let is_same = epoch == Some(self.epoch);
                ledger.check_that(Rule::SameEpoch, is_same, || format!("event {seq} has epoch {epoch:?}"));
                ledger.deliver(seq, payload);
            }
            Ok(SubscriptionItem::Gap(gap)) => {
                ledger.trace((gap.from, gap.next_seq, self.elapsed()));
                ledger.check_that(Rule::SameEpoch, gap.epoch == self.epoch, || format!("{gap:?}"));
                if self.fault == ApplicationFault::HidesGaps {
                    ledger.last = gap.next_seq - 1;
                } else {
                    ledger.deliver_gap(&gap);
                }
            }
            Ok(SubscriptionItem::Connected { .. } | SubscriptionItem::Disconnected { .. }) => return true,
            Err(error) => {
                ledger
                    .check_that(Rule::CatchesUp, false, || format!("the subscription has ended: {error:?}"));
                self.progress.notify(usize::MAX);
                return false;
            }
        }
        let is_first = ledger.delivered.len() == 1;
        drop(ledger);
        self.progress.notify(usize::MAX);
        if is_first || random.u8(..3) == 0 {
            subscription.ack();
        }
        true
    }
}

/// Resolves when the application has got this event, or a fault was found.
pub(super) async fn until_processed(ledger: &SharedLedger, progress: &Event, seq: u64) {
    wait_until(progress, || {
        let ledger = ledger.lock();
        ledger.last >= seq || !ledger.findings().is_empty()
    })
    .await;
}
