pub(crate) mod log;
mod ring;
