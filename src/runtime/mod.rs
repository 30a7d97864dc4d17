//! Our [`quinn::Runtime`]s, on async-io and without a reactor, and the deadlines that everything else sleeps
//! on.

mod async_io;
mod batch_sizer;
mod clock;
mod own_waker;
#[cfg(unix)]
mod poll;
mod socket_core;

pub use self::async_io::AsyncIoRuntime;
#[cfg(unix)]
pub use self::poll::PollRuntime;
pub(crate) use self::{
    async_io::default_runtime,
    batch_sizer::BatchSizer,
    clock::{Clock, Elapsed, RuntimeWatch, runtime_is_gone},
    own_waker::OwnWaker,
};
