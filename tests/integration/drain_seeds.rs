//! Two nodes on a bad link, of which one shuts down in the middle of everything: nothing that was
//! acknowledged is lost.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use crate::simulation::{PORT, Pair, SECOND, client_tls, for_each_seed, server_tls};
use fastrand::Rng;
use palyra_quic::{
    Bytes, Client, Code, Connection, Context, Endpoint, Rate, Router, TransportLimits,
    sim::{Host, Link, Sim},
};

const MILLI: Duration = Duration::from_millis(1);

/// What a node has handled, by number, and how many of its handlers there are at the moment.
#[derive(Clone, Default)]
struct Record {
    handled: Arc<Mutex<BTreeSet<u32>>>,
    running: Arc<AtomicUsize>,
}

struct Running(Record);

impl Record {
    fn begin(&self) -> Running {
        self.running.fetch_add(1, SeqCst);
        Running(self.clone())
    }

    fn handled(&self) -> BTreeSet<u32> {
        self.handled.lock().unwrap().clone()
    }

    fn running(&self) -> usize {
        self.running.load(SeqCst)
    }
}

impl Running {
    fn done(self, params: &Bytes) {
        let number = u32::from_be_bytes(params[..4].try_into().unwrap());
        assert!(self.0.handled.lock().unwrap().insert(number), "{number} was handled twice");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

/// A notification and a method that take as long as their parameters say.
fn router(sim: &Sim, record: &Record) -> Router {
    let work = {
        let (sim, record) = (sim.clone(), record.clone());
        move |params: Bytes| {
            let (sim, running) = (sim.clone(), record.begin());
            async move {
                sim.sleep(u32::from(params[4]) * MILLI).await;
                running.done(&params);
                params
            }
        }
    };
    let notified = work.clone();
    Router::new()
        .serve_raw("work", move |_: Context, params| {
            let work = work(params);
            async move { Ok(work.await) }
        })
        .on_notification_raw("work", move |_: Context, params| {
            let work = notified(params);
            async move { drop(work.await) }
        })
}

/// What has been sent and not been taken back: by number, whether the peer said that it has it.
#[derive(Clone, Default)]
struct Sent {
    next: Arc<AtomicUsize>,
    acknowledged: Arc<Mutex<BTreeSet<u32>>>,
    /// `notify_raw` returned: only a shutdown of the sender within its grace makes sure of these.
    written: Arc<Mutex<BTreeSet<u32>>>,
}

impl Sent {
    /// A new number, and parameters with it for a handler that takes a random time.
    fn number(&self, rng: &mut Rng) -> (u32, Vec<u8>) {
        let number = u32::try_from(self.next.fetch_add(1, SeqCst)).unwrap();
        let mut params = number.to_be_bytes().to_vec();
        params.push(if rng.bool() { 0 } else { rng.u8(..100) });
        // Now and then more than a packet, or than a window.
        let filling = if rng.u8(..10) == 0 { rng.usize(..60_000) } else { rng.usize(..300) };
        params.resize(params.len() + filling, 7);
        (number, params)
    }
}

/// What one of several senders on a node does, until something fails.
struct Sender {
    sim: Sim,
    client: Client,
    sent: Sent,
    /// Closes connections without a look at what was only written.
    closes: bool,
    rng: Rng,
}

impl Sender {
    async fn pause(&mut self) {
        let pause = self.rng.u32(..400) * MILLI;
        if self.rng.bool() {
            self.sim.sleep(pause).await;
        }
    }

    async fn run(mut self, ended: smol::channel::Sender<()>) {
        let _ended = ended;
        let Ok(mut connection) = self.client.connection().await else { return };
        for _ in 0..self.rng.u8(1..12) {
            let done = match self.rng.u8(..6) {
                0 => self.call(&connection).await,
                1 => self.call_client().await,
                2 | 3 => self.stream(&connection).await,
                4 => self.notify(&connection).await,
                _ => {
                    // Leaves, and sometimes comes again.
                    if self.closes && self.rng.bool() {
                        connection.close(Code::NO_ERROR, "");
                    }
                    drop(connection);
                    match self.client.connection().await {
                        Ok(next) => connection = next,
                        Err(_) => return,
                    }
                    true
                }
            };
            if !done {
                return;
            }
            self.pause().await;
        }
    }

    fn acknowledged(&self, numbers: impl IntoIterator<Item = u32>) {
        self.sent.acknowledged.lock().unwrap().extend(numbers);
    }

    async fn call(&mut self, connection: &Connection) -> bool {
        let (number, params) = self.sent.number(&mut self.rng);
        let answered = connection.call_raw("work", params).await.is_ok();
        self.acknowledged(answered.then_some(number));
        answered
    }

    async fn call_client(&mut self) -> bool {
        let (number, params) = self.sent.number(&mut self.rng);
        let answered = self.client.call_raw("work", params).await.is_ok();
        self.acknowledged(answered.then_some(number));
        answered
    }

    async fn stream(&mut self, connection: &Connection) -> bool {
        let Ok(mut notifier) = connection.notifier().await else { return false };
        let mut numbers = Vec::new();
        for _ in 0..self.rng.u8(1..20) {
            let (number, params) = self.sent.number(&mut self.rng);
            numbers.push(number);
            if notifier.send_raw("work", params).await.is_err() {
                return false;
            }
            if self.rng.u8(..8) == 0 {
                self.pause().await;
            }
        }
        let finished = notifier.finish().await.is_ok();
        if finished {
            self.acknowledged(numbers);
        }
        finished
    }

    async fn notify(&mut self, connection: &Connection) -> bool {
        for _ in 0..self.rng.u8(1..10) {
            let (number, params) = self.sent.number(&mut self.rng);
            if connection.notify_raw("work", params).await.is_err() {
                return false;
            }
            self.sent.written.lock().unwrap().insert(number);
        }
        true
    }
}

struct Node {
    endpoint: Endpoint,
    record: Record,
    sent: Sent,
}

impl Node {
    fn new(sim: &Sim, host: &Host, limits: TransportLimits) -> Self {
        let record = Record::default();
        let builder = Endpoint::builder().server(server_tls()).client(client_tls()).limits(limits);
        let endpoint = host.bind(builder.router(router(sim, &record)), PORT).unwrap();
        Self { endpoint, record, sent: Sent::default() }
    }

    fn send(&self, sim: &Sim, to: &Host, closes: bool, rng: &mut Rng) -> smol::channel::Receiver<()> {
        let (ending, ended) = smol::channel::bounded(1);
        let clients: Vec<_> = (0..2)
            .map(|_| Client::builder(self.endpoint.clone()).address(to.address(PORT)).build().unwrap())
            .collect();
        for _ in 0..rng.u8(1..6) {
            let client = clients[rng.usize(..clients.len())].clone();
            let sender =
                Sender { sim: sim.clone(), client, sent: self.sent.clone(), closes, rng: rng.fork() };
            sim.spawn(sender.run(ending.clone()));
        }
        ended
    }
}

/// How a scenario went, for its twins.
#[derive(Debug, Default)]
struct Totals {
    acknowledged: usize,
    handled: usize,
    lost: usize,
}

/// One node shuts down with a grace at a random moment, while both send to each other.
fn scenario(seed: u64, grace: Duration) -> Totals {
    let mut rng = Rng::with_seed(seed);
    let link = Link::new()
        .delay(rng.u32(1..60) * MILLI)
        .jitter(rng.u32(..20) * MILLI)
        .loss(f64::from(rng.u32(..10)) / 100.0)
        .reordering(f64::from(rng.u32(..10)) / 100.0, 30 * MILLI);
    let pair = Pair::new(seed, link);
    let sim = &pair.sim;
    let mut limits = TransportLimits::builder()
        .handler_timeout(600 * SECOND)
        .request_read_timeout(600 * SECOND)
        .max_concurrent_uni_streams([1, 4, 32][rng.usize(..3)]);
    if rng.bool() {
        limits = limits.request_rate(Rate::per_second(50).burst(10));
    }
    let limits = limits.build().unwrap();
    let (leaving, staying) =
        (Node::new(sim, &pair.gateway, limits.clone()), Node::new(sim, &pair.sensor, limits));
    let mut totals = Totals::default();
    sim.run(async {
        let endings = [
            leaving.send(sim, &pair.sensor, false, &mut rng),
            staying.send(sim, &pair.gateway, true, &mut rng),
        ];
        sim.sleep(rng.u32(50..4000) * MILLI).await;
        // What was written by then arrives, and what was not may fail.
        let written = leaving.sent.written.lock().unwrap().clone();
        leaving.endpoint.shutdown(grace).await;
        let (handled, running) = (leaving.record.handled(), leaving.record.running());
        assert_eq!(running, 0, "handlers are running after the shutdown");
        for ended in endings {
            let _ = ended.recv().await;
        }
        sim.sleep(600 * SECOND).await;
        assert_eq!(leaving.record.handled(), handled, "something was handled after the shutdown");
        let acknowledged = staying.sent.acknowledged.lock().unwrap().clone();
        totals.acknowledged = acknowledged.len();
        totals.handled = handled.len();
        totals.lost = acknowledged.difference(&handled).count();
        let arrived = staying.record.handled();
        let own = leaving.sent.acknowledged.lock().unwrap().union(&written).copied().collect::<BTreeSet<_>>();
        totals.acknowledged += own.len();
        totals.handled += arrived.len();
        totals.lost += own.difference(&arrived).count();
    });
    totals
}

#[test]
fn nothing_that_was_acknowledged_is_lost_when_a_node_shuts_down() {
    let total = AtomicUsize::new(0);
    for_each_seed(|seed| {
        let totals = scenario(seed, 3600 * SECOND);
        assert_eq!(totals.lost, 0, "{totals:?}");
        total.fetch_add(totals.acknowledged, SeqCst);
    });
    assert!(total.into_inner() > 0, "nothing was acknowledged at all");
}

/// The twin: a node that has no time for what it has accepted loses some of it, and is seen to.
#[test]
fn a_shutdown_without_grace_loses_what_was_acknowledged() {
    let lost: usize = (0..20).map(|seed| scenario(seed, Duration::ZERO).lost).sum();
    assert!(lost > 0);
}
