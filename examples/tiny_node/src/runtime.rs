//! The runtime of the node: `PollRuntime`, or another one to measure its size.

use std::{future::Future, sync::Arc};

use palyra_quic::{Result, quinn};

#[cfg(not(any(feature = "reactor", feature = "smol")))]
pub(crate) struct Runtime(palyra_quic::PollRuntime);

#[cfg(not(any(feature = "reactor", feature = "smol")))]
impl Runtime {
    pub(crate) fn new() -> Result<Self> {
        // A receive buffer of 46 KiB instead of 2.9 MiB.
        palyra_quic::PollRuntime::new().map(|runtime| Self(runtime.without_gro()))
    }

    pub(crate) fn handle(&self) -> Arc<dyn quinn::Runtime> {
        self.0.handle()
    }

    pub(crate) fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        self.0.block_on(future)
    }
}

#[cfg(any(feature = "reactor", feature = "smol"))]
pub(crate) struct Runtime(Arc<async_executor::Executor<'static>>);

#[cfg(any(feature = "reactor", feature = "smol"))]
impl Runtime {
    #[expect(clippy::unnecessary_wraps, reason = "the other one can fail")]
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(Arc::default()))
    }

    pub(crate) fn handle(&self) -> Arc<dyn quinn::Runtime> {
        #[cfg(feature = "smol")]
        let runtime = palyra_quic::AsyncIoRuntime::global();
        #[cfg(not(feature = "smol"))]
        let runtime = palyra_quic::AsyncIoRuntime::on(Arc::clone(&self.0));
        Arc::new(runtime.without_gro())
    }

    pub(crate) fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        async_io::block_on(self.0.run(future))
    }
}
