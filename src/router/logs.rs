//! The event logs of a router, by name.

use super::Router;
use crate::{
    events::{EventLog, ServedLog},
    protocol::STREAM_EVENTS,
};

impl Router {
    /// Serves this log to subscribers as `node.stream_events`: the node's own log. A later log replaces it.
    /// Default: none, and a subscriber gets `unsupported_method`.
    #[must_use]
    pub fn events(self, log: impl Into<ServedLog>) -> Self {
        self.log(STREAM_EVENTS, log)
    }

    /// Serves a log, or what a [`Mirror`](crate::Mirror) has, under a name of the application's, by the
    /// same rules as `node.stream_events`. A node may serve any number of logs. Each has its own numbers,
    /// epoch, bounds and subscribers.
    ///
    /// The name is that of a method: rules of [`allow`](Self::allow) apply to it, `node.describe` lists it as
    /// a log, and peers that may not use it get `permission_denied`. As for `node.stream_events`,
    /// interceptors of [`around`](Self::around) do not run for it, and [`limits`](Self::limits) cannot be set
    /// for it; [`max_subscribers`](crate::EventLogBuilder::max_subscribers) bounds the subscriptions of each
    /// log. `node.health` is not `ok` while any of the logs cannot be written. [`EventLog::health`]
    /// and [`EventLog::stats`] tell how each one fares.
    ///
    /// [`EventLogBuilder::within_one_of`](crate::EventLogBuilder::within_one_of) divides the memory of
    /// [`TransportLimits::within`](crate::TransportLimits::within) among the logs.
    ///
    /// A later log of the same name replaces this one. Binding the endpoint fails with
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if the name does not have 1 to 128 bytes, starts
    /// with `node.` and is not `node.stream_events`, or is that of a method; or if the log takes events that
    /// do not fit a frame.
    ///
    /// ```
    /// use palyra_quic::{Client, EventLog, LogMethod, Peers, Router, Subscription};
    ///
    /// /// Degrees Celsius.
    /// const TEMPERATURE: LogMethod<i32> = LogMethod::new("plant.temperature");
    /// const ALARMS: LogMethod<String> = LogMethod::new("plant.alarms");
    ///
    /// let (temperature, alarms) = (EventLog::new(), EventLog::new());
    /// let router = Router::new()
    ///     .log(TEMPERATURE, temperature.clone())
    ///     .log(ALARMS, alarms.clone())
    ///     .allow(ALARMS, Peers::identified());
    /// temperature.publish(&21)?;
    ///
    /// fn subscribe(client: &Client) -> Subscription<i32> {
    ///     client.subscribe(TEMPERATURE).open()
    /// }
    /// # drop((router, subscribe));
    /// # Ok::<(), palyra_quic::Error>(())
    /// ```
    #[must_use]
    pub fn log(mut self, method: impl AsRef<str>, log: impl Into<ServedLog>) -> Self {
        self.logs.insert(method.as_ref().into(), log.into());
        self
    }

    /// The log that is served under this name.
    pub(crate) fn event_log(&self, name: &str) -> Option<&ServedLog> {
        self.logs.get(name)
    }

    /// All logs that there are now, in the order of their names.
    pub(crate) fn event_logs(&self) -> impl Iterator<Item = EventLog> {
        self.logs.values().filter_map(ServedLog::current)
    }
}
