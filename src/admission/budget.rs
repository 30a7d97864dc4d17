//! The memory that frames of all peers together may take.
//!
//! Bytes count from their arrival on, and while the request or notification that they belong to is served; answers count
//! until QUIC has taken them. When the budget is spent, nobody's memory grows: what has not been read yet stays where it
//! is, and QUIC's flow control holds the senders back. Two rules keep things moving then. A connection that holds little is
//! read all the same, so that those who fill the budget do not shut out the others. And one connection at a time may go
//! beyond the budget, so that streams which wait for each other's bytes do not wait for ever.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use event_listener::{Event, EventListener};

/// What a connection may hold whatever the others do: enough for small requests.
pub(crate) const RESERVE: usize = 8 * 1024;

/// The budget of an endpoint.
#[derive(Debug)]
pub(crate) struct FrameBudget {
    limit: usize,
    used: AtomicUsize,
    /// The [`Share::id`] of the connection that may go beyond the limit; 0 for none.
    exempt: AtomicUsize,
    next_id: AtomicUsize,
    waiting: AtomicUsize,
    freed: Event,
}

/// A connection's part of it.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<FrameBudget>,
    id: usize,
    used: AtomicUsize,
}

/// Bytes that are held. Gives them back when it is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    share: Arc<Share>,
    bytes: usize,
}

impl FrameBudget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            exempt: AtomicUsize::new(0),
            next_id: AtomicUsize::new(1),
            waiting: AtomicUsize::new(0),
            freed: Event::new(),
        })
    }

    pub(crate) fn share(self: &Arc<Self>) -> Arc<Share> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        Arc::new(Share { budget: Arc::clone(self), id, used: AtomicUsize::new(0) })
    }

    /// Bytes held at the moment.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn is_spent(&self) -> bool {
        self.used.load(Ordering::SeqCst) >= self.limit
    }

    /// Whether this connection is the one that may go beyond the limit, or has become it.
    fn exempts(&self, id: usize) -> bool {
        match self.exempt.compare_exchange(0, id, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => true,
            Err(exempt) => exempt == id,
        }
    }
}

impl Share {
    pub(crate) fn charge(self: &Arc<Self>) -> Charge {
        Charge { share: Arc::clone(self), bytes: 0 }
    }

    fn has_room(&self) -> bool {
        self.used.load(Ordering::SeqCst) < RESERVE || !self.budget.is_spent() || self.budget.exempts(self.id)
    }

    /// Resolves when this connection may take more memory.
    async fn room(&self) {
        if self.has_room() {
            return;
        }
        let _waiting = Waiting::new(&self.budget);
        loop {
            let freed: EventListener = self.budget.freed.listen();
            if self.has_room() {
                return;
            }
            freed.await;
        }
    }

    fn add(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::SeqCst);
        self.budget.used.fetch_add(bytes, Ordering::SeqCst);
    }

    fn subtract(&self, bytes: usize) {
        let budget = &*self.budget;
        let mine = self.used.fetch_sub(bytes, Ordering::SeqCst) - bytes;
        let all = budget.used.fetch_sub(bytes, Ordering::SeqCst) - bytes;
        if all < budget.limit {
            budget.exempt.store(0, Ordering::SeqCst);
        } else if mine == 0 {
            // Only its own end ends an exemption, or that nobody needs one any more.
            let _ = budget.exempt.compare_exchange(self.id, 0, Ordering::SeqCst, Ordering::SeqCst);
        }
        if budget.waiting.load(Ordering::SeqCst) > 0 {
            budget.freed.notify(usize::MAX);
        }
    }
}

impl Charge {
    /// Resolves when more may be held.
    pub(crate) async fn room(&self) {
        self.share.room().await;
    }

    /// Counts bytes that are held now, whether there was room or not.
    pub(crate) fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.share.add(bytes);
    }

    /// This charge, which leaves an empty one in its place.
    pub(crate) fn take(&mut self) -> Self {
        Self { share: Arc::clone(&self.share), bytes: std::mem::take(&mut self.bytes) }
    }

    /// Counts only so many from now on.
    pub(crate) fn settle(&mut self, bytes: usize) {
        let surplus = self.bytes.saturating_sub(bytes);
        if surplus > 0 {
            self.bytes -= surplus;
            self.share.subtract(surplus);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.settle(0);
    }
}

struct Waiting<'a>(&'a FrameBudget);

impl<'a> Waiting<'a> {
    fn new(budget: &'a FrameBudget) -> Self {
        budget.waiting.fetch_add(1, Ordering::SeqCst);
        Self(budget)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;

    const LIMIT: usize = 10 * RESERVE;

    fn has_room(charge: &Charge) -> bool {
        block_on(poll_once(charge.room())).is_some()
    }

    fn holding(budget: &Arc<FrameBudget>, bytes: usize) -> Charge {
        let mut charge = budget.share().charge();
        charge.add(bytes);
        charge
    }

    #[test]
    fn while_the_budget_lasts_everyone_has_room() {
        let budget = FrameBudget::new(LIMIT);
        let (one, other) = (holding(&budget, LIMIT / 2), holding(&budget, LIMIT / 2 - 1));
        assert!(has_room(&one) && has_room(&other));
        assert_eq!(budget.used(), LIMIT - 1);
        drop((one, other));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_spent_budget_holds_back_all_but_one_and_those_who_hold_little() {
        let budget = FrameBudget::new(LIMIT);
        let (first, second) = (holding(&budget, LIMIT / 2), holding(&budget, LIMIT / 2));
        let small = holding(&budget, RESERVE - 1);
        assert!(has_room(&first), "the first to ask may go on");
        assert!(!has_room(&second));
        assert!(has_room(&small));
        assert!(has_room(&first), "and goes on");
        drop(first);
        assert!(has_room(&second), "there is room again");
    }

    #[test]
    fn whoever_waits_learns_when_the_exempt_one_is_done() {
        let budget = FrameBudget::new(LIMIT);
        let (first, second, third) =
            (holding(&budget, RESERVE), holding(&budget, LIMIT), holding(&budget, LIMIT));
        assert!(has_room(&first));
        block_on(async {
            let mut waiting = std::pin::pin!(second.room());
            assert!(poll_once(waiting.as_mut()).await.is_none());
            drop(first);
            assert!(poll_once(waiting.as_mut()).await.is_some(), "the next may go beyond the budget");
        });
        assert!(!has_room(&third));
    }

    #[test]
    fn streams_of_one_connection_share_its_exemption() {
        let budget = FrameBudget::new(LIMIT);
        let share = budget.share();
        let (mut one, mut other) = (share.charge(), share.charge());
        one.add(LIMIT);
        other.add(LIMIT);
        assert!(has_room(&one) && has_room(&other));
        one.settle(0);
        assert!(has_room(&other));
        other.settle(1);
        assert_eq!(budget.used(), 1);
    }
}
