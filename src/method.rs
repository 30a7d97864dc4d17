//! Methods whose name and types are stated once, for the side that serves them and the side that calls them.
//!
//! The names of the protocol's own methods are in `src/protocol.rs`.

use std::{fmt, marker::PhantomData};

use crate::protocol::STREAM_EVENTS;

/// A method with one answer: its name, the type `P` of its parameters and the type `T` of its result.
///
/// As a constant that both sides share, it keeps the two in step: [`Router::serve`](crate::Router::serve)
/// takes a handler of these types only, and [`Connection::call`](crate::Connection::call) these parameters
/// only. A plain string names a method as well; then each side states the types.
///
/// ```
/// use palyra_quic::{Connection, Method, MethodError, Result, Router};
///
/// const ADD: Method<(u32, u32), u64> = Method::new("demo.add");
///
/// fn router() -> Router {
///     Router::new().serve(ADD, |_, (a, b)| async move { Ok(u64::from(a) + u64::from(b)) })
/// }
///
/// async fn add(connection: &Connection) -> Result<u64> {
///     connection.call(ADD, &(40, 2)).await
/// }
/// # drop(router());
/// ```
pub struct Method<P: ?Sized, T> {
    name: &'static str,
    types: PhantomData<fn(&P) -> T>,
}

/// A method with any number of answers: its name, the type `P` of its parameters and the type `T` of each
/// answer. See [`Method`] and [`Router::serve_stream`](crate::Router::serve_stream).
pub struct StreamingMethod<P: ?Sized, T> {
    name: &'static str,
    types: PhantomData<fn(&P) -> T>,
}

/// A method that takes items and answers once: its name, the type `P` of its parameters, the type `I` of each
/// item, and the type `T` of its result. See [`Method`] and
/// [`Router::serve_items`](crate::Router::serve_items).
#[cfg(feature = "streams")]
pub struct ItemsMethod<P: ?Sized, I, T> {
    name: &'static str,
    types: PhantomData<fn(&P, &I) -> T>,
}

/// A method that takes items and answers any number of times: its name, the type `P` of its parameters, the
/// type `I` of each item, and the type `T` of each answer. See [`Method`] and
/// [`Router::serve_bidi`](crate::Router::serve_bidi).
#[cfg(feature = "streams")]
pub struct BidiMethod<P: ?Sized, I, T> {
    name: &'static str,
    types: PhantomData<fn(&P, &I) -> T>,
}

/// A notification: its name and the type `P` of its parameters. See [`Method`],
/// [`Router::on_notification`](crate::Router::on_notification) and
/// [`Connection::notify`](crate::Connection::notify).
///
/// ```
/// use palyra_quic::{Connection, NotificationMethod, Result, Router};
///
/// const LOG: NotificationMethod<String> = NotificationMethod::new("demo.log");
///
/// fn router() -> Router {
///     Router::new().on_notification(LOG, |_, line| async move { println!("{line}") })
/// }
///
/// async fn log(connection: &Connection, line: String) -> Result<()> {
///     connection.notify(LOG, &line).await
/// }
/// # drop(router());
/// ```
pub struct NotificationMethod<P: ?Sized> {
    name: &'static str,
    types: PhantomData<fn(&P)>,
}

impl<P: ?Sized, T> Method<P, T> {
    /// A method of this name, which has 1 to 128 bytes and does not start with `node.`.
    ///
    /// The name is checked when an endpoint that serves it is bound.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, types: PhantomData }
    }

    /// The name that requests carry.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<P: ?Sized, T> StreamingMethod<P, T> {
    /// A method of this name; see [`Method::new`].
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, types: PhantomData }
    }

    /// The name that requests carry.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

#[cfg(feature = "streams")]
impl<P: ?Sized, I, T> ItemsMethod<P, I, T> {
    /// A method of this name; see [`Method::new`].
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, types: PhantomData }
    }

    /// The name that requests carry.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

#[cfg(feature = "streams")]
impl<P: ?Sized, I, T> BidiMethod<P, I, T> {
    /// A method of this name; see [`Method::new`].
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, types: PhantomData }
    }

    /// The name that requests carry.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<T: ?Sized> LogMethod<T> {
    /// The node's own log, which [`Router::events`](crate::Router::events) serves.
    pub const NODE: Self = Self::new(STREAM_EVENTS);

    /// A log that [`Router::log`](crate::Router::log) serves under this name, which has 1 to 128 bytes and
    /// does not start with `node.`.
    ///
    /// The name is checked when an endpoint that serves it is bound.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, types: PhantomData }
    }

    /// The name that requests carry.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<P: ?Sized> NotificationMethod<P> {
    /// A notification of this name; see [`Method::new`].
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, types: PhantomData }
    }

    /// The name that notifications carry.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

/// An event log of a node: the name of the method that serves it, and the type `T` of the payloads. See
/// [`Router::log`](crate::Router::log) and [`Connection::events`](crate::Connection::events).
///
/// ```
/// use palyra_quic::LogMethod;
///
/// /// Degrees Celsius.
/// const READINGS: LogMethod<i32> = LogMethod::new("plant.temperature");
///
/// /// The node's own log.
/// const NEWS: LogMethod<String> = LogMethod::NODE;
///
/// assert_eq!(READINGS.name(), "plant.temperature");
/// assert_eq!(NEWS.name(), "node.stream_events");
/// ```
pub struct LogMethod<T: ?Sized> {
    name: &'static str,
    types: PhantomData<fn(&T)>,
}

/// What a method takes, and what it answers with: the kinds of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MethodKind {
    /// One request, one answer.
    Unary,
    /// One request, any number of answers.
    Streaming,
    /// A request that goes on with items, one answer.
    Items,
    /// A request that goes on with items, any number of answers.
    Both,
    /// No answer.
    Notification,
    /// An event log.
    Log,
    /// A kind that this version does not know.
    Unknown,
}

impl MethodKind {
    /// The word of the protocol for this kind.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::Streaming => "streaming",
            Self::Items => "items",
            Self::Both => "both",
            Self::Notification => "notification",
            Self::Log => "log",
            Self::Unknown => "unknown",
        }
    }
}

impl From<&str> for MethodKind {
    fn from(text: &str) -> Self {
        let known = [Self::Unary, Self::Streaming, Self::Items, Self::Both, Self::Notification, Self::Log];
        known.into_iter().find(|kind| kind.as_str() == text).unwrap_or(Self::Unknown)
    }
}

impl fmt::Display for MethodKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Stands for a [`Method`], a [`StreamingMethod`], and a method that takes items, where any of them will do:
/// in [`Connection::request`](crate::Connection::request).
#[derive(Debug)]
pub struct AnyMethod<P: ?Sized, T> {
    _types: PhantomData<fn(&P) -> T>,
}

/// What names an `M`: the `M` itself, which brings the types along, or a string, to which the types are
/// stated where it is used.
///
/// `M` is [`Method`], [`StreamingMethod`], [`AnyMethod`], [`NotificationMethod`] or [`LogMethod`], and with
/// feature `streams` `ItemsMethod` or `BidiMethod`. Sealed: only these and strings implement it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not name a `{M}`",
    label = "neither a string nor a `{M}`"
)]
pub trait MethodName<M>: sealed::Sealed {
    /// The name that requests or notifications carry.
    fn method_name(&self) -> &str;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! named_by_itself {
    ($method:ident $(, $param:ident)*) => {
        impl<P: ?Sized, $($param),*> sealed::Sealed for $method<P, $($param),*> {}

        impl<P: ?Sized, $($param),*> MethodName<Self> for $method<P, $($param),*> {
            fn method_name(&self) -> &str {
                self.name
            }
        }

        impl<P: ?Sized, $($param),*> AsRef<str> for $method<P, $($param),*> {
            fn as_ref(&self) -> &str {
                self.name
            }
        }

        impl<P: ?Sized, $($param),*> Clone for $method<P, $($param),*> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<P: ?Sized, $($param),*> Copy for $method<P, $($param),*> {}

        impl<P: ?Sized, $($param),*> fmt::Debug for $method<P, $($param),*> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($method)).field(&self.name).finish()
            }
        }
    };
}

named_by_itself!(Method, T);
named_by_itself!(StreamingMethod, T);
named_by_itself!(NotificationMethod);
named_by_itself!(LogMethod);
#[cfg(feature = "streams")]
named_by_itself!(ItemsMethod, I, T);
#[cfg(feature = "streams")]
named_by_itself!(BidiMethod, I, T);

impl<P: ?Sized, T> MethodName<AnyMethod<P, T>> for Method<P, T> {
    fn method_name(&self) -> &str {
        self.name
    }
}

impl<P: ?Sized, T> MethodName<AnyMethod<P, T>> for StreamingMethod<P, T> {
    fn method_name(&self) -> &str {
        self.name
    }
}

#[cfg(feature = "streams")]
impl<P: ?Sized, I, T> MethodName<AnyMethod<P, T>> for ItemsMethod<P, I, T> {
    fn method_name(&self) -> &str {
        self.name
    }
}

#[cfg(feature = "streams")]
impl<P: ?Sized, I, T> MethodName<AnyMethod<P, T>> for BidiMethod<P, I, T> {
    fn method_name(&self) -> &str {
        self.name
    }
}

// Not for every reference to `AsRef<str>`: a reference to a method would then name a method of any kind.
macro_rules! named_by_string {
    ($($string:ty),*) => {$(
        impl sealed::Sealed for $string {}

        impl<M> MethodName<M> for $string {
            fn method_name(&self) -> &str {
                self
            }
        }
    )*};
}

named_by_string!(&str, &&str, &String, String);

#[cfg(test)]
mod tests {
    use super::*;

    const ADD: Method<(u32, u32), u64> = Method::new("demo.add");
    const COUNT: StreamingMethod<u32, u32> = StreamingMethod::new("demo.count");
    const LOG: NotificationMethod<str> = NotificationMethod::new("demo.log");

    #[test]
    fn a_method_and_a_string_name_the_same() {
        fn name<P, T>(method: impl MethodName<Method<P, T>>, _: &P, _: T) -> String {
            method.method_name().to_owned()
        }
        let owned = "demo.add".to_owned();
        let borrowed = &"demo.add";
        for name in [
            name(ADD, &(1, 2), 3),
            name("demo.add", &(1, 2), 3),
            name(borrowed, &(1, 2), 3),
            name(&owned, &(1, 2), 3),
            name(owned.clone(), &(1, 2), 3),
        ] {
            assert_eq!(name, ADD.name());
        }
    }

    #[test]
    fn methods_are_copied_whatever_their_types() {
        let (copy, other) = (COUNT, COUNT);
        assert_eq!(copy.as_ref(), other.name());
        assert_eq!(
            format!("{:?} {:?} {:?}", ADD, COUNT, LOG),
            concat!(
                r#"Method("demo.add") "#,
                r#"StreamingMethod("demo.count") "#,
                r#"NotificationMethod("demo.log")"#
            )
        );
    }
}
