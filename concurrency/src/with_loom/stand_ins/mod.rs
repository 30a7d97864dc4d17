//! The crate's modules that are checked, and stand-ins for what they take from others.

pub(crate) mod poll;
pub(crate) mod sync;

pub(crate) use self::poll::cases;
pub(crate) use super::model;
