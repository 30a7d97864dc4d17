//! The handshakes that are not over, and which of them has to go when there are too many.
//!
//! A peer that begins handshakes and does not go on with them must not keep others out. So a newcomer that
//! finds no slot takes that of another handshake: of an address that has more of them, or left more
//! of them unfinished, than the newcomer's own; or of one that has had its time. Among those it is a matter
//! of chance, since the oldest is the one that is most likely to be done the next moment.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use fastrand::Rng;

use super::{
    accounts::{Account, AccountGuard},
    count::CountGuard,
};
use crate::{
    limits::Rate,
    sync::{Event, EventListener, Mutex, lock},
};

/// How long a handshake may take before a newcomer with an equal claim may evict it: some round trips, and
/// the time of a slow core.
const MIN_TIME: Duration = Duration::from_millis(500);
/// For how long after an unfinished handshake more of them are expected.
const RECENT: Duration = Duration::from_secs(10);
/// How long an unfinished handshake is held against an address, and how many are.
const UNFINISHED_RATE: Rate = Rate::every(Duration::from_secs(30)).burst(100);

#[derive(Debug)]
pub(super) struct Handshakes {
    max: usize,
    pending: Mutex<PendingHandshakes>,
}

#[derive(Debug)]
struct PendingHandshakes {
    /// Oldest first.
    entries: Vec<Entry>,
    next_id: u64,
    rng: Rng,
    /// When the latest of them was given up or left unfinished.
    unfinished_at: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    since: Instant,
    /// The address, where the client's address is validated.
    account: Option<Arc<Account>>,
    permit: CountGuard,
    of_address: Option<AccountGuard>,
    evicted: Event,
}

/// A connection in its handshake. Its slots are free again when this is dropped.
#[derive(Debug)]
pub(crate) struct HandshakeSlot {
    handshakes: Arc<Handshakes>,
    id: u64,
    account: Option<Arc<Account>>,
    evicted: EventListener,
}

/// Held by a connection for as long as it is open, or served.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    _permit: CountGuard,
    _of_address: Option<AccountGuard>,
    of_identity: Option<AccountGuard>,
}

impl ConnectionSlot {
    /// Holds a connection counted for its peer's certificate, too.
    pub(super) fn count_for_identity(&mut self, opened: AccountGuard) {
        self.of_identity = Some(opened);
    }
}

impl Handshakes {
    pub(super) fn new(max: usize) -> Arc<Self> {
        // Who has to go is nobody's secret: an attacker may evict its own.
        let pending = PendingHandshakes {
            entries: Vec::new(),
            next_id: 0,
            rng: Rng::with_seed(0),
            unfinished_at: None,
        };
        Arc::new(Self { max, pending: Mutex::new(pending) })
    }

    pub(super) fn count(&self) -> usize {
        lock(&self.pending).entries.len()
    }

    /// Whether handshakes are being left unfinished, as they are by attackers.
    pub(super) fn are_left_unfinished(&self, now: Instant) -> bool {
        let unfinished_at = lock(&self.pending).unfinished_at;
        unfinished_at.is_some_and(|at| now.saturating_duration_since(at) < RECENT)
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// Begins a handshake, with a connection's `permit` if there is one; `None` where there is no place, nor
    /// one that should be its. The account is that of the client's address, if it is known to be there:
    /// nothing is held against addresses that anyone could have written on a packet.
    pub(super) fn begin(
        self: &Arc<Self>,
        account: Option<Arc<Account>>,
        permit: Option<CountGuard>,
        of_address: Option<AccountGuard>,
        now: Instant,
    ) -> Option<HandshakeSlot> {
        let mut pending = lock(&self.pending);
        let permit = match permit {
            Some(permit) if pending.entries.len() < self.max => permit,
            _ => pending.evict(account.as_deref(), now)?,
        };
        let id = pending.next_id;
        pending.next_id += 1;
        let evicted = Event::new();
        let listener = evicted.listen();
        if let Some(account) = &account {
            account.handshakes.fetch_add(1, Ordering::Relaxed);
        }
        pending.entries.push(Entry { id, since: now, account: account.clone(), permit, of_address, evicted });
        Some(HandshakeSlot { handshakes: Arc::clone(self), id, account, evicted: listener })
    }
}

impl PendingHandshakes {
    /// Gives up the handshake that a newcomer may replace, and frees its place.
    fn evict(&mut self, newcomer: Option<&Account>, now: Instant) -> Option<CountGuard> {
        let weights = self.entries.iter().map(|entry| weight(entry.account.as_deref(), now)).enumerate();
        // The last of equals wins, which is the oldest of them, from the end.
        let (heaviest, most) = weights.rev().max_by_key(|&(_, weight)| weight)?;
        let index = if most > weight(newcomer, now) + 1 {
            heaviest
        } else {
            let had_their_time =
                self.entries.partition_point(|entry| now.saturating_duration_since(entry.since) >= MIN_TIME);
            if had_their_time == 0 {
                return None;
            }
            let index = self.rng.usize(..had_their_time);
            if let Some(account) = self.entries.get(index).and_then(|entry| entry.account.as_ref()) {
                account.unfinished.spend(UNFINISHED_RATE, now);
            }
            index
        };
        self.unfinished_at = Some(now);
        let entry = self.take(index);
        entry.evicted.notify(usize::MAX);
        Some(entry.permit)
    }

    fn take(&mut self, index: usize) -> Entry {
        let entry = self.entries.remove(index);
        if let Some(account) = &entry.account {
            account.handshakes.fetch_sub(1, Ordering::Relaxed);
        }
        entry
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let index = self.entries.binary_search_by_key(&id, |entry| entry.id).ok()?;
        Some(self.take(index))
    }
}

/// Whether an address finishes the handshakes that it begins, apart from one.
pub(super) fn finishes_handshakes(account: &Account, now: Instant) -> bool {
    unfinished_count(account, now) == 0
}

/// How many handshakes of an address are not over, and how many it left unfinished. Each client whose address
/// is not validated counts as an address of its own.
fn weight(account: Option<&Account>, now: Instant) -> u64 {
    account.map_or(1, |account| {
        u64::from(account.handshakes.load(Ordering::Relaxed)) + unfinished_count(account, now)
    })
}

/// Half of the unfinished handshakes that are remembered, rounded down: the first does not count, since it
/// may happen to any client.
fn unfinished_count(account: &Account, now: Instant) -> u64 {
    account.unfinished.missing(UNFINISHED_RATE, now) / 2
}

impl HandshakeSlot {
    /// Resolves when the handshake has to make room for another.
    pub(crate) async fn evicted(&mut self) {
        (&mut self.evicted).await;
    }

    /// Remembers that the client did not go on.
    pub(crate) fn was_left_unfinished(&self, now: Instant) {
        lock(&self.handshakes.pending).unfinished_at = Some(now);
        if let Some(account) = &self.account {
            account.unfinished.spend(UNFINISHED_RATE, now);
        }
    }

    /// Ends the handshake and keeps the connection's slot, unless it was given to another in the last moment.
    pub(crate) fn complete(self) -> Option<ConnectionSlot> {
        let entry = lock(&self.handshakes.pending).remove(self.id);
        let Entry { permit, of_address, .. } = entry?;
        Some(ConnectionSlot { _permit: permit, _of_address: of_address, of_identity: None })
    }
}

impl Drop for HandshakeSlot {
    fn drop(&mut self) {
        let entry = lock(&self.handshakes.pending).remove(self.id);
        // Not under the lock: slots have drops of their own.
        drop(entry);
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;
    use crate::admission::accounts::{Accounts, Payer};
    use crate::admission::count::Count;

    /// Room for two handshakes, and for more connections.
    struct Node {
        handshakes: Arc<Handshakes>,
        accounts: Accounts,
        connections: Arc<Count>,
        start: Instant,
    }

    impl Node {
        fn new(connections: usize) -> Self {
            Self {
                handshakes: Handshakes::new(2),
                accounts: Accounts::new(),
                connections: Count::up_to(connections),
                start: Instant::now(),
            }
        }

        fn account(&self, host: u8) -> Arc<Account> {
            self.accounts.of(Payer::at([10, 0, 0, host].into()), self.start)
        }

        fn begin_as(&self, account: Option<Arc<Account>>, after: Duration) -> Option<HandshakeSlot> {
            self.handshakes.begin(account, self.connections.add(), None, self.start + after)
        }

        fn begin(&self, host: u8, after: Duration) -> Option<HandshakeSlot> {
            self.begin_as(Some(self.account(host)), after)
        }
    }

    fn was_evicted(handshake: &mut HandshakeSlot) -> bool {
        block_on(poll_once(handshake.evicted())).is_some()
    }

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn an_address_with_more_handshakes_gives_way_to_another() {
        let node = Node::new(9);
        let mut of_one = [node.begin(1, NOW).unwrap(), node.begin(1, NOW).unwrap()];
        assert!(node.begin(1, NOW).is_none(), "its own are no better");
        let mut other = node.begin(2, NOW).unwrap();
        assert!(was_evicted(&mut of_one[0]), "the oldest goes");
        assert!(!was_evicted(&mut of_one[1]) && !was_evicted(&mut other));
        let [gone, stays] = of_one;
        assert!(gone.complete().is_none());
        assert!(stays.complete().is_some() && other.complete().is_some());
    }

    #[test]
    fn equals_are_not_evicted_before_their_minimum_time() {
        let node = Node::new(9);
        let mut first = node.begin(1, NOW).unwrap();
        let _second = node.begin(2, MIN_TIME / 2).unwrap();
        assert!(node.begin(3, MIN_TIME / 2).is_none());
        assert!(node.begin(3, MIN_TIME).is_some());
        assert!(was_evicted(&mut first));
    }

    #[test]
    fn unfinished_handshakes_count_against_a_validated_address() {
        for (known, gives_way) in [(true, true), (false, false)] {
            let node = Node::new(9);
            let mut bad = node.begin_as(known.then(|| node.account(1)), NOW).unwrap();
            for _ in 0..4 {
                bad.was_left_unfinished(node.start);
            }
            let _good = node.begin(2, NOW).unwrap();
            assert_eq!(node.begin(3, NOW).is_some(), gives_way, "known: {known}");
            assert_eq!(was_evicted(&mut bad), gives_way, "known: {known}");
        }
    }

    /// Of more honest clients than there are slots for, most of those that get a slot must be able to finish.
    #[test]
    fn a_crowd_of_slow_clients_does_not_keep_itself_out() {
        let node = Node { handshakes: Handshakes::new(64), ..Node::new(1000) };
        let needs = Duration::from_millis(650);
        let (mut pending, mut done) = (std::collections::VecDeque::new(), 0);
        for n in 0..2000_u32 {
            let now = Duration::from_millis(10) * n;
            while let Some((began, _)) = pending.front()
                && now - *began >= needs
            {
                let (_, handshake): (_, HandshakeSlot) = pending.pop_front().unwrap();
                done += u32::from(handshake.complete().is_some());
            }
            let [_, _, high, low] = n.to_be_bytes();
            let account = node.accounts.of(Payer::at([10, 0, high, low].into()), node.start);
            pending.extend(node.begin_as(Some(account), now).map(|handshake| (now, handshake)));
        }
        assert!(done > 1500, "{done} of 2000");
    }

    #[test]
    fn a_handshake_that_has_had_its_time_gives_its_connection_slot_too() {
        let node = Node::new(1);
        let mut first = node.begin(1, NOW).unwrap();
        assert!(node.begin(2, NOW).is_none());
        let second = node.begin(2, MIN_TIME).unwrap();
        assert!(was_evicted(&mut first));
        drop(first);
        let slot = second.complete().unwrap();
        assert!(node.begin(3, 2 * MIN_TIME).is_none(), "an open connection gives way to nobody");
        drop(slot);
        assert!(node.begin(3, 2 * MIN_TIME).is_some());
    }
}
