//! A log with the type of its events.

use std::{borrow::Borrow, fmt, marker::PhantomData};

use minicbor::Encode;

use super::EventLog;
use crate::{
    error::Result,
    method::{LogMethod, MethodName},
};

/// Publishes events of the type `T`, which a [`LogMethod`] states: [`EventLog::publisher`].
///
/// Subscribers that use the same [`LogMethod`] decode every event that it publishes. An event of another type
/// does not compile:
///
/// ```compile_fail,E0277
/// use palyra_quic::{EventLog, LogMethod};
///
/// const READINGS: LogMethod<i32> = LogMethod::new("plant.temperature");
///
/// let readings = EventLog::new().publisher(READINGS);
/// readings.publish("warm");
/// ```
pub struct Publisher<T> {
    log: EventLog,
    types: PhantomData<fn(&T)>,
}

impl EventLog {
    /// Publishes events of the type that this [`LogMethod`] states, to this log. The log is one that
    /// [`Router::log`](crate::Router::log) or [`Router::events`](crate::Router::events) serves under the same
    /// name, which is not checked.
    ///
    /// ```
    /// use palyra_quic::{EventLog, LogMethod, Router};
    ///
    /// /// Degrees Celsius.
    /// const READINGS: LogMethod<i32> = LogMethod::new("plant.temperature");
    /// const NEWS: LogMethod<String> = LogMethod::NODE;
    ///
    /// let (readings, news) = (EventLog::new(), EventLog::new());
    /// let router = Router::new().log(READINGS, readings.clone()).events(news.clone());
    /// assert_eq!(readings.publisher(READINGS).publish(&21)?, 1);
    /// assert_eq!(news.publisher(NEWS).publish("door opened")?, 1); // A `String`, borrowed.
    /// # drop(router);
    /// # Ok::<(), palyra_quic::Error>(())
    /// ```
    #[must_use]
    pub fn publisher<T>(&self, _log: impl MethodName<LogMethod<T>>) -> Publisher<T> {
        Publisher { log: self.clone(), types: PhantomData }
    }
}

impl<T> Publisher<T> {
    /// Appends an event. See [`EventLog::publish`].
    ///
    /// The event is a `T`, or what a `T` lends, such as a `str` for a `String`.
    ///
    /// # Errors
    ///
    /// As for [`EventLog::publish`].
    pub fn publish<E: Encode<()> + ?Sized>(&self, event: &E) -> Result<u64>
    where
        T: Borrow<E>,
    {
        self.log.publish(event)
    }

    /// Appends an event, and resolves when it survives the process and the machine. See
    /// [`EventLog::publish_durable`].
    ///
    /// # Errors
    ///
    /// As for [`EventLog::publish_durable`].
    ///
    /// # Cancellation
    ///
    /// The event is published all the same.
    pub async fn publish_durable<E: Encode<()> + ?Sized>(&self, event: &E) -> Result<u64>
    where
        T: Borrow<E>,
    {
        self.log.publish_durable(event).await
    }

    /// The log to which this publishes.
    #[must_use]
    pub fn log(&self) -> &EventLog {
        &self.log
    }
}

impl<T> Clone for Publisher<T> {
    fn clone(&self) -> Self {
        Self { log: self.log.clone(), types: PhantomData }
    }
}

impl<T> fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { log, types: _ } = self;
        f.debug_struct("Publisher").field("log", log).finish()
    }
}
