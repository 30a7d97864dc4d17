//! How other threads wake the one that waits.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::atomic::{AtomicBool, Ordering},
};

/// A descriptor to wait for beside the sockets. Ringing costs a system call only while somebody waits.
#[derive(Debug)]
pub(super) struct Bell {
    asleep: AtomicBool,
    wire: wire::Wire,
    #[cfg(test)]
    pub(super) rung: std::sync::atomic::AtomicUsize,
    #[cfg(test)]
    pub(super) slept: std::sync::atomic::AtomicUsize,
}

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            asleep: AtomicBool::new(false),
            wire: wire::Wire::new()?,
            #[cfg(test)]
            rung: std::sync::atomic::AtomicUsize::new(0),
            #[cfg(test)]
            slept: std::sync::atomic::AtomicUsize::new(0),
        })
    }

    /// Wakes the thread that waits, if it does.
    ///
    /// To be called after the change that it is to see, and after the lock of what was changed has been let
    /// go: the waiting thread says that it waits, and then takes the same lock, so that either it sees the
    /// change, or this sees that it waits.
    pub(super) fn ring(&self) {
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            // First, since the other thread is on its way as soon as the wire is pulled.
            #[cfg(test)]
            self.rung.fetch_add(1, Ordering::Relaxed);
            self.wire.pull();
        }
    }

    /// Says that the thread is about to look at everything a last time, and then waits.
    pub(super) fn sleep(&self) {
        self.asleep.store(true, Ordering::Release);
        #[cfg(test)]
        self.slept.fetch_add(1, Ordering::Relaxed);
    }

    /// Says that it looks again. A thread that rang may still have to write to the pipe; then a later wait is
    /// a short one.
    pub(super) fn wake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::Relaxed)
    }

    /// What becomes readable when somebody rings.
    pub(super) fn wire(&self) -> BorrowedFd<'_> {
        self.wire.as_fd()
    }

    /// Makes the wire silent again; `false` where that fails, so that it would be heard for ever.
    pub(super) fn hush(&self) -> bool {
        self.wire.hush()
    }
}

#[cfg(target_os = "linux")]
mod wire {
    use std::{
        io,
        os::fd::{AsFd, BorrowedFd, OwnedFd},
    };

    use rustix::event::{EventfdFlags, eventfd};

    #[derive(Debug)]
    pub(super) struct Wire(OwnedFd);

    impl Wire {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
        }

        pub(super) fn pull(&self) {
            // Fails only where the counter is full, and then it is readable.
            let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
        }

        pub(super) fn hush(&self) -> bool {
            rustix::io::read(&self.0, &mut [0; 8]).is_ok()
        }

        pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod wire {
    use std::{
        io::{self, Read, Write},
        os::{
            fd::{AsFd, BorrowedFd},
            unix::net::UnixStream,
        },
    };

    #[derive(Debug)]
    pub(super) struct Wire {
        near: UnixStream,
        far: UnixStream,
    }

    impl Wire {
        pub(super) fn new() -> io::Result<Self> {
            let (near, far) = UnixStream::pair()?;
            near.set_nonblocking(true)?;
            far.set_nonblocking(true)?;
            Ok(Self { near, far })
        }

        pub(super) fn pull(&self) {
            // Fails only where the buffer is full, and then it is readable.
            let _ = (&self.near).write(&[1]);
        }

        pub(super) fn hush(&self) -> bool {
            let mut any = false;
            loop {
                match (&self.far).read(&mut [0; 64]) {
                    Ok(64) => any = true,
                    Ok(count) => return any || count > 0,
                    Err(_) => return any,
                }
            }
        }

        pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
            self.far.as_fd()
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn rings(bell: &Bell) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(bell.wire(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn a_bell_rings_once_and_only_for_who_sleeps() {
        let bell = Bell::new().unwrap();
        bell.ring();
        assert!(!rings(&bell), "a system call for somebody who is awake");
        bell.sleep();
        bell.ring();
        assert!(rings(&bell));
        assert!(bell.hush());
        assert!(!bell.hush(), "there is nothing left to silence");
        bell.ring();
        assert!(!rings(&bell), "a second system call for one wakeup");
    }
}
