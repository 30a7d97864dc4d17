//! The part of a UDP socket that both runtimes share: system calls and offloads. The endpoint decides what
//! errors mean.

use std::{
    io::{self, IoSliceMut},
    net::UdpSocket,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use quinn::udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};

/// False reports in a row after which the socket is left alone for a while. One or two are ordinary: the
/// system reports a datagram and then discards it, because its checksum is wrong.
const MAX_FALSE_REPORTS: u32 = 8;
/// How long the socket is left alone at first.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// How long false reports can delay a datagram at most. 50 receives per second cost next to nothing.
const MAX_PAUSE: Duration = Duration::from_millis(20);

/// A socket without a reactor and without quinn's socket trait, which the next version of quinn changes.
#[derive(Debug)]
pub(super) struct SocketCore {
    state: UdpSocketState,
    offload: Offload,
    /// The last send would have blocked, and the socket has not been reported writable since.
    send_blocked: AtomicBool,
}

impl SocketCore {
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

    /// Fills buffers, and returns how many; `None` if the kernel has nothing.
    pub(super) fn try_recv<'s, S>(
        &self,
        socket: &'s S,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> io::Result<Option<usize>>
    where
        UdpSockRef<'s>: From<&'s S>,
    {
        match self.state.recv(socket.into(), bufs, meta) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the kernel had nothing left after a receive that filled `count` of `len` buffers.
    #[cfg(unix)]
    pub(super) fn is_drained_by(&self, count: usize, len: usize) -> bool {
        // On other systems, each receive returns at most one datagram.
        cfg!(target_os = "linux") && count < len
    }

    /// Whether a sender has to wait until the socket is writable again.
    pub(super) fn is_send_blocked(&self) -> bool {
        self.send_blocked.load(Ordering::Relaxed)
    }

    /// Does what a send does that would block.
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

/// Counts how many times in a row the socket was reported readable when the kernel had nothing.
///
/// Without a pause, a system that goes on with false reports would make the receiver take a whole
/// processor. An error queue that nobody reads keeps a socket readable, and so do faults of drivers.
#[derive(Debug, Default)]
pub(super) struct FalseReports(AtomicU32);

impl FalseReports {
    /// A datagram was received.
    pub(super) fn reset(&self) {
        // Only the one receiver changes the count, so that this need not be one atomic step.
        if self.0.load(Ordering::Relaxed) > 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    /// Counts a report that the socket is readable after which it had no datagram. After
    /// [`MAX_FALSE_REPORTS`] in a row, returns for how long to ignore the socket.
    pub(super) fn record(&self) -> Option<Duration> {
        let count = self.0.load(Ordering::Relaxed).saturating_add(1);
        self.0.store(count, Ordering::Relaxed);
        let pauses = count.checked_sub(MAX_FALSE_REPORTS)?;
        Some(doubled(FIRST_PAUSE, pauses, MAX_PAUSE))
    }
}

/// The duration `first`, doubled as often as `times`, but at most `max`.
pub(super) fn doubled(first: Duration, times: u32, max: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times)).min(max)
}

/// quinn-udp enables GRO. Reporting single segments is not enough: the kernel would still join datagrams,
/// and truncate those that do not fit the smaller buffer.
#[cfg(target_os = "linux")]
fn disable_gro(socket: &UdpSocket) -> io::Result<()> {
    use nix::{
        errno::Errno,
        sys::socket::{setsockopt, sockopt::UdpGroSegment},
    };
    match setsockopt(socket, UdpGroSegment, &false) {
        // Kernels before 5.0 have no GRO.
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
        for _ in 1..MAX_FALSE_REPORTS {
            assert_eq!(reports.record(), None);
        }
        let pauses: Vec<_> = (0..100).filter_map(|_| reports.record()).collect();
        assert_eq!(pauses.len(), 100);
        assert_eq!((pauses[0], pauses[99]), (FIRST_PAUSE, MAX_PAUSE));
        assert!(pauses.is_sorted());
        reports.reset();
        assert_eq!(reports.record(), None);
    }
}
