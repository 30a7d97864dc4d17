//! What every UDP socket does, whatever runtime waits for it: the system calls and offloads. What errors mean
//! is for the endpoint to say.

use std::{
    io::{self, IoSliceMut},
    net::UdpSocket,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use quinn::udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};

/// Reports of a readable socket in a row after which nothing was there. One or two are ordinary: the system
/// reports a datagram and discards it, because its checksum is wrong.
const FALSE_REPORTS: u32 = 8;
/// How long the socket is left alone then, at first.
const FIRST_REST: Duration = Duration::from_millis(1);
/// The longest time that anybody can make datagrams wait in this way: 50 looks a second cost next to nothing.
const LONGEST_REST: Duration = Duration::from_millis(20);

/// The part of a socket that knows no reactor, and no trait of quinn's.
#[derive(Debug)]
pub(super) struct Core {
    state: UdpSocketState,
    offload: Offload,
    /// The last send would have blocked, and nobody has seen the socket writable since.
    send_blocked: AtomicBool,
}

/// What a look at the socket brought.
pub(super) enum Received {
    /// How many buffers are filled.
    Datagrams(usize),
    /// The kernel has nothing.
    Nothing,
}

impl Core {
    pub(super) fn new(socket: &UdpSocket, offload: Offload) -> io::Result<Self> {
        let state = UdpSocketState::new(socket.into())?;
        if !offload.gro {
            disable_gro(socket)?;
        }
        Ok(Self { state, offload, send_blocked: AtomicBool::new(false) })
    }

    pub(super) fn try_send(&self, socket: UdpSockRef<'_>, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.state.try_send(socket, transmit) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.send_blocked.store(true, Ordering::Relaxed);
                Err(error)
            }
            result => result,
        }
    }

    pub(super) fn try_recv<'s, S>(
        &self,
        socket: &'s S,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> io::Result<Received>
    where
        UdpSockRef<'s>: From<&'s S>,
    {
        match self.state.recv(socket.into(), bufs, meta) {
            Ok(count) => Ok(Received::Datagrams(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Whether the kernel had nothing left after a look that filled `count` of `room` buffers.
    #[cfg(unix)]
    pub(super) fn is_drained_by(&self, count: usize, room: usize) -> bool {
        // Elsewhere, a look takes one datagram at most.
        cfg!(target_os = "linux") && count < room
    }

    /// Whether a sender has to wait until the socket is writable again.
    pub(super) fn is_send_blocked(&self) -> bool {
        self.send_blocked.load(Ordering::Relaxed)
    }

    /// As a send does that finds no room.
    #[cfg(test)]
    pub(super) fn block_send(&self) {
        self.send_blocked.store(true, Ordering::Relaxed);
    }

    /// Lets senders try again.
    pub(super) fn unblock_send(&self) {
        self.send_blocked.store(false, Ordering::Relaxed);
    }

    pub(super) fn max_transmit_segments(&self) -> usize {
        if self.offload.gso { self.state.max_gso_segments() } else { 1 }
    }

    pub(super) fn max_receive_segments(&self) -> usize {
        if self.offload.gro { self.state.gro_segments() } else { 1 }
    }

    pub(super) fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// Which segmentation offloads a socket may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offload {
    /// Several datagrams in one `sendmsg`.
    pub(super) gso: bool,
    /// Several datagrams in one buffer of `recvmsg`.
    pub(super) gro: bool,
}

/// Counts the times in a row that the socket was reported readable and nothing was there.
///
/// A system that reports so again and again would have the receiver ask for ever, at full speed: an error
/// queue that nobody reads keeps a socket readable, and so do faults.
#[derive(Debug, Default)]
pub(super) struct FalseReports(AtomicU32);

impl FalseReports {
    /// Something was there.
    pub(super) fn forget(&self) {
        // Only the one receiver counts, so that this need not be one step.
        if self.0.load(Ordering::Relaxed) > 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    /// Counts one more; gives how long to leave the socket alone, where it is time for that.
    pub(super) fn record(&self) -> Option<Duration> {
        let count = self.0.load(Ordering::Relaxed).saturating_add(1);
        self.0.store(count, Ordering::Relaxed);
        let rests = count.checked_sub(FALSE_REPORTS)?;
        Some(doubled(FIRST_REST, rests, LONGEST_REST))
    }
}

/// The first duration, doubled as often as `times`, and `longest` at most.
pub(super) fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times)).min(longest)
}

/// quinn-udp switches GRO on. Reporting single segments is not enough: the kernel would go on to join
/// datagrams, and what does not fit the smaller buffer would be cut off.
#[cfg(target_os = "linux")]
fn disable_gro(socket: &UdpSocket) -> io::Result<()> {
    use nix::{
        errno::Errno,
        sys::socket::{setsockopt, sockopt::UdpGroSegment},
    };
    match setsockopt(socket, UdpGroSegment, &false) {
        // A kernel older than 5.0 has no GRO to switch off.
        Ok(()) | Err(Errno::ENOPROTOOPT | Errno::EOPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(not(target_os = "linux"))]
#[allow(clippy::unnecessary_wraps)]
fn disable_gro(_: &UdpSocket) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_left_alone_after_a_few_false_reports_and_for_longer_each_time() {
        let reports = FalseReports::default();
        for _ in 1..FALSE_REPORTS {
            assert_eq!(reports.record(), None);
        }
        let rests: Vec<_> = (0..100).filter_map(|_| reports.record()).collect();
        assert_eq!(rests.len(), 100);
        assert_eq!((rests[0], rests[99]), (FIRST_REST, LONGEST_REST));
        assert!(rests.is_sorted());
        reports.forget();
        assert_eq!(reports.record(), None);
    }
}
