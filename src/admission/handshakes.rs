//! The handshakes under way, and which of them has to go when there are too many.
//!
//! A peer that begins handshakes and does not go on with them must not keep others out. So a newcomer that finds no slot
//! takes that of another handshake: of an address that has more of them under way, or left more of them unfinished, than
//! the newcomer's own; or of one that has had its time.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use event_listener::{Event, EventListener};

use async_lock::SemaphoreGuardArc;

use super::{
    ConnectionSlot,
    accounts::{Account, Opened},
    rate::Rate,
};
use crate::sync::lock;

/// How long a handshake is safe from newcomers that are no better: some round trips, and the time of a slow core.
const GRACE: Duration = Duration::from_millis(500);
/// How long an unfinished handshake is held against an address, and how many are.
const MEMORY: Rate = Rate::every(Duration::from_secs(30)).burst(100);

#[derive(Debug)]
pub(super) struct Handshakes {
    max: usize,
    under_way: Mutex<UnderWay>,
}

#[derive(Debug, Default)]
struct UnderWay {
    /// Oldest first.
    entries: Vec<Entry>,
    next_id: u64,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    since: Instant,
    account: Arc<Account>,
    permit: SemaphoreGuardArc,
    of_address: Opened,
    given_up: Event,
    client: Client,
}

/// Whether a client is known to be where its packets say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    Validated,
    /// Anyone could have sent its packets, so that nothing is held against the address.
    Claimed,
}

/// A connection in its handshake. Its slots are free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Handshake {
    handshakes: Arc<Handshakes>,
    id: u64,
    account: Arc<Account>,
    client: Client,
    given_up: EventListener,
}

impl Handshakes {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, under_way: Mutex::default() })
    }

    /// Whether half of the slots are taken.
    pub(super) fn are_scarce(&self) -> bool {
        lock(&self.under_way).entries.len() >= self.max.div_ceil(2)
    }

    /// Begins a handshake for a client at the address of this account, with a connection's `permit` if there is one; `None` where
    /// there is no place, nor one that should be its.
    pub(super) fn begin(
        self: &Arc<Self>,
        account: Arc<Account>,
        permit: Option<SemaphoreGuardArc>,
        of_address: Opened,
        client: Client,
        now: Instant,
    ) -> Option<Handshake> {
        let mut under_way = lock(&self.under_way);
        let permit = match permit {
            Some(permit) if under_way.entries.len() < self.max => permit,
            _ => under_way.evict(&account, now)?,
        };
        let id = under_way.next_id;
        under_way.next_id += 1;
        let given_up = Event::new();
        let listener = given_up.listen();
        let entry =
            Entry { id, since: now, account: Arc::clone(&account), permit, of_address, given_up, client };
        under_way.entries.push(entry);
        Some(Handshake { handshakes: Arc::clone(self), id, account, client, given_up: listener })
    }
}

impl UnderWay {
    /// Gives up the handshake that a newcomer of this account may replace, and frees its place.
    fn evict(&mut self, newcomer: &Arc<Account>, now: Instant) -> Option<SemaphoreGuardArc> {
        let under_way = |account: &Arc<Account>| {
            self.entries.iter().filter(|entry| Arc::ptr_eq(&entry.account, account)).count()
        };
        let burden = |account: &Arc<Account>| {
            u64::try_from(under_way(account)).unwrap_or(u64::MAX) + account.unfinished.missing(MEMORY, now)
        };
        let burdens = self.entries.iter().map(|entry| burden(&entry.account)).enumerate();
        // The last of equals wins, which is the oldest of them, from the end.
        let (heaviest, most) = burdens.rev().max_by_key(|&(_, burden)| burden)?;
        let has_had_its_time = |entry: &Entry| now.saturating_duration_since(entry.since) >= GRACE;
        let index = match self.entries.first()? {
            _ if most > burden(newcomer) + 1 => heaviest,
            oldest if has_had_its_time(oldest) => 0,
            _ => return None,
        };
        let entry = self.entries.remove(index);
        hold_against(&entry.account, entry.client, now);
        entry.given_up.notify(usize::MAX);
        Some(entry.permit)
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let index = self.entries.binary_search_by_key(&id, |entry| entry.id).ok()?;
        Some(self.entries.remove(index))
    }
}

fn hold_against(account: &Account, client: Client, now: Instant) {
    if client == Client::Validated {
        account.unfinished.spend(MEMORY, now);
    }
}

impl Handshake {
    /// Resolves when the handshake has to make room for another.
    pub(crate) async fn given_up(&mut self) {
        (&mut self.given_up).await;
    }

    /// Remembers that the client did not go on.
    pub(crate) fn was_left_unfinished(&self, now: Instant) {
        hold_against(&self.account, self.client, now);
    }

    /// Ends the handshake and keeps the connection's slot, unless it was given to another in the last moment.
    pub(crate) fn complete(self) -> Option<ConnectionSlot> {
        let entry = lock(&self.handshakes.under_way).remove(self.id);
        let Entry { permit, of_address, .. } = entry?;
        Some(ConnectionSlot { _permit: permit, _of_address: of_address, of_identity: None })
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let entry = lock(&self.handshakes.under_way).remove(self.id);
        // Not under the lock: slots have drops of their own.
        drop(entry);
    }
}

#[cfg(test)]
mod tests {
    use async_lock::Semaphore;
    use futures_lite::future::{block_on, poll_once};

    use super::*;
    use crate::admission::accounts::{Accounts, Payer};

    /// Room for two handshakes, and for more connections.
    struct Node {
        handshakes: Arc<Handshakes>,
        accounts: Accounts,
        connections: Arc<Semaphore>,
        start: Instant,
    }

    impl Node {
        fn new(connections: usize) -> Self {
            Self {
                handshakes: Handshakes::new(2),
                accounts: Accounts::new(),
                connections: Arc::new(Semaphore::new(connections)),
                start: Instant::now(),
            }
        }

        fn begin_as(&self, client: Client, host: u8, after: Duration) -> Option<Handshake> {
            let now = self.start + after;
            let account = self.accounts.of(Payer::at([10, 0, 0, host].into()), now);
            let opened = account.open(u32::MAX).unwrap();
            self.handshakes.begin(account, self.connections.try_acquire_arc(), opened, client, now)
        }

        fn begin(&self, host: u8, after: Duration) -> Option<Handshake> {
            self.begin_as(Client::Validated, host, after)
        }
    }

    fn was_given_up(handshake: &mut Handshake) -> bool {
        block_on(poll_once(handshake.given_up())).is_some()
    }

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn who_has_more_under_way_gives_way_to_another() {
        let node = Node::new(9);
        let mut of_one = [node.begin(1, NOW).unwrap(), node.begin(1, NOW).unwrap()];
        assert!(node.begin(1, NOW).is_none(), "its own are no better");
        let mut other = node.begin(2, NOW).unwrap();
        assert!(was_given_up(&mut of_one[0]), "the oldest goes");
        assert!(!was_given_up(&mut of_one[1]) && !was_given_up(&mut other));
        let [gone, stays] = of_one;
        assert!(gone.complete().is_none());
        assert!(stays.complete().is_some() && other.complete().is_some());
    }

    #[test]
    fn equals_are_safe_for_a_while() {
        let node = Node::new(9);
        let mut first = node.begin(1, NOW).unwrap();
        let _second = node.begin(2, GRACE / 2).unwrap();
        assert!(node.begin(3, GRACE / 2).is_none());
        assert!(node.begin(3, GRACE).is_some());
        assert!(was_given_up(&mut first));
    }

    #[test]
    fn what_was_left_unfinished_is_held_against_an_address_that_is_known() {
        for (client, gives_way) in [(Client::Validated, true), (Client::Claimed, false)] {
            let node = Node::new(9);
            let mut bad = node.begin_as(client, 1, NOW).unwrap();
            bad.was_left_unfinished(node.start);
            bad.was_left_unfinished(node.start);
            let _good = node.begin(2, NOW).unwrap();
            assert_eq!(node.begin(3, NOW).is_some(), gives_way, "{client:?}");
            assert_eq!(was_given_up(&mut bad), gives_way, "{client:?}");
        }
    }

    #[test]
    fn a_handshake_that_has_had_its_time_gives_its_connection_slot_too() {
        let node = Node::new(1);
        let mut first = node.begin(1, NOW).unwrap();
        assert!(node.begin(2, NOW).is_none());
        let second = node.begin(2, GRACE).unwrap();
        assert!(was_given_up(&mut first));
        drop(first);
        let slot = second.complete().unwrap();
        assert!(node.begin(3, 2 * GRACE).is_none(), "an open connection gives way to nobody");
        drop(slot);
        assert!(node.begin(3, 2 * GRACE).is_some());
    }
}
