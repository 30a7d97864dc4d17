//! Where the items of an exchange come from: what the exchange and the handler's `Items` share.
//!
//! The handler reads, by [`ItemSource::read`], while it waits for an item. At other times the exchange reads
//! a little ahead, to find out whether the caller has reset its stream. Both usually run in one task, one
//! after the other, but a handler may give its `Items` to another task; then each wakes the other when it has
//! something to do.

use std::{
    future::{Future, poll_fn},
    mem,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;

use crate::{
    code::Code,
    error::{Error, ErrorKind},
    link::Link,
    message::Item,
    stream::{FrameReader, Progress, fault_code},
    sync::{AsyncMutex, Mutex, lock},
};

/// The items of one exchange.
pub(crate) struct ItemSource {
    link: Arc<Link>,
    /// `None` if no items come, or no more.
    reader: AsyncMutex<Option<FrameReader>>,
    state: Mutex<State>,
}

struct State {
    /// How many items the handler has been given.
    handed: u64,
    /// When something was last received or answered.
    active: Instant,
    /// Why the exchange has to end before the handler does.
    fault: Option<ItemFault>,
    /// No more items are wanted, for this reason.
    closed: Option<Code>,
    /// Of the task of the exchange, and of the task that reads.
    exchange: Option<Waker>,
    reading: Option<Waker>,
    /// The exchange has found the reader locked, and does not watch the stream.
    is_unwatched: bool,
}

/// Why an exchange ends before its handler does.
pub(crate) enum ItemFault {
    /// The caller has reset its stream.
    Reset,
    /// What came is no item.
    Unreadable(Error),
    /// Items come faster than the peer's rate allows.
    TooFast,
    /// Nothing was received and nothing answered for too long.
    Idle,
}

impl ItemFault {
    /// What the caller is told about the rest of its items; `None` if it gets an answer that says why.
    fn code(&self) -> Option<Code> {
        match self {
            Self::Reset => Some(Code::CANCELLED),
            Self::Unreadable(error) => Some(fault_code(error)),
            Self::TooFast => Some(Code::RATE_LIMITED),
            Self::Idle => None,
        }
    }
}

/// What a handler that waits for an item gets in the end.
pub(super) enum NextItem {
    Item(Bytes),
    End,
    /// The exchange ends, or has ended.
    Closed,
}

impl ItemSource {
    /// Items from this stream; none without one.
    pub(crate) fn new(link: &Arc<Link>, reader: Option<FrameReader>) -> Arc<Self> {
        let active = link.clock().now();
        Arc::new(Self {
            link: Arc::clone(link),
            reader: AsyncMutex::new(reader),
            state: Mutex::new(State {
                handed: 0,
                active,
                fault: None,
                closed: None,
                exchange: None,
                reading: None,
                is_unwatched: false,
            }),
        })
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// How many items the handler has been given.
    pub(crate) fn handed(&self) -> u64 {
        lock(&self.state).handed
    }

    pub(super) fn note_handed(&self, now: Instant) {
        let mut state = lock(&self.state);
        state.handed += 1;
        state.active = now;
    }

    /// Something was received or answered.
    pub(super) fn note_activity(&self) {
        let now = self.link.clock().now();
        lock(&self.state).active = now;
    }

    /// When something was last received or answered.
    pub(crate) fn last_active(&self) -> Instant {
        lock(&self.state).active
    }

    /// Ends the exchange, unless it has a reason already.
    pub(crate) fn fail(&self, fault: ItemFault) {
        let exchange = {
            let mut state = lock(&self.state);
            if let Some(code) = fault.code() {
                state.closed.get_or_insert(code);
            }
            state.fault.get_or_insert(fault);
            state.exchange.take()
        };
        wake(exchange);
    }

    pub(crate) fn take_fault(&self) -> Option<ItemFault> {
        lock(&self.state).fault.take()
    }

    /// Resolves when there is a fault. To be polled behind the handler, by the task of the exchange.
    pub(crate) fn poll_fault(&self, cx: &mut Context<'_>) -> Poll<()> {
        {
            let mut state = lock(&self.state);
            if state.fault.is_some() {
                return Poll::Ready(());
            }
            remember(&mut state.exchange, cx);
        }
        // Where it is locked, the handler reads, and finds out itself, or wakes this when it is done.
        let reader = self.reader.try_lock().or_else(|| {
            lock(&self.state).is_unwatched = true;
            // The handler may have been done before it could see that.
            self.reader.try_lock()
        });
        let Some(mut reader) = reader else { return Poll::Pending };
        match reader.as_mut().map(|reader| reader.poll_ahead(cx)) {
            Some(Poll::Ready(true)) => {
                drop(reader);
                self.fail(ItemFault::Reset);
                Poll::Ready(())
            }
            _ => Poll::Pending,
        }
    }

    /// Tells the caller that no more items are wanted, and why, unless there is another reason already;
    /// nothing where all have been read.
    pub(crate) fn close(&self, code: Code) {
        let (code, reading) = {
            let mut state = lock(&self.state);
            (*state.closed.get_or_insert(code), state.reading.take())
        };
        match self.reader.try_lock() {
            Some(mut reader) => stop(&mut reader, code),
            None => wake(reading),
        }
    }

    /// The next item, if it is here already, in its usual form, and nobody else is at the stream. Most items
    /// of a caller that sends many go this way, past what it takes to wait.
    pub(super) fn take_arrived(&self) -> Option<Bytes> {
        let item = self.reader.try_lock()?.as_mut()?.take_arrived_if(Item::read_usual);
        // Meanwhile others may have found the reader locked.
        let (closed, exchange) = {
            let mut state = lock(&self.state);
            let is_unwatched = mem::take(&mut state.is_unwatched);
            (state.closed, if is_unwatched { state.exchange.take() } else { None })
        };
        wake(exchange);
        match closed {
            Some(code) => {
                self.close(code);
                None
            }
            None => item,
        }
    }

    /// The next item, which has to be complete at `deadline` once it has begun.
    ///
    /// Cancel-safe, if `deadline` is kept for the next call.
    pub(super) async fn read(&self, deadline: &mut Option<Instant>) -> NextItem {
        let _waking = WakeExchange(self);
        let (clock, limit) = (self.link.clock(), self.link.limits().request_read_timeout());
        let mut reader = self.reader.lock().await;
        loop {
            let Some(open) = reader.as_mut() else {
                return if lock(&self.state).closed.is_some() { NextItem::Closed } else { NextItem::End };
            };
            let read = {
                let advance = pin!(open.advance(clock, limit, deadline, Item::read));
                self.unless_closed(advance).await
            };
            match read {
                Ok(Ok(Progress::Frame(Ok(item)))) => return NextItem::Item(item.params.unwrap_or_default()),
                Ok(Ok(Progress::Bytes)) => self.note_activity(),
                Ok(Ok(Progress::End)) => *reader = None,
                Ok(Ok(Progress::Frame(Err(fault)))) => {
                    self.fail(ItemFault::Unreadable(fault.into()));
                    return NextItem::Closed;
                }
                Ok(Err(error)) => {
                    let is_reset = matches!(error.kind(), ErrorKind::StreamReset(_));
                    self.fail(if is_reset { ItemFault::Reset } else { ItemFault::Unreadable(error) });
                    return NextItem::Closed;
                }
                Err(Closed(code)) => stop(&mut reader, code),
            }
        }
    }

    /// What `future` brings, unless the exchange is over before.
    async fn unless_closed<T>(
        &self,
        mut future: std::pin::Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Closed> {
        poll_fn(|cx| {
            {
                let mut state = lock(&self.state);
                if let Some(code) = state.closed {
                    return Poll::Ready(Err(Closed(code)));
                }
                remember(&mut state.reading, cx);
            }
            future.as_mut().poll(cx).map(Ok)
        })
        .await
    }
}

struct Closed(Code);

fn stop(reader: &mut Option<FrameReader>, code: Code) {
    if let Some(mut reader) = reader.take() {
        reader.stop(code);
    }
}

fn remember(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *waker = Some(cx.waker().clone()),
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// When a task other than that of the exchange stops reading, the exchange has to watch the stream again.
struct WakeExchange<'a>(&'a ItemSource);

impl Drop for WakeExchange<'_> {
    fn drop(&mut self) {
        let exchange = {
            let mut state = lock(&self.0.state);
            let reading = state.reading.take();
            if reading.is_some() {
                state.is_unwatched = false;
            }
            let is_elsewhere = match (&reading, &state.exchange) {
                (Some(reading), Some(exchange)) => !reading.will_wake(exchange),
                _ => false,
            };
            if is_elsewhere { state.exchange.take() } else { None }
        };
        wake(exchange);
    }
}

#[cfg(all(feature = "cert", feature = "sim"))]
#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{
        cert::CertificateAuthority,
        endpoint::Endpoint,
        sim::Sim,
        tls::{ClientTls, ServerTls},
    };

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl std::task::Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn with_source(test: impl FnOnce(Arc<ItemSource>)) {
        let (sim, ca) = (Sim::new(1), CertificateAuthority::new("ca").unwrap());
        let builder = Endpoint::builder().server(ServerTls::new(ca.issue_server(&[]).unwrap().identity()));
        let node = sim.host([10, 0, 0, 1]).bind(builder, 7443).unwrap();
        let builder = Endpoint::builder().client(ClientTls::new(ca.trust()));
        let client = sim.host([10, 0, 0, 2]).bind(builder, 0).unwrap();
        sim.run(async {
            let connection = client.connect((node.local_addr().unwrap(), "localhost")).await.unwrap();
            let link = connection.link();
            let (_send, stream) = link.open_bi().await.unwrap();
            let reader = FrameReader::new(stream, 1024, link.allowance().charge());
            test(ItemSource::new(link, Some(reader)));
        });
    }

    #[test]
    fn an_exchange_that_found_the_reader_locked_is_woken_to_watch_the_stream() {
        with_source(|source| {
            let wakes = Arc::new(Wakes::default());
            let waker = Waker::from(Arc::clone(&wakes));
            let watch = || source.poll_fault(&mut Context::from_waker(&waker)).is_pending();
            assert!(watch() && source.take_arrived().is_none());
            assert_eq!(wakes.0.load(Ordering::Relaxed), 0, "it was not locked");
            let handler = source.reader.try_lock().unwrap();
            assert!(watch());
            drop(handler);
            assert!(source.take_arrived().is_none());
            assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        });
    }

    #[test]
    fn a_close_that_found_the_reader_locked_stops_the_stream_afterwards() {
        with_source(|source| {
            let handler = source.reader.try_lock().unwrap();
            source.close(Code::NO_ERROR);
            drop(handler);
            assert!(source.reader.try_lock().unwrap().is_some(), "it was locked");
            assert!(source.take_arrived().is_none());
            assert!(source.reader.try_lock().unwrap().is_none());
        });
    }
}
