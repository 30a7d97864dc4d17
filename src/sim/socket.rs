//! A simulated host's UDP socket.

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

use super::{
    agenda::ScheduledEvent,
    network::{Binding, Datagram},
    world::World,
};

pub(super) struct SimSocket {
    world: Arc<World>,
    binding: Binding,
}

impl SimSocket {
    pub(super) fn bind(world: &Arc<World>, ip: IpAddr, port: u16) -> io::Result<Self> {
        let binding = world.network().bind(ip, port)?;
        Ok(Self { world: Arc::clone(world), binding })
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        let waker = self.world.network().release(self.binding);
        drop(waker);
    }
}

impl AsyncUdpSocket for SimSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let now = self.world.now();
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for contents in transmit.contents.chunks(segment) {
            let datagram = Datagram {
                from: self.binding.address,
                to: transmit.destination,
                contents: contents.to_vec(),
                ecn: transmit.ecn,
            };
            let arrivals = self.world.network().send(self.binding, datagram, now);
            let mut agenda = self.world.agenda();
            for (at, datagram) in arrivals {
                agenda.add(at, ScheduledEvent::Arrival(datagram));
            }
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut network = self.world.network();
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            match network.poll_recv(self.binding, cx) {
                Poll::Ready(Ok(Datagram { from, to, contents, ecn })) => {
                    // As the system does, what does not fit is cut off.
                    let len = contents.len().min(buf.len());
                    buf[..len].copy_from_slice(&contents[..len]);
                    *meta = RecvMeta { addr: from, len, stride: len, ecn, dst_ip: Some(to.ip()) };
                    count += 1;
                }
                Poll::Ready(Err(error)) if count == 0 => return Poll::Ready(Err(error)),
                Poll::Pending if count == 0 => return Poll::Pending,
                Poll::Ready(Err(_)) | Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.binding.address)
    }

    /// Links have an MTU, and so can be measured.
    fn may_fragment(&self) -> bool {
        false
    }
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { world: _, binding } = self;
        f.debug_struct("SimSocket").field("address", &binding.address).finish_non_exhaustive()
    }
}

/// What cannot be sent is lost, as on the worst of links, and nothing ever waits.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
