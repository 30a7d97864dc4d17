//! The stream of a pipeline: what writes its calls and reads their answers.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use event_listener::{Event, EventListener};
use futures_lite::future;

use super::{
    Connection,
    answer::{DecodedResponse, decode, remote_error},
    outgoing::AnswerKind,
    pending_calls::PendingCalls,
};
use crate::{
    error::{Error, Result},
    link::{Link, OutstandingGuard},
    message::{Codec, Response},
    stream::FrameReader,
    sync::lock,
};

/// The stream is locked for no more answers than these.
const MAX_ANSWERED: usize = 32;

/// Calls of one method on one stream, which is opened again by the next call after it has ended. A task
/// writes and reads, so that no caller depends on another one's being polled.
pub(super) struct CallStream {
    link: Arc<Link>,
    method: Box<str>,
    state: Mutex<State>,
    /// Notified when what waited has been taken to be written, when answers have come that callers waited
    /// for to call, and when the stream has ended.
    emptied: Event,
}

#[derive(Default)]
struct State {
    calls: PendingCalls<Answer>,
    /// Held while a caller waits.
    outstanding: Option<OutstandingGuard>,
    /// The first answer, if it says that nothing has run, and is the only one: the peer refuses either the
    /// first call or the whole stream.
    refusal: Option<Error>,
    has_answer: bool,
    /// No handle to the pipeline is left.
    finishing: bool,
    phase: Phase,
    /// Wakes the task, which waits for something to write.
    driver: Option<Waker>,
    /// Wakes the task, which waits for the peer, when no handle is left.
    blocked: Option<Waker>,
}

#[derive(Default)]
enum Phase {
    #[default]
    NotOpen,
    /// A task writes calls and reads answers.
    Open,
    Closed(End),
}

/// Why no more calls are taken.
pub(super) enum End {
    /// The peer has finished, and has run none of the calls that it did not answer.
    Finished,
    Failed(Error),
}

pub(super) enum NextWrite {
    Calls(Vec<u8>),
    /// Everything is answered, and there will be no more calls.
    End,
    /// Calls are left that nobody waits for.
    Reset,
}

/// What became of a call.
pub(super) enum Answer {
    Response(Response),
    Failed(Error),
    /// The peer has finished the stream, and the call has not run.
    NotTaken(EndedStream),
}

/// What a peer had answered on a stream that it finished.
pub(super) enum EndedStream {
    /// Some calls.
    WithAnswers,
    /// None, or it has refused the first call or the whole stream, which is the same on the wire.
    WithoutAnswers(Option<Error>),
}

/// How far a call has come.
pub(super) enum Progress {
    Answered(Answer),
    /// Too many bytes wait to be written, or too many answers are missing. The listener hears of an end of
    /// that.
    Full(EventListener),
}

impl CallStream {
    pub(super) fn new(connection: &Connection, method: &str) -> Arc<Self> {
        Arc::new(Self {
            link: Arc::clone(connection.link()),
            method: method.into(),
            state: Mutex::default(),
            emptied: Event::new(),
        })
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(super) fn method(&self) -> &str {
        &self.method
    }

    /// Adds a call to those that wait to be written, and puts its key into `key`; or gives the answer of
    /// the call with this key. `has_waited` says whether the call had to wait until there was room for
    /// it. `begin` is called without the lock, if the stream needs a task.
    pub(super) fn poll_call(
        &self,
        key: &mut Option<usize>,
        has_waited: bool,
        params: &[u8],
        begin: impl FnOnce(),
        cx: &mut Context<'_>,
    ) -> Poll<Result<Progress>> {
        let mut state = self.state();
        if let Some(added) = *key {
            let Poll::Ready(answer) = state.calls.poll_answer(added, cx) else { return Poll::Pending };
            *key = None;
            let outstanding = state.no_longer_outstanding();
            drop(state);
            drop(outstanding);
            return Poll::Ready(Ok(Progress::Answered(answer)));
        }
        if let Phase::Closed(end) = &state.phase
            && has_waited
        {
            return Poll::Ready(Ok(Progress::Answered(end.answer(state.refusal.as_ref(), state.has_answer))));
        }
        if state.calls.is_full() {
            return Poll::Ready(Ok(Progress::Full(self.emptied.listen())));
        }
        *key = Some(state.calls.add(params, self.link.limits().max_frame_len(), cx.waker())?);
        if state.outstanding.is_none() {
            state.outstanding = Some(OutstandingGuard::new(&self.link));
        }
        let opens = state.open();
        let driver = state.driver.take();
        drop(state);
        wake(driver);
        if opens {
            begin();
        }
        Poll::Pending
    }

    /// The caller of this call waits for the answer no more. Says whether the call was sent.
    pub(super) fn leave(&self, key: usize) -> bool {
        let mut state = self.state();
        let (sent, caller) = state.calls.leave(key);
        let outstanding = state.no_longer_outstanding();
        drop(state);
        // Not under the lock, since dropping a waker may run anything.
        drop((caller, outstanding));
        sent
    }

    /// Ends the stream when the calls that are waited for are answered.
    pub(super) fn finish(&self) {
        let (driver, blocked) = {
            let mut state = self.state();
            state.finishing = true;
            (state.driver.take(), state.blocked.take())
        };
        wake(driver);
        wake(blocked);
    }

    /// Resolves when no handle to the pipeline is left.
    pub(super) async fn finishing(&self) {
        let is_finishing = |cx: &mut Context<'_>| {
            let mut state = self.state();
            if state.finishing {
                return Poll::Ready(());
            }
            state.blocked = Some(cx.waker().clone());
            Poll::Pending
        };
        future::poll_fn(is_finishing).await;
    }

    /// Gives this answer, and others that have arrived, to the calls that they belong to.
    ///
    /// `callers` is empty; its memory is used again.
    pub(super) fn answer(
        &self,
        first: DecodedResponse,
        reader: &mut FrameReader,
        callers: &mut Vec<Waker>,
    ) -> Result<()> {
        let (answered, has_room) = {
            let mut state = self.state();
            let was_full = state.calls.is_full();
            let mut next = Some(Ok(first));
            let answered = loop {
                let Some(response) = next else { break Ok(()) };
                let response = response.and_then(|response| response.map_err(Error::from));
                let response = response.and_then(|response| AnswerKind::Result.check(response));
                match response.and_then(|response| state.answer(response)) {
                    Ok(caller) => callers.extend(caller),
                    Err(error) => break Err(error),
                }
                if callers.len() >= MAX_ANSWERED {
                    break Ok(());
                }
                next = reader.take_arrived(|body| decode(&self.link, Codec::Cbor, body));
            };
            (answered, was_full && !state.calls.is_full())
        };
        callers.drain(..).for_each(Waker::wake);
        if has_room {
            self.emptied.notify(usize::MAX);
        }
        answered
    }

    /// What is to be written, as soon as something is.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>) -> Poll<NextWrite> {
        let (frames, calls) = {
            let mut state = self.state();
            if state.finishing {
                // Nobody waits for calls that were not sent, nor for answers.
                let all_answered = state.calls.all_answered();
                return Poll::Ready(if all_answered { NextWrite::End } else { NextWrite::Reset });
            }
            let unsent = state.calls.take_unsent();
            if unsent.0.is_empty() {
                state.driver = Some(cx.waker().clone());
            }
            unsent
        };
        self.emptied.notify(usize::MAX);
        if frames.is_empty() {
            return Poll::Pending;
        }
        self.link.counters().calls.add_many(calls);
        Poll::Ready(NextWrite::Calls(frames))
    }

    /// No more answers come.
    pub(super) fn end(&self, end: End) {
        let callers = {
            let mut state = self.state();
            let State { calls, refusal, has_answer, .. } = &mut *state;
            let callers = calls.answer_all(|sent| match end.answer(refusal.as_ref(), *has_answer) {
                Answer::Failed(error) if sent => Answer::Failed(error.after_request()),
                answer => answer,
            });
            state.phase = Phase::Closed(end);
            callers
        };
        callers.into_iter().for_each(Waker::wake);
        self.emptied.notify(usize::MAX);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl End {
    /// What becomes of a call that has not run.
    fn answer(&self, refusal: Option<&Error>, has_answer: bool) -> Answer {
        match self {
            Self::Finished if has_answer && refusal.is_none() => Answer::NotTaken(EndedStream::WithAnswers),
            Self::Finished => Answer::NotTaken(EndedStream::WithoutAnswers(refusal.map(Error::duplicate))),
            Self::Failed(error) => Answer::Failed(error.duplicate()),
        }
    }
}

impl State {
    /// Begins a stream, unless one is open. Says whether it needs a driver.
    fn open(&mut self) -> bool {
        if matches!(self.phase, Phase::Open) {
            return false;
        }
        (self.phase, self.refusal, self.has_answer, self.driver) = (Phase::Open, None, false, None);
        true
    }

    /// Answers the call whose turn it is. Gives what wakes its caller.
    fn answer(&mut self, response: Response) -> Result<Option<Waker>> {
        let Some(key) = self.calls.next_unanswered() else {
            return Err(Error::protocol("more answers than calls"));
        };
        self.refusal = match &response {
            Response::Error { error, detail, retry_after, not_run: true } if !self.has_answer => {
                Some(remote_error(error.clone(), detail.clone(), *retry_after, true))
            }
            _ => None,
        };
        self.has_answer = true;
        Ok(self.calls.answer(key, Answer::Response(response)))
    }

    /// What is to be dropped when the last caller has left.
    fn no_longer_outstanding(&mut self) -> Option<OutstandingGuard> {
        if self.calls.has_callers() { None } else { self.outstanding.take() }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
