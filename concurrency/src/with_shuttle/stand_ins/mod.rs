//! The crate's modules that are checked, and stand-ins for what they take from others.

pub(crate) mod admission;
pub(crate) mod cases;
pub(crate) mod drain;
pub(crate) mod error;
pub(crate) mod events;
pub(crate) mod handoff;
pub(crate) mod limits;
pub(crate) mod message;
pub(crate) mod router;
pub(crate) mod runtime;
pub(crate) mod sync;
pub(crate) mod tls;

pub(crate) use super::model;
