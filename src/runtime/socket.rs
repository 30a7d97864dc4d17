//! A UDP socket that asks the reactor only when the kernel has said "would block".

use std::{
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use async_io::{Async, WritableOwned};
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};

use super::Offload;

/// Transient errors in a row after which a receiver lets other tasks run.
const ERRORS_PER_POLL: usize = 32;

#[derive(Debug)]
pub(super) struct Socket {
    io: Arc<Async<UdpSocket>>,
    state: UdpSocketState,
    offload: Offload,
    /// The last send would have blocked, and no poller has seen the socket writable since.
    send_blocked: AtomicBool,
}

impl Socket {
    pub(super) fn new(socket: UdpSocket, offload: Offload) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        if !offload.gro {
            disable_gro(&socket)?;
        }
        let io = Arc::new(Async::new_nonblocking(socket)?);
        Ok(Self { io, state, offload, send_blocked: AtomicBool::new(false) })
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

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(WritePoller { socket: self, writable: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.state.try_send((&*self.io).into(), transmit) {
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

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut errors = 0;
        loop {
            match self.state.recv((&*self.io).into(), bufs, meta) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The first `Ready` may speak of an event from before the attempt above; asking again registers
                    // with the kernel, which reports whatever has arrived since.
                    ready!(self.io.poll_readable(cx))?;
                    ready!(self.io.poll_readable(cx))?;
                }
                Err(error) if is_transient(&error) => {
                    tracing::trace!(%error, "receive error passed over");
                    errors += 1;
                    if errors == ERRORS_PER_POLL {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
                result => return Poll::Ready(result),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get_ref().local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        if self.offload.gso { self.state.max_gso_segments() } else { 1 }
    }

    fn max_receive_segments(&self) -> usize {
        if self.offload.gro { self.state.gro_segments() } else { 1 }
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
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

/// Lets one task wait until the socket takes datagrams again.
struct WritePoller {
    socket: Arc<Socket>,
    writable: Option<Pin<Box<WritableOwned<UdpSocket>>>>,
}

impl UdpPoller for WritePoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, writable } = &mut *self;
        if !socket.send_blocked.load(Ordering::Relaxed) {
            *writable = None;
            return Poll::Ready(Ok(()));
        }
        let waiting = writable.get_or_insert_with(|| Box::pin(Arc::clone(&socket.io).writable_owned()));
        let result = ready!(waiting.as_mut().poll(cx));
        *writable = None;
        socket.send_blocked.store(false, Ordering::Relaxed);
        Poll::Ready(result)
    }
}

impl fmt::Debug for WritePoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WritePoller").field("waiting", &self.writable.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use futures_lite::future::block_on;

    use super::*;

    fn socket(gro: bool) -> Socket {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        Socket::new(socket, Offload { gso: true, gro }).unwrap()
    }

    fn datagram(contents: &[u8], segment_size: Option<usize>, to: &Socket) -> io::Result<SocketAddr> {
        let sender = socket(true);
        let destination = to.local_addr()?;
        sender.try_send(&Transmit { destination, ecn: None, contents, segment_size, src_ip: None })?;
        sender.local_addr()
    }

    fn receive(socket: &Socket, buffer: &mut [u8]) -> RecvMeta {
        let mut meta = [RecvMeta::default()];
        let received =
            block_on(poll_fn(|cx| socket.poll_recv(cx, &mut [IoSliceMut::new(buffer)], &mut meta)));
        assert_eq!(received.unwrap(), 1);
        meta[0]
    }

    #[test]
    fn without_gro_every_datagram_of_a_train_arrives_whole() {
        let receiver = socket(false);
        assert_eq!(receiver.max_receive_segments(), 1);
        datagram(&[7; 3000], Some(1000), &receiver).unwrap();
        let mut buffer = [0; 1472];
        for _ in 0..3 {
            assert_eq!(receive(&receiver, &mut buffer).len, 1000);
        }
    }

    #[test]
    fn with_gro_a_train_comes_in_one_buffer() {
        let receiver = socket(true);
        if receiver.max_receive_segments() == 1 {
            return; // This kernel has no GRO.
        }
        datagram(&[7; 3000], Some(1000), &receiver).unwrap();
        let mut buffer = vec![0; 65536];
        let meta = receive(&receiver, &mut buffer);
        assert_eq!((meta.len, meta.stride), (3000, 1000));
    }

    #[test]
    fn a_port_that_answers_unreachable_does_not_end_the_receiver() {
        let receiver = socket(true);
        // A connected socket hears of ICMP port unreachable; the port is free because its socket is closed at once.
        let nobody = UdpSocket::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        receiver.io.get_ref().connect(nobody).unwrap();
        for _ in 0..3 {
            let contents = b"anyone there?";
            let transmit =
                Transmit { destination: nobody, ecn: None, contents, segment_size: None, src_ip: None };
            receiver.try_send(&transmit).unwrap();
        }
        let waiting = poll_fn(|cx| {
            receiver.poll_recv(cx, &mut [IoSliceMut::new(&mut [0; 64])], &mut [RecvMeta::default()])
        });
        let timeout = async {
            async_io::Timer::after(Duration::from_millis(20)).await;
            Ok(0)
        };
        assert_eq!(block_on(futures_lite::future::or(waiting, timeout)).unwrap(), 0);
    }

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

    #[test]
    fn a_socket_counts_as_writable_until_a_send_would_block() {
        let socket = Arc::new(socket(true));
        let mut poller = Arc::clone(&socket).create_io_poller();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(poller.as_mut().poll_writable(&mut cx).is_ready());
        socket.send_blocked.store(true, Ordering::Relaxed);
        block_on(poll_fn(|cx| poller.as_mut().poll_writable(cx))).unwrap();
        assert!(!socket.send_blocked.load(Ordering::Relaxed));
    }
}
