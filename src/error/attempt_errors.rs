//! Several attempts to reach a peer that failed, reported as one error.

use std::{sync::Arc, time::Duration};

use super::{Error, ErrorKind};

/// Why each attempt to reach a peer at one of its addresses failed, in the order of the addresses.
#[derive(Debug, Default)]
pub(crate) struct AttemptErrors(Vec<Error>);

/// What a failed attempt has shown about the other end, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shown {
    /// Nobody is known to have answered.
    Nothing,
    Answer,
    /// The identity of either side was not acceptable to the other.
    WrongIdentity,
}

impl AttemptErrors {
    pub(crate) fn push(&mut self, error: Error) {
        self.0.push(error);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The error to report: the first after which another attempt may help, or else the first. It
    /// [remembers](Error::with_other_attempt) what another attempt has shown, and asks for the
    /// [time](Self::retry_after) that all of them ask for. `None` without any attempt.
    pub(crate) fn into_error(self) -> Option<Error> {
        let retry_after = self.retry_after();
        let Self(mut errors) = self;
        if errors.is_empty() {
            return None;
        }
        let hopeful = errors.iter().position(|error| !error.is_terminal());
        let reported = errors.remove(hopeful.unwrap_or_default());
        let reported = if hopeful.is_some() { reported.after(retry_after) } else { reported };
        Some(errors.into_iter().fold(reported, Error::with_other_attempt))
    }

    /// How long to leave the peer alone: the shortest time that an address asked for, if all of them did at
    /// which another attempt may help.
    ///
    /// An address that failed without asking for time may answer any moment, and only another attempt would
    /// show it. Those that did ask are dialled too soon then, which costs them a handshake per attempt, and
    /// the pauses of the caller bound how often. The other way round, one full server could keep a client
    /// away from its neighbour for an hour.
    fn retry_after(&self) -> Option<Duration> {
        let hopeful = self.0.iter().filter(|error| !error.is_terminal());
        let asked: Option<Vec<Duration>> = hopeful.map(Error::retry_after).collect();
        asked?.into_iter().min()
    }
}

impl Error {
    /// Remembers that another attempt failed, if that one has shown more about the other end than this: the
    /// text names it, and no [fallback](crate::FallbackPolicy) is allowed. Otherwise an impostor at one
    /// address and silence at the next would look like UDP that is blocked.
    pub(crate) fn with_other_attempt(mut self, mut other: Self) -> Self {
        let of_other = other.0.other_attempt.take();
        // Of two that have shown as much, the last candidate is taken: that which was remembered first.
        let candidates = [of_other, Some(Arc::new(other)), self.0.other_attempt.take()];
        let telling = candidates.into_iter().flatten().max_by_key(|telling| telling.shown());
        self.0.other_attempt = telling.filter(|telling| telling.shown() > self.shown());
        self
    }

    /// Whether another attempt than the one that is reported was answered.
    pub(crate) fn was_answered_elsewhere(&self) -> bool {
        self.0.other_attempt.is_some()
    }

    fn shown(&self) -> Shown {
        if self.is_authentication() {
            Shown::WrongIdentity
        } else if is_answer(self.kind()) {
            Shown::Answer
        } else {
            Shown::Nothing
        }
    }
}

/// Whether an attempt fails so only if somebody answered.
fn is_answer(kind: &ErrorKind) -> bool {
    match kind {
        ErrorKind::InvalidConfig
        | ErrorKind::Io
        | ErrorKind::MessageTooLarge
        | ErrorKind::Codec
        | ErrorKind::Closed
        | ErrorKind::DeadlineExceeded
        | ErrorKind::Exhausted
        | ErrorKind::Intercepted
        | ErrorKind::HandshakeTimeout => false,
        ErrorKind::ConnectionLost
        | ErrorKind::PinMismatch
        | ErrorKind::PeerCertificate
        | ErrorKind::CertificateRefused
        | ErrorKind::AlpnMismatch
        | ErrorKind::VersionMismatch
        | ErrorKind::Refused
        | ErrorKind::ConnectionClosed(_)
        | ErrorKind::StreamReset(_)
        | ErrorKind::Remote(_)
        | ErrorKind::Unsupported
        | ErrorKind::Truncated
        | ErrorKind::FrameTooLarge
        | ErrorKind::Protocol => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        code::Code,
        fallback::{FallbackPolicy, PathPrivilege},
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn merged<const N: usize>(errors: [Error; N]) -> Error {
        AttemptErrors(Vec::from(errors)).into_error().unwrap()
    }

    fn silence() -> Error {
        Error::new(ErrorKind::HandshakeTimeout)
    }

    fn impostor() -> Error {
        Error::new(ErrorKind::PeerCertificate)
    }

    fn other_version() -> Error {
        Error::new(ErrorKind::VersionMismatch)
    }

    fn full(seconds: u32) -> Error {
        Error::new(ErrorKind::ConnectionClosed(Code::CAPACITY)).after(Some(seconds * SECOND))
    }

    fn allows_fallback(error: &Error) -> bool {
        FallbackPolicy::AllowExplicit.decide(error, PathPrivilege::Unprivileged).is_some()
    }

    #[test]
    fn the_first_error_after_which_another_attempt_may_help_is_reported() {
        assert!(AttemptErrors::default().into_error().is_none());
        for (errors, reported) in [
            ([impostor(), silence(), full(1)], ErrorKind::HandshakeTimeout),
            ([full(1), silence(), impostor()], ErrorKind::ConnectionClosed(Code::CAPACITY)),
            ([other_version(), impostor(), impostor()], ErrorKind::VersionMismatch),
        ] {
            assert_eq!(*merged(errors).kind(), reported);
        }
    }

    #[test]
    fn an_answer_to_any_attempt_forbids_a_fallback() {
        assert!(allows_fallback(&merged([silence(), silence()])), "nobody answered");
        for answer in [impostor, other_version, || full(1), || Error::new(ErrorKind::Refused)] {
            for errors in [
                [answer(), silence(), silence()],
                [silence(), answer(), silence()],
                [silence(), silence(), answer()],
            ] {
                let error = merged(errors);
                assert!(!allows_fallback(&error), "{error}");
            }
            // Through a second merge, for a client with several hosts; and by the next round of a call.
            let host = merged([answer(), silence()]);
            assert!(!allows_fallback(&merged([silence(), host])));
            let host = merged([silence(), answer()]);
            assert!(!allows_fallback(&silence().with_other_attempt(host)));
        }
    }

    #[test]
    fn the_text_names_the_attempt_that_showed_most() {
        let at = |last, error: Error| error.at(([192, 0, 2, last], 7443).into());
        let error = merged([at(1, other_version()), at(2, silence()), at(3, impostor()), at(4, impostor())]);
        assert_eq!(
            error.to_string(),
            "handshake timed out (at 192.0.2.2:7443); another attempt: peer certificate not acceptable (at \
             192.0.2.3:7443)"
        );
        let error = merged([silence(), silence()]);
        assert_eq!(error.to_string(), "handshake timed out");
    }

    #[test]
    fn the_shortest_time_counts_if_all_addresses_ask_for_some() {
        for (errors, expected) in [
            ([full(3), full(1), full(2)], Some(SECOND)),
            ([impostor(), full(2), full(1)], Some(SECOND)),
            ([impostor(), impostor(), full(2)], Some(2 * SECOND)),
            ([silence(), full(1), full(2)], None),
            ([full(1), full(2), silence()], None),
            ([silence(), impostor(), silence()], None),
        ] {
            assert_eq!(merged(errors).retry_after(), expected);
        }
    }
}
