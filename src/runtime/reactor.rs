//! A UDP socket that asks async-io's reactor only when the kernel has said "would block".

use std::{
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use async_io::{Async, WritableOwned};
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

use super::{
    Offload,
    socket::{Core, Received},
};

#[derive(Debug)]
pub(super) struct Socket {
    io: Arc<Async<UdpSocket>>,
    core: Core,
}

impl Socket {
    pub(super) fn new(socket: UdpSocket, offload: Offload) -> io::Result<Self> {
        let core = Core::new(&socket, offload)?;
        Ok(Self { io: Arc::new(Async::new_nonblocking(socket)?), core })
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(WritePoller { socket: self, writable: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.core.try_send((&*self.io).into(), transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.core.try_recv(&*self.io, bufs, meta)? {
                Received::Datagrams(count) => return Poll::Ready(Ok(count)),
                Received::Nothing => {
                    // The first `Ready` may speak of an event from before the attempt above; asking again registers
                    // with the kernel, which reports whatever has arrived since.
                    ready!(self.io.poll_readable(cx))?;
                    ready!(self.io.poll_readable(cx))?;
                }
                Received::Noise => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get_ref().local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.core.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.core.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.core.may_fragment()
    }
}

/// Lets one task wait until the socket takes datagrams again.
struct WritePoller {
    socket: Arc<Socket>,
    writable: Option<Pin<Box<WritableOwned<UdpSocket>>>>,
}

impl UdpPoller for WritePoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, writable } = &mut *self;
        if !socket.core.is_send_blocked() {
            *writable = None;
            return Poll::Ready(Ok(()));
        }
        let waiting = writable.get_or_insert_with(|| Box::pin(Arc::clone(&socket.io).writable_owned()));
        let result = ready!(waiting.as_mut().poll(cx));
        *writable = None;
        socket.core.unblock_send();
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
    fn a_socket_counts_as_writable_until_a_send_would_block() {
        let socket = Arc::new(socket(true));
        let mut poller = Arc::clone(&socket).create_io_poller();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(poller.as_mut().poll_writable(&mut cx).is_ready());
        socket.core.block_send();
        block_on(poll_fn(|cx| poller.as_mut().poll_writable(cx))).unwrap();
        assert!(!socket.core.is_send_blocked());
    }
}
