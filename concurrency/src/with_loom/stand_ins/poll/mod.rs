mod bell;
pub(crate) mod cases;
mod shared;
mod source;
mod tasks;
mod timer_queue;
