//! A subscriber changes between an origin and its mirror again and again.

use std::{cell::Cell, sync::Arc, time::Duration};

use futures_lite::future;

use super::{
    super::{
        Mirror,
        sabotage::{Sabotage, with},
    },
    fleet::{Disks, PoweredLogs, client, serve},
};
use crate::{
    Endpoint, Raw, Subscription, SubscriptionItem,
    events::{EventLog, Power, ServedLog, SimulatedThreads, StorageFault},
    protocol::STREAM_EVENTS,
    sim::{Host, Link, Sim},
};

const CHANGES: u64 = 100;
const AT_A_TIME: u64 = 5;
const LONGEST: Duration = Duration::from_secs(1);
const BETWEEN_CHANGES: Duration = Duration::from_secs(5);

/// The number of the next event, and what was published under it.
async fn next(subscription: &mut Subscription) -> Result<(u64, Vec<u8>), String> {
    loop {
        match subscription.next_raw().await {
            Ok(SubscriptionItem::Event { seq, payload, .. }) => return Ok((seq, payload.to_vec())),
            Ok(SubscriptionItem::Gap(gap)) => return Err(format!("{gap:?}")),
            Ok(SubscriptionItem::Connected { .. } | SubscriptionItem::Disconnected { .. }) => {}
            Err(error) => return Err(format!("{error:?}")),
        }
    }
}

/// Gets events up to this number, each once and in order, in time.
async fn expect(sim: &Sim, subscription: &mut Subscription, from: u64, to: u64) -> Result<(), String> {
    let at = Cell::new(from);
    let expected = async {
        while at.get() <= to {
            let (number, expected) = (at.get(), format!("event {}", at.get()));
            if next(subscription).await? != (number, expected.into_bytes()) {
                return Err(format!("the subscriber did not get event {number}"));
            }
            at.set(number + 1);
        }
        Ok(())
    };
    let late = async {
        sim.sleep(LONGEST).await;
        Err(format!("event {} took more than {LONGEST:?}", at.get()))
    };
    future::or(expected, late).await
}

/// A node that serves a log, and may be shut down and started again.
struct Holder {
    host: Host,
    log: ServedLog,
    endpoint: Option<Endpoint>,
}

impl Holder {
    fn new(host: Host, log: ServedLog) -> Self {
        let endpoint = Some(serve(&host, log.clone()).unwrap());
        Self { host, log, endpoint }
    }

    async fn end(&mut self) {
        if let Some(endpoint) = self.endpoint.take() {
            endpoint.shutdown(LONGEST).await;
        }
        self.host.crash();
    }

    fn start(&mut self) {
        self.endpoint = Some(serve(&self.host, self.log.clone()).unwrap());
    }
}

/// The mirror follows over hosts of its own, so that it is never behind for long.
async fn change_between_holders(sim: Sim) -> Result<(), String> {
    let host = |last| sim.host([10, 0, 0, last]);
    let power = Power::on();
    let bounds = EventLog::builder().max_bytes(1 << 20).commit_interval(Duration::from_millis(1));
    let bounds = bounds.shared_runtime(sim.runtime());
    let log = Disks::new(1, true).origin(bounds.clone(), &power, StorageFault::Nothing).unwrap();
    let inside = host(2);
    let _inside = serve(&inside, log.clone().into()).unwrap();
    let upstream = client(&host(5), &[&inside]);
    let logs = PoweredLogs { disks: Disks::new(2, true), power, fault: StorageFault::Nothing };
    let mirror = Mirror::builder::<Raw>(&upstream, STREAM_EVENTS).bounds(bounds);
    let mirror = mirror.open_in(Arc::new(logs)).unwrap();

    let mut holders = [Holder::new(host(1), log.clone().into()), Holder::new(host(3), mirror.served())];
    let subscriber = client(&host(4), &[&holders[0].host, &holders[1].host]);
    let mut subscription = subscriber.subscribe_raw().open();
    for change in 0..=CHANGES {
        let from = log.last_seq() + 1;
        for seq in from..from + AT_A_TIME {
            assert_eq!(log.publish_raw(format!("event {seq}")).unwrap(), seq);
        }
        expect(&sim, &mut subscription, from, from + AT_A_TIME - 1).await?;
        // Pauses grow where connections last for less time than the longest pause.
        sim.sleep(BETWEEN_CHANGES).await;
        // The other one serves from here on.
        let (ends, serves) = if change % 2 == 0 { (0, 1) } else { (1, 0) };
        if holders[serves].endpoint.is_none() {
            holders[serves].start();
        }
        holders[ends].end().await;
    }
    Ok(())
}

fn trial() -> Result<(), String> {
    let sim = Sim::new(7);
    sim.set_default_link(Link::new().delay(Duration::from_millis(10)).jitter(Duration::from_millis(5)));
    let threads = SimulatedThreads::new(&sim, Duration::from_millis(5));
    threads.enter(move || sim.run(change_between_holders(sim.clone())))
}

#[test]
fn a_subscriber_changes_between_origin_and_mirror_a_hundred_times() {
    trial().unwrap();
}

#[test]
fn a_mirror_that_repeats_events_leaves_some_out_or_changes_them_is_found() {
    for (plant, expected) in [
        (Sabotage::AppendTwice, "did not get event 9"),
        (Sabotage::LeaveOutEvents, "Gap"),
        (Sabotage::ChangePayloads, "did not get event 8"),
    ] {
        let found = with(plant, trial).unwrap_err();
        assert!(found.contains(expected), "{plant:?}: {found}");
    }
}
