//! Who writes which name.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use palyra_quic::{Context, Fingerprint};
use smol::{
    channel::{self, Receiver, Sender},
    future,
};

use super::{error::FileError, name::FileName};

/// A peer that uploads, on one of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Writer {
    identity: Option<Fingerprint>,
    address: SocketAddr,
}

impl Writer {
    pub(crate) fn of(context: &Context) -> Self {
        let identity = context.peer().map(palyra_quic::PeerIdentity::fingerprint);
        Self { identity, address: context.remote_address() }
    }

    /// Whether this is the same peer on another connection: it was killed, or lost its network, and the node
    /// has not noticed yet that the older connection is dead.
    fn replaces(&self, older: &Self) -> bool {
        self.identity.is_some() && self.identity == older.identity && self.address != older.address
    }
}

/// The names that are being written in this process.
#[derive(Clone, Default)]
pub(crate) struct NameLocks(Arc<Mutex<BTreeMap<FileName, Holder>>>);

struct Holder {
    writer: Option<Writer>,
    /// Gets one message, to end the upload.
    taken_over: Sender<()>,
    /// Closed when the upload has ended.
    released: Receiver<Infallible>,
}

/// While this value exists, nobody else in this process writes a file of this name.
pub(crate) struct NameLock {
    locks: NameLocks,
    name: FileName,
    taken_over: Receiver<()>,
    _released: Sender<Infallible>,
}

impl NameLocks {
    /// Locks a name. If the same peer holds it on another connection, that upload ends first.
    ///
    /// # Errors
    ///
    /// `Busy` if another writer holds it.
    pub(crate) async fn lock(&self, name: &FileName, writer: Option<&Writer>) -> Result<NameLock, FileError> {
        loop {
            self.wait_until_free(name, writer).await?;
            let mut held = self.held();
            if held.contains_key(name) {
                continue;
            }
            let (take_over, taken_over) = channel::bounded(1);
            let (release, released) = channel::bounded(1);
            let holder = Holder { writer: writer.copied(), taken_over: take_over, released };
            held.insert(name.clone(), holder);
            return Ok(NameLock { locks: self.clone(), name: name.clone(), taken_over, _released: release });
        }
    }

    /// Ends an upload of this name by the same peer on another connection, and waits until it has ended.
    ///
    /// # Errors
    ///
    /// `Busy` if another writer holds the name.
    pub(crate) async fn wait_until_free(
        &self,
        name: &FileName,
        writer: Option<&Writer>,
    ) -> Result<(), FileError> {
        loop {
            let released = match self.held().get(name) {
                None => return Ok(()),
                Some(holder) => holder.end_for(writer).ok_or(FileError::Busy)?,
            };
            // Nothing is ever sent: this resolves when the lock is dropped.
            let _ = released.recv().await;
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<FileName, Holder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holder {
    /// Ends the upload if this writer replaces its own. What it returns is closed when the upload has ended.
    fn end_for(&self, writer: Option<&Writer>) -> Option<Receiver<Infallible>> {
        let replaces = writer.zip(self.writer.as_ref()).is_some_and(|(new, old)| new.replaces(old));
        replaces.then(|| {
            // Fails if it is full, so that the upload ends already.
            let _ = self.taken_over.try_send(());
            self.released.clone()
        })
    }
}

impl NameLock {
    /// Whether the same peer has begun anew on another connection, and waits for this upload to end.
    pub(crate) fn is_taken_over(&self) -> bool {
        !self.taken_over.is_empty()
    }

    /// Resolves when the same peer has begun anew. Does not resolve because the lock is dropped.
    pub(crate) fn taken_over(&self) -> impl Future<Output = ()> + Send + 'static {
        let taken_over = self.taken_over.clone();
        async move {
            if taken_over.recv().await.is_err() {
                future::pending::<()>().await;
            }
        }
    }
}

impl Drop for NameLock {
    fn drop(&mut self) {
        // Before those who wait are told, which the other fields do.
        self.locks.held().remove(&self.name);
    }
}
