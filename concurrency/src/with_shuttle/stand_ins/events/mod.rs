mod backing;
pub(crate) mod builder;
pub(crate) mod history;
pub(crate) mod log;
mod ring;
