//! The implementations of [`quinn::Runtime`], on async-io and on one thread of the caller, and the clock
//! for the deadlines of everything else.

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
    clock::{Clock, Elapsed, RuntimeWatch, monotonic_now, runtime_is_gone},
    own_waker::OwnWaker,
};
