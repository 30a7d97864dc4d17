//! Who may speak for a consumer, and who mirrors a log.

use std::{future::Future, pin::Pin, sync::Arc};

use super::method_error::MethodError;
use crate::{events::EventLog, tls::PeerIdentity};

/// Decides whether a peer may acknowledge events as a consumer, or mirrors the log of a name.
pub(super) type ConsumerRule = Arc<dyn Fn(&PeerIdentity, &str) -> bool + Send + Sync>;

/// Decides whether another epoch begins for a peer that asks for what follows an event of an epoch, of the
/// log of a name. A trait object, so that a program without such a rule does not contain what it does.
pub(super) type MirrorRule =
    Arc<dyn for<'a> Fn(&PeerIdentity, &str, &'a EventLog, u64, u64) -> Option<EpochChange<'a>> + Send + Sync>;

/// The begin of another epoch, before the log is served.
pub(crate) type EpochChange<'a> = Pin<Box<dyn Future<Output = Result<(), MethodError>> + Send + 'a>>;
