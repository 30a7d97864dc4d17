//! When a peer may come back, as the reason of a CONNECTION_CLOSE frame says it: `retry-after-ms=N`.
//!
//! Only a code of the class [`Retry`](crate::CodeClass::Retry) gives such a reason its meaning. Responses say
//! the same in a field of their own, in whole milliseconds too.

use std::time::Duration;

const KEY: &str = "retry-after-ms=";

/// The reason that asks for this delay, rounded as [`millis_rounded_up`] does.
pub(crate) fn reason(delay: Duration) -> String {
    format!("{KEY}{}", millis_rounded_up(delay))
}

/// The delay that a reason asks for, if it asks for any.
pub(crate) fn parse(reason: &str) -> Option<Duration> {
    let millis = reason.strip_prefix(KEY)?;
    // `parse` alone would take a sign.
    if !millis.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    millis.parse().ok().map(Duration::from_millis)
}

/// Rounded up, so that a peer which waits for as long as it is told does not come back too early.
pub(crate) fn millis_rounded_up(delay: Duration) -> u64 {
    u64::try_from(delay.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_survives_in_milliseconds_rounded_up() {
        for (nanos, text, millis) in [
            (0, "retry-after-ms=0", 0),
            (1, "retry-after-ms=1", 1),
            (1_500_000_000, "retry-after-ms=1500", 1500),
            (1_500_000_001, "retry-after-ms=1501", 1501),
        ] {
            let delay = Duration::from_nanos(nanos);
            assert_eq!(reason(delay), text);
            assert_eq!(parse(text), Some(Duration::from_millis(millis)));
        }
        assert_eq!(parse(&reason(Duration::MAX)), Some(Duration::from_millis(u64::MAX)));
    }

    #[test]
    fn other_reasons_ask_for_no_delay() {
        for reason in [
            "",
            "later",
            "retry-after-ms",
            "retry-after-ms=",
            "retry-after-ms=-1",
            "retry-after-ms=+1",
            "retry-after-ms=2 s",
            "retry-after-ms=2000.5",
            " retry-after-ms=2000",
            "retry-after-ms=99999999999999999999",
        ] {
            assert_eq!(parse(reason), None, "{reason:?}");
        }
    }
}
