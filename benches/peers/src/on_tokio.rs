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
    use std::sync::Arc;

    use tokio::runtime::Runtime;

    /// A runtime that is never dropped by one of its own tasks: the process ends before.
    #[derive(Clone)]
    pub struct Executor(Arc<Runtime>);

    impl Executor {
        pub fn new(runtime: Runtime) -> Self {
            Self(Arc::new(runtime))
        }

        pub fn runtime(&self) -> &Runtime {
            &self.0
        }

        pub fn block_on<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
            self.0.block_on(self.spawn(future))
        }

        pub fn spawn<T: Send + 'static>(
            &self,
            future: impl Future<Output = T> + Send + 'static,
        ) -> impl Future<Output = T> + Send + 'static {
            let task = self.0.spawn(future);
            async { task.await.expect("a task neither panics nor is cancelled") }
        }
    }
}
