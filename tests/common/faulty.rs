//! A socket that fails when a test says so.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use palyra_quic::quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

/// Around a socket that is well.
#[derive(Debug)]
pub(crate) struct Faulty {
    inner: Arc<dyn AsyncUdpSocket>,
    faults: Arc<Faults>,
}

/// What goes wrong, and how often it was tried.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) send: Fault,
    pub(crate) receive: Fault,
    /// Of asking whether the socket is writable.
    pub(crate) writable: Fault,
}

#[derive(Debug, Default)]
pub(crate) struct Fault {
    /// The error of the system, and how often it is yet to come.
    next: Mutex<Option<(i32, usize)>>,
    /// Spares the lock.
    armed: AtomicBool,
    count: AtomicUsize,
}

impl Faulty {
    pub(crate) fn around(inner: Arc<dyn AsyncUdpSocket>) -> (Arc<Self>, Arc<Faults>) {
        let faults = Arc::<Faults>::default();
        (Arc::new(Self { inner, faults: Arc::clone(&faults) }), faults)
    }
}

impl Fault {
    pub(crate) fn times(&self, errno: i32, times: usize) {
        *self.next.lock().unwrap() = Some((errno, times));
        self.armed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn forever(&self, errno: i32) {
        self.times(errno, usize::MAX);
    }

    pub(crate) fn heal(&self) {
        *self.next.lock().unwrap() = None;
        self.armed.store(false, Ordering::SeqCst);
    }

    /// How many attempts there were, whatever came of them.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    fn attempt(&self) -> io::Result<()> {
        self.count.fetch_add(1, Ordering::SeqCst);
        if self.armed.load(Ordering::SeqCst)
            && let Some((errno, times)) = &mut *self.next.lock().unwrap()
            && *times > 0
        {
            *times -= 1;
            return Err(io::Error::from_raw_os_error(*errno));
        }
        Ok(())
    }
}

impl AsyncUdpSocket for Faulty {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let inner = Arc::clone(&self.inner).create_io_poller();
        Box::pin(FaultyPoller { inner, faults: Arc::clone(&self.faults) })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.faults.send.attempt()?;
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.faults.receive.attempt()?;
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[derive(Debug)]
struct FaultyPoller {
    inner: Pin<Box<dyn UdpPoller>>,
    faults: Arc<Faults>,
}

impl UdpPoller for FaultyPoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.faults.writable.attempt()?;
        self.inner.as_mut().poll_writable(cx)
    }
}
