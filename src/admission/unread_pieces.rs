//! How many pieces of unread streams quinn keeps for a connection, as far as can be known from outside.
//!
//! quinn keeps what it cannot hand out in the pieces that it came in, each at a price of its own, whatever
//! its length. It says how many STREAM frames have come, and not how many of them it still has. So each frame
//! is a debt, which is paid by what is read. Frames that were never kept, such as those that came twice, must
//! not be held against a peer for ever: long pieces pay for more than themselves, the end of a stream pays
//! too, and what came before the oldest open stream was opened is forgiven, since nothing of it is left.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use crate::{
    limits::MEAN_PIECE_BYTES,
    sync::{AtomicUsize, Mutex, lock},
};

/// A frame in the unit of account: for this many bytes read, one frame that came twice is forgiven.
const FRAME: usize = 512;
/// For each piece that is read, so much of one that came twice is forgiven: where packets overtake each
/// other, a third of the frames may be sent again for nothing.
const TWICE: usize = FRAME / 2;
/// More than a frame can hold on most paths, since it fits a packet: what is longer was joined by quinn.
const LONGEST_FRAME: usize = 1500;
/// What is joined pays for frames of 32 bytes on average, the least that [`MEAN_PIECE_BYTES`] lets fill a
/// window.
const JOINED: usize = FRAME / MEAN_PIECE_BYTES;
/// The end of a stream may come in a frame of its own, and that twice.
const END: usize = 2 * FRAME;
/// In how many pieces a message may come, however small; beyond, they pay no more than what is joined.
const PIECES_OF_A_MESSAGE: usize = 512;
/// What a stream kept that ended before it was read is forgiven in time.
const FORGIVEN_A_SECOND: usize = 1;

/// The count of a connection.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    /// What was read and ended since the last look, in units of account.
    paid: AtomicUsize,
    /// Streams that are read, by the parity of the period that they were opened in.
    open: [AtomicUsize; 2],
    period: AtomicUsize,
    balance: Mutex<Balance>,
}

#[derive(Debug, Default)]
struct Balance {
    debt: usize,
    looked: Option<Instant>,
    /// STREAM frames at the last look.
    frames: u64,
    /// The same at the beginning of this period, and of the one before it: what has come of a stream may be
    /// there before the stream is accepted.
    frames_before: [u64; 2],
}

impl Pieces {
    /// A piece was read, after `before` others of the same message.
    pub(super) fn read(&self, length: usize, before: usize) {
        let joined = length.saturating_mul(JOINED);
        let worth = if length > LONGEST_FRAME || before >= PIECES_OF_A_MESSAGE {
            joined
        } else {
            FRAME + TWICE + length
        };
        self.paid.fetch_add(worth, Relaxed);
    }

    /// A stream is read from now on. Gives what [`close`](Self::close) wants to know.
    pub(super) fn open(&self) -> usize {
        let period = self.period.load(Relaxed) % 2;
        self.open_in(period).fetch_add(1, Relaxed);
        period
    }

    /// Nothing more of a stream is kept.
    pub(super) fn close(&self, period: usize) {
        self.open_in(period).fetch_sub(1, Relaxed);
        self.paid.fetch_add(END, Relaxed);
    }

    fn open_in(&self, period: usize) -> &AtomicUsize {
        let [even, odd] = &self.open;
        if period.is_multiple_of(2) { even } else { odd }
    }

    /// How many pieces are kept, when `frames` STREAM frames have come in all.
    pub(super) fn unread(&self, frames: u64, now: Instant) -> usize {
        let mut balance = lock(&self.balance);
        let since = balance.looked.map_or(Duration::ZERO, |looked| now.saturating_duration_since(looked));
        let forgiven = usize::try_from(since.as_millis()).unwrap_or(usize::MAX).saturating_mul(FRAME) / 1000;
        // Looks that come often forgive nothing each, and together.
        if forgiven > 0 || balance.looked.is_none() {
            balance.looked = Some(now);
        }
        let paid = self.paid.swap(0, Relaxed).saturating_add(forgiven.saturating_mul(FORGIVEN_A_SECOND));
        let debt = balance.debt.saturating_add(units(frames.saturating_sub(balance.frames)));
        balance.debt = debt.saturating_sub(paid);
        balance.frames = frames;
        let period = self.period.load(Relaxed);
        if self.open_in(period + 1).load(Relaxed) == 0 {
            // All that is open was opened in this period.
            let [this, last] = balance.frames_before;
            balance.debt = balance.debt.min(units(frames.saturating_sub(last)));
            balance.frames_before = [frames, this];
            self.period.store(period.wrapping_add(1), Relaxed);
        }
        balance.debt / FRAME
    }
}

fn units(frames: u64) -> usize {
    usize::try_from(frames).unwrap_or(usize::MAX).saturating_mul(FRAME)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    const MOST: usize = 100;

    /// Whether more than [`MOST`] are unread, without any time in which to forgive.
    fn exceed(pieces: &Pieces, frames: u64) -> bool {
        pieces.unread(frames, *NOW) > MOST
    }

    static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

    #[test]
    fn pieces_that_are_not_read_are_too_many_in_the_end() {
        let pieces = Pieces::default();
        let _stream = pieces.open();
        assert!(!exceed(&pieces, 100));
        assert!(exceed(&pieces, 101));
    }

    #[test]
    fn pieces_that_are_read_may_be_as_many_and_as_small_as_they_like() {
        let pieces = Pieces::default();
        let _stream = pieces.open();
        for frames in 1..10_000 {
            pieces.read(1, 0);
            assert!(!exceed(&pieces, frames));
        }
    }

    #[test]
    fn a_large_message_may_not_come_byte_by_byte() {
        let pieces = Pieces::default();
        let _stream = pieces.open();
        let excessive = (0..10_000).find(|&before| {
            pieces.read(1, before);
            exceed(&pieces, u64::try_from(before).unwrap() + 1)
        });
        assert!(excessive.is_some_and(|pieces| pieces > PIECES_OF_A_MESSAGE), "{excessive:?}");
    }

    /// Neither by what it read before, nor by streams that come and go beside it.
    #[test]
    fn what_stays_unread_is_not_forgiven_for_what_is_read_beside_it() {
        let pieces = Pieces::default();
        let _stalled = pieces.open();
        pieces.read(1000 * FRAME, 0);
        let (mut frames, mut kept) = (0, 0);
        while !exceed(&pieces, frames) {
            let beside = pieces.open();
            pieces.read(1, 0);
            pieces.close(beside);
            (frames, kept) = (frames + 8, kept + 7);
            assert!(kept < 2 * MOST, "{kept} are kept");
        }
    }

    #[test]
    fn frames_that_came_twice_are_forgiven() {
        let pieces = Pieces::default();
        let _long_lived = pieces.open();
        let mut frames = 0;
        for _ in 0..10_000 {
            // A call in one frame, which ends its stream in another; both are sent twice.
            let call = pieces.open();
            pieces.read(20, 0);
            pieces.close(call);
            frames += 3;
            // An upload, twice.
            pieces.read(1150, 0);
            frames += 2;
            assert!(!exceed(&pieces, frames));
        }
    }

    #[test]
    fn what_quinn_has_joined_is_paid_for() {
        let pieces = Pieces::default();
        let _stream = pieces.open();
        let mut frames = 0;
        for _ in 0..1000 {
            // A slow handler's notifications of 40 bytes.
            frames += 80;
            assert!(!exceed(&pieces, frames));
            pieces.read(80 * 40, 0);
        }
    }

    #[test]
    fn what_came_before_all_open_streams_is_forgotten() {
        let pieces = Pieces::default();
        let mut frames = 0;
        let mut before = pieces.open();
        for _ in 0..1000 {
            // A call that is refused while 20 frames of it are on their way.
            let call = pieces.open();
            frames += 20;
            assert!(!exceed(&pieces, frames));
            pieces.close(before);
            before = call;
        }
    }

    #[test]
    fn what_ended_unread_is_forgiven_in_time() {
        let pieces = Pieces::default();
        let _long_lived = pieces.open();
        let now = *NOW;
        assert_eq!(pieces.unread(100, now), 100);
        // Looks that come often forgive nothing each, and together as much as others.
        for millis in 1..=10_000 {
            pieces.unread(100, now + Duration::from_millis(millis));
        }
        let left = pieces.unread(100, now + Duration::from_secs(10));
        assert!((85..=95).contains(&left), "{left}");
    }
}
