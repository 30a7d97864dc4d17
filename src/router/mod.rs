//! Methods by name, and the handlers behind them.

mod accepted;
mod acks;
mod around;
mod assemble;
mod authorize;
mod check;
mod consumer_rule;
mod context;
mod describe;
mod handler;
mod handler_future;
mod in_spans;
mod interceptor;
#[cfg(feature = "streams")]
mod item_source;
#[cfg(feature = "streams")]
mod items;
mod limited;
mod loan;
mod logs;
mod method_error;
mod method_limits;
mod mirrors;
mod nest;
mod peers;
mod registration;
mod response_size;
mod rules;
#[cfg(feature = "streams")]
mod serve_items;
mod sink;

use std::fmt;

#[cfg(feature = "streams")]
pub use self::items::Items;
pub(crate) use self::response_size::ResponseSize;
use self::{
    authorize::Authorizer,
    consumer_rule::{ConsumerRule, MirrorRule},
    handler::NotificationRegistration,
    interceptor::Interceptor,
};
pub use self::{
    authorize::{PendingPeer, Refusal},
    context::Context,
    interceptor::{Exchange, Next},
    method_error::MethodError,
    method_limits::MethodLimits,
    peers::Peers,
    sink::ResponseSink,
};
pub(crate) use self::{
    context::ExchangeGuard,
    handler::{ConnectionHandler, Handler, NotificationHandler, Registration},
    loan::Lender,
};
#[cfg(feature = "streams")]
pub(crate) use self::{
    handler::{ItemsHandler, Unary},
    item_source::{ItemFault, ItemSource},
};
use crate::{error::Result, events::ServedLog, name_map::NameMap};

/// The methods that a node serves. Every node that accepts connections or has a router answers `node.health`
/// and `node.describe`; with [`events`](Self::events) it answers `node.stream_events` too, and with
/// [`log`](Self::log) it serves further logs under names of the application's.
///
/// A handler is an async closure or function that takes a [`Context`] and the parameters. It is dropped, at
/// an `await`, when the caller no longer waits for the answer or the time limit has passed. If it panics,
/// only its own request fails.
///
/// The node first polls a handler in the task of its connection, and moves it to a task of its own when it
/// waits for something. Notifications of one stream share a task. A handler that computes for long without
/// an `await` therefore delays the other requests on its connection. After one that computed for more than
/// 100 µs, the next 256 requests on the connection get tasks of their own from the beginning. Do long
/// computations on other threads.
///
/// ```
/// use palyra_quic::{Context, Method, MethodError, NotificationMethod};
/// use palyra_quic::{ResponseSink, Router, StreamingMethod};
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
/// use std::sync::{Arc, atomic::{AtomicU32, Ordering}};
/// use palyra_quic::{Context, Method, Router};
///
/// const COUNT_UP: Method<u32, u32> = Method::new("demo.count_up");
///
/// let total = Arc::new(AtomicU32::new(0));
/// let router = Router::new().serve(COUNT_UP, move |_: Context, n| {
///     let total = Arc::clone(&total);
///     async move { Ok(total.fetch_add(n, Ordering::Relaxed) + n) }
/// });
/// # drop(router);
/// ```
#[derive(Default)]
pub struct Router {
    methods: NameMap<Registration>,
    notifications: NameMap<NotificationRegistration>,
    logs: NameMap<ServedLog>,
    rules: NameMap<Peers>,
    default_rule: Option<Peers>,
    authorizer: Option<Authorizer>,
    on_connection: Option<ConnectionHandler>,
    consumer_rule: Option<ConsumerRule>,
    mirror_rule: Option<MirrorRule>,
    /// Outermost first.
    interceptors: Vec<Interceptor>,
    limits: NameMap<MethodLimits>,
    /// Adds `node.ack_events`, if a log needs it. `None` without a rule for consumers, so that a program
    /// which has none does not contain it.
    add_acknowledgements: Option<fn(Self) -> Self>,
    /// Puts interceptors and limits around the handlers when the endpoint is bound.
    assemble: Option<fn(&mut Self) -> Result<()>>,
    /// What first went wrong when a router was nested, for the check when the endpoint is bound.
    fault: Option<Box<str>>,
}

impl Router {
    /// A router with nothing but the built-in methods `node.health` and `node.describe`, which anybody may
    /// call.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// As it is served: checked, and with its interceptors and limits around its handlers.
    ///
    /// # Errors
    ///
    /// `InvalidConfig`.
    pub(crate) fn assembled(mut self, max_frame_len: usize) -> Result<Self> {
        self.check(max_frame_len)?;
        if let Some(add) = self.add_acknowledgements {
            self = add(self);
        }
        if let Some(assemble) = self.assemble {
            assemble(&mut self)?;
        }
        self.methods.index();
        Ok(self)
    }

    /// Whether there is a method, a notification or a log of this name. `node.health` and `node.describe` are
    /// not among them.
    fn serves(&self, name: &str) -> bool {
        self.methods.contains_key(name)
            || self.notifications.contains_key(name)
            || self.logs.contains_key(name)
    }

    pub(crate) fn method(&self, name: &str) -> Option<&Registration> {
        self.methods.get(name)
    }

    pub(crate) fn notification_handler(&self, name: &str) -> Option<&NotificationHandler> {
        self.notifications.get(name).map(|registration| &registration.handler)
    }

    pub(crate) fn authorizer(&self) -> Option<&Authorizer> {
        self.authorizer.as_ref()
    }

    pub(crate) fn connection_handler(&self) -> Option<&ConnectionHandler> {
        self.on_connection.as_ref()
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            methods,
            notifications,
            logs,
            rules,
            default_rule,
            authorizer: _,
            on_connection: _,
            consumer_rule: _,
            mirror_rule: _,
            add_acknowledgements: _,
            interceptors,
            limits,
            assemble: _,
            fault: _,
        } = self;
        f.debug_struct("Router")
            .field("methods", &methods.keys().collect::<Vec<_>>())
            .field("notifications", &notifications.keys().collect::<Vec<_>>())
            .field("logs", logs)
            .field("rules", rules)
            .field("default_rule", default_rule)
            .field("interceptors", &interceptors.len())
            .field("limits", limits)
            .finish_non_exhaustive()
    }
}
