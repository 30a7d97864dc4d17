//! Which peers are believed to have more of a log than the node itself.

use std::sync::Arc;

use super::{
    MethodError, Router,
    consumer_rule::{EpochChange, MirrorRule},
};
use crate::{events::EventLog, tls::PeerIdentity};

impl Router {
    /// Decides which peers mirror which logs of this node, by the method name of the log. If such a peer asks
    /// for what follows an event of the present epoch that the log does not have, the log was restored from
    /// a backup, and [begins another epoch](crate::EventLog::begin_epoch), so that no event gets a number
    /// which another one had. Anybody whom the rule names can have every subscriber read the log again.
    ///
    /// A peer without an identity is never believed, whatever the rule. Default: nobody is, and a
    /// [`Mirror`](crate::Mirror) that is ahead of the log stops as
    /// [`Diverged`](crate::MirrorState::Diverged).
    ///
    /// ```
    /// use palyra_quic::{EventLog, Router};
    ///
    /// let router = Router::new()
    ///     .events(EventLog::new())
    ///     .mirrors(|peer, log| log == "node.stream_events" && peer.has_name("palyra:device:gateway"));
    /// # drop(router);
    /// ```
    #[must_use]
    pub fn mirrors(mut self, rule: impl Fn(&PeerIdentity, &str) -> bool + Send + Sync + 'static) -> Self {
        let begin: MirrorRule = Arc::new(move |peer, name, log, seq, epoch| {
            let begins = log.lacks(seq, epoch) && rule(peer, name);
            begins.then(|| -> EpochChange<'_> { Box::pin(begin_epoch(log, seq, epoch)) })
        });
        self.mirror_rule = Some(begin);
        self
    }

    /// What is to be done before the log of this name is served to a peer with this cursor: nothing, unless
    /// the peer mirrors the log and has more than the log has.
    pub(crate) fn epoch_change<'a>(
        &self,
        peer: Option<&PeerIdentity>,
        name: &str,
        log: &'a EventLog,
        cursor: Option<(u64, u64)>,
    ) -> Option<EpochChange<'a>> {
        let (seq, epoch) = cursor?;
        (self.mirror_rule.as_ref()?)(peer?, name, log, seq, epoch)
    }
}

async fn begin_epoch(log: &EventLog, seq: u64, epoch: u64) -> Result<(), MethodError> {
    log.begin_epoch_after(seq, epoch).await.map_err(|error| {
        tracing::warn!(%error, "another epoch of a log cannot begin");
        MethodError::resource_exhausted("another epoch cannot begin now")
    })
}
