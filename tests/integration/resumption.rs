//! Subscriptions over bad links and restarts, in virtual time: every event once and in order, or a gap in its
//! place.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::simulation::{PORT, Pair, SECOND, client_tls, for_each_seed, server_tls};
use palyra_quic::{
    Backoff, Bytes, Client, Cursor, Endpoint, EventLog, Router, Subscription, SubscriptionItem,
    TransportLimits, sim::Link,
};

const MILLI: Duration = Duration::from_millis(1);

/// What was published: the payloads of each epoch, in order, and the epochs in theirs.
#[derive(Clone, Default)]
struct Published(Arc<Mutex<Vec<Epoch>>>);

type Epoch = (u64, Vec<Bytes>);

impl Published {
    fn begin(&self, epoch: u64) {
        self.0.lock().unwrap().push((epoch, Vec::new()));
    }

    fn publish(&self, log: &EventLog, payload: String) {
        let payload = Bytes::from(payload);
        let seq = log.publish_raw(payload.clone()).unwrap();
        let mut epochs = self.0.lock().unwrap();
        let (epoch, payloads) = epochs.last_mut().unwrap();
        payloads.push(payload);
        assert_eq!((*epoch, payloads.len()), (log.epoch(), usize::try_from(seq).unwrap()));
    }

    fn last(&self) -> (u64, u64) {
        let epochs = self.0.lock().unwrap();
        let (epoch, payloads) = epochs.last().unwrap();
        (*epoch, u64::try_from(payloads.len()).unwrap())
    }
}

/// What a subscriber was told, without the connection's ups and downs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Event { epoch: u64, seq: u64, payload: Bytes },
    Gap { epoch: u64, from: u64, to: u64, missed: Option<u64> },
}

/// The invariant. From the first thing told on, each event of each epoch came once and in order, or is in a
/// gap of the right count, or belongs to an epoch that ended, which the gap that begins the next one says.
fn check(published: &Published, told: &[Told]) -> Result<(), String> {
    let epochs: BTreeMap<u64, Vec<Bytes>> = published.0.lock().unwrap().iter().cloned().collect();
    let mut position: Option<(u64, u64)> = None;
    let mut seen = BTreeSet::new();
    for item in told {
        match item {
            Told::Event { epoch, seq, payload } => {
                let expected = match position {
                    Some((present, last)) if present == *epoch => last + 1,
                    Some(_) => return Err(format!("epoch {epoch} begins without a gap")),
                    None => *seq,
                };
                if *seq != expected {
                    return Err(format!("event {seq} where {expected} was due"));
                }
                let index = usize::try_from(*seq).unwrap() - 1;
                if epochs.get(epoch).and_then(|payloads| payloads.get(index)) != Some(payload) {
                    return Err(format!("event {seq} is not what was published"));
                }
                position = Some((*epoch, *seq));
            }
            Told::Gap { epoch, from, to, missed } => {
                let same = position.filter(|(present, _)| present == epoch);
                match same {
                    Some((_, last)) if *from != last + 1 => {
                        return Err(format!("the gap begins at {from}, after {last}"));
                    }
                    Some(_) if *missed != Some(to + 1 - from) => {
                        return Err(format!("{item:?} counts wrong"));
                    }
                    None if position.is_some() && (missed.is_some() || *from != 1) => {
                        return Err(format!("{item:?} claims to know what another epoch had"));
                    }
                    _ => {}
                }
                position = Some((*epoch, *to));
            }
        }
        let (epoch, _) = position.unwrap();
        if seen.insert(epoch) && seen.len() > epochs.len() {
            return Err(format!("epoch {epoch} never was"));
        }
    }
    match position {
        Some(end) if end == published.last() => Ok(()),
        end => Err(format!("ends at {end:?}, and not at {:?}", published.last())),
    }
}

/// How a scenario treats its nodes.
#[derive(Clone)]
struct Scenario {
    link: Link,
    events: u32,
    /// The most time between two events.
    pause: Duration,
    restarts: usize,
    log_size: usize,
}

impl Scenario {
    fn over(link: Link) -> Self {
        Self { link, events: 300, pause: 200 * MILLI, restarts: 3, log_size: 50 }
    }

    /// Publishes, restarts and follows; gives what was published and what was told.
    fn play(&self, seed: u64) -> (Published, Vec<Told>) {
        let pair = Pair::new(seed, self.link.clone());
        let published = Published::default();
        let mut rng = Chance(seed);
        let limits = limits();
        let start = || {
            let log = EventLog::builder().max_events(self.log_size).build().unwrap();
            published.begin(log.epoch());
            let router = Router::new().events(log.clone());
            let builder = Endpoint::builder().server(server_tls()).router(router).limits(limits.clone());
            (pair.gateway.bind(builder, PORT).unwrap(), log)
        };
        // Whatever runs must outlive the publishing.
        let running = Mutex::new(start());
        let restarts: BTreeSet<u32> =
            (0..self.restarts).map(|_| u32::try_from(rng.below(u64::from(self.events))).unwrap()).collect();

        let client = client(&pair, limits.clone());
        let told = pair.sim.run(async {
            let publishing = async {
                for n in 0..self.events {
                    pair.sim.sleep(self.pause.mul_f64(rng.fraction())).await;
                    if restarts.contains(&n) {
                        // As by kill -9: nobody says good-bye.
                        pair.gateway.crash();
                        pair.sim.sleep(SECOND.mul_f64(rng.fraction())).await;
                        *running.lock().unwrap() = start();
                    }
                    let log = running.lock().unwrap().1.clone();
                    published.publish(&log, format!("event {n:0>200}"));
                }
            };
            // The last event is known when publishing ends; until then nobody knows where to stop.
            let (done, mut told) = (Arc::new(Mutex::new(false)), Vec::new());
            let finished = Arc::clone(&done);
            let publishing = async {
                publishing.await;
                *finished.lock().unwrap() = true;
            };
            let following = async {
                let mut subscription = client.subscribe_raw().open();
                while !(*done.lock().unwrap() && reached(&subscription, &published)) {
                    let next = async { Some(subscription.next_raw().await.unwrap()) };
                    let look = async {
                        pair.sim.sleep(SECOND).await;
                        None
                    };
                    if let Some(item) = futures_lite::future::or(next, look).await {
                        told.extend(what(item));
                    }
                    assert!(
                        pair.sim.elapsed() < 3600 * SECOND,
                        "not there after an hour: {:?}",
                        subscription
                    );
                }
                told
            };
            futures_lite::future::zip(publishing, following).await.1
        });
        (published, told)
    }
}

fn limits() -> TransportLimits {
    TransportLimits::builder()
        .idle_timeout(8 * SECOND)
        .keep_alive_interval(2 * SECOND)
        .heartbeat_interval(2 * SECOND)
        // What the node has written and the link has not taken is lost to no gap, so that floods need little
        // of it.
        .send_window(8 * 1024)
        .build()
        .unwrap()
}

fn client(pair: &Pair, limits: TransportLimits) -> Client {
    let endpoint = pair.sensor.bind(Endpoint::builder().client(client_tls()).limits(limits), 0).unwrap();
    let backoff = Backoff::new().cap(5 * SECOND);
    Client::builder(endpoint).address(pair.gateway.address(PORT)).backoff(backoff).build().unwrap()
}

fn reached(subscription: &Subscription, published: &Published) -> bool {
    let (epoch, seq) = published.last();
    subscription.cursor() == Some(Cursor::new(Some(epoch), seq))
}

fn what(item: SubscriptionItem) -> Option<Told> {
    match item {
        SubscriptionItem::Event { seq, epoch, payload } => {
            Some(Told::Event { epoch: epoch.unwrap(), seq, payload })
        }
        SubscriptionItem::Gap(gap) => {
            let (from, to) = (gap.from, gap.next_seq - 1);
            Some(Told::Gap { epoch: gap.epoch, from, to, missed: gap.missed })
        }
        SubscriptionItem::Connected { .. } | SubscriptionItem::Disconnected { .. } => None,
    }
}

/// Chance for the scenario itself (splitmix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn fraction(&mut self) -> f64 {
        f64::from(u32::try_from(self.below(1 << 32)).unwrap()) / f64::from(u32::MAX)
    }
}

fn holds(scenario: &Scenario) {
    for_each_seed(|seed| {
        let (published, told) = scenario.play(seed);
        check(&published, &told).unwrap();
    });
}

#[test]
fn nothing_is_lost_in_silence_under_loss_and_corruption() {
    let link = Link::new().delay(15 * MILLI).rate(10_000_000).queue(64 * 1024);
    holds(&Scenario::over(link.loss_in_bursts(0.1, 3).corruption(0.02)));
}

#[test]
fn nothing_is_lost_in_silence_in_a_blackhole() {
    holds(&Scenario::over(Link::new().delay(15 * MILLI).blackhole(5 * SECOND, 2 * SECOND)));
}

#[test]
fn nothing_is_lost_in_silence_in_a_blackhole_that_ends_connections() {
    holds(&Scenario::over(Link::new().delay(15 * MILLI).blackhole(12 * SECOND, 12 * SECOND)));
}

#[test]
fn nothing_is_lost_in_silence_behind_a_satellite() {
    holds(&Scenario::over(Link::new().delay(750 * MILLI).rate(1_000_000)));
}

#[test]
fn nothing_is_lost_in_silence_under_reordering_and_duplication() {
    let link = Link::new().delay(15 * MILLI).reordering(0.2, 30 * MILLI).duplication(0.2);
    holds(&Scenario::over(link));
}

#[test]
fn a_flood_that_the_log_cannot_hold_is_told_as_gaps() {
    let flood = Scenario {
        events: 2000,
        pause: 10 * MILLI,
        restarts: 1,
        ..Scenario::over(Link::new().delay(100 * MILLI).rate(100_000))
    };
    let mut gaps = 0;
    let counted = Mutex::new(&mut gaps);
    for_each_seed(|seed| {
        let (published, told) = flood.play(seed);
        check(&published, &told).unwrap();
        let known = |item: &&Told| matches!(item, Told::Gap { missed: Some(_), .. });
        **counted.lock().unwrap() += told.iter().filter(known).count();
    });
    assert!(gaps > 0, "the log held everything");
}

/// Each of these bugs, planted into what a subscriber is told, is found. What is planted is one fault in a
/// run that was right.
#[test]
fn the_invariant_finds_planted_bugs() {
    let link = Link::new().delay(100 * MILLI).rate(100_000);
    let scenario = Scenario { events: 2000, pause: 10 * MILLI, restarts: 1, ..Scenario::over(link) };
    let is_event = |item: &Told| matches!(item, Told::Event { .. });
    let is_counted = |item: &Told| matches!(item, Told::Gap { missed: Some(_), .. });
    let is_uncounted = |item: &Told| matches!(item, Told::Gap { missed: None, .. });
    // Not every seed's run has everything that can be spoilt.
    let (published, told, in_run, counted, epoch) = (0..100)
        .find_map(|seed| {
            let (published, told) = scenario.play(seed);
            let in_run = told.windows(3).position(|three| three.iter().all(is_event))? + 1;
            let (counted, epoch) = (told.iter().position(is_counted)?, told.iter().position(is_uncounted)?);
            Some((published, told, in_run, counted, epoch))
        })
        .unwrap();

    let planted = |bug: &dyn Fn(&mut Vec<Told>)| {
        let mut told = told.clone();
        bug(&mut told);
        check(&published, &told)
    };
    planted(&|_| ()).unwrap();
    planted(&|told| _ = told.remove(in_run)).expect_err("an event is lost");
    planted(&|told| told.insert(in_run, told[in_run].clone())).expect_err("an event comes twice");
    planted(&|told| told.swap(in_run, in_run + 1)).expect_err("two events change places");
    planted(&|told| _ = told.remove(counted)).expect_err("a gap is not told");
    planted(&|told| {
        let Told::Gap { missed: Some(missed), .. } = &mut told[counted] else { panic!("no gap") };
        *missed += 1;
    })
    .expect_err("a gap counts wrong");
    planted(&|told| _ = told.remove(epoch)).expect_err("an epoch begins in silence");
    planted(&|told| _ = told.pop()).expect_err("the end is missing");
    planted(&|told| {
        let Told::Event { payload, .. } = &mut told[in_run] else { panic!("no event") };
        *payload = Bytes::from_static(b"something else");
    })
    .expect_err("an event is not what was published");
}
