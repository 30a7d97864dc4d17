//! Times, for people.

use rustls::pki_types::UnixTime;

/// A time, in UTC.
pub(crate) fn time(time: UnixTime) -> String {
    seconds(time.as_secs())
}

/// A time in seconds since 1970, in UTC.
pub(crate) fn seconds(since_1970: u64) -> String {
    der::DateTime::from_unix_duration(std::time::Duration::from_secs(since_1970))
        .map_or_else(|_| "a time that cannot be written".to_owned(), |time| time.to_string())
}
