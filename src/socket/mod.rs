//! The socket that an endpoint puts between quinn and the runtime's socket, so that no error of the system
//! ends a driver of quinn's.
//!
//! quinn's drivers end with the first error, and tasks that wait for them then wait for ever. But to QUIC,
//! a datagram that could not be sent is one that was lost, and a socket that cannot receive may recover:
//! the USB modem is plugged in again, the VPN has its key, the kernel has memory.
//!
//! An interrupted system call (EINTR) does not come this far, since quinn-udp repeats it.

mod health;
mod interface;
mod receive;
mod receive_buffer;
mod send;
mod size;

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use quinn::{
    AsyncUdpSocket, Runtime, UdpPoller,
    udp::{RecvMeta, Transmit},
};

pub(crate) use self::{
    health::SocketHealth,
    interface::largest_of_interface,
    receive_buffer::enlarge_receive_buffer,
    size::{
        DEFAULT_DATAGRAM_BYTES, DatagramSize, LARGEST_DATAGRAM_BYTES, SMALLEST_DATAGRAM_BYTES,
        largest_of_socket,
    },
};
use self::{
    receive::Receiver,
    send::{SendState, WritePoller},
};
use crate::error::Result;

/// An endpoint's socket.
pub(crate) struct EndpointSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    health: Arc<SocketHealth>,
    receiver: Receiver,
    send_state: Arc<SendState>,
    size: DatagramSize,
}

// For quinn, and short for the size of programs.
impl fmt::Debug for EndpointSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointSocket").finish_non_exhaustive()
    }
}

impl EndpointSocket {
    /// Tries to receive once, so that a socket that can never receive fails now. What this attempt receives
    /// is returned by the first [`poll_recv`](AsyncUdpSocket::poll_recv).
    ///
    /// # Errors
    ///
    /// `Io` if receiving fails, and not only because of an error that was queued on the socket.
    pub(crate) fn new(
        inner: Arc<dyn AsyncUdpSocket>,
        runtime: Arc<dyn Runtime>,
        size: DatagramSize,
    ) -> Result<Self> {
        let receiver = Receiver::new(&*inner, runtime, size)?;
        Ok(Self { inner, health: Arc::default(), receiver, send_state: Arc::default(), size })
    }

    pub(crate) fn health(&self) -> &Arc<SocketHealth> {
        &self.health
    }

    /// Handles a send error: a datagram that cannot be sent counts as lost, unless the socket is only full.
    #[cold]
    fn send_failed(&self, error: io::Error, transmit: &Transmit<'_>) -> io::Result<()> {
        if error.kind() == io::ErrorKind::WouldBlock {
            if self.send_state.block() {
                return Err(error);
            }
        } else {
            self.send_state.unblock();
        }
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        let datagrams = transmit.contents.len().div_ceil(segment);
        self.health.record_not_sent(&error, transmit.destination, datagrams);
        Ok(())
    }

    fn poll_recv_interrupted(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.receiver.poll_recv_interrupted((&*self.inner, &self.health), cx, bufs, meta)
    }
}

impl AsyncUdpSocket for EndpointSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let inner = Arc::clone(&self.inner).create_io_poller();
        Box::pin(WritePoller::new(Arc::clone(&self.send_state), inner))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.inner.try_send(transmit) {
            Ok(()) => {
                self.send_state.unblock();
                Ok(())
            }
            Err(error) => self.send_failed(error, transmit),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if self.receiver.is_interrupted() {
            return self.poll_recv_interrupted(cx, bufs, meta);
        }
        match self.inner.poll_recv(cx, bufs, meta) {
            Poll::Ready(Err(error)) => {
                self.health.record_receive_error(&error);
                self.poll_recv_interrupted(cx, bufs, meta)
            }
            Poll::Ready(Ok(count)) => {
                self.health.record_received(meta.iter().take(count));
                Poll::Ready(Ok(count))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.size.transmit_segments(self.inner.max_transmit_segments())
    }

    fn max_receive_segments(&self) -> usize {
        self.size.receive_segments(self.inner.max_receive_segments())
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, net::UdpSocket, time::Duration};

    use futures_lite::future::{block_on, or, poll_once};

    use super::*;
    use crate::runtime::AsyncIoRuntime;

    fn loopback() -> UdpSocket {
        UdpSocket::bind(("127.0.0.1", 0)).unwrap()
    }

    fn wrap(runtime: Arc<dyn Runtime>, socket: UdpSocket) -> EndpointSocket {
        let inner = runtime.wrap_udp_socket(socket).unwrap();
        EndpointSocket::new(inner, runtime, DatagramSize::new(1452)).unwrap()
    }

    /// The next datagrams, split by their stride.
    async fn receive(socket: &EndpointSocket) -> Vec<Vec<u8>> {
        let mut buffers = [vec![0; 65536], vec![0; 65536]];
        let mut meta = [RecvMeta::default(); 2];
        let count = poll_fn(|cx| {
            let mut slices = buffers.each_mut().map(|buffer| IoSliceMut::new(buffer));
            socket.poll_recv(cx, &mut slices, &mut meta)
        });
        let hung = async {
            async_io::Timer::after(Duration::from_secs(10)).await;
            panic!("nothing was received");
        };
        let count = or(count, hung).await.unwrap();
        let received = buffers.iter().zip(&meta).take(count);
        received.flat_map(|(bytes, meta)| bytes[..meta.len].chunks(meta.stride).map(<[u8]>::to_vec)).collect()
    }

    #[test]
    fn datagrams_that_arrived_before_bind_are_received_once_and_in_order() {
        let with_gro = AsyncIoRuntime::global();
        for runtime in [with_gro.clone(), with_gro.without_gro()] {
            for count in [0, 1, 2, 7] {
                let (socket, sender) = (loopback(), loopback());
                let address = socket.local_addr().unwrap();
                let sent: Vec<Vec<u8>> = (0..count).map(|n| vec![n; 100 + usize::from(n)]).collect();
                sent.iter()
                    .for_each(|bytes| assert_eq!(sender.send_to(bytes, address).unwrap(), bytes.len()));
                let socket = wrap(Arc::new(runtime.clone()), socket);
                // One more arrives later.
                sender.send_to(b"later", address).unwrap();
                let received = block_on(async {
                    let mut received = Vec::new();
                    while received.len() < sent.len() + 1 {
                        received.append(&mut receive(&socket).await);
                    }
                    assert!(poll_once(receive(&socket)).await.is_none());
                    received
                });
                assert_eq!(received.split_last().unwrap(), (&b"later".to_vec(), &*sent));
            }
        }
    }

    #[test]
    fn a_gso_batch_that_arrived_before_bind_is_received_whole() {
        let runtime: Arc<dyn Runtime> = Arc::new(AsyncIoRuntime::global());
        // The socket joins datagrams from the moment that the runtime has it.
        let inner = runtime.wrap_udp_socket(loopback()).unwrap();
        let sender = runtime.wrap_udp_socket(loopback()).unwrap();
        let contents: Vec<u8> = (0..20).flat_map(|n| [n; 1400]).collect();
        let destination = inner.local_addr().unwrap();
        let transmit =
            Transmit { destination, ecn: None, contents: &contents, segment_size: Some(1400), src_ip: None };
        sender.try_send(&transmit).unwrap();
        let socket = EndpointSocket::new(inner, runtime, DatagramSize::new(1452)).unwrap();
        let mut received = Vec::new();
        while received.len() < 20 {
            received.append(&mut block_on(receive(&socket)));
        }
        assert_eq!(received.concat(), contents);
    }

    #[test]
    fn a_port_that_is_unreachable_does_not_stop_the_socket_from_receiving() {
        let socket = loopback();
        // A connected socket receives ICMP "port unreachable". The port is free, since its socket is closed
        // right away.
        let nobody = loopback().local_addr().unwrap();
        socket.connect(nobody).unwrap();
        let address = socket.local_addr().unwrap();
        let socket = wrap(Arc::new(AsyncIoRuntime::global()), socket);
        for _ in 0..3 {
            let contents = b"anyone there?";
            let transmit =
                Transmit { destination: nobody, ecn: None, contents, segment_size: None, src_ip: None };
            socket.try_send(&transmit).unwrap();
        }
        let mut receiving = Box::pin(receive(&socket));
        assert!(block_on(poll_once(&mut receiving)).is_none());
        assert!(socket.health().receive_errors() > 0, "the system reported nothing");
        // The socket is connected to the port, and receives what comes from there.
        UdpSocket::bind(nobody).unwrap().send_to(b"here", address).unwrap();
        assert_eq!(block_on(receiving), [b"here".to_vec()]);
    }
}
