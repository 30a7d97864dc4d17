//! The system call that waits for sockets.

use std::{
    io,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{
    bell::Bell,
    source::{IoSource, Sources},
};
use crate::{runtime::socket_core::doubled, sync::lock};

/// How long the thread sleeps instead of waiting, at first and at most, while the system refuses to wait.
/// Nothing wakes it during that time, so that everything takes up to this much longer; shorter pauses would
/// take the processor, and a refusal may last.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(10);

/// Waits for sockets and for the bell by `ppoll`, and wakes the tasks that wait for what happened.
pub(super) struct Poller {
    /// Empty between calls, as `fds` is; the memory of both is used again.
    awaited: Vec<(Arc<IoSource>, PollFlags)>,
    fds: Vec<PollFd<'static>>,
    /// Waits in a row that the system refused.
    refused_waits: u32,
}

impl Poller {
    pub(super) fn new() -> Self {
        Self { awaited: Vec::new(), fds: Vec::new(), refused_waits: 0 }
    }

    /// Whether the system refused the last wait, so that nobody knows which sockets are ready.
    pub(super) fn is_refused(&self) -> bool {
        self.refused_waits > 0
    }

    /// Waits until a socket is ready, the bell rings, or the timeout is over; `None` waits without limit.
    pub(super) fn poll(&mut self, sources: &Sources, bell: &Bell, timeout: Option<Duration>) {
        self.awaited.extend(lock(sources).iter().filter_map(Weak::upgrade).filter_map(with_interest));
        let mut fds = recycle(std::mem::take(&mut self.fds));
        fds.push(PollFd::from_borrowed_fd(bell.fd(), PollFlags::IN));
        fds.extend(self.awaited.iter().map(|(source, interest)| PollFd::new(&source.io, *interest)));
        let limit = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let ready = poll(&mut fds, limit.as_ref());
        let refused = match ready {
            Ok(_) | Err(Errno::INTR) => None,
            Err(errno) => Some(errno),
        };
        if let Some(errno) = refused {
            pause(&mut self.refused_waits, timeout, errno);
        }
        // Before any task is woken, which would ring the bell otherwise.
        bell.wake();
        if refused.is_some() {
            self.awaited.iter().for_each(|(source, _)| source.wake_all());
        }
        if ready.is_ok() {
            let mut events = fds.iter().map(PollFd::revents);
            let rung = events.next().is_some_and(|events| !events.is_empty());
            for ((source, _), events) in self.awaited.iter().zip(events) {
                if !events.is_empty() {
                    source.report(events);
                }
            }
            if rung && !bell.clear() {
                // The next wait would end immediately, and so would every other.
                pause(&mut self.refused_waits, timeout, Errno::IO);
            } else if std::mem::take(&mut self.refused_waits) > 0 {
                tracing::debug!("the system lets the thread wait for its sockets again");
            }
        }
        self.fds = recycle(fds);
        self.awaited.clear();
    }
}

/// The events to wait for; `None` if no task waits for the socket, which would report its errors again and
/// again.
fn with_interest(source: Arc<IoSource>) -> Option<(Arc<IoSource>, PollFlags)> {
    let interest = source.interest();
    (!interest.is_empty()).then_some((source, interest))
}

/// Sleeps in place of a wait that the system refused, for at most as long as the wait would have lasted.
fn pause(refused_in_a_row: &mut u32, timeout: Option<Duration>, errno: Errno) {
    let earlier = *refused_in_a_row;
    *refused_in_a_row = earlier.saturating_add(1);
    if earlier == 0 {
        tracing::warn!(
            error = %io::Error::from(errno),
            "the system does not let the thread wait for its sockets; it looks at them every {MAX_PAUSE:?}"
        );
    }
    let pause = doubled(FIRST_PAUSE, earlier, MAX_PAUSE);
    let pause = timeout.map_or(pause, |timeout| timeout.min(pause));
    if !pause.is_zero() {
        thread::sleep(pause);
    }
}

/// Empties a list for descriptors of another lifetime, and keeps its memory.
fn recycle<'to>(mut fds: Vec<PollFd<'_>>) -> Vec<PollFd<'to>> {
    fds.clear();
    fds.into_iter().map_while(|_| None).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_descriptors_keeps_its_memory() {
        let bell = Bell::new().unwrap();
        let mut fds = recycle(Vec::with_capacity(7));
        let memory = fds.as_ptr();
        fds.push(PollFd::from_borrowed_fd(bell.fd(), PollFlags::IN));
        let fds = recycle(fds);
        assert_eq!((fds.as_ptr(), fds.len(), fds.capacity()), (memory, 0, 7));
    }
}
