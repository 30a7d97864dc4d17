//! A fleet with troubles, and the check of what has arrived in the end.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;

use super::{
    super::sabotage::{self, Sabotage},
    application::{Application, ApplicationFault, Publisher, until_processed},
    fleet::{Fleet, Node},
    ledger::{Finding, Rule},
    settings::{CENTRE, GATEWAY, Plant, SENSOR, Settings},
    within,
};
use crate::{
    events::{SimulatedThreads, StorageFault},
    sim::{Link, Sim},
    sync::Event,
};

/// As much virtual time as a healed fleet may take to catch up.
const CATCH_UP: Duration = Duration::from_secs(600);

/// What has happened in a trial.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Summary {
    delivered: usize,
    gaps: usize,
    troubles: u64,
    elapsed: Duration,
    /// Of everything that the application got, with the times.
    digest: u64,
    /// What became of the datagrams.
    datagrams: String,
}

fn trial(seed: u64, plant: Plant) -> Result<Summary, Vec<Finding>> {
    fastrand::seed(seed);
    let sim = Sim::new(seed);
    let threads = SimulatedThreads::new(&sim, Duration::from_millis(10));
    threads.enter(move || {
        let mut random = Rng::with_seed(seed);
        let fleet = Fleet::new(&sim, Settings::new(&mut random), plant);
        let ledger = fleet.ledger.clone();
        let ended = sabotage::with(plant.mirror, || sim.run(FleetTrial::run(fleet, random, plant)));
        let mut findings = ledger.lock().findings().to_vec();
        match ended {
            Ok(summary) if findings.is_empty() => return Ok(summary),
            Ok(_) => {}
            Err(finding) => findings.push(finding),
        }
        Err(findings)
    })
}

struct FleetTrial {
    fleet: Fleet,
    random: Rng,
    restart: Arc<Event>,
    progress: Arc<Event>,
}

impl FleetTrial {
    async fn run(mut fleet: Fleet, mut random: Rng, plant: Plant) -> Result<Summary, Finding> {
        for node in [SENSOR, GATEWAY, CENTRE] {
            fleet.switch_on(node).await?;
        }
        let epoch = fleet.node(SENSOR).log().map_or(0, |log| log.epoch());
        let application = Application::new(&fleet, epoch, plant.application);
        let publisher = Publisher::new(&fleet);
        let (restart, progress) = (Arc::clone(&application.restart), Arc::clone(&application.progress));
        fleet.sim.spawn(application.run(random.fork()));
        let mut trial = Self { fleet, random: random.fork(), restart, progress };
        trial.until_all_consumers_are_known(&publisher).await?;

        let (sim, events) = (trial.fleet.sim.clone(), trial.fleet.settings.events);
        sim.spawn(publisher.clone().publish_all(events, random.fork()));
        for _ in 0..trial.random.u8(2..7) {
            sim.sleep(Duration::from_millis(trial.random.u64(0..4000))).await;
            trial.trouble().await?;
        }
        within(&sim, CATCH_UP, "publishing everything", publisher.until_ended()).await?;
        let healed = trial.heal(&publisher).await;
        // Even if not everything has arrived, what is there may say why.
        let summary = trial.check().await;
        healed.map(|()| summary)
    }

    /// Before that, logs keep little on behalf of consumers that they were not told of.
    async fn until_all_consumers_are_known(&mut self, publisher: &Publisher) -> Result<(), Finding> {
        let first = publisher.publish_one(&mut self.random).await;
        let fleet = &self.fleet;
        let known = async {
            until_processed(&fleet.ledger, &self.progress, first).await;
            while (SENSOR..=CENTRE).any(|node| {
                fleet
                    .settings
                    .consumer_of(node)
                    .is_some_and(|name| fleet.node(node).acknowledged(name) < first)
            }) {
                fleet.sim.sleep(Duration::from_millis(50)).await;
            }
        };
        within(&fleet.sim, CATCH_UP, "the first acknowledgement", known).await
    }

    /// Something goes wrong, and is put right again.
    async fn trouble(&mut self) -> Result<(), Finding> {
        let (sim, random) = (self.fleet.sim.clone(), &mut self.random);
        let node = random.usize(..3);
        match random.u8(..10) {
            0..5 => {
                let other = random.usize(..3);
                let pause = Duration::from_millis(random.u64(0..20_000));
                let loses_power = random.u8(..4) > 0;
                self.power_cut(node, loses_power).await;
                if self.random.bool() {
                    self.power_cut(other, loses_power).await;
                }
                sim.sleep(pause).await;
                self.switch_all_on().await
            }
            5..7 => {
                let (from, to) = (node, (node + 1) % 3);
                let is_one_way = random.bool();
                let pause = Duration::from_millis(random.u64(0..60_000));
                let link = self.fleet.settings.link.clone();
                self.set_links(from, to, is_one_way, link.clone().down());
                sim.sleep(pause).await;
                self.set_links(from, to, false, link);
                Ok(())
            }
            7 => {
                let writes = random.u64(1..4);
                self.fleet.disks[node].for_each(|disk| disk.fill_up(writes));
                self.fleet.troubles += 1;
                Ok(())
            }
            8 => {
                self.restart.notify(usize::MAX);
                Ok(())
            }
            _ => {
                self.fleet.shut_down(node).await?;
                self.switch_all_on().await
            }
        }
    }

    /// Immediately, or at one of the next calls to the disk.
    async fn power_cut(&mut self, node: usize, loses_power: bool) {
        let Some(power) = self.fleet.nodes[node].as_ref().map(|node| node.power.clone()) else { return };
        if self.random.u8(..3) > 0 {
            power.cut_after(self.random.u64(1..60));
            let sleep = self.fleet.sim.sleep(Duration::from_secs(3));
            futures_lite::future::or(power.lost(), sleep).await;
        }
        self.fleet.switch_off(node, loses_power);
    }

    async fn switch_all_on(&mut self) -> Result<(), Finding> {
        for node in [SENSOR, GATEWAY, CENTRE] {
            if self.fleet.nodes[node].is_none() {
                self.fleet.switch_on(node).await?;
            }
        }
        Ok(())
    }

    fn set_links(&self, from: usize, to: usize, is_one_way: bool, link: Link) {
        let [from, to] = [from, to].map(|node| &self.fleet.hosts[node]);
        self.fleet.sim.set_link(from, to, link.clone());
        if !is_one_way {
            self.fleet.sim.set_link(to, from, link);
        }
    }

    /// Everything works again, and everything arrives.
    async fn heal(&mut self, publisher: &Publisher) -> Result<(), Finding> {
        self.switch_all_on().await?;
        self.fleet.disks.iter().for_each(|disks| disks.for_each(|disk| disk.heal()));
        let sim = self.fleet.sim.clone();
        let published = publisher.publish_one(&mut self.random);
        let last = within(&sim, CATCH_UP, "publishing the last event", published).await?;
        let processed = until_processed(&self.fleet.ledger, &self.progress, last);
        let caught_up = within(&sim, CATCH_UP, "catching up", processed).await;
        self.fleet.check_states()?;
        caught_up?;
        // The application may have got it from another node than the centre.
        let held = async {
            while self
                .fleet
                .nodes
                .iter()
                .flatten()
                .any(|node| node.log().is_none_or(|log| log.committed_seq() < last))
            {
                sim.sleep(Duration::from_millis(50)).await;
            }
        };
        let held = within(&sim, CATCH_UP, "mirroring the last event", held).await;
        self.fleet.check_states()?;
        held
    }

    async fn check(&mut self) -> Summary {
        let Self { fleet, .. } = self;
        fleet.ledger.lock().check_delivered(|ledger, seq| {
            fleet.settings.is_explained_to_application(ledger, seq, fleet.troubles)
        });
        fleet.check_promises();
        for node in [SENSOR, GATEWAY, CENTRE] {
            fleet.check_holder(node).await;
        }
        let ledger = fleet.ledger.lock();
        Summary {
            delivered: ledger.delivered.len(),
            gaps: ledger.gaps(),
            troubles: fleet.troubles,
            elapsed: fleet.sim.elapsed(),
            digest: ledger.digest(),
            datagrams: format!("{:?}", fleet.sim.stats()),
        }
    }
}

impl Fleet {
    /// A node holds what was published, under its numbers, within its bounds.
    async fn check_holder(&self, node: usize) {
        let Some(log) = self.nodes[node].as_ref().and_then(Node::log) else { return };
        let (last, newest) = (log.committed_seq(), self.ledger.lock().newest_known());
        let known = self.ledger.lock().known_from(log.first_seq());
        for (seq, known) in known.into_iter().filter(|(seq, _)| *seq <= last) {
            let held = log.payload_of(seq).await;
            let mut ledger = self.ledger.lock();
            match held {
                Ok(Some(held)) => ledger.check_that(Rule::SameHistory, held == known, || {
                    format!("node {node} holds another event {seq}")
                }),
                // It may have been discarded meanwhile.
                Ok(None) if seq < log.first_seq() => {}
                Ok(None) => {
                    let is_explained =
                        node != SENSOR && self.settings.is_explained(&ledger, seq, self.troubles);
                    ledger
                        .check_that(Rule::NoHoles, is_explained, || format!("node {node} lacks event {seq}"));
                }
                Err(error) => {
                    ledger.check_that(Rule::NoHoles, false, || {
                        format!("event {seq} of node {node}: {error:?}")
                    });
                }
            }
        }
        let (damaged, mut bytes) = (log.health().damaged_events, 0);
        self.disks[node].for_each(|disk| bytes += disk.bytes_of("segment"));
        let mut ledger = self.ledger.lock();
        ledger.check_that(Rule::SameEnd, last == newest, || format!("node {node} ends with event {last}"));
        // In a segment that grows, a batch that was cut off looks like a damaged one.
        let is_damaged = self.settings.is_filled && damaged > 0;
        ledger.check_that(Rule::NoDamage, !is_damaged, || format!("node {node} has lost {damaged} events"));
        let is_bounded = bytes <= self.settings.large_bytes;
        ledger.check_that(Rule::DiskBound, is_bounded, || format!("node {node} takes {bytes} bytes"));
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn everything_durable_arrives_once_and_in_order_at_the_centre() {
    let seeds = match number("FLEET_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FLEET_TRIALS").unwrap_or(200),
    };
    let began = std::time::Instant::now();
    let (mut delivered, mut gaps, mut troubles, mut digest) = (0, 0, 0, DefaultHasher::new());
    for seed in seeds.clone() {
        match trial(seed, Plant::NOTHING) {
            Ok(summary) => {
                delivered += summary.delivered;
                gaps += summary.gaps;
                troubles += summary.troubles;
                summary.hash(&mut digest);
                if seeds.end - seeds.start == 1 {
                    println!("{summary:?}");
                }
            }
            Err(found) => panic!("FLEET_SEED={seed} finds: {found:#?}"),
        }
        if (seed + 1) % 100 == 0 {
            let took = began.elapsed();
            println!(
                "{} trials in {took:.1?}: {delivered} events, {gaps} gaps, {troubles} troubles, digest {:016x}",
                seed + 1,
                digest.finish()
            );
        }
    }
    assert!(seeds.end - seeds.start < 100 || gaps > 0 && delivered > 1000 && troubles > 100);
}

#[test]
fn a_seed_repeats_its_trial() {
    for seed in (3..200).step_by(20) {
        assert_eq!(trial(seed, Plant::NOTHING), trial(seed, Plant::NOTHING), "{seed}");
    }
}

/// Some trial must find the planted fault with this rule.
fn must_find(rule: Rule, plant: Plant) {
    let finding = |seed| trial(seed, plant).err()?.into_iter().find(|finding| finding.rule == rule);
    match (0..300).find_map(|seed| Some((seed, finding(seed)?))) {
        Some((seed, found)) => println!("seed {seed} finds {plant:?}: {found:?}"),
        None => panic!("no trial finds {plant:?} with {rule:?}"),
    }
}

fn in_mirrors(rule: Rule, mirror: Sabotage) {
    must_find(rule, Plant { mirror, ..Plant::NOTHING });
}

fn in_storage(rule: Rule, node: usize, fault: StorageFault) {
    let mut plant = Plant::NOTHING;
    plant.storage[node] = fault;
    must_find(rule, plant);
}

fn in_application(rule: Rule, application: ApplicationFault) {
    must_find(rule, Plant { application, ..Plant::NOTHING });
}

#[test]
fn a_mirror_that_acknowledges_what_is_not_durable_is_found() {
    in_mirrors(Rule::Promise, Sabotage::AckReceived);
}

#[test]
fn a_mirror_that_drops_gaps_is_found() {
    in_mirrors(Rule::SameHistory, Sabotage::DropGaps);
}

#[test]
fn a_mirror_that_appends_events_twice_is_found() {
    in_mirrors(Rule::Once, Sabotage::AppendTwice);
    in_mirrors(Rule::Following, Sabotage::AppendTwice);
    in_mirrors(Rule::SamePayload, Sabotage::AppendTwice);
}

#[test]
fn a_mirror_that_leaves_events_out_is_found() {
    in_mirrors(Rule::GapExplained, Sabotage::LeaveOutEvents);
    in_mirrors(Rule::NoHoles, Sabotage::LeaveOutEvents);
}

#[test]
fn a_mirror_that_changes_events_is_found() {
    in_mirrors(Rule::Published, Sabotage::ChangePayloads);
}

#[test]
fn a_mirror_that_stops_for_good_is_found() {
    in_mirrors(Rule::CatchesUp, Sabotage::StopWhenDisconnected);
    in_mirrors(Rule::SameEnd, Sabotage::StopWhenDisconnected);
}

#[test]
fn a_disk_that_loses_the_newest_batch_of_a_node_is_found() {
    in_storage(Rule::NoDamage, SENSOR, StorageFault::SkipSync);
    in_storage(Rule::Promise, SENSOR, StorageFault::ReuseNumbers);
    for node in [GATEWAY, CENTRE] {
        in_storage(Rule::Promise, node, StorageFault::SkipSync);
    }
}

#[test]
fn a_log_that_gives_a_number_to_two_events_is_found() {
    in_storage(Rule::NumberUsedOnce, SENSOR, StorageFault::ReuseNumbers);
}

#[test]
fn a_log_that_loses_its_history_is_found() {
    in_storage(Rule::SameEpoch, SENSOR, StorageFault::BeginEpoch);
}

#[test]
fn a_log_that_forgets_its_consumers_is_found() {
    in_storage(Rule::GapExplained, SENSOR, StorageFault::ForgetConsumers);
}

#[test]
fn a_log_that_ignores_acknowledgements_is_found() {
    for node in [SENSOR, GATEWAY] {
        in_storage(Rule::GapExplained, node, StorageFault::DiscardUnacknowledged);
    }
}

#[test]
fn a_log_that_keeps_too_much_is_found() {
    in_storage(Rule::DiskBound, GATEWAY, StorageFault::KeepTooMuch);
}

#[test]
fn an_application_that_resumes_at_another_event_is_found() {
    in_application(Rule::Order, ApplicationFault::ResumesEarly);
    in_application(Rule::GapPosition, ApplicationFault::ResumesLate);
}

#[test]
fn an_application_that_hides_gaps_is_found() {
    in_application(Rule::Delivered, ApplicationFault::HidesGaps);
}
