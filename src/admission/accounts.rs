//! What each peer has had: its connections, and its rates.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crate::{
    limits::{Bucket, Rate},
    sync::{AtomicU32, Mutex, lock},
    tls::{Fingerprint, PeerIdentity},
};

/// Whose account it is: by certificate, or by address for a peer without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Payer {
    /// By what its authority has signed, since the owner may be able to change the signature.
    Identity(Fingerprint),
    Address(IpAddr),
}

impl Payer {
    /// A peer has an IPv4 address, or 64 bits of an IPv6 one: the rest is its own to choose
    /// ([RFC 4291, section 2.5.1](https://www.rfc-editor.org/rfc/rfc4291#section-2.5.1)).
    pub(crate) fn at(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(v6) => {
                let network = u128::from(v6) >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from(network))
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }

    pub(super) fn identity(peer: &PeerIdentity) -> Self {
        Self::Identity(peer.content_fingerprint())
    }

    pub(crate) fn of(peer: Option<&PeerIdentity>, address: IpAddr) -> Self {
        peer.map_or_else(|| Self::at(address), Self::identity)
    }
}

/// What a peer has used of its limits.
#[derive(Debug)]
pub(crate) struct Account {
    open: AtomicU32,
    /// Handshakes that are not over, from a validated address.
    pub(super) handshakes: AtomicU32,
    pub(super) connections: Bucket,
    pub(super) requests: Bucket,
    /// Handshakes that were begun and not gone on with.
    pub(super) unfinished: Bucket,
}

impl Account {
    fn new(now: Instant) -> Self {
        Self {
            open: AtomicU32::new(0),
            handshakes: AtomicU32::new(0),
            connections: Bucket::new(now),
            requests: Bucket::new(now),
            unfinished: Bucket::new(now),
        }
    }

    /// Counts another connection, unless there are `max` already.
    pub(super) fn open(self: &Arc<Self>, max: u32) -> Option<AccountGuard> {
        let below = |open: u32| (open < max).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).ok()?;
        Some(AccountGuard(Arc::clone(self)))
    }

    /// Counts a request, or says after how long there may be one.
    pub(crate) fn take_request(&self, rate: Rate, now: Instant) -> Result<(), Duration> {
        self.requests.take(rate, now)
    }

    fn is_forgettable(&self, now: Instant) -> bool {
        self.buckets().iter().all(|bucket| bucket.is_full(now))
    }

    /// After how long there will be nothing left to remember.
    fn forgettable_after(&self, now: Instant) -> Duration {
        self.buckets().iter().map(|bucket| bucket.full_after(now)).max().unwrap_or_default()
    }

    fn buckets(&self) -> [&Bucket; 3] {
        [&self.connections, &self.requests, &self.unfinished]
    }
}

/// Held by a connection that counts.
#[derive(Debug)]
pub(crate) struct AccountGuard(Arc<Account>);

impl Drop for AccountGuard {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The accounts of an endpoint.
#[derive(Debug)]
pub(crate) struct Accounts {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    accounts: HashMap<Payer, Arc<Account>>,
    /// The number of accounts at which those of peers without a connection are removed.
    tidy_at: usize,
}

/// At most this many accounts of peers without a connection are kept when the table is tidied up.
const MAX_ABSENT: usize = 1024;
/// What an account takes, with its part of the table and what the allocator adds.
const ACCOUNT_BYTES: usize = 256;
/// What the accounts of peers without a connection may take: as many again may come before the table is
/// tidied up.
pub(crate) const MAX_ABSENT_BYTES: usize = 2 * MAX_ABSENT * ACCOUNT_BYTES;

impl Accounts {
    pub(crate) fn new() -> Self {
        Self { table: Mutex::new(Table { accounts: HashMap::new(), tidy_at: MAX_ABSENT }) }
    }

    /// The account of this peer. It outlasts its connections until its buckets are full: a peer that comes
    /// back finds its rates as it left them.
    pub(crate) fn of(&self, payer: Payer, now: Instant) -> Arc<Account> {
        let mut table = lock(&self.table);
        if table.accounts.len() >= table.tidy_at {
            table.tidy(now);
        }
        Arc::clone(table.accounts.entry(payer).or_insert_with(|| Arc::new(Account::new(now))))
    }
}

impl Table {
    fn tidy(&mut self, now: Instant) {
        let is_present = |account: &Arc<Account>| Arc::strong_count(account) > 1;
        self.accounts.retain(|_, account| is_present(account) || !account.is_forgettable(now));
        let absent = self.accounts.values().filter(|account| !is_present(account));
        let mut remembered: Vec<Duration> = absent.map(|account| account.forgettable_after(now)).collect();
        // Above the limit, the accounts whose buckets are full soonest are dropped first.
        if let Some(surplus) = remembered.len().checked_sub(MAX_ABSENT) {
            let (_, &mut last, _) = remembered.select_nth_unstable(surplus);
            self.accounts.retain(|_, account| is_present(account) || account.forgettable_after(now) > last);
        }
        self.tidy_at = self.accounts.len() + MAX_ABSENT;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn address(n: u32) -> Payer {
        Payer::at(IpAddr::from(n.to_be_bytes()))
    }

    #[test]
    fn an_ipv6_peer_has_64_bits_of_its_own() {
        let at = |text: &str| Payer::at(text.parse().unwrap());
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:192.0.2.7"), at("192.0.2.7"));
        assert_ne!(at("192.0.2.7"), at("192.0.2.8"));
    }

    #[cfg(feature = "cert")]
    #[test]
    fn a_certificate_has_one_account_whatever_its_signature() {
        let ca = crate::cert::CertificateAuthority::new("ca").unwrap();
        let payer = |der: Vec<u8>| {
            Payer::of(PeerIdentity::from_chain(vec![der.into()]).as_ref(), IpAddr::from([10, 0, 0, 1]))
        };
        let certificate = ca.issue_client("a").unwrap().chain()[0].to_vec();
        let mut resigned = certificate.clone();
        *resigned.last_mut().unwrap() ^= 1;
        assert_eq!(payer(certificate.clone()), payer(resigned));
        assert_ne!(payer(certificate), payer(ca.issue_client("a").unwrap().chain()[0].to_vec()));
        assert_ne!(payer(b"garbage".to_vec()), payer(b"other garbage".to_vec()));
    }

    #[test]
    fn connections_are_counted_while_they_are_open() {
        let account = Accounts::new().of(address(1), Instant::now());
        let (first, _second) = (account.open(2).unwrap(), account.open(2).unwrap());
        assert!(account.open(2).is_none());
        drop(first);
        assert!(account.open(2).is_some());
    }

    #[test]
    fn a_peer_that_comes_back_finds_its_rates_as_it_left_them() {
        let (accounts, now, rate) = (Accounts::new(), Instant::now(), Rate::per_second(1));
        assert!(accounts.of(address(1), now).requests.take(rate, now).is_ok());
        assert!(accounts.of(address(1), now).requests.take(rate, now).is_err());
        assert!(accounts.of(address(2), now).requests.take(rate, now).is_ok());
    }

    #[test]
    fn the_account_that_takes_longest_to_refill_is_forgotten_last() {
        let (accounts, now) = (Accounts::new(), Instant::now());
        let hourly = Rate::every(Duration::from_secs(3600));
        accounts.of(address(0), now).requests.take(hourly, now).unwrap();
        for n in 1..5000 {
            accounts.of(address(n), now).requests.take(Rate::per_second(1), now).unwrap();
        }
        assert!(accounts.of(address(0), now).requests.take(hourly, now).is_err());
    }

    #[test]
    fn an_account_takes_what_it_is_reckoned_at() {
        let in_table = size_of::<(Payer, Arc<Account>)>() + 1;
        let counts = 2 * size_of::<usize>();
        let allocated = size_of::<Account>() + counts + 2 * size_of::<usize>();
        // A table that has just grown is half empty.
        let account = allocated + 2 * in_table;
        assert!((ACCOUNT_BYTES / 2..=ACCOUNT_BYTES).contains(&account), "{account}");
    }

    #[test]
    fn the_table_stays_small_and_keeps_those_who_are_there() {
        let (accounts, now, rate) = (Accounts::new(), Instant::now(), Rate::per_second(1));
        let present = accounts.of(address(0), now);
        for n in 1..10_000 {
            let account = accounts.of(address(n), now);
            account.requests.take(rate, now).unwrap();
            assert!(lock(&accounts.table).accounts.len() <= 2 * MAX_ABSENT + 1);
        }
        assert!(Arc::ptr_eq(&present, &accounts.of(address(0), now)));
        lock(&accounts.table).tidy(now + Duration::from_secs(2));
        assert_eq!(lock(&accounts.table).accounts.len(), 1, "the buckets of the others are full");
    }
}
