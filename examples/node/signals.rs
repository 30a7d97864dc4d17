//! The signals that ask a program to end, or to read its files again.

use async_signal::{Signal, Signals};
use smol::{future, stream::StreamExt};

use crate::failure::Failure;

/// Windows only has SIGINT.
const TERMINATION: &[Signal] = if cfg!(unix) { &[Signal::Int, Signal::Term] } else { &[Signal::Int] };

/// While this value exists, SIGINT and SIGTERM do not end the program.
pub(crate) struct Termination(Signals);

impl Termination {
    pub(crate) fn new() -> Result<Self, Failure> {
        let signals = Signals::new(TERMINATION);
        Ok(Self(signals.map_err(|error| Failure::new(error).during("cannot listen for signals"))?))
    }

    /// Resolves at the next signal.
    pub(crate) async fn asked(&mut self) {
        let _ = self.0.next().await;
    }
}

/// While this value exists, SIGHUP does not end the program. Windows has no such signal.
pub(crate) struct Hangup(Option<Signals>);

impl Hangup {
    pub(crate) fn new() -> Result<Self, Failure> {
        if cfg!(not(unix)) {
            return Ok(Self(None));
        }
        let signals = Signals::new([Signal::Hup]);
        Ok(Self(Some(signals.map_err(|error| Failure::new(error).during("cannot listen for signals"))?)))
    }

    /// Resolves at the next signal. Several signals in quick succession may count as one.
    pub(crate) async fn received(&mut self) {
        let next = match &mut self.0 {
            Some(signals) => signals.next().await,
            None => None,
        };
        if next.is_none() {
            future::pending().await
        }
    }
}
