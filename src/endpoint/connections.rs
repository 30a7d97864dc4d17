//! The open connections of an endpoint, and their immediate end.

use super::{Endpoint, Inner};
use crate::{close_state::Cause, code::Code, connection::Connection, drain::Phase};

impl Endpoint {
    /// The connections that are open at the moment, in no particular order: those that were accepted and [let
    /// in](crate::Router::authorize), and those that this endpoint dialled, also through a
    /// [`Client`](crate::Client).
    ///
    /// The handles are like all others: one of a dialled connection keeps it open.
    ///
    /// ```
    /// # use palyra_quic::{Code, Endpoint};
    /// /// Ends the connections of one address, now and not for ever.
    /// fn disconnect(endpoint: &Endpoint, address: std::net::IpAddr) {
    ///     for connection in endpoint.connections() {
    ///         if connection.remote_address().ip() == address {
    ///             connection.close(Code::SHUTTING_DOWN, "maintenance");
    ///         }
    ///     }
    /// }
    /// # drop(disconnect);
    /// ```
    #[must_use]
    pub fn connections(&self) -> Vec<Connection> {
        let Inner { node, dialled, .. } = &*self.inner;
        let let_in = node.accepted().into_iter().filter(|link| link.peer_state().is_some());
        let dialled = dialled.with_handles().into_iter().filter(|connection| connection.link().is_open());
        let_in.map(Connection::borrowed).chain(dialled).collect()
    }

    /// Closes the endpoint and all its connections immediately; the peers get the code and the reason.
    /// [`shutdown`](Self::shutdown) is the orderly way.
    ///
    /// - Calls that peers have made are cancelled: their handlers are dropped, in the middle of what they
    ///   await, and so is the handler that calls this, when it next waits.
    /// - Calls and streams of this side, and what it begins later, fail with
    ///   [`Closed`](crate::ErrorKind::Closed).
    /// - Notifications that were received and not handled yet are dropped. Those that were sent and not
    ///   acknowledged may be lost.
    /// - What the router's event logs have not written yet stays with them:
    ///   [`flush`](crate::EventLog::flush) writes it.
    ///
    /// [`closed`](Self::closed) is ready afterwards. This does not wait until the peers have been told, who
    /// find out by their idle timeout if the process ends before:
    /// [`shutdown`](Self::shutdown)`(Duration::ZERO)` afterwards waits for that, and for the tasks of the
    /// endpoint, for a second at most. It affects every handle. A shutdown in progress ends early, with the
    /// same code; after the end of an endpoint, this does nothing.
    ///
    /// ```
    /// use palyra_quic::{Code, Endpoint, ErrorKind};
    ///
    /// # fn main() -> palyra_quic::Result<()> {
    /// let endpoint = Endpoint::builder().bind(([127, 0, 0, 1], 0).into())?;
    /// endpoint.close(Code::NO_ERROR, "not needed any more");
    /// assert!(endpoint.is_closed());
    /// # Ok(())
    /// # }
    /// ```
    pub fn close(&self, code: Code, reason: &str) {
        let Inner { open, node, dialled, .. } = &*self.inner;
        // Before anything is closed, so that its errors have this cause.
        node.close_state().end(Cause::Closed);
        // One by one, and before the tasks of the connections are told, which know no code of the caller's.
        node.accepted().iter().for_each(|link| link.close(code, reason));
        dialled.with_handles().iter().for_each(|connection| connection.close(code, reason));
        open.quinn().close(code.to_varint(), reason.as_bytes());
        node.drain().advance(Phase::Aborting);
        node.close_state().complete();
    }
}
