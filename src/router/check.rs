//! What is checked of a router when its endpoint is bound.

use super::{Router, peers::Peers};
use crate::{
    error::{Error, Result},
    events::ServedLog,
    message::largest_event_payload,
    protocol::{
        ACK_EVENTS, DESCRIBE, HEALTH, MAX_METHOD_BYTES, RESERVED_PREFIX, STREAM_EVENTS, is_method_len,
    },
};

impl Router {
    /// Finds routers that could not be merged, names that could never be called, rules for what is not there,
    /// and events that would not fit a frame.
    pub(super) fn check(&self, max_frame_len: usize) -> Result<()> {
        if let Some(fault) = &self.fault {
            return Err(Error::invalid_config(&**fault));
        }
        self.check_rules()?;
        let logs = self.logs.keys().filter(|name| *name != STREAM_EVENTS);
        let methods = self.methods.keys().chain(self.notifications.keys());
        for name in methods.chain(logs) {
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
        self.logs.iter().try_for_each(|(name, log)| self.check_log(name, log, max_frame_len))
    }

    /// What has limits and is no method.
    pub(super) fn limited_without_method(&self) -> Option<&str> {
        self.limits.keys().find(|name| !self.methods.contains_key(name))
    }

    fn check_log(&self, name: &str, log: &ServedLog, max_frame_len: usize) -> Result<()> {
        if self.methods.contains_key(name) {
            return Err(Error::invalid_config(format!(
                "{name:?} is the name of a method and of an event log"
            )));
        }
        if log.max_payload_bytes() > largest_event_payload(max_frame_len) {
            return Err(Error::invalid_config(format!(
                "max_payload_bytes of the event log {name:?} is {}, \
                 which does not fit into frames of max_frame_bytes {max_frame_len}",
                log.max_payload_bytes()
            )));
        }
        Ok(())
    }

    fn check_rules(&self) -> Result<()> {
        for (name, peers) in self.rules.iter() {
            let is_built_in = matches!(name, DESCRIBE | HEALTH);
            let is_acknowledgement = name == ACK_EVENTS && self.consumer_rule.is_some();
            if !is_built_in && !is_acknowledgement && !self.serves(name) {
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
        assert_eq!(fault(Router::new().log("a", EventLog::new()).allow("a", anybody())), None);
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
        let large = EventLog::builder().max_payload_bytes(400_000).build().unwrap();
        let named = Router::new().events(EventLog::new()).log("a", EventLog::new()).log("b", large);
        let error = named.check(MAX).unwrap_err();
        assert!(error.explanation().unwrap().contains("the event log \"b\""), "{error:?}");
        assert!(named.check(2 * MAX).is_ok());
    }

    #[test]
    fn names_of_logs_are_checked_as_those_of_methods() {
        let log = |name: &str| Router::new().log(name, EventLog::new());
        for name in ["a", &"x".repeat(128), STREAM_EVENTS] {
            assert!(log(name).check(MAX).is_ok(), "{name:?}");
        }
        for name in ["", &"x".repeat(129), HEALTH, DESCRIBE, "node.anything", "node.stream_events.x"] {
            assert_eq!(log(name).check(MAX).unwrap_err().kind(), &ErrorKind::InvalidConfig, "{name:?}");
        }
    }

    #[test]
    fn a_log_has_a_name_that_no_method_has() {
        let error = with("a").log("a", EventLog::new()).check(MAX).unwrap_err();
        assert!(error.explanation().unwrap().starts_with("\"a\""), "{error:?}");
        assert!(with("a").log("b", EventLog::new()).check(MAX).is_ok());
        // As for a method, which is another kind of stream.
        let notification = Router::new().on_notification_raw("a", |_, _| async {});
        assert!(notification.log("a", EventLog::new()).check(MAX).is_ok());
    }
}
