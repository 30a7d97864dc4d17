//! What the contenders on tokio have in common: the runtime.

use std::io;

use tokio::runtime::{Builder, Runtime};

pub fn current_thread() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

#[cfg(feature = "harness")]
pub fn two_workers() -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

#[cfg(feature = "harness")]
pub mod client {
    use std::{net::SocketAddr, sync::Arc};

    use tokio::runtime::Runtime;

    use super::{current_thread, two_workers};
    use crate::{
        Result,
        link::{self, Link, Measured},
        setup::Setup,
    };

    /// What is a contender's own in its client.
    pub trait Connector: Clone + Send + Sync + Sized + 'static {
        type Link: Link;

        /// Called within the runtime.
        fn new(setup: &Setup, address: SocketAddr) -> Result<Self>;

        fn connect(&self) -> impl Future<Output = Measured<Self::Link>> + Send;
    }

    /// A connector on a runtime with one thread, or with two workers.
    #[derive(Clone)]
    pub struct Stack<C, const WORKERS: usize = 1> {
        connector: C,
        /// Never dropped by one of its own tasks: the process ends before.
        runtime: Arc<Runtime>,
    }

    impl<C: Connector, const WORKERS: usize> link::Stack for Stack<C, WORKERS> {
        type Link = C::Link;

        fn new(setup: &Setup, address: &str) -> Result<Self> {
            let runtime = if WORKERS == 1 { current_thread()? } else { two_workers()? };
            let guard = runtime.enter();
            let connector = C::new(setup, address.parse()?)?;
            drop(guard);
            Ok(Self { connector, runtime: Arc::new(runtime) })
        }

        fn block_on<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
            self.runtime.block_on(self.spawn(future))
        }

        fn spawn<T: Send + 'static>(
            &self,
            future: impl Future<Output = T> + Send + 'static,
        ) -> impl Future<Output = T> + Send + 'static {
            let task = self.runtime.spawn(future);
            async { task.await.expect("a task neither panics nor is cancelled") }
        }

        async fn connect(&self) -> Measured<C::Link> {
            self.connector.connect().await
        }
    }
}
