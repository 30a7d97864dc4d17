//! The memory that frames of all peers together may take.
//!
//! Bytes count from their arrival on, and while the request or notification that they belong to is served;
//! answers count until QUIC has taken them, and before that as much as their method has answered at most so
//! far. When the budget is spent, nobody's memory grows: what has not been read yet stays where it is, and
//! QUIC's flow control holds the senders back. Two rules keep things moving then. A connection that holds
//! little is read all the same, so that those who fill the budget do not shut out the others. And one
//! connection at a time may go beyond the budget, so that streams which wait for each other's bytes do not
//! wait for ever.
//!
//! The counts are atomics, and only the list of those who wait has a lock. One lock for all of it would be
//! easier to follow, but takes 454 instructions more for a small call, of 9,011 (5.0 %), and 1,234 more for
//! eight answers, of 22,958 (5.4 %). In return the order matters: a change is made before the list is looked
//! at, and a waiter is on the list before it looks a second time. All of that is sequentially
//! consistent, and runs under a model checker (`concurrency/`).

use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::{Arc, atomic::Ordering::SeqCst},
    task::{Context, Poll, Waker, ready},
};

use super::unread_pieces::Pieces;
use crate::{
    limits::CONNECTION_RESERVE_BYTES as RESERVE,
    sync::{AtomicBool, AtomicUsize, Mutex, lock},
};

/// The budget of an endpoint.
#[derive(Debug)]
pub(crate) struct FrameBudget {
    limit: usize,
    used: AtomicUsize,
    /// The [`Share::id`] of the connection that may go beyond the limit; 0 for none.
    exempt: AtomicUsize,
    next_id: AtomicUsize,
    /// Invariant: the length of the list below, which costs more to ask.
    waiting: AtomicUsize,
    waiters: Mutex<Waiters>,
}

/// A connection's part of it.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<FrameBudget>,
    id: usize,
    used: AtomicUsize,
    /// The connection is gone, and those who wait may find out.
    abandoned: AtomicBool,
    /// Invariant: how many of the budget's waiters are of this connection.
    waiting: AtomicUsize,
    pieces: Pieces,
}

/// Bytes that are held. Gives them back when it is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    share: Arc<Share>,
    bytes: usize,
    /// Waits for room even after the connection is gone.
    outlasts: bool,
}

impl FrameBudget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            exempt: AtomicUsize::new(0),
            next_id: AtomicUsize::new(1),
            waiting: AtomicUsize::new(0),
            waiters: Mutex::default(),
        })
    }

    pub(crate) fn share(self: &Arc<Self>) -> Arc<Share> {
        Arc::new(Share {
            budget: Arc::clone(self),
            id: self.next_id.fetch_add(1, SeqCst),
            used: AtomicUsize::new(0),
            abandoned: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            pieces: Pieces::default(),
        })
    }

    /// Bytes held at the moment.
    pub(crate) fn used(&self) -> usize {
        self.used.load(SeqCst)
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        self.used() < self.limit.saturating_sub(bytes)
    }

    /// Ends the exemption of this connection, if it is the one.
    fn end_exemption(&self, id: usize) {
        if self.exempt.compare_exchange(id, 0, SeqCst, SeqCst).is_ok() {
            self.wake_next();
        }
    }

    /// Wakes the oldest waiter that there is room for and that is not awake yet. That one wakes the next.
    fn wake_next(&self) {
        if self.waiting.load(SeqCst) == 0 {
            return;
        }
        let next = {
            let mut waiters = lock(&self.waiters);
            let fits = |bytes| self.exempt.load(SeqCst) == 0 || self.has_room_for(bytes);
            waiters.asleep().find(|waiter| fits(waiter.bytes)).and_then(|waiter| waiter.waker.take())
        };
        wake(next);
    }
}

impl Share {
    pub(crate) fn charge(self: &Arc<Self>) -> Charge {
        Charge { share: Arc::clone(self), bytes: 0, outlasts: false }
    }

    pub(super) fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// Lets go those who wait, since the connection is gone; not those of charges that
    /// [outlast](Charge::outlasting) it.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, SeqCst);
        self.budget.end_exemption(self.id);
        self.wake_own();
    }

    /// Whether there is room in the budget itself.
    pub(crate) fn has_room(&self) -> bool {
        self.budget.has_room_for(0)
    }

    fn has_room_for(&self, bytes: usize, outlasts: bool) -> bool {
        self.used.load(SeqCst) < RESERVE
            || self.budget.has_room_for(bytes)
            || (!outlasts && self.abandoned.load(SeqCst))
            || self.claim_exemption()
    }

    /// Claims the exemption from the limit if no connection has it. Returns whether this connection has it.
    fn claim_exemption(&self) -> bool {
        match self.budget.exempt.compare_exchange(0, self.id, SeqCst, SeqCst) {
            Ok(_) => {
                // The bytes of its other streams may fill the window that this one's have to come through.
                self.wake_own();
                true
            }
            Err(exempt) => exempt == self.id,
        }
    }

    /// Wakes all waiters of this connection.
    fn wake_own(&self) {
        if self.waiting.load(SeqCst) == 0 {
            return;
        }
        let own: Vec<Waker> = {
            let mut waiters = lock(&self.budget.waiters);
            let own = waiters.asleep().filter(|waiter| waiter.id == self.id);
            own.filter_map(|waiter| waiter.waker.take()).collect()
        };
        wake(own);
    }

    fn add(&self, bytes: usize) {
        self.used.fetch_add(bytes, SeqCst);
        self.budget.used.fetch_add(bytes, SeqCst);
    }

    fn subtract(&self, bytes: usize) {
        let mine = self.used.fetch_sub(bytes, SeqCst) - bytes;
        let all = self.budget.used.fetch_sub(bytes, SeqCst) - bytes;
        if mine < RESERVE && mine + bytes >= RESERVE {
            self.wake_own();
        }
        if mine == 0 || all < self.budget.limit {
            self.budget.end_exemption(self.id);
        }
        if all < self.budget.limit {
            self.budget.wake_next();
        }
    }
}

impl Charge {
    /// For what is handled though the connection that brought it is gone.
    pub(crate) fn outlasting(mut self) -> Self {
        self.outlasts = true;
        self
    }

    /// Counts the stream that is read for this as open.
    pub(crate) fn open_stream(&self) -> OpenStream {
        OpenStream { period: self.share.pieces.open(), share: Arc::clone(&self.share) }
    }

    /// Counts a piece of a stream that was read, after `before` others of the same message.
    pub(crate) fn add_piece(&mut self, bytes: usize, before: usize) {
        self.share.pieces.read(bytes, before);
        self.add(bytes);
    }

    /// The same for one of which nothing is held.
    pub(crate) fn discard_piece(&self, bytes: usize) {
        self.share.pieces.read(bytes, 0);
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        self.share.has_room_for(bytes, self.outlasts)
    }

    /// Waits until `bytes` more may be held, and does nothing else: several may hear at the same time that
    /// they may.
    fn poll_room<'a>(
        &'a self,
        bytes: usize,
        waiting: &mut Option<Waiting<'a>>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if !self.has_room_for(bytes) {
            let woken = waiting.get_or_insert_with(|| Waiting::new(&self.share, bytes)).listen(cx);
            // Room may have come before this was on the list.
            if !self.has_room_for(bytes) {
                if woken {
                    // What is too little for this one may be enough for another.
                    self.share.budget.wake_next();
                }
                return Poll::Pending;
            }
        }
        *waiting = None;
        Poll::Ready(())
    }

    /// Drives `work` only while more may be held, and asks again whenever it wakes: what arrives late must
    /// not find the room that there was once.
    pub(crate) async fn while_there_is_room<T>(&self, work: impl Future<Output = T>) -> T {
        self.read_while_there_is_room(work, &mut false).await
    }

    /// The same, and says in `waits_for_room` what the latest look found wanting: room, or what `work` waits
    /// for.
    pub(crate) async fn read_while_there_is_room<T>(
        &self,
        work: impl Future<Output = T>,
        waits_for_room: &mut bool,
    ) -> T {
        let mut work = std::pin::pin!(work);
        let mut waiting = None;
        poll_fn(|cx| {
            *waits_for_room = true;
            ready!(self.poll_room(0, &mut waiting, cx));
            *waits_for_room = false;
            work.as_mut().poll(cx)
        })
        .await
    }

    /// Whether there is room in the budget itself.
    #[cfg(feature = "streams")]
    pub(crate) fn has_room(&self) -> bool {
        self.share.has_room()
    }

    /// Counts `bytes` more if there is room for them.
    pub(crate) fn try_reserve(&mut self, bytes: usize) -> bool {
        let has_room = self.has_room_for(bytes);
        if has_room {
            self.add(bytes);
        }
        has_room
    }

    /// Counts `bytes` more once there is room for them.
    pub(crate) async fn reserve(&mut self, bytes: usize) {
        {
            let mut waiting = None;
            poll_fn(|cx| self.poll_room(bytes, &mut waiting, cx)).await;
        }
        self.add(bytes);
    }

    /// How many bytes it counts.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts this many bytes from now on, whether there is room or not.
    pub(crate) fn adjust(&mut self, bytes: usize) {
        self.settle(bytes);
        self.add(bytes.saturating_sub(self.bytes));
    }

    /// Counts bytes that are held now, whether there was room or not.
    pub(crate) fn add(&mut self, bytes: usize) {
        if bytes > 0 {
            self.bytes += bytes;
            self.share.add(bytes);
        }
    }

    /// Counts `bytes` in all, unless it counts more already, if there is room.
    #[cfg(feature = "streams")]
    pub(crate) fn try_reserve_up_to(&mut self, bytes: usize) -> bool {
        bytes <= self.bytes || self.try_reserve(bytes - self.bytes)
    }

    /// This charge, which leaves an empty one in its place.
    pub(crate) fn take(&mut self) -> Self {
        let Self { share, bytes, outlasts } = self;
        Self { share: Arc::clone(share), bytes: std::mem::take(bytes), outlasts: *outlasts }
    }

    /// Counts only this many from now on.
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

/// A stream that quinn may keep pieces of, until this is dropped.
#[derive(Debug)]
pub(crate) struct OpenStream {
    share: Arc<Share>,
    period: usize,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.share.pieces.close(self.period);
    }
}

/// Those who wait for room.
#[derive(Debug, Default)]
struct Waiters {
    /// By ticket, so that the oldest comes first.
    by_ticket: BTreeMap<u64, Waiter>,
    next_ticket: u64,
}

#[derive(Debug)]
struct Waiter {
    /// Of its connection.
    id: usize,
    bytes: usize,
    /// `None` from when this is woken until it looks again.
    waker: Option<Waker>,
}

impl Waiters {
    fn asleep(&mut self) -> impl Iterator<Item = &mut Waiter> {
        self.by_ticket.values_mut().filter(|waiter| waiter.waker.is_some())
    }
}

/// Not under the lock, which what is woken may take.
fn wake(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

/// A place on the list of waiters, until this is dropped. Then the next is woken: this one may have found
/// room and left some, or may have been woken and not have looked.
struct Waiting<'a> {
    share: &'a Share,
    bytes: usize,
    ticket: u64,
}

impl<'a> Waiting<'a> {
    fn new(share: &'a Share, bytes: usize) -> Self {
        let ticket = {
            let mut waiters = lock(&share.budget.waiters);
            waiters.next_ticket += 1;
            waiters.next_ticket
        };
        Self { share, bytes, ticket }
    }

    /// Says whether this was woken since it listened before.
    fn listen(&self, cx: &Context<'_>) -> bool {
        let Share { budget, id, waiting, .. } = self.share;
        let waiter = Waiter { id: *id, bytes: self.bytes, waker: Some(cx.waker().clone()) };
        let before = {
            let mut waiters = lock(&budget.waiters);
            let before = waiters.by_ticket.insert(self.ticket, waiter);
            if before.is_none() {
                waiting.fetch_add(1, SeqCst);
                budget.waiting.fetch_add(1, SeqCst);
            }
            before
        };
        // Its waker is dropped here, since that may drop a task, and charges with it.
        before.is_some_and(|before| before.waker.is_none())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Share { budget, waiting, .. } = self.share;
        let left = {
            let mut waiters = lock(&budget.waiters);
            let left = waiters.by_ticket.remove(&self.ticket);
            if left.is_some() {
                waiting.fetch_sub(1, SeqCst);
                budget.waiting.fetch_sub(1, SeqCst);
            }
            left
        };
        drop(left);
        budget.wake_next();
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::Pin, task::Wake};

    use futures_lite::future::{block_on, poll_once, ready};

    use super::*;

    const LIMIT: usize = 10 * RESERVE;

    fn has_room(charge: &Charge) -> bool {
        block_on(poll_once(charge.while_there_is_room(ready(())))).is_some()
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
    fn a_waiter_learns_when_the_exempt_connection_is_done() {
        let budget = FrameBudget::new(LIMIT);
        let (first, second, third) =
            (holding(&budget, RESERVE), holding(&budget, LIMIT), holding(&budget, LIMIT));
        assert!(has_room(&first));
        block_on(async {
            let mut waiting = std::pin::pin!(second.while_there_is_room(ready(())));
            assert!(poll_once(waiting.as_mut()).await.is_none());
            drop(first);
            assert!(poll_once(waiting.as_mut()).await.is_some(), "the next may go beyond the budget");
        });
        assert!(!has_room(&third));
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, SeqCst);
        }
    }

    fn wait_for_room(charge: &Charge) -> Pin<Box<impl Future<Output = ()>>> {
        Box::pin(charge.while_there_is_room(ready(())))
    }

    fn poll(waiting: &mut Pin<Box<impl Future<Output = ()>>>, woken: &Arc<Woken>) -> bool {
        let waker = Waker::from(Arc::clone(woken));
        waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
    }

    #[test]
    fn all_streams_of_a_connection_learn_that_it_is_exempt() {
        let budget = FrameBudget::new(LIMIT);
        let exempt = holding(&budget, RESERVE);
        let one = holding(&budget, LIMIT);
        let other = one.share.charge();
        let strangers = [(); 3].map(|()| holding(&budget, LIMIT));
        assert!(has_room(&exempt));
        let wait = |charge| {
            let (mut waiting, woken) = (wait_for_room(charge), Arc::default());
            assert!(!poll(&mut waiting, &woken));
            (waiting, woken)
        };
        let (mut one, woken) = wait(&one);
        let _strangers = strangers.each_ref().map(wait);
        let (mut other, other_woken) = wait(&other);
        drop(exempt);
        assert!(poll(&mut one, &woken), "one may become exempt");
        assert!(other_woken.0.load(SeqCst), "it waits behind strangers");
        assert!(poll(&mut other, &other_woken));
    }

    #[test]
    fn who_needs_too_much_does_not_hold_up_another_that_there_is_room_for() {
        let budget = FrameBudget::new(LIMIT);
        let [exempt, mut large, mut small] = [(); 3].map(|()| holding(&budget, RESERVE));
        let filling = holding(&budget, LIMIT);
        assert!(has_room(&exempt));
        let mut large = Box::pin(large.reserve(LIMIT));
        let mut small = Box::pin(small.reserve(1));
        let [large_woken, small_woken] = [(); 2].map(|()| Arc::default());
        assert!(!poll(&mut large, &large_woken) && !poll(&mut small, &small_woken));
        drop(filling);
        assert!(!large_woken.0.load(SeqCst), "there is no room for it");
        assert!(small_woken.0.load(SeqCst), "it waits for one that waits for more");
        assert!(poll(&mut small, &small_woken));
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

    #[test]
    fn a_reservation_counts_immediately_and_waits_for_room() {
        let budget = FrameBudget::new(LIMIT);
        let exempt = holding(&budget, RESERVE);
        let mut one = budget.share().charge();
        block_on(one.reserve(LIMIT / 2));
        assert_eq!(budget.used(), LIMIT / 2 + RESERVE);
        let filling = holding(&budget, LIMIT / 4);
        let mut other = holding(&budget, RESERVE);
        assert!(!exempt.share.budget.has_room_for(LIMIT / 2) && exempt.share.has_room_for(LIMIT / 2, false));
        assert!(!other.try_reserve(LIMIT / 2));
        assert!(block_on(poll_once(other.reserve(LIMIT / 2))).is_none());
        assert!(other.try_reserve(1));
        drop((filling, one));
        block_on(other.reserve(LIMIT / 2));
        assert!(budget.share().charge().try_reserve(LIMIT), "who holds little may have one answer");
    }

    /// Late bytes ask again: there was room when the wait for them began.
    #[test]
    fn work_that_wakes_late_asks_again() {
        let budget = FrameBudget::new(LIMIT);
        let (exempt, late) = (holding(&budget, RESERVE), holding(&budget, RESERVE));
        let polls = AtomicUsize::new(0);
        block_on(async {
            let work = poll_fn(|_| {
                polls.fetch_add(1, SeqCst);
                Poll::<()>::Pending
            });
            let mut waiting = std::pin::pin!(late.while_there_is_room(work));
            assert!(poll_once(waiting.as_mut()).await.is_none());
            let spent = holding(&budget, LIMIT);
            assert!(has_room(&exempt));
            assert!(poll_once(waiting.as_mut()).await.is_none());
            assert_eq!(polls.load(SeqCst), 1, "polled without room");
            drop(spent);
            assert!(poll_once(waiting.as_mut()).await.is_none());
            assert_eq!(polls.load(SeqCst), 2);
        });
    }

    #[test]
    fn what_outlasts_its_connection_waits_for_room_all_the_same() {
        let budget = FrameBudget::new(LIMIT);
        let exempt = holding(&budget, LIMIT);
        assert!(has_room(&exempt));
        let waiting = holding(&budget, RESERVE);
        waiting.share.abandon();
        let mut outlasting = waiting.share.charge().outlasting();
        assert!(has_room(&waiting) && !has_room(&outlasting));
        assert!(!has_room(&outlasting.take()), "and so does what is taken from it");
        drop(exempt);
        assert!(has_room(&outlasting));
    }

    #[test]
    fn a_waiter_on_a_connection_that_is_gone_is_released() {
        let budget = FrameBudget::new(LIMIT);
        let (exempt, waiting) = (holding(&budget, LIMIT), holding(&budget, LIMIT));
        assert!(has_room(&exempt) && !has_room(&waiting));
        waiting.share.abandon();
        assert!(has_room(&waiting));
        let third = holding(&budget, LIMIT);
        assert!(!has_room(&third));
        exempt.share.abandon();
        assert!(has_room(&third), "an exemption ends with its connection");
    }
}
