//! The one connection of a client, and the task that dials it.

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Instant};

use futures_lite::{FutureExt, future};
use tracing::Instrument;

use super::{
    pending_dial::{Caller, PendingDial},
    policy::{Attempt, ConnectPolicy, Round},
};
use crate::{
    connection::Connection,
    endpoint::{Endpoint, HandshakeProgress, ServerAddress},
    error::{Error, ErrorKind, Result},
    runtime::runtime_is_gone,
    sync::{Mutex, MutexGuard, lock},
    tls::Security,
};

/// Keeps the connection of a client, and dials another when a caller finds none.
///
/// A dial is one attempt at each address, with the pauses that are due before. It runs in a task, and all
/// callers wait for the same one. While nobody waits, the attempt in progress goes on for those who call
/// next, until its handshake times out; no pause is waited for, and no other attempt begins.
pub(super) struct Connector {
    pub(super) endpoint: Endpoint,
    pub(super) addresses: Vec<ServerAddress>,
    /// The endpoint's, or the client's own.
    pub(super) security: Arc<Security>,
    /// No task is woken, spawned or dropped while this is locked.
    state: Mutex<State>,
}

struct State {
    policy: ConnectPolicy,
    current: Option<CurrentConnection>,
    /// Invariant: `None` while there is a current connection.
    dial: Option<Arc<PendingDial>>,
}

struct CurrentConnection {
    connection: Connection,
    since: Instant,
}

/// How a caller gets its connection.
enum Access {
    Connected(Connection),
    Joined(Caller),
    /// This caller's dial has no task yet.
    Begun(Caller, Arc<PendingDial>),
}

/// How an attempt at an address ended.
enum Tried {
    Done(Result<Connection>),
    /// A caller has come after all others had given it up, and there is another address.
    Superseded,
    /// The client was dropped.
    Orphaned,
}

impl Connector {
    pub(super) fn new(
        endpoint: Endpoint,
        addresses: Vec<ServerAddress>,
        security: Arc<Security>,
        policy: ConnectPolicy,
    ) -> Self {
        let state = Mutex::new(State { policy, current: None, dial: None });
        Self { endpoint, addresses, security, state }
    }

    /// The connection, dialled if there is none.
    pub(super) async fn connection(self: &Arc<Self>) -> Result<Connection> {
        let current = self.state().current.as_ref().map(|current| current.connection.clone());
        if let Some(connection) = current {
            let Some(reason) = connection.close_reason() else { return Ok(connection) };
            // Whichever side closed it: a caller that closes each connection it gets would dial without a
            // pause.
            if self.discard(&connection, &reason) && reason.is_terminal() {
                return Err(reason.at(connection.remote_address()));
            }
        }
        loop {
            let caller = match self.access() {
                Access::Connected(connection) => return Ok(connection),
                Access::Joined(caller) => caller,
                Access::Begun(caller, dial) => {
                    self.spawn(dial);
                    caller
                }
            };
            caller.announce();
            caller.outcome().await?;
        }
    }

    /// Hands out this connection no longer: the next caller dials, after the pause that `error` calls for.
    /// Callers that use it already may go on; it closes with its last handle. Returns whether it was the
    /// current one. An earlier one changes nothing.
    pub(super) fn discard(&self, connection: &Connection, error: &Error) -> bool {
        let mut state = self.state();
        // Both have handles, so that no two connections have the same id.
        let id = connection.stable_id();
        let is_current = |current: &mut CurrentConnection| current.connection.stable_id() == id;
        let Some(CurrentConnection { connection: _, since }) = state.current.take_if(is_current) else {
            return false;
        };
        let now = self.endpoint.clock().now();
        if connection.link().has_answered() {
            state.policy.succeeded();
        } else {
            state.policy.lasted(now.saturating_duration_since(since));
        }
        state.policy.lost(error, now);
        true
    }

    /// Until when to wait with another stream on a connection where one has failed.
    pub(super) fn pause_stream(&self, error: &Error) -> Instant {
        self.state().policy.stream_failed(error, self.endpoint.clock().now())
    }

    /// The peer has answered.
    pub(super) fn succeeded(&self) {
        self.state().policy.succeeded();
    }

    /// Ends the dial in progress, since nobody can wait for one any more.
    pub(super) fn orphan(&self) {
        let dial = self.state().dial.clone();
        if let Some(dial) = dial {
            dial.orphan();
        }
    }

    fn access(&self) -> Access {
        let mut state = self.state();
        if let Some(current) = &state.current {
            return Access::Connected(current.connection.clone());
        }
        if let Some(dial) = &state.dial {
            return Access::Joined(dial.join());
        }
        let dial = Arc::<PendingDial>::default();
        state.dial = Some(Arc::clone(&dial));
        Access::Begun(dial.join(), dial)
    }

    fn spawn(self: &Arc<Self>, dial: Arc<PendingDial>) {
        let unfinished = UnfinishedDial { connector: Arc::clone(self), dial };
        let dialling = async move { unfinished.run().await };
        self.endpoint.spawn(dialling.in_current_span());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// A dial whose outcome is not known. Dropped so, it has the runtime's end for an outcome.
struct UnfinishedDial {
    connector: Arc<Connector>,
    dial: Arc<PendingDial>,
}

impl UnfinishedDial {
    async fn run(&self) {
        let ended = async { Some(Err(self.connector.endpoint.ended().await)) };
        let dialled = AssertUnwindSafe(future::or(self.try_each_address(), ended)).catch_unwind().await;
        match dialled {
            Ok(Some(outcome)) => self.finish(outcome),
            // Nobody waits for it.
            Ok(None) => {}
            Err(_panic) => {
                tracing::warn!("a task that dials panicked");
                self.finish(Err(Error::new(ErrorKind::Closed).detail("the task that dials has panicked")));
            }
        }
    }

    /// Dials one address after another until one is connected; `None` where nobody waits for it any more.
    async fn try_each_address(&self) -> Option<Result<Connection>> {
        let Self { connector, dial } = self;
        let clock = connector.endpoint.clock();
        let not_before = connector.state().policy.not_before();
        self.pause_until(not_before).await?;
        let mut round = Round::default();
        loop {
            let attempt = connector.state().policy.next_attempt(&mut round, clock.now());
            let Some(Attempt { address, not_before }) = attempt else { break };
            self.pause_until(not_before).await?;
            dial.forget_rejoined();
            match self.try_address(address, &round).await {
                Tried::Done(Ok(connection)) => {
                    connector.state().policy.connected(address);
                    return Some(Ok(connection));
                }
                Tried::Done(Err(error)) if *error.kind() == ErrorKind::Closed => return Some(Err(error)),
                Tried::Done(Err(error)) => {
                    tracing::debug!(address = ?connector.addresses.get(address), %error, "not connected");
                    connector.state().policy.failed(&mut round, address, error, clock.now());
                }
                Tried::Superseded => {}
                Tried::Orphaned => return None,
            }
        }
        Some(Err(connector.state().policy.round_failed(round, clock.now())))
    }

    /// Waits while callers do; `None` where none is left, and the dial with them.
    async fn pause_until(&self, not_before: Option<Instant>) -> Option<()> {
        let Some(not_before) = not_before else { return (!self.end_if_deserted()).then_some(()) };
        let mut slept = pin!(async {
            self.connector.endpoint.clock().sleep_until(not_before).await;
            true
        });
        loop {
            let deserted = async {
                self.dial.deserted().await;
                false
            };
            let slept = future::or(slept.as_mut(), deserted).await;
            if self.end_if_deserted() {
                return None;
            }
            if slept {
                return Some(());
            }
        }
    }

    /// Ends the dial unless somebody waits for it. The next caller begins another.
    fn end_if_deserted(&self) -> bool {
        let mut state = self.connector.state();
        // Callers join under the lock, and none can join what is not there any more.
        let deserted = !self.dial.has_callers();
        if deserted {
            state.dial = None;
        }
        deserted
    }

    async fn try_address(&self, address: usize, round: &Round) -> Tried {
        let Self { connector, dial } = self;
        let Connector { endpoint, addresses, security, state: _ } = &**connector;
        let Some(address) = addresses.get(address) else {
            return Tried::Done(Err(Error::invalid_config("the client has no address")));
        };
        let connected =
            async { Tried::Done(endpoint.connect_by(security, address, HandshakeProgress::Confirmed).await) };
        // Callers whose time limits are shorter than a handshake would find this address for ever.
        let superseded = async {
            loop {
                dial.rejoined().await;
                if connector.state().policy.has_another(round, endpoint.clock().now()) {
                    return Tried::Superseded;
                }
            }
        };
        let orphaned = async {
            dial.orphaned().await;
            Tried::Orphaned
        };
        future::or(connected, future::or(superseded, orphaned)).await
    }

    fn finish(&self, outcome: Result<Connection>) {
        let Self { connector, dial } = self;
        let mut state = connector.state();
        if state.dial.take_if(|current| Arc::ptr_eq(current, dial)).is_none() {
            return;
        }
        let outcome = match outcome {
            Ok(connection) => {
                let since = connector.endpoint.clock().now();
                state.current = Some(CurrentConnection { connection, since });
                Ok(())
            }
            Err(error) => Err(error),
        };
        drop(state);
        dial.finish(outcome);
    }
}

impl Drop for UnfinishedDial {
    fn drop(&mut self) {
        self.finish(Err(runtime_is_gone()));
    }
}
