//! Endpoints on the hosts of a simulated network.

use super::{Endpoint, EndpointBuilder};
use crate::{error::Result, sim::Host};

impl Host {
    /// Binds an endpoint to a port of this host; 0 takes a free one. The simulation takes the place of the
    /// builder's runtime.
    ///
    /// # Errors
    ///
    /// As for [`EndpointBuilder::bind`]; [`Io`](crate::ErrorKind::Io) where the port is taken.
    pub fn bind(&self, builder: EndpointBuilder, port: u16) -> Result<Endpoint> {
        let socket = self.socket(port)?;
        builder.shared_runtime(self.runtime()).bind_seeded(socket, self.endpoint_seed())
    }
}
