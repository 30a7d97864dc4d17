//! A UDP socket that asks async-io's reactor only when the kernel has said "would block".

use std::{
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
};

use async_io::{Async, Timer, WritableOwned};
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

use crate::{
    runtime::socket_core::{FalseReports, Offload, SocketCore},
    sync::lock,
};

#[derive(Debug)]
pub(super) struct Socket {
    io: Arc<Async<UdpSocket>>,
    core: SocketCore,
    readiness: Arc<Readiness>,
    /// Wakes the receiver through `readiness`.
    readiness_waker: Waker,
    false_reports: FalseReports,
    /// Whether `pause` is `Some`.
    paused: AtomicBool,
    /// The receiver leaves the socket alone until this fires.
    pause: Mutex<Option<Timer>>,
}

/// Wakes the receiver for the reactor, and remembers that the reactor has reported the socket readable.
///
/// The result of `Async::poll_readable` does not tell: while the socket stays readable, the reactor may
/// wake the receiver after each poll, and each poll may still return `Pending`.
#[derive(Debug, Default)]
struct Readiness {
    reported: AtomicBool,
    receiver: Mutex<Option<Waker>>,
}

impl Wake for Readiness {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.reported.store(true, Ordering::Release);
        let receiver = lock(&self.receiver).take();
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }
}

impl Readiness {
    /// Whether the reactor has reported the socket as readable since the last call.
    fn take(&self) -> bool {
        self.reported.load(Ordering::Relaxed) && self.reported.swap(false, Ordering::Acquire)
    }

    fn set_receiver(&self, cx: &Context<'_>) {
        let mut receiver = lock(&self.receiver);
        if !receiver.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *receiver = Some(cx.waker().clone());
        }
    }
}

impl Socket {
    pub(super) fn new(socket: UdpSocket, offload: Offload) -> io::Result<Self> {
        let core = SocketCore::new(&socket, offload)?;
        if !REACTOR_STARTED.load(Ordering::Relaxed) {
            let spare =
                (0..REACTOR_DESCRIPTORS).map(|_| socket.try_clone()).collect::<io::Result<Vec<_>>>()?;
            drop(spare);
        }
        let io = or_error("async-io's reactor", || Async::new_nonblocking(socket))??;
        REACTOR_STARTED.store(true, Ordering::Relaxed);
        let readiness = Arc::<Readiness>::default();
        Ok(Self {
            io: Arc::new(io),
            core,
            readiness_waker: Arc::clone(&readiness).into(),
            readiness,
            false_reports: FalseReports::default(),
            paused: AtomicBool::new(false),
            pause: Mutex::new(None),
        })
    }

    /// Ready when no pause is left.
    fn poll_pause(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.paused.load(Ordering::Relaxed) {
            let mut pause = lock(&self.pause);
            if let Some(timer) = &mut *pause {
                ready!(Pin::new(timer).poll(cx));
            }
            *pause = None;
            self.paused.store(false, Ordering::Relaxed);
        }
        Poll::Ready(())
    }

    /// Ready when something may have arrived since the last receive.
    fn poll_readable(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.readiness.set_receiver(cx);
        let cx = &mut Context::from_waker(&self.readiness_waker);
        // The first `Ready` may be of an event from before the last receive; polling again registers with
        // the kernel, which reports whatever has arrived since.
        ready!(self.io.poll_readable(cx))?;
        self.io.poll_readable(cx)
    }

    /// Records that the reactor has reported the socket readable when the kernel had nothing. Returns
    /// whether a pause begins.
    fn pause_after_false_report(&self) -> bool {
        let Some(pause) = self.false_reports.record() else { return false };
        *lock(&self.pause) = Some(Timer::after(pause));
        self.paused.store(true, Ordering::Relaxed);
        true
    }
}

/// The descriptors that async-io's reactor opens when it is first used: epoll, a timerfd, and an eventfd or
/// the two ends of a pipe.
///
/// The reactor panics if it cannot open them, also on its own thread, which then never runs again. So the
/// first socket checks that this many descriptors are available. A reactor that already runs, because other
/// code uses it, cannot be told from one that does not.
const REACTOR_DESCRIPTORS: usize = 4;
static REACTOR_STARTED: AtomicBool = AtomicBool::new(false);

/// Runs `start`, which starts threads and panics if it cannot.
pub(super) fn or_error<T>(what: &str, start: impl FnOnce() -> T) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(start)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
        io::Error::other(format!("{what} cannot be started: {text}"))
    })
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
            ready!(self.poll_pause(cx));
            let reported = self.readiness.take();
            match self.core.try_recv(&*self.io, bufs, meta)? {
                Some(count) => {
                    self.false_reports.reset();
                    return Poll::Ready(Ok(count));
                }
                None if reported && self.pause_after_false_report() => {}
                None => ready!(self.poll_readable(cx))?,
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
    use std::{
        future::poll_fn,
        time::{Duration, Instant},
    };

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

    /// How long a task takes to be polled this often, of which a busy machine can only make more.
    fn time_of_polls(count: usize, mut poll: impl FnMut(&mut Context<'_>)) -> Duration {
        let (begun, mut polls) = (Instant::now(), 0);
        let counted = poll_fn(|cx| {
            polls += 1;
            poll(cx);
            if polls < count { Poll::Pending } else { Poll::Ready(()) }
        });
        let hung = async {
            Timer::after(Duration::from_secs(20)).await;
            panic!("the socket was not reported readable");
        };
        block_on(futures_lite::future::or(counted, hung));
        begun.elapsed()
    }

    #[test]
    fn a_socket_that_stays_readable_and_has_nothing_is_left_alone_now_and_then() {
        let receiver = socket(true);
        // Errors of ICMP are kept in a queue, which keeps the socket readable while nobody empties it.
        nix::sys::socket::setsockopt(receiver.io.get_ref(), nix::sys::socket::sockopt::Ipv4RecvErr, &true)
            .unwrap();
        let nobody = UdpSocket::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        let transmit =
            Transmit { destination: nobody, ecn: None, contents: b"?", segment_size: None, src_ip: None };
        receiver.try_send(&transmit).unwrap();
        let receive_all = |cx: &mut Context<'_>| {
            let mut meta = [RecvMeta::default()];
            while receiver.poll_recv(cx, &mut [IoSliceMut::new(&mut [0; 64])], &mut meta).is_ready() {}
        };
        let took = time_of_polls(100, receive_all);
        assert!(took > Duration::from_millis(30), "100 polls in {took:?}");

        // It is left alone, and not forgotten.
        datagram(b"still there?", None, &receiver).unwrap();
        assert_eq!(receive(&receiver, &mut [0; 64]).len, 12);
    }

    #[test]
    fn a_start_that_panics_is_an_error_with_its_reason() {
        assert_eq!(or_error("it", || 7).unwrap(), 7);
        let spawned = || io::Result::<()>::Err(io::ErrorKind::OutOfMemory.into());
        for (reason, expected) in [
            (or_error("it", || spawned().expect("no thread")), "no thread"),
            (or_error("it", || panic!("no {}", "descriptor")), "no descriptor"),
            (or_error("it", || panic!("nothing")), "nothing"),
        ] {
            let text = reason.unwrap_err().to_string();
            assert!(text.starts_with("it cannot be started: ") && text.contains(expected), "{text}");
        }
    }

    #[test]
    fn a_socket_counts_as_writable_until_a_send_would_block() {
        let socket = Arc::new(socket(true));
        let mut poller = Arc::clone(&socket).create_io_poller();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(poller.as_mut().poll_writable(&mut cx).is_ready());
        socket.core.block_send();
        block_on(poll_fn(|cx| poller.as_mut().poll_writable(cx))).unwrap();
        assert!(!socket.core.is_send_blocked());
    }
}
