//! Merges a router into another one, under a prefix.

use super::Router;
use crate::{name_map::NameMap, protocol::STREAM_EVENTS};

impl Router {
    /// Adds what `other` serves, under names that begin with `prefix` and a dot: with the prefix `demo`, its
    /// method `add` becomes `demo.add`. A nested router may contain nested routers: `demo.math.add`.
    ///
    /// Methods, notifications, the logs of [`log`](Self::log), the rules of [`allow`](Self::allow) and the
    /// limits of [`limits`](Self::limits) get the prefix. If `other` has a rule of
    /// [`allow_by_default`](Self::allow_by_default), that becomes the rule of each of its methods,
    /// notifications and logs without a rule, be it in `other` or, by the full name, in this router. If it
    /// has no such rule, they follow the default rule of this router, as do names under the prefix that
    /// nothing serves.
    ///
    /// Interceptors of [`around`](Self::around) in `other` run around its own methods and notifications
    /// alone, within those of this router.
    ///
    /// Afterwards the methods belong to this router: a later [`allow`](Self::allow) or
    /// [`serve`](Self::serve) with a full name replaces what came from `other`, its interceptors included.
    ///
    /// # Errors
    ///
    /// Binding the endpoint fails with [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if
    ///
    /// - the prefix is empty, or begins or ends with a dot;
    /// - a full name is longer than 128 bytes or starts with `node.`, or a name in `other` is empty;
    /// - this router already serves a method, a notification or a log with such a full name;
    /// - both routers have a rule of [`allow`](Self::allow), or limits, for a method;
    /// - `other` has a rule or limits for a method that it does not serve, a built-in one included;
    /// - `other` has a log of [`events`](Self::events), or uses [`authorize`](Self::authorize) or
    ///   [`on_connection`](Self::on_connection). A node has one of each: set it on the outermost router.
    ///
    /// # Examples
    ///
    /// Callers use the full name. A type alias states the types once, for the short and the full name:
    ///
    /// ```
    /// use palyra_quic::{Connection, Peers, Result, Router};
    ///
    /// mod calculator {
    ///     use palyra_quic::{Method, MethodError, Router};
    ///
    ///     pub type Add = Method<(u32, u32), u32>;
    ///     const ADD: Add = Add::new("add");
    ///
    ///     pub fn router() -> Router {
    ///         Router::new().serve(ADD, |_, (a, b)| async move {
    ///             a.checked_add(b).ok_or_else(|| MethodError::invalid_request("the sum overflows"))
    ///         })
    ///     }
    /// }
    ///
    /// const ADD: calculator::Add = calculator::Add::new("demo.add");
    ///
    /// fn router() -> Router {
    ///     Router::new().nest("demo", calculator::router()).allow(ADD, Peers::identified())
    /// }
    ///
    /// async fn add(connection: &Connection) -> Result<u32> {
    ///     connection.call(ADD, &(40, 2)).await
    /// }
    /// # drop(router());
    /// ```
    #[must_use]
    pub fn nest(mut self, prefix: &str, other: Self) -> Self {
        let fault = other.fault_of_merging(prefix).or_else(|| self.fault_of_adding(prefix, &other));
        self.fault = self.fault.or(fault);

        let Self {
            mut methods,
            mut notifications,
            logs,
            mut rules,
            default_rule,
            interceptors,
            limits,
            assemble,
            ..
        } = other;
        let own = methods.values_mut().map(|method| &mut method.interceptors);
        for around in own.chain(notifications.values_mut().map(|method| &mut method.interceptors)) {
            around.splice(..0, interceptors.iter().cloned());
        }
        self.assemble = self.assemble.or(assemble);
        if let Some(peers) = default_rule {
            for name in methods.keys().chain(notifications.keys()).chain(logs.keys()) {
                let has_rule = rules.contains_key(name) || self.rules.contains_key(&full_name(prefix, name));
                if !has_rule {
                    rules.insert(name.into(), peers.clone());
                }
            }
        }
        self.methods.extend(prefixed(prefix, methods));
        self.notifications.extend(prefixed(prefix, notifications));
        self.logs.extend(prefixed(prefix, logs));
        self.rules.extend(prefixed(prefix, rules));
        self.limits.extend(prefixed(prefix, limits));
        self
    }

    /// Why this router cannot be merged into any other under this prefix.
    fn fault_of_merging(&self, prefix: &str) -> Option<Box<str>> {
        if let Some(fault) = &self.fault {
            return Some(fault.clone());
        }
        if prefix.is_empty() || prefix.starts_with('.') || prefix.ends_with('.') {
            return Some(
                format!("a prefix of methods has no dot at its ends, and is not empty: {prefix:?}").into(),
            );
        }
        let of_the_node = [
            (self.logs.contains_key(STREAM_EVENTS), "the node's event log"),
            (self.authorizer.is_some(), "`authorize`"),
            (self.on_connection.is_some(), "`on_connection`"),
            (self.consumer_rule.is_some(), "`consumers`"),
            (self.mirror_rule.is_some(), "`mirrors`"),
        ];
        if let Some((_, what)) = of_the_node.iter().find(|(is_there, _)| *is_there) {
            return Some(
                format!("the router under {prefix:?} has {what}, which belongs to the outermost one").into(),
            );
        }
        if self.serves("") {
            return Some(format!("a method of the router under {prefix:?} has no name").into());
        }
        let stray = self.rules.keys().find(|name| !self.serves(name)).map(|name| ("a rule", name));
        let (what, stray) = stray.or_else(|| Some(("a limit", self.limited_without_method()?)))?;
        Some(
            format!(
                "{what} of the router under {prefix:?} is for a method that it does not serve: {stray:?}"
            )
            .into(),
        )
    }

    /// What `other` has under a name that is taken here.
    fn fault_of_adding(&self, prefix: &str, other: &Self) -> Option<Box<str>> {
        let served = other.methods.keys().chain(other.notifications.keys()).chain(other.logs.keys());
        let taken = served.map(|name| full_name(prefix, name)).find(|name| self.serves(name));
        if let Some(name) = taken {
            return Some(format!("two routers serve {name:?}").into());
        }
        let ruled = other.rules.keys().map(|name| full_name(prefix, name));
        if let Some(twice) = ruled.into_iter().find(|name| self.rules.contains_key(name)) {
            return Some(format!("two routers have a rule for {twice:?}").into());
        }
        let limited = other.limits.keys().map(|name| full_name(prefix, name));
        let twice = limited.into_iter().find(|name| self.limits.contains_key(name))?;
        Some(format!("two routers have limits for {twice:?}").into())
    }
}

fn full_name(prefix: &str, name: &str) -> Box<str> {
    format!("{prefix}.{name}").into()
}

fn prefixed<T>(prefix: &str, entries: NameMap<T>) -> impl Iterator<Item = (Box<str>, T)> {
    entries.into_iter().map(move |(name, entry)| (full_name(prefix, &name), entry))
}
