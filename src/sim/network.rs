//! Hosts, their sockets, and the links between them.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    task::{Context, Poll, Waker},
    time::Instant,
};

use fastrand::Rng;
use quinn::udp::EcnCodepoint;

use super::link::{Fate, Link, Traffic};

/// What a socket holds unread, as Linux does by default (`net.core.rmem_default`); more is lost.
const RECEIVE_BUFFER_BYTES: usize = 212_992;
/// Where port 0 begins to look, as RFC 6335 has it (section 6).
const FIRST_EPHEMERAL_PORT: u16 = 49_152;

#[derive(Clone, Debug)]
pub(super) struct Datagram {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) contents: Vec<u8>,
    pub(super) ecn: Option<EcnCodepoint>,
}

/// Counts the fates of datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Given to the network by a socket.
    pub sent: u64,
    /// Put into the receive buffer of a socket, duplicates included.
    pub delivered: u64,
    /// Lost by chance, in a blackhole, on a link that is down, or at a host that is unplugged.
    pub lost: u64,
    /// Longer than the MTU, or more than the queue or the receive buffer holds.
    pub refused: u64,
    /// Sent to a port that is not bound.
    pub unreachable: u64,
    /// Delivered with a flipped bit.
    pub corrupted: u64,
    /// Delivered twice.
    pub duplicated: u64,
}

pub(super) struct Network {
    start: Instant,
    rng: Rng,
    default_link: Link,
    links: HashMap<(IpAddr, IpAddr), Link>,
    traffic: HashMap<(IpAddr, IpAddr), Traffic>,
    /// In order: who is woken first when a host crashes must follow from the seed.
    sockets: BTreeMap<SocketAddr, Inbox>,
    unplugged: HashSet<IpAddr>,
    next_port: u16,
    next_id: u64,
    stats: Stats,
}

/// Identifies a socket: another socket that is bound to the address later gets another number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) address: SocketAddr,
    id: u64,
}

/// The datagrams that have arrived at a socket, and the waker of the task that waits for them.
#[derive(Default)]
struct Inbox {
    id: u64,
    datagrams: VecDeque<Datagram>,
    bytes: usize,
    waker: Option<Waker>,
}

impl Network {
    pub(super) fn new(start: Instant, rng: Rng) -> Self {
        Self {
            start,
            rng,
            default_link: Link::new(),
            links: HashMap::new(),
            traffic: HashMap::new(),
            sockets: BTreeMap::new(),
            unplugged: HashSet::new(),
            next_port: FIRST_EPHEMERAL_PORT,
            next_id: 0,
            stats: Stats::default(),
        }
    }

    pub(super) fn set_default_link(&mut self, link: Link) {
        self.default_link = link;
    }

    pub(super) fn set_link(&mut self, from: IpAddr, to: IpAddr, link: Link) {
        self.links.insert((from, to), link);
    }

    pub(super) fn unplug(&mut self, host: IpAddr) {
        self.unplugged.insert(host);
    }

    pub(super) fn plug_in(&mut self, host: IpAddr) {
        self.unplugged.remove(&host);
    }

    pub(super) fn stats(&self) -> Stats {
        self.stats
    }

    pub(super) fn endpoint_seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.rng.fill(&mut seed);
        seed
    }

    pub(super) fn bind(&mut self, ip: IpAddr, port: u16) -> io::Result<Binding> {
        let address = if port == 0 { self.free_port(ip)? } else { SocketAddr::new(ip, port) };
        if self.sockets.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        self.next_id += 1;
        let id = self.next_id;
        self.sockets.insert(address, Inbox { id, ..Inbox::default() });
        Ok(Binding { address, id })
    }

    /// Counts up instead of taking the lowest free port, so that a new socket is not confused with an
    /// earlier one.
    fn free_port(&mut self, ip: IpAddr) -> io::Result<SocketAddr> {
        for _ in FIRST_EPHEMERAL_PORT..=u16::MAX {
            let address = SocketAddr::new(ip, self.next_port);
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_EPHEMERAL_PORT);
            if !self.sockets.contains_key(&address) {
                return Ok(address);
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    #[must_use]
    pub(super) fn release(&mut self, binding: Binding) -> Option<Waker> {
        self.inbox(binding)?;
        self.sockets.remove(&binding.address)?.waker
    }

    /// Closes all sockets of a host, and returns the wakers of the tasks that wait for them.
    #[must_use]
    pub(super) fn crash(&mut self, host: IpAddr) -> Vec<Waker> {
        let is_crashed = |address: &SocketAddr| address.ip() == host;
        let crashed: Vec<_> = self.sockets.keys().copied().filter(is_crashed).collect();
        crashed.iter().filter_map(|address| self.sockets.remove(address)?.waker).collect()
    }

    fn inbox(&mut self, binding: Binding) -> Option<&mut Inbox> {
        self.sockets.get_mut(&binding.address).filter(|inbox| inbox.id == binding.id)
    }

    /// Sends a datagram at `now`, and returns when copies of it arrive.
    pub(super) fn send(
        &mut self,
        from: Binding,
        datagram: Datagram,
        now: Instant,
    ) -> Vec<(Instant, Datagram)> {
        self.stats.sent += 1;
        let pair = (datagram.from.ip(), datagram.to.ip());
        if self.unplugged.contains(&pair.0) || self.inbox(from).is_none() {
            self.stats.lost += 1;
            return Vec::new();
        }
        let link = self.links.get(&pair).unwrap_or(&self.default_link);
        let traffic = self.traffic.entry(pair).or_insert_with(|| Traffic::new(self.start));
        match traffic.pass(link, (self.start, now), datagram.contents.len(), &mut self.rng) {
            Fate::Lost => {
                self.stats.lost += 1;
                Vec::new()
            }
            Fate::Refused => {
                self.stats.refused += 1;
                Vec::new()
            }
            Fate::Passed { at, again_at, flipped_bit } => {
                let mut datagram = datagram;
                if let Some(bit) = flipped_bit {
                    self.stats.corrupted += 1;
                    if let Some(byte) = datagram.contents.get_mut(bit / 8) {
                        *byte ^= 1 << (bit % 8);
                    }
                }
                let again = again_at.map(|again_at| {
                    self.stats.duplicated += 1;
                    (again_at, datagram.clone())
                });
                std::iter::once((at, datagram)).chain(again).collect()
            }
        }
    }

    /// Puts a datagram that has arrived into its inbox, and returns the waker of the task that waits for it.
    pub(super) fn deliver(&mut self, datagram: Datagram) -> Option<Waker> {
        if self.unplugged.contains(&datagram.to.ip()) {
            self.stats.lost += 1;
            return None;
        }
        let Some(inbox) = self.sockets.get_mut(&datagram.to) else {
            self.stats.unreachable += 1;
            return None;
        };
        if inbox.bytes + datagram.contents.len() > RECEIVE_BUFFER_BYTES {
            self.stats.refused += 1;
            return None;
        }
        self.stats.delivered += 1;
        inbox.bytes += datagram.contents.len();
        inbox.datagrams.push_back(datagram);
        inbox.waker.take()
    }

    pub(super) fn poll_recv(&mut self, binding: Binding, cx: &mut Context<'_>) -> Poll<io::Result<Datagram>> {
        let Some(inbox) = self.inbox(binding) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        match inbox.datagrams.pop_front() {
            Some(datagram) => {
                inbox.bytes -= datagram.contents.len();
                Poll::Ready(Ok(datagram))
            }
            None => {
                match &mut inbox.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    waker => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }

    pub(super) fn clear(&mut self) -> Vec<Waker> {
        self.sockets.values_mut().filter_map(|inbox| inbox.waker.take()).collect()
    }
}
