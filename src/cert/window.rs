//! When a certificate is valid.

use std::time::{Duration, SystemTime};

use rcgen::CertificateParams;

use crate::error::{Error, Result};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An authority is trusted until somebody replaces it, and here nobody is paid to do that often.
pub(super) const AUTHORITY_LIFETIME: Duration = DAY.saturating_mul(3650);

pub(super) const DEFAULT_LIFETIME: Duration = DAY.saturating_mul(365);

/// Small boards wake up with clocks that are behind.
pub(super) const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);

/// When a certificate is valid, as times since 1970 that X.509 can write down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) from: Duration,
    pub(super) until: Duration,
}

impl Window {
    /// The last second of the year 9999; a year has four digits in X.509
    /// ([RFC 5280, section 4.1.2.5.2](https://www.rfc-editor.org/rfc/rfc5280#section-4.1.2.5.2)).
    const LAST: Duration = Duration::from_secs(253_402_300_799);

    pub(super) fn new(from: SystemTime, until: SystemTime) -> Result<Self> {
        let since_1970 = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH)
                .map_err(|error| Error::invalid_config("a certificate from before 1970").caused_by(error))
        };
        let (from, until) = (since_1970(from)?, since_1970(until)?);
        if until < from {
            return Err(Error::invalid_config("the certificate would end before it begins"));
        }
        if until > Self::LAST {
            return Err(Error::invalid_config("a certificate until after the year 9999"));
        }
        Ok(Self { from, until })
    }

    pub(super) fn starting_now(lifetime: Duration) -> Result<Self> {
        let now = SystemTime::now();
        // A clock that starts at 1970 has no hour before.
        Self::new(now.checked_sub(CLOCK_SKEW).unwrap_or(now).max(SystemTime::UNIX_EPOCH), now + lifetime)
    }

    pub(super) fn apply_to(self, params: &mut CertificateParams) {
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + self.from;
        params.not_after = epoch + self.until;
    }
}
