//! The machines of a fleet, which are switched on and lose power.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    super::{Mirror, MirrorState, directory::EpochLogs, tests::within},
    certificates::certificates,
    ledger::{Finding, Rule, SharedLedger},
    settings::{CENTRE, Plant, SENSOR, Settings},
};
use crate::{
    Backoff, Client, ClientTls, Endpoint, Raw, Router, ServerTls,
    error::Result,
    events::{EventLog, EventLogBuilder, Power, SegmentOptions, ServedLog, SimulatedDisk, StorageFault},
    protocol::STREAM_EVENTS,
    sim::{Host, Sim},
    sync::{Mutex, lock},
};

pub(super) const PORT: u16 = 7443;
const EPOCH: u64 = 4711;

pub(super) fn serve(host: &Host, served: ServedLog) -> Result<Endpoint> {
    let tls = ServerTls::new(certificates().server.clone())
        .require_client_certificates(certificates().trust.clone());
    let router = Router::new().events(served).consumers(|_, _| true);
    host.bind(Endpoint::builder().server(tls).router(router), PORT)
}

/// A client of these hosts.
pub(super) fn client(host: &Host, peers: &[&Host]) -> Client {
    let tls = ClientTls::new(certificates().trust.clone()).identity(certificates().client.clone());
    let endpoint = host.bind(Endpoint::builder().client(tls), 0).unwrap();
    let backoff = Backoff::new().cap(Duration::from_secs(2));
    let builder = Client::builder(endpoint).backoff(backoff);
    peers.iter().fold(builder, |builder, peer| builder.address(peer.address(PORT))).build().unwrap()
}

/// The disks of a machine, one for each log.
#[derive(Clone)]
pub(super) struct Disks {
    logs: Arc<Mutex<BTreeMap<(u64, u64), SimulatedDisk>>>,
    seed: u64,
    is_filled: bool,
}

impl Disks {
    pub(super) fn new(seed: u64, is_filled: bool) -> Self {
        Self { logs: Arc::default(), seed, is_filled }
    }

    pub(super) fn for_each(&self, work: impl FnMut(&SimulatedDisk)) {
        lock(&self.logs).values().for_each(work);
    }

    fn disk(&self, order: u64, epoch: u64) -> SimulatedDisk {
        let mut logs = lock(&self.logs);
        let new = || SimulatedDisk::new(self.seed ^ order, self.is_filled);
        logs.entry((order, epoch)).or_insert_with(new).clone()
    }

    /// The log of an origin.
    pub(super) fn origin(
        &self,
        bounds: EventLogBuilder,
        power: &Power,
        fault: StorageFault,
    ) -> Result<EventLog> {
        let files = self.disk(1, EPOCH).files(power, fault);
        bounds.open_in(&files, SegmentOptions::default().epochs_from(|| EPOCH))
    }
}

/// The logs of a mirror while its machine has power.
pub(super) struct PoweredLogs {
    pub(super) disks: Disks,
    pub(super) power: Power,
    pub(super) fault: StorageFault,
}

impl EpochLogs for PoweredLogs {
    fn list(&self) -> Result<Vec<(u64, u64)>> {
        Ok(lock(&self.disks.logs).keys().copied().collect())
    }

    fn open(&self, builder: EventLogBuilder, order: u64, epoch: u64) -> Result<EventLog> {
        builder.open_mirror(&self.disks.disk(order, epoch).files(&self.power, self.fault), epoch)
    }

    fn remove(&self, order: u64, epoch: u64) -> Result<()> {
        lock(&self.disks.logs).remove(&(order, epoch));
        Ok(())
    }
}

/// A machine that is switched on.
pub(super) struct Node {
    pub(super) power: Power,
    log: Holder,
    served: Endpoint,
    /// That the mirror follows its origin with.
    _client: Option<Client>,
}

enum Holder {
    Origin(EventLog),
    Mirror(Mirror),
}

impl Node {
    /// What it holds; `None` before it has heard of its origin.
    pub(super) fn log(&self) -> Option<EventLog> {
        match &self.log {
            Holder::Origin(log) => Some(log.clone()),
            Holder::Mirror(mirror) => mirror.log(),
        }
    }

    fn state(&self) -> Option<MirrorState> {
        match &self.log {
            Holder::Origin(_) => None,
            Holder::Mirror(mirror) => Some(mirror.status().state),
        }
    }

    /// What this consumer has acknowledged.
    pub(super) fn acknowledged(&self, consumer: &str) -> u64 {
        let known = self.log().map(|log| log.consumers()).unwrap_or_default();
        known.iter().find(|status| status.name == consumer).map_or(0, |status| status.acknowledged)
    }
}

/// A sensor, a gateway and a centre.
pub(super) struct Fleet {
    pub(super) sim: Sim,
    pub(super) settings: Settings,
    plant: Plant,
    pub(super) hosts: [Host; 3],
    pub(super) disks: [Disks; 3],
    pub(super) nodes: [Option<Node>; 3],
    /// What each node has acknowledged to its origin.
    acknowledged: [u64; 3],
    /// Mirrors that were switched on, with the last event that they had then, and what they had acknowledged.
    promises: Vec<(usize, u64, u64)>,
    /// How often a machine was switched on again, or had no space left.
    pub(super) troubles: u64,
    pub(super) ledger: SharedLedger,
    /// The log of the sensor while it has power, for the publisher.
    pub(super) publishes: Arc<Mutex<Option<EventLog>>>,
}

impl Fleet {
    pub(super) fn new(sim: &Sim, settings: Settings, plant: Plant) -> Self {
        sim.set_default_link(settings.link.clone());
        let hosts = [1, 2, 3].map(|last| sim.host([10, 0, 0, last]));
        let disks = [1, 2, 3].map(|n| Disks::new(sim.seed() * 64 + n * 16, settings.is_filled));
        Self {
            sim: sim.clone(),
            settings,
            plant,
            hosts,
            disks,
            nodes: [const { None }; 3],
            acknowledged: [0; 3],
            promises: Vec::new(),
            troubles: 0,
            ledger: SharedLedger::default(),
            publishes: Arc::default(),
        }
    }

    pub(super) fn node(&self, node: usize) -> &Node {
        self.nodes[node].as_ref().expect("it is switched on")
    }

    /// Switches a machine on, and checks what it still has. Tries again if its disk fails.
    pub(super) async fn switch_on(&mut self, node: usize) -> std::result::Result<(), Finding> {
        for _ in 0..20 {
            match self.try_switch_on(node) {
                Ok(switched_on) => {
                    self.nodes[node] = Some(switched_on);
                    self.ledger.lock().trace(("on", node, self.sim.elapsed()));
                    return self.check_what_is_left(node);
                }
                Err(_) => self.sim.sleep(Duration::from_secs(1)).await,
            }
        }
        Rule::CatchesUp.holds(false, || format!("node {node} cannot be switched on"))
    }

    fn try_switch_on(&self, node: usize) -> Result<Node> {
        let (power, host, fault) = (Power::on(), &self.hosts[node], self.plant.storage[node]);
        let bounds = self.settings.bounds(&self.sim, node);
        if node == SENSOR {
            let log = self.disks[node].origin(bounds, &power, fault)?;
            *lock(&self.publishes) = Some(log.clone());
            let served = serve(host, log.clone().into())?;
            return Ok(Node { power, log: Holder::Origin(log), served, _client: None });
        }
        let client = client(host, &[&self.hosts[node - 1]]);
        let logs = PoweredLogs { disks: self.disks[node].clone(), power: power.clone(), fault };
        let mirror = Mirror::builder::<Raw>(&client, STREAM_EVENTS).bounds(bounds);
        let consumer = self.settings.consumer_of(node - 1).expect("the next node acknowledges");
        let mirror = mirror.consumer(consumer).open_in(Arc::new(logs))?;
        let served = serve(host, mirror.served())?;
        Ok(Node { power, log: Holder::Mirror(mirror), served, _client: Some(client) })
    }

    fn check_what_is_left(&mut self, node: usize) -> std::result::Result<(), Finding> {
        self.read_acknowledgements();
        let last = self.node(node).log().map_or(0, |log| log.committed_seq());
        if node != SENSOR {
            self.promises.push((node, last, self.acknowledged[node]));
            return Ok(());
        }
        let lost = self.ledger.lock().known_from(last + 1).into_keys().next_back();
        let text = || format!("the sensor ends with event {last}, and lacks {lost:?}");
        self.ledger.lock().check_that(Rule::Promise, lost.is_none(), text);
        Ok(())
    }

    /// Checks what the mirrors still had when they were switched on again. A gap may be acknowledged, too,
    /// and is received again.
    pub(super) fn check_promises(&self) {
        let mut ledger = self.ledger.lock();
        for (node, last, acknowledged) in &self.promises {
            let known = ledger.known_from(last + 1).into_keys();
            let lost = known
                .take_while(|seq| seq <= acknowledged)
                .find(|seq| !self.settings.is_explained(&ledger, *seq, self.troubles));
            ledger.check_that(Rule::Promise, lost.is_none(), || {
                format!("mirror {node} was back with events up to {last}, and lacked {lost:?}")
            });
        }
    }

    /// Remembers what the origins were told.
    pub(super) fn read_acknowledgements(&mut self) {
        for node in SENSOR..CENTRE {
            if let (Some(origin), Some(consumer)) = (&self.nodes[node], self.settings.consumer_of(node)) {
                let acknowledged = &mut self.acknowledged[node + 1];
                *acknowledged = origin.acknowledged(consumer).max(*acknowledged);
            }
        }
    }

    /// A machine loses its power, or only its processes are killed.
    pub(super) fn switch_off(&mut self, node: usize, loses_power: bool) {
        self.read_acknowledgements();
        let Some(switched_on) = self.nodes[node].take() else { return };
        self.ledger.lock().trace(("off", node, self.sim.elapsed()));
        switched_on.power.cut();
        self.hosts[node].crash();
        if node == SENSOR {
            lock(&self.publishes).take();
        }
        drop(switched_on);
        self.troubles += 1;
        self.disks[node].for_each(|disk| {
            disk.heal();
            if loses_power {
                disk.lose_power();
            }
        });
    }

    /// Ends the processes of a machine in order.
    pub(super) async fn shut_down(&mut self, node: usize) -> std::result::Result<(), Finding> {
        let Some(Node { power: _, log, served, _client }) = self.nodes[node].take() else { return Ok(()) };
        if node == SENSOR {
            lock(&self.publishes).take();
        }
        let sim = self.sim.clone();
        let shut_down = async {
            // A disk that is full is no fault here.
            drop(match log {
                Holder::Origin(log) => log.close().await,
                Holder::Mirror(mirror) => mirror.close().await,
            });
            served.shutdown(Duration::from_secs(1)).await;
        };
        within(&sim, Duration::from_secs(60), "shutting down", shut_down).await?;
        self.hosts[node].crash();
        self.troubles += 1;
        Ok(())
    }

    /// Whether a mirror has stopped, though no origin ever has another history.
    pub(super) fn check_states(&self) -> std::result::Result<(), Finding> {
        for (node, state) in self.nodes.iter().flatten().map(Node::state).enumerate() {
            if let Some(MirrorState::Diverged(reason)) = state {
                return Rule::Following.holds(false, || format!("mirror {node} has stopped: {reason}"));
            }
        }
        Ok(())
    }
}
