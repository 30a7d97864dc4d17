//! Limits of single methods, as a router has them.

use super::{Router, assemble::assemble, method_limits::MethodLimits};

impl Router {
    /// Limits the requests of one method in addition to the limits of the node. Later limits for the same
    /// method replace these. Default: none.
    ///
    /// The limits apply within the interceptors of [`around`](Self::around), which see what is refused. With
    /// [`nest`](Self::nest), limits of the nested router get the prefix with its methods.
    ///
    /// Binding the endpoint fails with [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if there is no such
    /// method, if a limit is zero, or if a time is longer than a year. Notifications and the built-in methods
    /// have no such limits.
    #[must_use]
    pub fn limits(mut self, method: impl AsRef<str>, limits: MethodLimits) -> Self {
        let method = method.as_ref();
        if let Some(fault) = limits.fault() {
            self.fault.get_or_insert_with(|| format!("the limits of {method:?}: {fault}").into());
        }
        self.limits.insert(method.into(), limits);
        self.assemble = Some(assemble);
        self
    }
}
