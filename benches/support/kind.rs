//! The runtimes that benches know by name, each driven as a program would drive it.

use std::{error::Error, future::Future, io, io::Read as _, sync::Arc, thread};

#[cfg(unix)]
use palyra_quic::PollRuntime;
use palyra_quic::{
    AsyncIoRuntime,
    quinn::{Runtime, SmolRuntime},
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    #[cfg(unix)]
    Poll,
    AsyncIo,
    /// quinn's own.
    Smol,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            #[cfg(unix)]
            Self::Poll => "PollRuntime",
            Self::AsyncIo => "AsyncIoRuntime",
            Self::Smol => "SmolRuntime",
        }
    }

    pub(crate) fn parse(name: &str) -> Result<Self> {
        match name {
            #[cfg(unix)]
            "PollRuntime" => Ok(Self::Poll),
            "AsyncIoRuntime" => Ok(Self::AsyncIo),
            "SmolRuntime" => Ok(Self::Smol),
            name => Err(format!("no runtime is called {name:?}").into()),
        }
    }
}

/// A runtime, and what drives it.
pub(crate) enum Runner {
    #[cfg(unix)]
    Poll(Box<PollRuntime>),
    /// Smol's global executor, whose thread is one of its own.
    Global(Arc<dyn Runtime>),
}

impl Runner {
    pub(crate) fn new(kind: Kind) -> Result<Self> {
        Ok(match kind {
            #[cfg(unix)]
            Kind::Poll => Self::Poll(Box::new(PollRuntime::new()?)),
            Kind::AsyncIo => Self::Global(Arc::new(AsyncIoRuntime::global())),
            Kind::Smol => Self::Global(Arc::new(SmolRuntime)),
        })
    }

    pub(crate) fn handle(&self) -> Arc<dyn Runtime> {
        match self {
            #[cfg(unix)]
            Self::Poll(runtime) => runtime.handle(),
            Self::Global(runtime) => Arc::clone(runtime),
        }
    }

    /// Runs a future where everything else runs, so that no thread waits for another.
    pub(crate) fn run<T: Send + 'static>(self, future: impl Future<Output = T> + Send + 'static) -> T {
        match self {
            #[cfg(unix)]
            Self::Poll(mut runtime) => runtime.block_on(future),
            Self::Global(_) => futures_lite::future::block_on(smol::spawn(future)),
        }
    }

    /// Lets the tasks run until the standard input ends.
    pub(crate) fn run_until_input_ends(self) {
        let input = || {
            // Nothing comes; one that cannot be read has ended, too.
            let _ = io::stdin().read_to_end(&mut Vec::new());
        };
        match self {
            #[cfg(unix)]
            Self::Poll(mut runtime) => {
                let (end, ended) = smol::channel::bounded::<()>(1);
                thread::spawn(move || {
                    input();
                    drop(end);
                });
                // An error is what the end looks like.
                let _ = runtime.block_on(ended.recv());
            }
            Self::Global(_) => input(),
        }
    }
}
