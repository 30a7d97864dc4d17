//! Events that survive the connection.

use std::{
    fmt,
    future::{Future, poll_fn},
    marker::PhantomData,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
};

use futures_lite::Stream;
use minicbor::Decode;

use super::{acks::Acks, resumed_stream::ResumedStream, subscription_item::SubscriptionItem};
use crate::{
    error::{Error, ErrorKind, Result},
    events::Cursor,
    value::Raw,
};

/// The events of a peer: each once and in order, or a gap in its place, across any number of connections.
///
/// A [`Stream`], and by [`next`](Self::next) usable without one: with payloads of type `T`, or, with
/// [`next_raw`](Self::next_raw) and as a stream of [`Raw`], of bytes. It does nothing while nobody asks:
/// what the peer has published in the meantime waits there, as far as its log reaches. Dropping it ends the
/// subscription.
///
/// ```no_run
/// # async fn example(client: palyra_quic::Client, kept: &[u8]) -> palyra_quic::Result<()> {
/// use palyra_quic::{Cursor, SubscriptionItem};
///
/// let mut subscription = client.subscribe_raw().resume(Cursor::from_bytes(kept)?).open();
/// loop {
///     match subscription.next_raw().await? {
///         SubscriptionItem::Event { seq, payload, .. } => println!("{seq}: {} bytes", payload.len()),
///         SubscriptionItem::Gap(gap) => println!("{} to {} are lost", gap.from, gap.next_seq - 1),
///         SubscriptionItem::Connected { address } => println!("connected to {address}"),
///         SubscriptionItem::Disconnected { error } => println!("{error}; trying again"),
///     }
///     let _to_be_kept = subscription.cursor().map(Cursor::to_bytes);
/// }
/// # }
/// ```
#[must_use = "dropping it ends the subscription"]
pub struct Subscription<T = Raw> {
    state: State,
    cursor: Option<Cursor>,
    acks: Option<Acks>,
    payloads: PhantomData<fn() -> T>,
}

enum State {
    Idle(Box<ResumedStream>),
    /// In a mutex, which is never locked, so that a `Subscription` can be shared.
    Busy(Mutex<Pin<Box<dyn Future<Output = Step> + Send>>>),
    Closed,
}

/// Taken out to be worked with, and given back with what came of it.
type Step = (Box<ResumedStream>, Result<SubscriptionItem>);

impl<T: for<'b> Decode<'b, ()>> Subscription<T> {
    /// The next event, decoded by minicbor, gap or change. Never comes to an end by itself.
    ///
    /// # Errors
    ///
    /// Failures that trying again does not mend: of identity, of the protocol, or with a terminal code.
    /// They end the subscription; asked again it is [`Closed`](ErrorKind::Closed). Only
    /// [`Codec`](ErrorKind::Codec), for an event whose payload is no such value, does not: the
    /// [`cursor`](Self::cursor) is behind that event then, and the one after it may be read.
    ///
    /// # Cancellation
    ///
    /// Safe: nothing is lost if this is dropped and called again.
    pub async fn next(&mut self) -> Result<SubscriptionItem<T>> {
        let item = self.next_raw().await?;
        self.decode(item)
    }

    fn decode(&self, item: SubscriptionItem) -> Result<SubscriptionItem<T>> {
        item.decode().map_err(|error| match &self.state {
            State::Idle(inner) => inner.name(error.after_answer()),
            State::Busy(_) | State::Closed => error.after_answer(),
        })
    }
}

impl<T> Subscription<T> {
    pub(super) fn new(stream: ResumedStream, cursor: Option<Cursor>, acks: Option<Acks>) -> Self {
        Self { state: State::Idle(Box::new(stream)), cursor, acks, payloads: PhantomData }
    }

    /// The next event, with its payload as bytes, gap or change. See [`next`](Self::next).
    ///
    /// # Errors
    ///
    /// As for [`next`](Self::next).
    pub async fn next_raw(&mut self) -> Result<SubscriptionItem> {
        poll_fn(|cx| self.poll_item(cx)).await
    }

    /// Behind the last event or gap that was handed out; `None` before the first. Keep it to
    /// [resume](super::Subscribe::resume) in another process.
    #[must_use]
    pub fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }

    /// Acknowledges everything that was handed out, so that the peer need not keep it any longer for the
    /// [consumer](super::Subscribe::consumer) of this subscription. To be called when the events were
    /// processed, as often as one likes: a task of the endpoint sends one acknowledgement at a time, and
    /// the newest is next. Each new connection begins with the latest, since it may be one to another node,
    /// or to one that has forgotten it in a crash. Does nothing without a consumer.
    ///
    /// A refusal does not end the subscription: [`take_ack_error`](Self::take_ack_error) has it.
    pub fn ack(&self) {
        if let Some(cursor) = self.cursor {
            self.ack_up_to(cursor);
        }
    }

    /// As [`ack`](Self::ack), up to a cursor that was kept: of events whose processing ends later, for
    /// instance.
    pub fn ack_up_to(&self, cursor: Cursor) {
        if let Some(acks) = &self.acks {
            acks.acknowledge(cursor);
        }
    }

    /// The cursor of the newest acknowledgement that the peer has confirmed; `None` before the first.
    #[must_use]
    pub fn acknowledged(&self) -> Option<Cursor> {
        self.acks.as_ref()?.confirmed()
    }

    /// Why the peer has refused the latest acknowledgement, once: [`Remote`](ErrorKind::Remote) with
    /// `invalid_request` for a cursor of another epoch, with `permission_denied` if this side may not speak
    /// for the consumer, and with `unsupported_method` from a node that keeps nothing for consumers;
    /// [`Unsupported`](ErrorKind::Unsupported) if the peer speaks JSON alone, or has no epochs.
    pub fn take_ack_error(&self) -> Option<Error> {
        self.acks.as_ref()?.take_refused()
    }

    /// Resolves when an acknowledgement was answered. `None` without a consumer.
    #[cfg(all(feature = "durable", unix))]
    pub(crate) fn listen_to_acks(&self) -> Option<crate::sync::EventListener> {
        self.acks.as_ref().map(Acks::listen)
    }

    /// Goes on behind this cursor with another stream, which ends if the peer does not have event `expected`.
    /// To be called behind an item.
    #[cfg(all(feature = "durable", unix))]
    pub(crate) fn resume_at(&mut self, cursor: Option<Cursor>, expected: Option<u64>) {
        if let State::Idle(inner) = &mut self.state {
            inner.resume_at(cursor, expected);
            self.cursor = cursor;
        }
    }

    /// Behind [`Disconnected`](SubscriptionItem::Disconnected): whether the peer does not have the event that
    /// was expected.
    #[cfg(all(feature = "durable", unix))]
    pub(crate) fn is_peer_behind(&self) -> bool {
        matches!(&self.state, State::Idle(inner) if inner.is_behind())
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Result<SubscriptionItem>> {
        loop {
            match &mut self.state {
                State::Idle(inner) => {
                    if let Some(item) = inner.take_arrived() {
                        self.cursor = inner.cursor();
                        return Poll::Ready(self.ends_with(item));
                    }
                    let State::Idle(mut inner) = std::mem::replace(&mut self.state, State::Closed) else {
                        continue;
                    };
                    self.state = State::Busy(Mutex::new(Box::pin(async move {
                        let item = inner.step().await;
                        (inner, item)
                    })));
                }
                State::Busy(step) => {
                    let step = step.get_mut().unwrap_or_else(PoisonError::into_inner);
                    let Poll::Ready((inner, item)) = step.as_mut().poll(cx) else { return Poll::Pending };
                    self.cursor = inner.cursor();
                    self.state = State::Idle(inner);
                    if let (Ok(SubscriptionItem::Connected { .. }), Some(acks)) = (&item, &self.acks) {
                        acks.repeat();
                    }
                    return Poll::Ready(self.ends_with(item));
                }
                State::Closed => {
                    return Poll::Ready(Err(
                        Error::new(ErrorKind::Closed).detail("the subscription has ended")
                    ));
                }
            }
        }
    }

    fn poll_next_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<SubscriptionItem>>> {
        match self.state {
            State::Closed => Poll::Ready(None),
            State::Idle(_) | State::Busy(_) => self.poll_item(cx).map(Some),
        }
    }

    fn ends_with(&mut self, item: Result<SubscriptionItem>) -> Result<SubscriptionItem> {
        if item.is_err() {
            self.state = State::Closed;
        }
        item
    }
}

impl<T: for<'b> Decode<'b, ()>> Stream for Subscription<T> {
    type Item = Result<SubscriptionItem<T>>;

    /// Ends after an error, unless it is [`Codec`](ErrorKind::Codec).
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_next_item(cx).map(|item| item.map(|item| self.decode(item?)))
    }
}

impl Stream for Subscription {
    type Item = Result<SubscriptionItem>;

    /// Ends after an error.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_next_item(cx)
    }
}

impl<T> fmt::Debug for Subscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state, cursor, acks: _, payloads: _ } = self;
        f.debug_struct("Subscription")
            .field("cursor", cursor)
            .field("ended", &matches!(state, State::Closed))
            .finish_non_exhaustive()
    }
}
