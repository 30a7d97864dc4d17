//! Methods by name, and the handlers behind them.

mod answers;
mod authorize;
mod context;
mod handler;
mod loan;
mod method_error;
mod peers;
mod sink;

use std::{any::Any, collections::BTreeMap, fmt, future::Future, sync::Arc};

use bytes::Bytes;
use minicbor::{Decode, Encode};

pub(crate) use self::answers::Answers;
use self::authorize::Authorizer;
use self::handler::{Streaming, Unary};
pub use self::{
    authorize::{PendingPeer, Refusal},
    context::Context,
    method_error::MethodError,
    peers::Peers,
    sink::ResponseSink,
};
pub(crate) use self::{
    context::ExchangeGuard,
    handler::{ConnectionHandler, Handler, NotificationHandler, Registered},
    loan::Lender,
};
use crate::{
    connection::Connection,
    error::{Error, Result},
    events::EventLog,
    link::PeerState,
    message::largest_event_payload,
    method::{Method, MethodName, NotificationMethod, StreamingMethod},
    protocol::{HEALTH, MAX_METHOD_BYTES, RESERVED_PREFIX, STREAM_EVENTS, is_method_len},
    tls::PeerIdentity,
    value,
};

/// The methods that a node serves. Every node that accepts connections or has a router answers `node.health`;
/// with [`events`](Self::events) it answers `node.stream_events` too.
///
/// A handler is an async closure (or function) of a [`Context`] and the parameters. It is dropped when nobody
/// waits for its answer any more, and may panic without harm to others.
///
/// It is begun in the task that its connection is served by, and goes on in a task of its own when it has
/// to wait for something; those of notifications run in one for each stream. So what computes for long
/// without an `await` holds up the other requests on its connection, until that is noticed: after 100 µs in
/// a row, the next 256 requests on the connection get tasks of their own before they begin. Such work
/// belongs on other threads.
///
/// ```
/// use palyra_quic::{Context, Method, MethodError, NotificationMethod, ResponseSink, Router, StreamingMethod};
///
/// // Names and types, for the callers too: anything that minicbor can derive.
/// const ADD: Method<(u32, u32), u32> = Method::new("demo.add");
/// const COUNT: StreamingMethod<u32, u32> = StreamingMethod::new("demo.count");
/// const LOG: NotificationMethod<String> = NotificationMethod::new("demo.log");
///
/// let router = Router::new()
///     // One answer.
///     .serve(ADD, |_: Context, (a, b)| async move {
///         a.checked_add(b).ok_or_else(|| MethodError::invalid_request("the sum overflows"))
///     })
///     // Many answers.
///     .serve_stream(COUNT, |_: Context, last, mut answers: ResponseSink<u32>| async move {
///         for n in 1..=last {
///             answers.send(&n).await?;
///         }
///         Ok(())
///     })
///     // No answer.
///     .on_notification(LOG, |_: Context, line| async move { println!("{line}") })
///     // A name of its own, with the types in the handler.
///     .serve("demo.double", |_: Context, n: u32| async move { Ok(u64::from(n) * 2) })
///     // Bytes in, bytes out.
///     .serve_raw("demo.echo", |_: Context, params| async move { Ok(params) });
/// # drop(router);
/// ```
///
/// A handler that needs state captures it, and hands each call a share of its own:
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
/// use palyra_quic::{Context, Method, Router};
///
/// const COUNT_UP: Method<u64, u64> = Method::new("demo.count_up");
///
/// let total = Arc::new(AtomicU64::new(0));
/// let router = Router::new().serve(COUNT_UP, move |_: Context, n| {
///     let total = Arc::clone(&total);
///     async move { Ok(total.fetch_add(n, Ordering::Relaxed) + n) }
/// });
/// # drop(router);
/// ```
#[derive(Default)]
pub struct Router {
    methods: BTreeMap<Box<str>, Registered>,
    notifications: BTreeMap<Box<str>, NotificationHandler>,
    events: Option<EventLog>,
    rules: BTreeMap<Box<str>, Peers>,
    default_rule: Option<Peers>,
    authorizer: Option<Authorizer>,
    on_connection: Option<ConnectionHandler>,
}

impl Router {
    /// A router with the built-in `node.health` alone.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves a method with one answer, decoded and encoded by minicbor.
    ///
    /// The method is a [`Method`](crate::Method), which brings the types of the handler, or a string.
    /// Parameters must be exactly one item of definite length, nested at most 16 deep; what does not decode
    /// is answered `invalid_request` before the handler hears of it. A handler of `()` or of an `Option` can
    /// be called without parameters: the caller may leave them out, or pass `()` or `None`.
    ///
    /// A name that is registered twice keeps the last handler; one that no request can carry, or that starts
    /// with `node.`, is found when the endpoint is bound.
    #[must_use]
    pub fn serve<P, T, F, R>(self, method: impl MethodName<Method<P, T>>, handler: F) -> Self
    where
        P: for<'b> Decode<'b, ()> + Send + 'static,
        T: Encode<()> + Send + 'static,
        F: Fn(Context, P) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, MethodError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        self.serve_raw(method.method_name(), move |context, params| {
            let handler = Arc::clone(&handler);
            async move {
                let result = handler(context, decode_params(&params)?).await?;
                value::encode(&result).map_err(|_| MethodError::internal("the result cannot be encoded"))
            }
        })
    }

    /// Serves a method with one answer, bytes to bytes. Parameters that the caller left out are empty. See
    /// [`serve`](Self::serve).
    #[must_use]
    pub fn serve_raw<F, R>(mut self, method: impl AsRef<str>, handler: F) -> Self
    where
        F: Fn(Context, Bytes) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Bytes, MethodError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let unary: Unary = Box::new(move |context, params| {
            let handler = Arc::clone(&handler);
            // Called within the future, so that a panic of the handler's first half is caught with the
            // second.
            Box::pin(async move { handler(context, params).await })
        });
        self.methods.insert(method.as_ref().into(), Handler::Unary(unary).into());
        self
    }

    /// Serves a method with any number of answers, decoded and encoded by minicbor. The node's
    /// `handler_timeout` covers all of them, waiting for a slow reader included. See [`serve`](Self::serve).
    ///
    /// ```
    /// use palyra_quic::{ResponseSink, Router, StreamingMethod};
    ///
    /// const COUNT: StreamingMethod<u32, u32> = StreamingMethod::new("demo.count");
    ///
    /// let router = Router::new().serve_stream(COUNT, |_, last, mut answers: ResponseSink<u32>| async move {
    ///     for n in 1..=last {
    ///         answers.send(&n).await?;
    ///     }
    ///     Ok(())
    /// });
    /// # drop(router);
    /// ```
    #[must_use]
    pub fn serve_stream<P, T, F, R>(self, method: impl MethodName<StreamingMethod<P, T>>, handler: F) -> Self
    where
        P: for<'b> Decode<'b, ()> + Send + 'static,
        T: Encode<()> + 'static,
        F: Fn(Context, P, ResponseSink<T>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), MethodError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        self.serve_stream_raw(method.method_name(), move |context, params, sink| {
            let handler = Arc::clone(&handler);
            async move { handler(context, decode_params(&params)?, sink.of_values()).await }
        })
    }

    /// Serves a method with any number of answers, bytes to bytes. See [`serve_stream`](Self::serve_stream).
    #[must_use]
    pub fn serve_stream_raw<F, R>(mut self, method: impl AsRef<str>, handler: F) -> Self
    where
        F: Fn(Context, Bytes, ResponseSink) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), MethodError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let streaming: Streaming = Box::new(move |context, params, sink| {
            let handler = Arc::clone(&handler);
            Box::pin(async move { handler(context, params, sink).await })
        });
        self.methods.insert(method.as_ref().into(), Handler::Streaming(streaming).into());
        self
    }

    /// Takes notifications: messages that nobody waits for an answer to. Those on one stream are handled in
    /// order.
    ///
    /// The notification is a [`NotificationMethod`], which brings the type of the parameters, or a string.
    /// They are decoded as those of [`serve`](Self::serve); one that does not decode stops its stream with
    /// PROTOCOL_VIOLATION.
    ///
    /// What a sender has seen acknowledged is handled even if the sender leaves, or this node
    /// [shuts down](crate::Endpoint::shutdown) and has the time, unless this side turns the sender out. The
    /// connection that it came on, whose slot it keeps, may be closed by then.
    #[must_use]
    pub fn on_notification<P, F, R>(self, method: impl MethodName<NotificationMethod<P>>, handler: F) -> Self
    where
        P: for<'b> Decode<'b, ()> + Send + 'static,
        F: Fn(Context, P) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let handler = Arc::new(handler);
        self.fallible_notification(method.method_name(), move |context, params| {
            let handler = Arc::clone(&handler);
            async move {
                handler(context, decode_params(&params)?).await;
                Ok(())
            }
        })
    }

    /// Takes notifications with parameters of plain bytes, which are empty where the sender left them out.
    /// See [`on_notification`](Self::on_notification).
    #[must_use]
    pub fn on_notification_raw<F, R>(self, method: impl AsRef<str>, handler: F) -> Self
    where
        F: Fn(Context, Bytes) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let handler = Arc::new(handler);
        self.fallible_notification(method.as_ref(), move |context, params| {
            let handler = Arc::clone(&handler);
            async move {
                handler(context, params).await;
                Ok(())
            }
        })
    }

    fn fallible_notification<F, R>(mut self, name: &str, handler: F) -> Self
    where
        F: Fn(Context, Bytes) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), MethodError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let notification: NotificationHandler = Box::new(move |context, params| {
            let handler = Arc::clone(&handler);
            Box::pin(async move { handler(context, params).await })
        });
        self.notifications.insert(name.into(), notification);
        self
    }

    /// Serves this log to subscribers as `node.stream_events`.
    #[must_use]
    pub fn events(self, log: EventLog) -> Self {
        Self { events: Some(log), ..self }
    }

    /// Keeps a method for these peers: one for requests, for notifications or both, `node.health` and
    /// `node.stream_events` among them.
    ///
    /// A request of anybody else is answered `permission_denied` before its parameters are decoded, and a
    /// stream with a notification of anybody else is stopped with IDENTITY_REJECTED. That goes for peers
    /// that dialled this node and for peers that it dialled. A second rule for a method takes the place
    /// of the first; one for a method that is not there, or with an empty name in it, is found when the
    /// endpoint is bound. Default: the rule of [`allow_by_default`](Self::allow_by_default).
    ///
    /// ```
    /// use palyra_quic::{Context, Peers, Router};
    ///
    /// let router = Router::new()
    ///     .serve_raw("demo.restart", |_: Context, params| async move { Ok(params) })
    ///     .allow("demo.restart", Peers::nobody().common_name("Palyra Operator"))
    ///     .allow("node.health", Peers::anybody())
    ///     .allow_by_default(Peers::identified());
    /// # drop(router);
    /// ```
    #[must_use]
    pub fn allow(mut self, method: impl AsRef<str>, peers: Peers) -> Self {
        self.rules.insert(method.as_ref().into(), peers);
        self
    }

    /// Keeps every method that has no rule of its own for these peers, the built-in ones included. Others do
    /// not learn either which methods there are: to what has no rule, they get `permission_denied`
    /// whether it exists or not. Default: [`Peers::anybody`].
    #[must_use]
    pub fn allow_by_default(self, peers: Peers) -> Self {
        Self { default_rule: Some(peers), ..self }
    }

    /// Asks about each accepted connection once its handshake is over, and before anything that it sends is
    /// read. Handlers get what `hook` returns, which may have any type, with [`Context::state`].
    ///
    /// TLS has found the peer's certificate good by then, if it showed one; this is for what TLS cannot know:
    /// who is enrolled, who pays, who comes too often. A peer that is refused has its connection closed
    /// with the [`Refusal`]'s code and reason. So has one whose question is not answered within another
    /// `handshake_timeout` (DEADLINE_EXCEEDED), or panics (INTERNAL): nobody is let in by a failure. To
    /// the peer the handshake has succeeded, so that its [`connect`](crate::Endpoint::connect) may too,
    /// and the connection is closed right after.
    ///
    /// Until the answer is there, the connection holds its slot, so that no more questions run at a time than
    /// `max_connections` says. The question is dropped when the connection ends. Peers that this
    /// node dials are not asked about, since it chose them; what they may call is a matter of rules for
    /// methods.
    ///
    /// ```
    /// use palyra_quic::{PendingPeer, Refusal, Router};
    ///
    /// let router = Router::new().authorize(|peer: PendingPeer| async move {
    ///     match peer.peer().and_then(|peer| peer.common_name()) {
    ///         Some(name) if name.starts_with("Palyra Device ") => Ok(()),
    ///         _ => Err(Refusal::rejected("not enrolled")),
    ///     }
    /// });
    /// # drop(router);
    /// ```
    ///
    /// With state for the handlers, which can be looked up anywhere, since this may wait:
    ///
    /// ```
    /// use palyra_quic::{Context, MethodError, PendingPeer, Refusal, Router};
    ///
    /// struct Account {
    ///     name: String,
    ///     may_publish: bool,
    /// }
    ///
    /// async fn find_account(peer: PendingPeer) -> Result<Account, Refusal> {
    ///     let name = peer.peer().and_then(|peer| peer.common_name());
    ///     let name = name.ok_or_else(|| Refusal::rejected("no certificate"))?.to_owned();
    ///     Ok(Account { may_publish: name == "Palyra Operator", name })
    /// }
    ///
    /// async fn who_am_i(context: Context, _params: Option<()>) -> Result<String, MethodError> {
    ///     let account = context.state::<Account>().ok_or_else(|| MethodError::internal("no account"))?;
    ///     Ok(format!("{}, may publish: {}", account.name, account.may_publish))
    /// }
    ///
    /// let router = Router::new().authorize(find_account).serve("demo.who_am_i", who_am_i);
    /// # drop(router);
    /// ```
    #[must_use]
    pub fn authorize<F, R, S>(self, hook: F) -> Self
    where
        F: Fn(PendingPeer) -> R + Send + Sync + 'static,
        R: Future<Output = Result<S, Refusal>> + Send + 'static,
        S: Any + Send + Sync,
    {
        let hook = Arc::new(hook);
        let authorizer: Authorizer = Box::new(move |peer| {
            let hook = Arc::clone(&hook);
            Box::pin(async move { hook(peer).await.map(|state| -> PeerState { Box::new(state) }) })
        });
        Self { authorizer: Some(authorizer), ..self }
    }

    /// Runs for each accepted connection once its handshake is over and it may stay, for nodes that call back
    /// the peers that dialled them. It is dropped when the connection ends; that it returns ends nothing.
    #[must_use]
    pub fn on_connection<F, R>(self, handler: F) -> Self
    where
        F: Fn(Connection) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let on_connection: ConnectionHandler = Box::new(move |connection| {
            let handler = Arc::clone(&handler);
            Box::pin(async move { handler(connection).await })
        });
        Self { on_connection: Some(on_connection), ..self }
    }

    /// Finds names that could never be called, rules for what is not there, and events that would not fit a
    /// frame.
    pub(crate) fn check(&self, max_frame_len: usize) -> Result<()> {
        self.check_rules()?;
        for name in self.methods.keys().chain(self.notifications.keys()) {
            if !is_method_len(name.len()) {
                return Err(Error::invalid_config(format!(
                    "a method name has 1 to {MAX_METHOD_BYTES} bytes: {name:?}"
                )));
            }
            if name.starts_with(RESERVED_PREFIX) {
                return Err(Error::invalid_config(format!(
                    "method names in {RESERVED_PREFIX} are reserved: {name:?}"
                )));
            }
        }
        let Some(log) = &self.events else { return Ok(()) };
        if log.max_payload_bytes() > largest_event_payload(max_frame_len) {
            return Err(Error::invalid_config(format!(
                "max_payload_bytes of the event log is {}, which does not fit into frames of max_frame_bytes {max_frame_len}",
                log.max_payload_bytes()
            )));
        }
        Ok(())
    }

    fn check_rules(&self) -> Result<()> {
        for (name, peers) in &self.rules {
            let known = match &**name {
                HEALTH => true,
                STREAM_EVENTS => self.events.is_some(),
                name => self.methods.contains_key(name) || self.notifications.contains_key(name),
            };
            if !known {
                return Err(Error::invalid_config(format!(
                    "a rule is for a method that is not served: {name:?}"
                )));
            }
            if peers.has_empty_name() {
                return Err(Error::invalid_config(format!("the rule for {name:?} has an empty name")));
            }
        }
        if self.default_rule.as_ref().is_some_and(Peers::has_empty_name) {
            return Err(Error::invalid_config("the rule by default has an empty name"));
        }
        Ok(())
    }

    /// Whether this peer may call this method. Of a method that is not there, whether it may know so.
    pub(crate) fn allows(&self, peer: Option<&PeerIdentity>, method: &str) -> bool {
        let rule = self.rules.get(method).or(self.default_rule.as_ref());
        rule.is_none_or(|peers| peers.contains(peer))
    }

    pub(crate) fn method(&self, name: &str) -> Option<&Registered> {
        self.methods.get(name)
    }

    pub(crate) fn notification_handler(&self, name: &str) -> Option<&NotificationHandler> {
        self.notifications.get(name)
    }

    pub(crate) fn event_log(&self) -> Option<&EventLog> {
        self.events.as_ref()
    }

    pub(crate) fn authorizer(&self) -> Option<&Authorizer> {
        self.authorizer.as_ref()
    }

    pub(crate) fn connection_handler(&self) -> Option<&ConnectionHandler> {
        self.on_connection.as_ref()
    }
}

fn decode_params<P: for<'b> Decode<'b, ()> + 'static>(params: &[u8]) -> Result<P, MethodError> {
    value::decode_params(params).map_err(|error| {
        let fault = std::error::Error::source(&error).map(ToString::to_string);
        MethodError::invalid_request(format!("params: {}", fault.unwrap_or_else(|| error.to_string())))
            .not_run()
    })
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { methods, notifications, events, rules, default_rule, authorizer: _, on_connection: _ } =
            self;
        f.debug_struct("Router")
            .field("methods", &methods.keys())
            .field("notifications", &notifications.keys())
            .field("events", events)
            .field("rules", rules)
            .field("default_rule", default_rule)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const MAX: usize = 512 * 1024;

    fn with(name: &str) -> Router {
        Router::new().serve_raw(name, |_, params| async move { Ok(params) })
    }

    #[test]
    fn names_that_no_request_can_carry_are_refused() {
        assert!(with("a").check(MAX).is_ok());
        assert!(with(&"x".repeat(128)).check(MAX).is_ok());
        for name in ["", &"x".repeat(129), "node.health", "node.anything"] {
            assert_eq!(with(name).check(MAX).unwrap_err().kind(), &ErrorKind::InvalidConfig, "{name:?}");
        }
        let notification = Router::new().on_notification_raw("node.x", |_, _| async {});
        assert!(notification.check(MAX).is_err());
    }

    #[test]
    fn a_rule_is_for_a_method_that_is_served() {
        let fault =
            |router: Router| router.check(MAX).err().and_then(|error| Some(error.explanation()?.to_owned()));
        let anybody = Peers::anybody;
        assert_eq!(fault(with("a").allow("a", anybody()).allow(HEALTH, anybody())), None);
        assert_eq!(
            fault(Router::new().on_notification_raw("a", |_, _| async {}).allow("a", anybody())),
            None
        );
        assert_eq!(fault(Router::new().events(EventLog::new()).allow(STREAM_EVENTS, anybody())), None);
        for name in ["b", "", STREAM_EVENTS, "node.other"] {
            let fault = fault(with("a").allow(name, anybody())).unwrap();
            assert!(fault.ends_with(&format!("{name:?}")), "{fault}");
        }
        assert!(fault(with("a").allow("a", Peers::nobody().uri(""))).is_some());
        assert!(fault(with("a").allow_by_default(Peers::nobody().dns_name(""))).is_some());
    }

    #[test]
    fn an_event_log_must_fit_the_frames_in_either_codec() {
        let router = |bytes| {
            let log = EventLog::builder().max_payload_bytes(bytes).build().unwrap();
            Router::new().events(log)
        };
        assert!(Router::new().events(EventLog::new()).check(MAX).is_ok());
        assert!(router(390_000).check(MAX).is_ok());
        assert!(router(400_000).check(MAX).is_err());
        assert!(router(400_000).check(2 * MAX).is_ok());
    }
}
