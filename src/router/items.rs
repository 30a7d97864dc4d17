//! What a caller sends behind its request, as a handler receives it.

use std::{
    fmt,
    future::{Future, poll_fn},
    marker::PhantomData,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use futures_lite::Stream;
use minicbor::Decode;

use super::{
    item_source::{ItemFault, ItemSource, NextItem},
    method_error::MethodError,
};
use crate::{
    code::Code,
    message::WireError,
    value::{self, Raw},
};

/// The items of a request, in order. See [`Router::serve_items`](super::Router::serve_items).
///
/// A [`Stream`], and by [`next`](Self::next) usable without one: of values of type `I`, or, with
/// [`next_raw`](Self::next_raw) and as a stream of [`Raw`], of bytes.
///
/// An item is read when the handler asks for it, so a caller that sends faster waits. Dropping `Items` before
/// the end tells the caller to send no more; the handler may still answer. If the caller gives up, or sends
/// what is no item, the exchange ends, and the handler is dropped.
pub struct Items<I = Raw> {
    source: Arc<ItemSource>,
    state: ReadState,
    values: PhantomData<fn() -> I>,
}

/// A wait that owns the reader, and gives it back.
type Wait = Pin<Box<dyn Future<Output = (ItemReader, NextBytes)> + Send>>;
type NextBytes = Result<Option<Bytes>, MethodError>;

enum ReadState {
    /// Nothing waits, or a future that borrows the reader.
    Idle(ItemReader),
    /// A poll of the [`Stream`] waits. It has to go on where it was at the next poll, and gives the reader
    /// back at its end. In a mutex, which is never locked, so that `Items` can be shared.
    Waiting(Mutex<Wait>),
    /// The reader is on its way into a wait, or belongs to another `Items`.
    Taken,
}

impl<I: for<'b> Decode<'b, ()>> Items<I> {
    /// The next item, decoded by minicbor, or `None` behind the last. Waits until the caller has sent it.
    ///
    /// # Errors
    ///
    /// `invalid_request` for an item that is not a value of the type; the next one may still be read. Any
    /// other error means that the exchange is over.
    ///
    /// # Cancellation
    ///
    /// Safe: no item is lost if this is dropped and called again.
    pub async fn next(&mut self) -> Result<Option<I>, MethodError> {
        decode(self.next_raw().await)
    }
}

impl<I> Items<I> {
    /// The bytes of the next item, or `None` behind the last; empty for an item without any. See
    /// [`next`](Self::next).
    ///
    /// # Errors
    ///
    /// As for [`next`](Self::next), but for those of decoding.
    pub async fn next_raw(&mut self) -> Result<Option<Bytes>, MethodError> {
        match &mut self.state {
            ReadState::Idle(reader) => reader.next(&self.source).await,
            ReadState::Waiting(_) | ReadState::Taken => poll_fn(|cx| self.poll_bytes(cx)).await,
        }
    }

    /// How many items have been received.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.source.handed()
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<NextBytes> {
        loop {
            match &mut self.state {
                ReadState::Idle(_) => {
                    let ReadState::Idle(mut reader) = mem::replace(&mut self.state, ReadState::Taken) else {
                        continue;
                    };
                    let source = Arc::clone(&self.source);
                    self.state = ReadState::Waiting(Mutex::new(Box::pin(async move {
                        let next = reader.next(&source).await;
                        (reader, next)
                    })));
                }
                ReadState::Waiting(wait) => {
                    let wait = wait.get_mut().unwrap_or_else(PoisonError::into_inner);
                    let Poll::Ready((reader, next)) = wait.as_mut().poll(cx) else { return Poll::Pending };
                    self.state = ReadState::Idle(reader);
                    return Poll::Ready(next);
                }
                ReadState::Taken => return Poll::Ready(Err(closed())),
            }
        }
    }

    /// The same items, as values of another type.
    pub(super) fn of_values<V>(mut self) -> Items<V> {
        let state = mem::replace(&mut self.state, ReadState::Taken);
        Items { source: Arc::clone(&self.source), state, values: PhantomData }
    }
}

impl Items {
    pub(crate) fn new(source: Arc<ItemSource>) -> Self {
        Self { source, state: ReadState::Idle(ItemReader::default()), values: PhantomData }
    }
}

impl<I> Drop for Items<I> {
    fn drop(&mut self) {
        match mem::replace(&mut self.state, ReadState::Taken) {
            // The wait holds the lock of the reader.
            ReadState::Waiting(wait) => drop(wait),
            ReadState::Idle(_) => {}
            // Another `Items` has taken over.
            ReadState::Taken => return,
        }
        // An answer follows, unless the handler panics.
        self.source.close(if std::thread::panicking() { Code::INTERNAL } else { Code::NO_ERROR });
    }
}

impl<I: for<'b> Decode<'b, ()>> Stream for Items<I> {
    type Item = Result<I, MethodError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_bytes(cx).map(|next| decode(next).transpose())
    }
}

impl Stream for Items {
    type Item = Result<Bytes, MethodError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_bytes(cx).map(Result::transpose)
    }
}

impl<I> fmt::Debug for Items<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items").field("received", &self.received()).finish_non_exhaustive()
    }
}

fn decode<I: for<'b> Decode<'b, ()>>(next: NextBytes) -> Result<Option<I>, MethodError> {
    let decoded = next?.map(|bytes| value::decode(&bytes)).transpose();
    decoded.map_err(|error| {
        let fault = std::error::Error::source(&error).map(ToString::to_string);
        MethodError::invalid_request(format!("item: {}", fault.unwrap_or_else(|| error.to_string())))
    })
}

/// What a handler gets that asks for items when none can come any more. The caller gets it only if the
/// handler is still there to return it.
fn closed() -> MethodError {
    MethodError::new(WireError::StreamFailure).detail("the items broke off")
}

/// Where the reading of items is.
#[derive(Default)]
struct ItemReader {
    /// When the item that has begun has to be complete.
    deadline: Option<Instant>,
    /// An item that has to wait for its turn, until then.
    delayed: Option<(Bytes, Instant)>,
    ended: bool,
}

impl ItemReader {
    /// Cancel-safe.
    async fn next(&mut self, source: &ItemSource) -> NextBytes {
        if self.delayed.is_none() && !self.ended {
            let next = match source.take_arrived() {
                Some(bytes) => NextItem::Item(bytes),
                None => source.read(&mut self.deadline).await,
            };
            match next {
                NextItem::Item(bytes) => {
                    let now = source.link().clock().now();
                    let Some(due) = source.link().allowance().take_item(now) else {
                        source.fail(ItemFault::TooFast);
                        return Err(closed());
                    };
                    if due <= now {
                        source.note_handed(now);
                        return Ok(Some(bytes));
                    }
                    self.delayed = Some((bytes, due));
                }
                NextItem::End => self.ended = true,
                NextItem::Closed => return Err(closed()),
            }
        }
        if let Some((_, due)) = &self.delayed {
            let clock = source.link().clock();
            if *due > clock.now() {
                clock.sleep_until(*due).await;
            }
        }
        Ok(self.delayed.take().map(|(bytes, _)| {
            source.note_handed(source.link().clock().now());
            bytes
        }))
    }
}
