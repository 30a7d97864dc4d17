//! A UDP socket of the runtime, as quinn knows it.

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

use super::{shared::Shared, source::IoSource, timer::Timer};
use crate::{runtime::socket_core::Offload, sync::lock};

#[derive(Debug)]
pub(super) struct Socket {
    source: Arc<IoSource>,
    shared: Arc<Shared>,
}

impl Socket {
    pub(super) fn new(shared: Arc<Shared>, io: UdpSocket, offload: Offload) -> io::Result<Self> {
        let source = Arc::new(IoSource::new(io, offload)?);
        let mut sources = lock(&shared.sources);
        sources.retain(|source| source.strong_count() > 0);
        sources.push(Arc::downgrade(&source));
        drop(sources);
        Ok(Self { source, shared })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The thread may hold the socket while it waits, and must let go of it.
        self.shared.bell.ring();
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(WritePoller(self))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.source.core.try_send((&self.source.io).into(), transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let polled = self.source.poll_recv(cx, bufs, meta, |pause| {
            Box::pin(Timer::new(Arc::clone(&self.shared), Instant::now() + pause))
        });
        if polled.is_pending() {
            // The thread must wait for this socket, too.
            self.shared.bell.ring();
        }
        polled
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.source.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.source.core.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.source.core.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.source.core.may_fragment()
    }
}

/// Lets one task wait until the socket takes datagrams again.
struct WritePoller(Arc<Socket>);

impl UdpPoller for WritePoller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Socket { source, shared } = &*self.0;
        shared.driver_mark.set();
        let polled = source.poll_writable(cx);
        if polled.is_pending() {
            shared.bell.ring();
        }
        polled.map(Ok)
    }
}

impl fmt::Debug for WritePoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WritePoller").finish_non_exhaustive()
    }
}
