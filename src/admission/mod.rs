//! Which peers get in, and what they may take: slots for connections and handshakes, caps and rates for each peer, and a
//! budget of memory for the frames of all.

mod accounts;
mod budget;
mod handshakes;
mod rate;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use async_lock::{Semaphore, SemaphoreGuardArc};

pub use self::rate::Rate;
use self::{
    accounts::{Account, Accounts, Opened, Payer},
    budget::{FrameBudget, Share},
    handshakes::Handshakes,
    rate::Bucket,
};
pub(crate) use self::{
    budget::{Charge, RESERVE},
    handshakes::{Client, Handshake},
};
use crate::{
    limits::{AddressValidation, TransportLimits},
    runtime::Clock,
    tls::PeerIdentity,
};

/// The slots, accounts and budgets of an endpoint.
///
/// Nobody waits for a slot: a peer that gets none is refused before its handshake costs anything, and knows at once that
/// it should try elsewhere or later.
#[derive(Debug)]
pub(crate) struct Admission {
    limits: Arc<TransportLimits>,
    clock: Clock,
    connections: Arc<Semaphore>,
    handshakes: Arc<Handshakes>,
    accounts: Accounts,
    budget: Arc<FrameBudget>,
}

/// Why a peer is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// There is neither a free slot, nor one of a handshake that should go.
    Slots,
    Address,
    Identity,
    /// New connections come too often; after this long, another may.
    Rate(Duration),
}

/// Held by a connection for as long as it is open, or served.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    _permit: SemaphoreGuardArc,
    _of_address: Opened,
    of_identity: Option<Opened>,
}

impl Admission {
    pub(crate) fn new(limits: Arc<TransportLimits>, clock: Clock) -> Self {
        let size = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        Self {
            connections: Arc::new(Semaphore::new(size(limits.max_connections()))),
            handshakes: Handshakes::new(size(limits.max_handshakes())),
            accounts: Accounts::new(),
            budget: FrameBudget::new(size(limits.frame_budget_bytes())),
            limits,
            clock,
        }
    }

    /// Whether a client has to show that it is at its address before it gets a slot: where it was chosen so, where half of
    /// the slots for handshakes are taken, and where addresses are counted, since anyone could spend another's share.
    pub(crate) fn asks_for_address(&self) -> bool {
        self.handshakes.are_scarce()
            || self.limits.address_validation() == AddressValidation::Always
            || self.counts_addresses()
    }

    fn counts_addresses(&self) -> bool {
        self.limits.max_connections_per_address() < self.limits.max_connections()
            || !self.limits.connection_rate().is_unlimited()
    }

    /// Both slots for a client at this address, or none.
    pub(crate) fn admit(&self, address: IpAddr, client: Client) -> Result<Handshake, Full> {
        let now = self.clock.now();
        let account = self.accounts.of(Payer::at(address), now);
        let of_address = account.open(self.limits.max_connections_per_address()).ok_or(Full::Address)?;
        self.take_connection(&account)?;
        let permit = self.connections.try_acquire_arc();
        self.handshakes.begin(account, permit, of_address, client, now).ok_or(Full::Slots)
    }

    /// Counts a connection for the peer that it has proved to be of.
    pub(crate) fn identify(&self, slot: &mut ConnectionSlot, peer: &PeerIdentity) -> Result<(), Full> {
        let max = self.limits.max_connections_per_identity();
        if max >= self.limits.max_connections() && self.limits.connection_rate().is_unlimited() {
            return Ok(());
        }
        let account = self.accounts.of(Payer::Identity(peer.fingerprint()), self.clock.now());
        let opened = account.open(max).ok_or(Full::Identity)?;
        self.take_connection(&account)?;
        slot.of_identity = Some(opened);
        Ok(())
    }

    fn take_connection(&self, account: &Account) -> Result<(), Full> {
        account.connections.take(self.limits.connection_rate(), self.clock.now()).map_err(Full::Rate)
    }

    /// What a connection with this peer may take.
    pub(crate) fn allowance(&self, peer: Option<&PeerIdentity>, address: IpAddr) -> Allowance {
        let now = self.clock.now();
        let rate = self.limits.request_rate();
        let account = (!rate.is_unlimited()).then(|| self.accounts.of(Payer::of(peer, address), now));
        Allowance {
            share: self.budget.share(),
            account,
            request_rate: rate,
            faults: Bucket::new(now),
            fault_rate: self.limits.fault_rate(),
        }
    }

    /// Bytes of frames that are held at the moment.
    pub(crate) fn frame_bytes(&self) -> usize {
        self.budget.used()
    }
}

/// What the peer of one connection may take: memory for its frames, requests, and patience.
#[derive(Debug)]
pub(crate) struct Allowance {
    share: Arc<Share>,
    account: Option<Arc<Account>>,
    request_rate: Rate,
    faults: Bucket,
    fault_rate: Rate,
}

/// Requests come too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooMany {
    /// After this long, one will be served.
    Wait(Duration),
    /// The peer was told so too often already.
    Enough(Duration),
}

impl Allowance {
    /// Room for the bytes of a stream.
    pub(crate) fn charge(&self) -> Charge {
        self.share.charge()
    }

    /// Counts a request.
    pub(crate) fn take_request(&self, clock: &Clock) -> Result<(), TooMany> {
        let Some(account) = &self.account else { return Ok(()) };
        let now = clock.now();
        account.requests.take(self.request_rate, now).map_err(|wait| {
            match account.refusals.take(self.request_rate, now) {
                Ok(()) => TooMany::Wait(wait),
                Err(_) => TooMany::Enough(wait),
            }
        })
    }

    /// Waits until a notification may be handled; notifications count as requests.
    pub(crate) async fn notification(&self, clock: &Clock) {
        let Some(account) = &self.account else { return };
        while let Err(wait) = account.requests.take(self.request_rate, clock.now()) {
            clock.sleep(wait).await;
        }
    }

    /// Counts something cheap to do and useless; `false` once the peer has done it too often.
    pub(crate) fn forgives(&self, now: Instant) -> bool {
        self.faults.take(self.fault_rate, now).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{limits::TransportLimitsBuilder, runtime::AsyncIoRuntime};

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

    fn admission(limits: TransportLimitsBuilder) -> Admission {
        let clock = Clock::new(Arc::new(AsyncIoRuntime::on(Arc::default())));
        Admission::new(Arc::new(limits.build().unwrap()), clock)
    }

    fn slots(connections: u32, handshakes: u32) -> Admission {
        admission(TransportLimits::builder().max_connections(connections).max_handshakes(handshakes))
    }

    fn admit(admission: &Admission, address: IpAddr) -> Result<Handshake, Full> {
        admission.admit(address, Client::Validated)
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
        assert!(!admission.asks_for_address());
        let _second = admit(&admission, HERE).unwrap();
        assert!(admission.asks_for_address());
        drop(first);
        assert!(!admission.asks_for_address());
    }

    #[test]
    fn addresses_are_always_asked_for_where_they_matter() {
        let limits = TransportLimits::builder;
        assert!(!admission(limits()).asks_for_address());
        assert!(admission(limits().address_validation(AddressValidation::Always)).asks_for_address());
        assert!(admission(limits().max_connections_per_address(255)).asks_for_address());
        assert!(admission(limits().connection_rate(Rate::per_second(1))).asks_for_address());
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
