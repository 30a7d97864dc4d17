//! Sending by a socket that may be full, or falsely reported writable.

use std::{
    fmt, io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use quinn::UdpPoller;

/// Times in a row that one sender finds a socket full which was reported writable, though no sender has
/// sent anything, before the socket counts as stuck. A kernel that reports room has some; so this is not
/// the usual contest between senders.
const MAX_FALSE_REPORTS: u32 = 8;

/// Whether the socket takes datagrams.
#[derive(Debug, Default)]
pub(super) struct SendState {
    /// A send would have blocked, and none has succeeded since.
    blocked: AtomicBool,
    /// The socket is reported writable but takes nothing: what it does not take is lost.
    stuck: AtomicBool,
    /// How often the socket went from blocked to not blocked.
    unblocked: AtomicUsize,
}

impl SendState {
    /// The socket has taken a datagram, or has returned another error than that it is full.
    pub(super) fn unblock(&self) {
        if self.blocked.load(Ordering::Relaxed) {
            self.stuck.store(false, Ordering::Relaxed);
            self.blocked.store(false, Ordering::Relaxed);
            self.unblocked.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The socket is full. Returns whether the sender should wait: not if the socket is stuck.
    pub(super) fn block(&self) -> bool {
        self.blocked.store(true, Ordering::Relaxed);
        !self.stuck.load(Ordering::Relaxed)
    }
}

/// Lets one connection wait until the socket takes datagrams again, and detects a socket that is falsely
/// reported writable.
pub(super) struct WritePoller {
    state: Arc<SendState>,
    inner: Pin<Box<dyn UdpPoller>>,
    /// How often the socket had been unblocked when it was last reported writable; `None` while it is not.
    reported: Option<usize>,
    /// Reports in a row after which the socket took nothing from any sender.
    false_reports: u32,
}

impl WritePoller {
    pub(super) fn new(state: Arc<SendState>, inner: Pin<Box<dyn UdpPoller>>) -> Self {
        Self { state, inner, reported: None, false_reports: 0 }
    }
}

impl UdpPoller for WritePoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { state, inner, reported, false_reports } = &mut *self;
        let unblocked = state.unblocked.load(Ordering::Relaxed);
        // quinn sends after each report. If the socket is blocked nevertheless, it has refused the datagram.
        if let Some(before) = reported.take() {
            let refused = state.blocked.load(Ordering::Relaxed) && before == unblocked;
            *false_reports = if refused { false_reports.saturating_add(1) } else { 0 };
            if *false_reports >= MAX_FALSE_REPORTS {
                state.stuck.store(true, Ordering::Relaxed);
            }
        }
        // An error is reported by the next send.
        let polled = inner.as_mut().poll_writable(cx);
        if polled.is_ready() {
            *reported = Some(unblocked);
        }
        polled.map(|_| Ok(()))
    }
}

impl fmt::Debug for WritePoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state: _, inner, reported: _, false_reports } = self;
        f.debug_struct("WritePoller")
            .field("inner", inner)
            .field("false_reports", false_reports)
            .finish_non_exhaustive()
    }
}
