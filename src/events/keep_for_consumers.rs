//! What the builder of a log lets its owner say of consumers.

use std::time::Duration;

#[cfg(all(feature = "durable", unix))]
use super::cursor_store::CursorStore;
use super::{builder::EventLogBuilder, consumer_settings::ConsumerSettings};

impl EventLogBuilder {
    /// Keeps events until all consumers have acknowledged them, up to this many bytes of all events. Events
    /// that all have acknowledged are held by the other bounds, such as [`max_events`](Self::max_events),
    /// [`max_bytes`](Self::max_bytes) and [`max_age`](Self::max_age). Default: no event is kept on anyone's
    /// behalf.
    ///
    /// A consumer is a name under which a peer acknowledges events, with
    /// [`Subscription::ack`](crate::Subscription::ack) or
    /// [`Connection::ack_events`](crate::Connection::ack_events); [`Router::consumers`] says which peers may.
    /// The first acknowledgement makes a consumer, unless its owner has declared it with
    /// [`consumer`](Self::consumer). At the bound, the oldest events are dropped, which subscribers
    /// learn by a gap, or publishing is [refused](Self::refuse_when_full).
    ///
    /// The bytes count as for [`max_bytes`](Self::max_bytes), in memory up to
    /// [`memory_bytes`](Self::memory_bytes) if that is set. Of a log that is opened, what was acknowledged
    /// is in the file `consumers` of its directory, and is written with the next commit of events: a crash
    /// may lose the latest acknowledgements, and events are then kept for longer. If there were any since
    /// the commit before, that is another 4 KiB and another flush. A new consumer is written before its
    /// first acknowledgement is answered. The file takes 64 KiB.
    ///
    /// [`Router::consumers`]: crate::Router::consumers
    #[must_use]
    pub fn keep_unacknowledged(mut self, max_bytes: u64) -> Self {
        self.consumers.max_bytes = Some(max_bytes);
        self.consumers.make = Some(ConsumerSettings::make);
        #[cfg(all(feature = "durable", unix))]
        {
            self.consumers.open_file = Some(|path| Ok(Box::new(CursorStore::open(path)?)));
        }
        self
    }

    /// Refuses to publish while the bound of [`keep_unacknowledged`](Self::keep_unacknowledged) is reached:
    /// [`Exhausted`](crate::ErrorKind::Exhausted), until a consumer acknowledges events or is dropped.
    /// Default: the oldest events are dropped.
    ///
    /// A log in files refuses earlier, while a segment and `memory_bytes` still fit twice: it cannot be
    /// opened with less than twice that.
    #[must_use]
    pub fn refuse_when_full(mut self) -> Self {
        self.consumers.refuses = true;
        self
    }

    /// Declares a consumer, so that events are kept for it before it was heard of. Its name has 1 to 64
    /// bytes.
    #[must_use]
    pub fn consumer(mut self, name: impl Into<Box<str>>) -> Self {
        self.consumers.declared.push(name.into());
        self
    }

    /// How many consumers there may be, the declared ones included. Default: 64; at most 256 in a log that is
    /// opened.
    #[must_use]
    pub fn max_consumers(mut self, max: usize) -> Self {
        self.consumers.max = max;
        self
    }

    /// Forgets a consumer that has acknowledged nothing for this long, with the next event. Time while the
    /// log is not open does not count. Default: consumers are dropped by their owner alone, with
    /// [`EventLog::drop_consumer`](crate::EventLog::drop_consumer).
    #[must_use]
    pub fn forget_consumers_after(mut self, silence: Duration) -> Self {
        self.consumers.forget_after = Some(silence);
        self
    }
}
