//! The slots of an endpoint for connections and handshakes, and who gets one.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    accounts::{Account, Accounts, Payer},
    allowance::Allowance,
    budget::FrameBudget,
    count::{Count, CountGuard},
    handshakes::{ConnectionSlot, HandshakeSlot, Handshakes, finishes_handshakes},
};
use crate::{
    limits::{AddressValidation, TransportLimits},
    runtime::Clock,
    tls::PeerIdentity,
};

/// The slots, accounts and budgets of an endpoint.
///
/// Nobody waits for a slot: a peer that gets none is refused before its handshake costs anything, and knows
/// immediately that it should try elsewhere or later.
#[derive(Debug)]
pub(crate) struct Admission {
    limits: Arc<TransportLimits>,
    clock: Clock,
    connections: Arc<Count>,
    handshakes: Arc<Handshakes>,
    addresses: Accounts,
    identities: Accounts,
    budget: Arc<FrameBudget>,
    /// For connections that this side dialled: peers that it did not choose must not spend it.
    dialled_budget: Arc<FrameBudget>,
    /// Connections that this side dials or has dialled.
    dialled: Arc<Count>,
}

/// Why a peer is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// There is neither a free slot, nor one of a handshake that should go.
    Slots,
    /// There may be a slot in a moment: too many connections are draining.
    Draining,
    Address,
    Identity,
    /// New connections come too often; after this long, another may.
    Rate(Duration),
}

impl Admission {
    pub(crate) fn new(limits: Arc<TransportLimits>, clock: Clock) -> Self {
        let size = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        Self {
            connections: Count::up_to(size(limits.max_connections())),
            handshakes: Handshakes::new(size(limits.max_handshakes())),
            addresses: Accounts::new(),
            identities: Accounts::new(),
            budget: FrameBudget::new(size(limits.frame_budget_bytes())),
            dialled_budget: FrameBudget::new(size(limits.frame_budget_bytes())),
            dialled: Count::up_to(usize::MAX),
            limits,
            clock,
        }
    }

    /// Whether a client has to show that it is at its address before it gets a slot: where it was chosen so,
    /// where half of the slots for handshakes are taken, or half as many connections are draining as
    /// may be, and where addresses are counted, since anyone could spend another's
    /// share.
    pub(crate) fn asks_for_address(&self, known_to_quinn: usize) -> bool {
        self.handshakes.count() >= self.handshakes.max().div_ceil(2)
            || self.draining(known_to_quinn) >= self.max_draining().div_ceil(2)
            || self.limits.address_validation() == AddressValidation::Always
            || self.counts_addresses()
    }

    /// Connections that are closed and that quinn still knows, which it does for three probe timeouts ([RFC
    /// 9000, section 10.2](https://www.rfc-editor.org/rfc/rfc9000#section-10.2)).
    fn draining(&self, known_to_quinn: usize) -> usize {
        known_to_quinn.saturating_sub(self.taken() + self.dialled.value())
    }

    /// Held by a connection that this side dials until it has an [`Allowance`].
    pub(crate) fn dialling(&self) -> Option<CountGuard> {
        self.dialled.add()
    }

    /// Slots for connections that are taken.
    fn taken(&self) -> usize {
        self.connections.value()
    }

    /// How many connections may be draining before newcomers are refused: as many as there are free slots,
    /// less those for handshakes, and at least as many as `max_handshakes`, so that a full node has room for
    /// some. So the sum of what quinn knows is bounded, however fast handshakes come and go.
    fn max_draining(&self) -> usize {
        let slots = usize::try_from(self.limits.max_connections()).unwrap_or(usize::MAX);
        self.handshakes.max().max(slots.saturating_sub(self.taken() + self.handshakes.max()))
    }

    /// The same for a client at one address: clients that leave handshakes unfinished must not keep out the
    /// others.
    fn max_draining_for(&self, newcomer: Option<&Account>, now: Instant) -> usize {
        match newcomer {
            Some(account) if !finishes_handshakes(account, now) => self.handshakes.max(),
            _ => self.max_draining(),
        }
    }

    fn counts_addresses(&self) -> bool {
        self.limits.max_connections_per_address() < self.limits.max_connections()
            || !self.limits.connection_rate().is_unlimited()
    }

    /// Both slots, or none, for a client at this address, or one that is not known to be at any.
    pub(crate) fn admit(
        &self,
        validated: Option<IpAddr>,
        known_to_quinn: usize,
    ) -> Result<HandshakeSlot, Full> {
        let now = self.clock.now();
        let account = validated.map(|address| self.addresses.of(Payer::at(address), now));
        let draining = self.draining(known_to_quinn);
        if draining >= self.max_draining_for(account.as_deref(), now) {
            // Under attack there may be many like this one, and a client that is told can try again at its
            // own pace. Otherwise it need not know.
            let attacked = self.handshakes.are_left_unfinished(now);
            return Err(if attacked { Full::Slots } else { Full::Draining });
        }
        let counted = account.as_ref().filter(|_| self.counts_addresses());
        let of_address = match counted {
            Some(account) => {
                let max = self.limits.max_connections_per_address();
                let opened = account.open(max).ok_or(Full::Address)?;
                self.take_connection(account)?;
                Some(opened)
            }
            None => None,
        };
        let permit = self.connections.add();
        let handshake = self.handshakes.begin(account.clone(), permit, of_address, now);
        handshake.ok_or_else(|| {
            if let Some(account) = counted {
                account.connections.give_back(self.limits.connection_rate());
            }
            Full::Slots
        })
    }

    /// Counts a connection for the peer that it has proved to be of.
    pub(crate) fn identify(&self, slot: &mut ConnectionSlot, peer: &PeerIdentity) -> Result<(), Full> {
        let max = self.limits.max_connections_per_identity();
        if max >= self.limits.max_connections() && self.limits.connection_rate().is_unlimited() {
            return Ok(());
        }
        let account = self.identities.of(Payer::identity(peer), self.clock.now());
        let opened = account.open(max).ok_or(Full::Identity)?;
        self.take_connection(&account)?;
        slot.count_for_identity(opened);
        Ok(())
    }

    fn take_connection(&self, account: &Account) -> Result<(), Full> {
        account.connections.take(self.limits.connection_rate(), self.clock.now()).map_err(Full::Rate)
    }

    /// What an accepted connection with this peer may take.
    pub(crate) fn accepted(&self, peer: Option<&PeerIdentity>, address: IpAddr) -> Allowance {
        self.allowance(peer, address, &self.budget, None)
    }

    /// The same for one that this side dialled.
    pub(crate) fn dialled(&self, peer: Option<&PeerIdentity>, address: IpAddr) -> Allowance {
        self.allowance(peer, address, &self.dialled_budget, self.dialled.add())
    }

    fn allowance(
        &self,
        peer: Option<&PeerIdentity>,
        address: IpAddr,
        budget: &Arc<FrameBudget>,
        dialled: Option<CountGuard>,
    ) -> Allowance {
        let now = self.clock.now();
        let account = (!self.limits.request_rate().is_unlimited()).then(|| {
            let payer = Payer::of(peer, address);
            let accounts = match payer {
                Payer::Identity(_) => &self.identities,
                Payer::Address(_) => &self.addresses,
            };
            accounts.of(payer, now)
        });
        Allowance::new(&self.limits, budget.share(), account, dialled, now)
    }

    /// Bytes of frames that are held at the moment.
    pub(crate) fn frame_bytes(&self) -> usize {
        self.budget.used()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        limits::{Rate, TransportLimitsBuilder},
        runtime::AsyncIoRuntime,
    };

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

    fn admission(limits: TransportLimitsBuilder) -> Admission {
        let clock = Clock::new(Arc::new(AsyncIoRuntime::on(Arc::default())));
        Admission::new(Arc::new(limits.build().unwrap()), clock)
    }

    fn slots(connections: u32, handshakes: u32) -> Admission {
        admission(TransportLimits::builder().max_connections(connections).max_handshakes(handshakes))
    }

    fn admit(admission: &Admission, address: IpAddr) -> Result<HandshakeSlot, Full> {
        admission.admit(Some(address), 0)
    }

    #[test]
    fn slots_run_out_and_come_back() {
        let admission = slots(2, 10);
        let first = admit(&admission, HERE).unwrap().complete().unwrap();
        let _second = admit(&admission, HERE).unwrap().complete().unwrap();
        assert_eq!(admit(&admission, HERE).unwrap_err(), Full::Slots);
        drop(first);
        assert!(admit(&admission, HERE).is_ok());
    }

    #[test]
    fn handshakes_are_bounded_apart_from_connections() {
        let admission = slots(10, 1);
        let handshake = admit(&admission, HERE).unwrap();
        assert_eq!(admit(&admission, HERE).unwrap_err(), Full::Slots);
        let _connection = handshake.complete().unwrap();
        assert!(admit(&admission, HERE).is_ok());
    }

    #[test]
    fn a_refusal_keeps_no_slot() {
        let admission = slots(2, 1);
        let handshake = admit(&admission, HERE).unwrap();
        assert!(admit(&admission, HERE).is_err());
        let _connection = handshake.complete().unwrap();
        assert!(admit(&admission, HERE).is_ok(), "the refusal must have given back its connection slot");
    }

    #[test]
    fn addresses_are_asked_for_from_half_of_the_handshakes_on() {
        let admission = slots(10, 3);
        let first = admit(&admission, HERE).unwrap();
        assert!(!admission.asks_for_address(0));
        let _second = admit(&admission, HERE).unwrap();
        assert!(admission.asks_for_address(0));
        drop(first);
        assert!(!admission.asks_for_address(0));
    }

    #[test]
    fn addresses_are_always_asked_for_where_they_matter() {
        let limits = TransportLimits::builder;
        assert!(!admission(limits()).asks_for_address(0));
        assert!(admission(limits().address_validation(AddressValidation::Always)).asks_for_address(0));
        assert!(admission(limits().max_connections_per_address(255)).asks_for_address(0));
        assert!(admission(limits().connection_rate(Rate::per_second(1))).asks_for_address(0));
    }

    #[test]
    fn connections_that_quinn_has_not_forgotten_yet_count() {
        let admission = slots(14, 4);
        let _open = admit(&admission, HERE).unwrap().complete().unwrap();
        assert!(!admission.asks_for_address(5));
        assert!(admission.asks_for_address(6), "five are closed, half as many as may be");
        // One for each of the thirteen free slots, less the four for handshakes.
        assert!(admission.admit(Some(HERE), 9).is_ok());
        assert_eq!(admission.admit(Some(HERE), 10).unwrap_err(), Full::Draining);
        let dialled = admission.dialled(None, HERE);
        assert!(admission.admit(Some(HERE), 10).is_ok(), "one of them this side dialled");
        let unfinished = admit(&admission, THERE).unwrap();
        for _ in 0..2 {
            unfinished.was_left_unfinished(admission.clock.now());
        }
        assert_eq!(admission.admit(Some(THERE), 8).unwrap_err(), Full::Slots, "others must have a chance");
        assert!(admission.admit(Some(HERE), 8).is_ok());
        assert_eq!(admission.admit(Some(HERE), 11).unwrap_err(), Full::Slots, "it may be an attack");
        dialled.abandon();
        assert_eq!(
            admission.admit(Some(HERE), 10).unwrap_err(),
            Full::Slots,
            "closed, and draining like any other, though handles are kept"
        );
        let dialling = admission.dialling();
        assert!(admission.admit(Some(HERE), 10).is_ok(), "one of them this side dials");
        drop(dialling);
    }

    #[test]
    fn a_full_node_has_room_for_draining_connections() {
        let admission = slots(2, 2);
        let _first = admit(&admission, HERE).unwrap().complete().unwrap();
        let second = admit(&admission, HERE).unwrap();
        assert_eq!(admission.admit(Some(THERE), 4).unwrap_err(), Full::Draining);
        drop(second);
        assert!(admission.admit(Some(THERE), 2).is_ok(), "one of them is draining");
        assert_eq!(admission.admit(Some(THERE), 3).unwrap_err(), Full::Draining);
    }

    #[test]
    fn an_address_has_a_cap_of_its_own() {
        let admission = admission(TransportLimits::builder().max_connections_per_address(1));
        let here = admit(&admission, HERE).unwrap().complete().unwrap();
        assert_eq!(admit(&admission, HERE).unwrap_err(), Full::Address);
        let _there = admit(&admission, THERE).unwrap();
        drop(here);
        assert!(admit(&admission, HERE).is_ok());
    }

    #[test]
    fn an_address_has_a_rate_of_its_own() {
        let hourly = Rate::every(Duration::from_secs(3600)).burst(2);
        let admission = admission(TransportLimits::builder().connection_rate(hourly));
        for _ in 0..2 {
            drop(admit(&admission, HERE).unwrap());
        }
        assert!(matches!(admit(&admission, HERE).unwrap_err(), Full::Rate(wait) if wait.as_secs() > 3500));
        assert!(admit(&admission, THERE).is_ok());
    }
}
