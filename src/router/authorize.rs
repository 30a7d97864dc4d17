//! Who may stay once its handshake is over, as the application decides.

use std::{fmt, net::SocketAddr, time::Duration};

use super::handler_future::HandlerFuture;
use crate::{
    code::{Code, CodeClass},
    link::PeerState,
    retry_after,
    text::truncated,
    tls::PeerIdentity,
};

/// What [`Router::authorize`](super::Router::authorize) is asked with.
pub(crate) type Authorizer =
    Box<dyn Fn(PendingPeer) -> HandlerFuture<Result<PeerState, Refusal>> + Send + Sync>;

/// A peer whose handshake is over, and that [`Router::authorize`](super::Router::authorize) decides about.
/// Nothing that it sent has been read yet.
///
/// ```
/// use palyra_quic::{PendingPeer, Refusal, Router};
///
/// /// Devices come from the local network, and have a certificate.
/// async fn may_stay(peer: PendingPeer) -> Result<(), Refusal> {
///     if peer.peer().is_none() {
///         return Err(Refusal::rejected("a certificate is needed"));
///     }
///     match peer.remote_address().ip() {
///         address if address.is_loopback() => Ok(()),
///         address => Err(Refusal::rejected(format!("{address} is not local"))),
///     }
/// }
///
/// let router = Router::new().authorize(may_stay);
/// # drop(router);
/// ```
#[derive(Clone)]
pub struct PendingPeer {
    peer: Option<PeerIdentity>,
    remote_address: SocketAddr,
}

impl PendingPeer {
    pub(crate) fn new(peer: Option<PeerIdentity>, remote_address: SocketAddr) -> Self {
        Self { peer, remote_address }
    }

    /// The peer's verified certificates and the names in them; `None` where it showed none.
    #[must_use]
    pub fn peer(&self) -> Option<&PeerIdentity> {
        self.peer.as_ref()
    }

    /// The peer's address when its handshake ended. The handshake proves that the peer receives packets
    /// there. It does not prove who the peer is.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.remote_address
    }
}

impl fmt::Debug for PendingPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peer, remote_address } = self;
        f.debug_struct("PendingPeer").field("peer", peer).field("remote_address", remote_address).finish()
    }
}

/// Why a peer may not stay: the code and the reason that its connection is closed with.
///
/// ```
/// use std::time::Duration;
/// use palyra_quic::{Code, Refusal};
///
/// let unknown = Refusal::rejected("not enrolled");
/// assert_eq!(unknown.code(), Code::IDENTITY_REJECTED);
///
/// let busy = Refusal::new(Code::CAPACITY, "").retry_after(Duration::from_secs(5));
/// assert_eq!(busy.reason(), "retry-after-ms=5000");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    code: Code,
    reason: Box<str>,
}

impl Refusal {
    /// The longest reason, in bytes: a sentence, which fits the smallest packet together with what else a
    /// close says.
    const MAX_REASON_BYTES: usize = 256;

    /// A refusal with any code. The class of the code tells the peer whether to try again. The peer gets the
    /// reason word for word, so it must not contain secrets. It is cut off after 256 bytes.
    #[must_use]
    pub fn new(code: Code, reason: impl Into<Box<str>>) -> Self {
        let mut reason = reason.into();
        if reason.len() > Self::MAX_REASON_BYTES {
            reason = truncated(&reason, Self::MAX_REASON_BYTES).into();
        }
        Self { code, reason }
    }

    /// The peer is not allowed here, and need not try again: IDENTITY_REJECTED.
    #[must_use]
    pub fn rejected(reason: impl Into<Box<str>>) -> Self {
        Self::new(Code::IDENTITY_REJECTED, reason)
    }

    /// Tells the peer when trying again makes sense, in whole milliseconds. This replaces the reason. It has
    /// no effect unless the code is of class [`Retry`](CodeClass::Retry).
    #[must_use]
    pub fn retry_after(self, delay: Duration) -> Self {
        match self.code.class() {
            CodeClass::Retry => Self { reason: retry_after::reason(delay).into(), ..self },
            _ => self,
        }
    }

    /// The code that the connection is closed with.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// The reason that the peer gets with the code.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let refusal = Refusal::rejected(format!("x{}", "é".repeat(300)));
        assert_eq!(refusal.reason().len(), 255);
        assert!(refusal.reason().ends_with('é'));
    }

    #[test]
    fn only_a_retry_code_says_when_to_come_back() {
        let delay = Duration::from_millis(1500);
        assert_eq!(
            Refusal::new(Code::RATE_LIMITED, "busy").retry_after(delay).reason(),
            "retry-after-ms=1500"
        );
        assert_eq!(Refusal::rejected("never").retry_after(delay).reason(), "never");
    }
}
