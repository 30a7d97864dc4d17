//! What every UDP socket does, whoever waits for it: the system calls, offloads, and which errors count.

use std::{
    io::{self, IoSliceMut},
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
};

use quinn::udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};

use super::Offload;

/// Transient errors in a row after which a receiver lets other tasks run.
const ERRORS_PER_POLL: usize = 32;

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
    /// So many buffers are filled.
    Datagrams(usize),
    /// The kernel has nothing.
    Nothing,
    /// Errors that say nothing, and more than enough of them.
    Noise,
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
            Err(error) if is_transient(&error) => {
                // To QUIC, a datagram that was not sent is one that was lost.
                tracing::trace!(%error, "datagram not sent");
                Ok(())
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
        for _ in 0..ERRORS_PER_POLL {
            match self.state.recv(socket.into(), bufs, meta) {
                Ok(count) => return Ok(Received::Datagrams(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
                Err(error) if is_transient(&error) => tracing::trace!(%error, "receive error passed over"),
                Err(error) => return Err(error),
            }
        }
        Ok(Received::Noise)
    }

    /// Whether the kernel had nothing left after a look that filled `count` of so many buffers.
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

/// quinn-udp switches GRO on. Reporting single segments is not enough: the kernel would go on to join datagrams, and
/// what does not fit the smaller buffer would be cut off.
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

/// Errors that a link gets over, or that anyone on the path can cause. The endpoint must outlive them.
fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::{
        AddrNotAvailable, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, InvalidInput,
        NetworkDown, NetworkUnreachable, OutOfMemory, PermissionDenied, TimedOut,
    };
    matches!(
        error.kind(),
        AddrNotAvailable
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            // A path that rejects GSO says EINVAL or EIO, once; quinn-udp then stops using it.
            | InvalidInput
            | NetworkDown
            | NetworkUnreachable
            | OutOfMemory
            // A firewall's answer to `sendmsg`.
            | PermissionDenied
            | TimedOut
    ) || is_transient_errno(error)
}

#[cfg(target_os = "linux")]
fn is_transient_errno(error: &io::Error) -> bool {
    use nix::errno::Errno;
    error.raw_os_error().map(Errno::from_raw).is_some_and(|errno| {
        matches!(
            errno,
            Errno::EMSGSIZE
                | Errno::ENOBUFS
                | Errno::EIO
                | Errno::EPROTO
                | Errno::ENOPROTOOPT
                | Errno::EHOSTDOWN
                | Errno::ENONET
        )
    })
}

#[cfg(not(target_os = "linux"))]
fn is_transient_errno(_: &io::Error) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_socket_is_reported() {
        assert!(!is_transient(&io::Error::from(io::ErrorKind::Unsupported)));
        #[cfg(target_os = "linux")]
        {
            assert!(!is_transient(&nix::errno::Errno::EBADF.into()));
            assert!(!is_transient(&nix::errno::Errno::ENOTSOCK.into()));
            assert!(is_transient(&nix::errno::Errno::ENOBUFS.into()));
        }
    }
}
