//! What an endpoint puts between quinn and its socket, so that no error of the system ends a driver of
//! quinn's.
//!
//! quinn's drivers end with the first error, and everybody who waits for them waits for ever. But to QUIC, a
//! datagram that could not be sent is one that was lost, and a socket that cannot receive may recover: the
//! stick is plugged in again, the VPN has its key, the kernel has memory.
//!
//! An interrupted system call (EINTR) does not come this far: quinn-udp repeats it by itself.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use event_listener::Event;
use quinn::{
    AsyncTimer, AsyncUdpSocket, Runtime, UdpPoller,
    udp::{RecvMeta, Transmit},
};

use crate::{
    closure::duplicate,
    counter::Counter,
    error::{Error, Result},
    sync::{lock, wait_until},
};

/// Receive errors in a row after which a receiver pauses. An error that was only queued on the socket, as
/// ICMP causes it, is gone with the attempt that reports it, and what has arrived comes next.
const ATTEMPTS: usize = 32;
/// Before the next attempts. Short, because most of what fails for so long is memory of the kernel, which
/// comes back soon.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// So that a link which recovers is used again within a second, at 32 system calls a second.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// What is over sooner is no reason to tell anybody.
const WARN_AFTER: Duration = Duration::from_millis(100);
/// Connections with the default `idle_timeout` of 30 s outlive an interface that comes back within this; a
/// process that may not receive at all is told before its peers have given up.
const FATAL_AFTER: Duration = Duration::from_secs(10);
/// Times in a row that one sender finds a socket full which was reported writable, though nobody has sent
/// anything. A kernel that reports room has some; so this is not the usual contest between senders.
const REFUSALS: u32 = 8;
/// After how many datagrams a task that waits for datagrams looks how many there are.
const RECEIVED_AT_A_TIME: usize = 32;

/// An endpoint's socket.
#[derive(Debug)]
pub(crate) struct EndpointSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    runtime: Arc<dyn Runtime>,
    health: Arc<SocketHealth>,
    receiver: Mutex<Receiver>,
    /// The receiver's state is another than `Ordinary`.
    troubled: AtomicBool,
    /// A send was refused for want of room, and none has succeeded since.
    blocked: AtomicBool,
    /// The socket is reported writable and takes nothing: what it does not take is lost.
    stuck: AtomicBool,
    /// How often the socket went from blocked to not blocked.
    unblocked: AtomicUsize,
}

#[derive(Debug)]
struct Receiver {
    state: ReceiverState,
    next_pause: Duration,
    /// When the last pause ended, or will.
    paused_until: Option<Instant>,
}

#[derive(Debug)]
enum ReceiverState {
    Ordinary,
    /// The trial at bind took this.
    Holding(Held),
    /// Nothing was received since, and the next attempt comes after a pause.
    Failing {
        since: Instant,
        pause: Pin<Box<dyn AsyncTimer>>,
        warned: bool,
    },
    /// The endpoint was told that its socket has failed.
    Failed,
}

/// Datagrams that were received and wait to be delivered.
#[derive(Debug)]
struct Held {
    bytes: Box<[u8]>,
    meta: RecvMeta,
}

impl EndpointSocket {
    /// Tries to receive once, so that what can never work fails now. What the attempt takes is delivered by
    /// the first [`poll_recv`](AsyncUdpSocket::poll_recv).
    ///
    /// # Errors
    ///
    /// `Io` where receiving fails, and not only because of an error that was queued on the socket.
    pub(crate) fn new(
        inner: Arc<dyn AsyncUdpSocket>,
        runtime: Arc<dyn Runtime>,
        max_datagram_len: usize,
    ) -> Result<Self> {
        let held = try_receive(&*inner, max_datagram_len)?;
        let troubled = AtomicBool::new(held.is_some());
        let state = held.map_or(ReceiverState::Ordinary, ReceiverState::Holding);
        Ok(Self {
            inner,
            runtime,
            health: Arc::default(),
            receiver: Mutex::new(Receiver { state, next_pause: FIRST_PAUSE, paused_until: None }),
            troubled,
            blocked: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            unblocked: AtomicUsize::new(0),
        })
    }

    pub(crate) fn health(&self) -> &Arc<SocketHealth> {
        &self.health
    }

    #[cold]
    fn refused(&self, error: io::Error, transmit: &Transmit<'_>) -> io::Result<()> {
        if error.kind() == io::ErrorKind::WouldBlock {
            self.blocked.store(true, Ordering::Relaxed);
            if !self.stuck.load(Ordering::Relaxed) {
                return Err(error);
            }
        } else {
            self.unblock();
        }
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        self.health.not_sent(error, transmit.destination, transmit.contents.len().div_ceil(segment));
        Ok(())
    }

    /// The socket has taken a datagram, or has said something else than that it is full.
    fn unblock(&self) {
        if self.blocked.load(Ordering::Relaxed) {
            self.stuck.store(false, Ordering::Relaxed);
            self.blocked.store(false, Ordering::Relaxed);
            self.unblocked.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Receives where something is the matter, or was until now.
    #[cold]
    fn poll_recv_troubled(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut receiver = lock(&self.receiver);
        match &mut receiver.state {
            ReceiverState::Ordinary => {}
            ReceiverState::Holding(held) => {
                let count = held.deliver(bufs, meta);
                self.calm(&mut receiver);
                return Poll::Ready(Ok(count));
            }
            ReceiverState::Failing { pause, .. } => {
                if pause.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
            ReceiverState::Failed => return Poll::Pending,
        }
        let mut failure = None;
        for _ in 0..ATTEMPTS {
            match self.inner.poll_recv(cx, bufs, meta) {
                Poll::Ready(Err(error)) => failure = Some(self.health.count_receive_error(error)),
                received => {
                    if received.is_ready() {
                        receiver.next_pause = FIRST_PAUSE;
                    }
                    self.calm(&mut receiver);
                    return received;
                }
            }
        }
        if let Some(error) = failure {
            self.pause(receiver, error, cx);
        }
        Poll::Pending
    }

    fn calm(&self, receiver: &mut Receiver) {
        if let ReceiverState::Failing { warned: true, .. } = receiver.state {
            tracing::debug!("the socket receives again");
        }
        receiver.state = ReceiverState::Ordinary;
        self.troubled.store(false, Ordering::Relaxed);
    }

    /// Waits for longer each time, and in the end for ever.
    fn pause(&self, mut receiver: MutexGuard<'_, Receiver>, error: io::Error, cx: &mut Context<'_>) {
        let now = self.runtime.now();
        let Receiver { state, next_pause, paused_until } = &mut *receiver;
        self.troubled.store(true, Ordering::Relaxed);
        // A failure right after another one is the same failure.
        if paused_until.is_none_or(|until| now.saturating_duration_since(until) > LONGEST_PAUSE) {
            *next_pause = FIRST_PAUSE;
        }
        let since = if let ReceiverState::Failing { since, .. } = state { *since } else { now };
        let lasted = now.saturating_duration_since(since);
        if lasted >= FATAL_AFTER {
            *state = ReceiverState::Failed;
            // Who is told may ask the socket.
            drop(receiver);
            tracing::error!(%error, "the endpoint ends, because its socket has not received for {FATAL_AFTER:?}");
            self.health.fail(error);
            return;
        }
        let until = now + (*next_pause).min(FATAL_AFTER.saturating_sub(lasted));
        *paused_until = Some(until);
        *next_pause = next_pause.saturating_mul(2).min(LONGEST_PAUSE);
        if !matches!(state, ReceiverState::Failing { .. }) {
            *state = ReceiverState::Failing { since, pause: self.runtime.new_timer(until), warned: false };
        }
        let ReceiverState::Failing { pause, warned, .. } = state else { return };
        if lasted >= WARN_AFTER && !*warned {
            *warned = true;
            tracing::warn!(%error, "the socket does not receive; the endpoint ends if this lasts for {FATAL_AFTER:?}");
        }
        pause.as_mut().reset(until);
        if pause.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

/// Receives once; `None` where nothing has arrived.
fn try_receive(socket: &dyn AsyncUdpSocket, max_datagram_len: usize) -> Result<Option<Held>> {
    // As large as quinn's, since the kernel cuts off what does not fit.
    let mut buffer = vec![0; max_datagram_len.saturating_mul(socket.max_receive_segments())];
    let mut meta = [RecvMeta::default()];
    // Nobody has to be woken: quinn asks again.
    let mut cx = Context::from_waker(Waker::noop());
    let mut failure = None;
    for _ in 0..ATTEMPTS {
        match socket.poll_recv(&mut cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta) {
            Poll::Pending | Poll::Ready(Ok(0)) => return Ok(None),
            Poll::Ready(Ok(_)) => {
                let [meta] = meta;
                buffer.truncate(meta.len);
                return Ok(Some(Held { bytes: buffer.into_boxed_slice(), meta }));
            }
            Poll::Ready(Err(error)) => failure = Some(error),
        }
    }
    failure.map_or(Ok(None), |error| Err(Error::from(error).detail("the socket cannot receive")))
}

impl Held {
    fn deliver(&self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> usize {
        let (Some(buf), Some(meta)) = (bufs.first_mut(), meta.first_mut()) else { return 0 };
        buf.iter_mut().zip(&self.bytes).for_each(|(to, from)| *to = *from);
        *meta = RecvMeta { len: self.bytes.len().min(buf.len()), ..self.meta };
        1
    }
}

impl AsyncUdpSocket for EndpointSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let inner = Arc::clone(&self.inner).create_io_poller();
        Box::pin(WritePoller { socket: self, inner, reported: None, refusals: 0 })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.inner.try_send(transmit) {
            Ok(()) => {
                self.unblock();
                Ok(())
            }
            Err(error) => self.refused(error, transmit),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if self.troubled.load(Ordering::Relaxed) {
            return self.poll_recv_troubled(cx, bufs, meta);
        }
        match self.inner.poll_recv(cx, bufs, meta) {
            Poll::Ready(Err(error)) => {
                self.health.count_receive_error(error);
                self.poll_recv_troubled(cx, bufs, meta)
            }
            Poll::Ready(Ok(count)) => {
                self.health.count_received(meta.iter().take(count));
                Poll::Ready(Ok(count))
            }
            Poll::Pending => Poll::Pending,
        }
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

/// Lets one connection wait until the socket takes datagrams again, and notices where that is promised and
/// not kept.
struct WritePoller {
    socket: Arc<EndpointSocket>,
    inner: Pin<Box<dyn UdpPoller>>,
    /// How often the socket had been unblocked when it was last reported writable; `None` while it is not.
    reported: Option<usize>,
    /// Reports in a row after which the socket took nothing from anybody.
    refusals: u32,
}

impl UdpPoller for WritePoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, inner, reported, refusals } = &mut *self;
        let unblocked = socket.unblocked.load(Ordering::Relaxed);
        // quinn sends after each report. If the socket is blocked nevertheless, it has refused the datagram.
        if let Some(before) = reported.take() {
            let refused = socket.blocked.load(Ordering::Relaxed) && before == unblocked;
            *refusals = if refused { refusals.saturating_add(1) } else { 0 };
            if *refusals >= REFUSALS {
                socket.stuck.store(true, Ordering::Relaxed);
            }
        }
        // A socket that cannot say whether it is writable says so when something is sent.
        let polled = inner.as_mut().poll_writable(cx);
        if polled.is_ready() {
            *reported = Some(unblocked);
        }
        polled.map(|_| Ok(()))
    }
}

impl fmt::Debug for WritePoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { socket: _, inner, reported: _, refusals } = self;
        f.debug_struct("WritePoller")
            .field("inner", inner)
            .field("refusals", refusals)
            .finish_non_exhaustive()
    }
}

/// What an endpoint knows of its socket.
#[derive(Default)]
pub(crate) struct SocketHealth {
    not_sent: Counter,
    receive_errors: Counter,
    /// Datagrams received, which may wrap.
    received: AtomicUsize,
    received_some: Event,
    watches: Mutex<Watches>,
    on_failure: OnceLock<OnFailure>,
}

type OnFailure = Box<dyn Fn(io::Error) + Send + Sync>;

/// The latest send error of each destination that somebody watches.
#[derive(Debug, Default)]
struct Watches {
    errors: BTreeMap<(Destination, u64), Option<io::Error>>,
    next_id: u64,
}

/// Without what a socket for both families adds to an IPv4 address, and without scopes.
type Destination = (IpAddr, u16);

fn destination(address: SocketAddr) -> Destination {
    (address.ip().to_canonical(), address.port())
}

impl SocketHealth {
    /// Calls this when the socket has failed for good, once, while quinn holds its endpoint.
    pub(crate) fn on_failure(&self, told: impl Fn(io::Error) + Send + Sync + 'static) {
        // There is one endpoint, which asks once.
        let _ = self.on_failure.set(Box::new(told));
    }

    /// Datagrams that the system would not take.
    pub(crate) fn datagrams_not_sent(&self) -> u64 {
        self.not_sent.value()
    }

    pub(crate) fn receive_errors(&self) -> u64 {
        self.receive_errors.value()
    }

    fn count_received<'a>(&self, metas: impl Iterator<Item = &'a RecvMeta>) {
        let datagrams: usize = metas.map(|meta| meta.len.div_ceil(meta.stride.max(1))).sum();
        let before = self.received.fetch_add(datagrams, Ordering::Relaxed);
        if before / RECEIVED_AT_A_TIME != before.wrapping_add(datagrams) / RECEIVED_AT_A_TIME {
            self.received_some.notify(1);
        }
    }

    /// Resolves when at least `datagrams` were received since the count was `since`, or somewhat later, with
    /// the count of the moment. For one who waits.
    pub(crate) async fn received(&self, datagrams: usize, since: usize) -> usize {
        let count = || self.received.load(Ordering::Relaxed);
        let datagrams = datagrams.max(RECEIVED_AT_A_TIME);
        wait_until(&self.received_some, || count().wrapping_sub(since) >= datagrams).await;
        count()
    }

    /// Keeps the latest send error of this destination from now on.
    pub(crate) fn watch(self: &Arc<Self>, address: SocketAddr) -> SendWatch {
        let mut watches = lock(&self.watches);
        let id = watches.next_id;
        watches.next_id += 1;
        let key = (destination(address), id);
        watches.errors.insert(key, None);
        SendWatch { health: Arc::clone(self), key }
    }

    fn not_sent(&self, error: io::Error, address: SocketAddr, datagrams: usize) {
        tracing::trace!(%error, %address, "datagram not sent");
        self.not_sent.add_many(datagrams);
        let destination = destination(address);
        let mut watches = lock(&self.watches);
        for (_, latest) in watches.errors.range_mut((destination, 0)..=(destination, u64::MAX)) {
            *latest = Some(duplicate(&error));
        }
    }

    fn count_receive_error(&self, error: io::Error) -> io::Error {
        tracing::trace!(%error, "nothing received");
        self.receive_errors.add();
        error
    }

    fn fail(&self, error: io::Error) {
        if let Some(told) = self.on_failure.get() {
            told(error);
        }
    }
}

impl fmt::Debug for SocketHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { not_sent, receive_errors, received: _, received_some: _, watches: _, on_failure: _ } =
            self;
        f.debug_struct("SocketHealth")
            .field("not_sent", not_sent)
            .field("receive_errors", receive_errors)
            .finish_non_exhaustive()
    }
}

/// Keeps the latest send error of one destination, until it is dropped.
#[derive(Debug)]
pub(crate) struct SendWatch {
    health: Arc<SocketHealth>,
    key: (Destination, u64),
}

impl SendWatch {
    /// The latest error, for the first who asks.
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        lock(&self.health.watches).errors.get_mut(&self.key)?.take()
    }
}

impl Drop for SendWatch {
    fn drop(&mut self) {
        lock(&self.health.watches).errors.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, net::UdpSocket};

    use futures_lite::future::{block_on, or, poll_once};

    use super::*;
    use crate::runtime::AsyncIoRuntime;

    fn loopback() -> UdpSocket {
        UdpSocket::bind(("127.0.0.1", 0)).unwrap()
    }

    fn wrap(runtime: Arc<dyn Runtime>, socket: UdpSocket) -> EndpointSocket {
        let inner = runtime.wrap_udp_socket(socket).unwrap();
        EndpointSocket::new(inner, runtime, 1472).unwrap()
    }

    /// The next datagrams, each by itself.
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
    fn what_a_socket_holds_when_it_is_bound_is_received_once_and_in_order() {
        let with_gro = AsyncIoRuntime::global();
        for runtime in [with_gro.clone(), with_gro.without_gro()] {
            for count in [0, 1, 2, 7] {
                let (socket, sender) = (loopback(), loopback());
                let address = socket.local_addr().unwrap();
                let sent: Vec<Vec<u8>> = (0..count).map(|n| vec![n; 100 + usize::from(n)]).collect();
                sent.iter()
                    .for_each(|bytes| assert_eq!(sender.send_to(bytes, address).unwrap(), bytes.len()));
                let socket = wrap(Arc::new(runtime.clone()), socket);
                // And one that comes later.
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
    fn a_train_that_a_socket_holds_when_it_is_bound_is_received_whole() {
        let runtime: Arc<dyn Runtime> = Arc::new(AsyncIoRuntime::global());
        // The socket joins datagrams from the moment that the runtime has it.
        let inner = runtime.wrap_udp_socket(loopback()).unwrap();
        let sender = runtime.wrap_udp_socket(loopback()).unwrap();
        let contents: Vec<u8> = (0..20).flat_map(|n| [n; 1400]).collect();
        let destination = inner.local_addr().unwrap();
        let transmit =
            Transmit { destination, ecn: None, contents: &contents, segment_size: Some(1400), src_ip: None };
        sender.try_send(&transmit).unwrap();
        let socket = EndpointSocket::new(inner, runtime, 1472).unwrap();
        let mut received = Vec::new();
        while received.len() < 20 {
            received.append(&mut block_on(receive(&socket)));
        }
        assert_eq!(received.concat(), contents);
    }

    #[test]
    fn a_port_that_answers_unreachable_does_not_keep_others_from_being_heard() {
        let socket = loopback();
        // A connected socket hears of ICMP port unreachable; the port is free because its socket is closed at
        // once.
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
        // The socket is connected to the port, and hears what comes from there.
        UdpSocket::bind(nobody).unwrap().send_to(b"here", address).unwrap();
        assert_eq!(block_on(receiving), [b"here".to_vec()]);
    }
}
