//! The connections that an endpoint has dialled.

use std::sync::Mutex;

use crate::{
    connection::{Connection, WeakConnection},
    sync::lock,
};

/// Finds the dialled connections that have handles.
#[derive(Debug, Default)]
pub(super) struct DialledConnections(Mutex<Vec<WeakConnection>>);

impl DialledConnections {
    pub(super) fn add(&self, connection: &Connection) {
        let Some(connection) = connection.downgrade() else { return };
        let mut connections = lock(&self.0);
        if connections.len() == connections.capacity() {
            connections.retain(WeakConnection::has_handles);
            // Room for as many again, so that an addition costs the same on average, however many there are.
            let open = connections.len();
            connections.reserve(open);
        }
        connections.push(connection);
    }

    /// A handle to each of those that have one.
    pub(super) fn with_handles(&self) -> Vec<Connection> {
        lock(&self.0).iter().filter_map(WeakConnection::upgrade).collect()
    }
}
