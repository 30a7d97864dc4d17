//! What is checked of a router when its endpoint is bound.

use super::{Router, peers::Peers};
use crate::{
    error::{Error, Result},
    message::largest_event_payload,
    protocol::{DESCRIBE, HEALTH, MAX_METHOD_BYTES, RESERVED_PREFIX, STREAM_EVENTS, is_method_len},
};

impl Router {
    /// Finds routers that could not be merged, names that could never be called, rules for what is not there,
    /// and events that would not fit a frame.
    pub(super) fn check(&self, max_frame_len: usize) -> Result<()> {
        if let Some(fault) = &self.fault {
            return Err(Error::invalid_config(&**fault));
        }
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

    /// What has limits and is no method.
    pub(super) fn limited_without_method(&self) -> Option<&str> {
        self.limits.keys().map(|name| &**name).find(|name| !self.methods.contains_key(*name))
    }

    fn check_rules(&self) -> Result<()> {
        for (name, peers) in &self.rules {
            let known = match &**name {
                DESCRIBE | HEALTH => true,
                STREAM_EVENTS => self.events.is_some(),
                name => self.serves(name),
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::ErrorKind, events::EventLog};

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
        assert_eq!(fault(Router::new().allow(DESCRIBE, Peers::nobody())), None);
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
