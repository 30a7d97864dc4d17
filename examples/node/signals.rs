//! The signals that ask a program to end.

use async_signal::{Signal, Signals};
use smol::stream::StreamExt;

use crate::failure::Failure;

/// Windows has one of them.
const TERMINATION: &[Signal] = if cfg!(unix) { &[Signal::Int, Signal::Term] } else { &[Signal::Int] };

/// From when it is made, SIGINT and SIGTERM end the program no more.
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
