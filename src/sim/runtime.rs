//! The simulation as quinn's runtime: virtual time, and tasks on the simulation's executor.

use std::{
    fmt,
    future::Future,
    io,
    net::UdpSocket,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime};

use super::{
    agenda::{ScheduledEvent, Slot},
    world::World,
};

/// The simulation as quinn sees it.
pub(super) struct SimRuntime {
    world: Arc<World>,
}

impl SimRuntime {
    pub(super) fn new(world: &Arc<World>) -> Self {
        Self { world: Arc::clone(world) }
    }
}

impl Runtime for SimRuntime {
    fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(Sleep::new(&self.world, deadline))
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.world.spawn(future);
    }

    fn wrap_udp_socket(&self, _: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a simulated host has no sockets of the system's"))
    }

    fn now(&self) -> Instant {
        self.world.now()
    }
}

impl fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimRuntime").finish_non_exhaustive()
    }
}

/// Waits for a virtual instant.
pub(super) struct Sleep {
    world: Arc<World>,
    deadline: Instant,
    slot: Option<Slot>,
}

impl Sleep {
    pub(super) fn new(world: &Arc<World>, deadline: Instant) -> Self {
        Self { world: Arc::clone(world), deadline, slot: None }
    }

    fn forget(&mut self) {
        if let Some(slot) = self.slot.take() {
            let event = self.world.agenda().remove(slot);
            drop(event);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.forget();
        let slot = {
            let mut agenda = self.world.agenda();
            if agenda.now() >= self.deadline {
                return Poll::Ready(());
            }
            agenda.add(self.deadline, ScheduledEvent::Wake(cx.waker().clone()))
        };
        self.slot = Some(slot);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.forget();
    }
}

impl AsyncTimer for Sleep {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.forget();
        self.deadline = deadline;
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Future::poll(self, cx)
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}
