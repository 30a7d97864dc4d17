//! The connections that an endpoint has dialled.

use std::sync::Mutex;

use crate::{
    connection::{Connection, WeakConnection},
    live_list,
    sync::lock,
};

/// Finds the dialled connections that have handles.
#[derive(Debug, Default)]
pub(super) struct DialledConnections(Mutex<Vec<WeakConnection>>);

impl DialledConnections {
    pub(super) fn add(&self, connection: &Connection) {
        let Some(connection) = connection.downgrade() else { return };
        live_list::push(&mut lock(&self.0), connection, WeakConnection::has_handles);
    }

    /// A handle to each of those that have one.
    pub(super) fn with_handles(&self) -> Vec<Connection> {
        lock(&self.0).iter().filter_map(WeakConnection::upgrade).collect()
    }
}
