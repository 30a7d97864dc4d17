//! The stream of a pipeline: what writes its calls and reads their answers.

use std::{
    mem,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use event_listener::{Event, EventListener};
use futures_lite::future;

use super::{
    Connection,
    answer::{Deadline, DecodedResponse, decode, read, remote_error, timed_out, violated},
    outgoing::AnswerKind,
    pending_calls::PendingCalls,
    takes_items,
};
use crate::{
    code::Code,
    error::{Error, ErrorKind, Result},
    frame,
    link::{Link, OutstandingGuard},
    message::{Codec, Request, Response},
    stream::{FrameReader, FrameWriter},
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
}

#[derive(Default)]
enum Phase {
    #[default]
    NotOpen,
    /// There is a [`Driver`].
    Open,
    Closed(End),
}

/// Why no more calls are taken.
enum End {
    /// The peer has finished, and has run none of the calls that it did not answer.
    Finished,
    Failed(Error),
}

enum NextWrite {
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
enum Progress {
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

    pub(super) fn method(&self) -> &str {
        &self.method
    }

    /// Resolves when the call is answered, or when its time is over. A call that is dropped before it was
    /// sent is not sent.
    ///
    /// # Errors
    ///
    /// `MessageTooLarge` if the parameters do not fit a frame.
    pub(super) async fn call(self: &Arc<Self>, params: &[u8], deadline: Deadline) -> Result<Answer> {
        let clock = self.link.clock();
        let mut caller = Caller { stream: self, key: None, has_waited: false };
        let answered = {
            // Pinned, because what is awaited by value is moved.
            let answered = pin!(clock.timeout_at(deadline, caller.call(params)));
            answered.await
        };
        answered.unwrap_or_else(|_elapsed| {
            let error = timed_out(clock);
            Ok(Answer::Failed(if caller.leave() { error.after_request() } else { error }))
        })
    }

    /// Ends the stream when the calls that are waited for are answered.
    pub(super) fn finish(&self) {
        let driver = {
            let mut state = self.state();
            state.finishing = true;
            state.driver.take()
        };
        wake(driver);
    }

    /// Gives this answer, and others that have arrived, to the calls that they belong to.
    ///
    /// `callers` is empty; its memory is used again.
    fn answer(
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
    fn poll_write(&self, cx: &mut Context<'_>) -> Poll<NextWrite> {
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
    fn end(&self, end: End) {
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

/// The task of a stream. The stream has ended when this is dropped.
struct Driver {
    stream: Arc<CallStream>,
    /// `None` if an executor drops the task before.
    end: Option<End>,
}

impl Driver {
    async fn run(mut self) {
        self.end = Some(match self.drive().await {
            Ok(()) => End::Finished,
            Err(error) => End::Failed(self.stream.link.explain(error)),
        });
    }

    async fn drive(&self) -> Result<()> {
        let link = &self.stream.link;
        takes_items::ensure(&Connection::borrowed(Arc::clone(link)), None).await?;
        let (send, recv) = link.open_bi().await?;
        let mut writer = FrameWriter::new(send, Code::CANCELLED);
        let mut reader = FrameReader::new(recv, link.limits().max_frame_len(), link.allowance().charge());
        let request = Request::new(&*self.stream.method).with_more(true);
        let request = frame::encode(link.limits().max_frame_len(), |out| {
            request.encode(Codec::Cbor, out).map_err(Error::from)
        })?;
        let writing = async {
            match self.write(&mut writer, request).await {
                // The peer takes no more calls, and may still answer some.
                Err(error) if matches!(error.kind(), ErrorKind::StreamReset(_)) => future::pending().await,
                written => written,
            }
        };
        future::or(writing, self.read(&mut reader)).await
    }

    /// Writes calls as they come. Resolves when there is nobody left who makes calls or waits for answers.
    async fn write(&self, writer: &mut FrameWriter, mut frames: Vec<u8>) -> Result<()> {
        let stream = &*self.stream;
        loop {
            writer.write(mem::take(&mut frames)).await?;
            frames = match future::poll_fn(|cx| stream.poll_write(cx)).await {
                NextWrite::Calls(frames) => frames,
                NextWrite::End => {
                    writer.finish();
                    // The peer finishes, too.
                    return future::pending().await;
                }
                NextWrite::Reset => return Ok(()),
            };
        }
    }

    /// Reads answers until the peer finishes.
    async fn read(&self, reader: &mut FrameReader) -> Result<()> {
        let link = &self.stream.link;
        let mut callers = Vec::new();
        loop {
            let arrived = reader.take_arrived(|body| decode(link, Codec::Cbor, body));
            let first = match arrived {
                Some(response) => response.map_err(|error| violated(reader, error))?,
                None => match read(link, Codec::Cbor, reader).await? {
                    Some(response) => response,
                    None => return Ok(()),
                },
            };
            let answered = self.stream.answer(first, reader, &mut callers);
            answered.map_err(|error| violated(reader, error))?;
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let end = self.end.take();
        self.stream.end(end.unwrap_or_else(|| End::Failed(Error::new(ErrorKind::Closed))));
    }
}

/// One call. It is not sent if this is dropped before it was.
struct Caller<'a> {
    stream: &'a Arc<CallStream>,
    /// Once the call waits to be written, until it is answered.
    key: Option<usize>,
    /// Whether it had to wait until there was room for it.
    has_waited: bool,
}

impl Caller<'_> {
    async fn call(&mut self, params: &[u8]) -> Result<Answer> {
        loop {
            match future::poll_fn(|cx| self.poll(params, cx)).await? {
                Progress::Answered(answer) => return Ok(answer),
                Progress::Full(emptied) => {
                    let _outstanding = self.stream.link.outstanding().call();
                    emptied.await;
                    self.has_waited = true;
                }
            }
        }
    }

    /// Adds the call to those that wait to be written, or gives its answer.
    fn poll(&mut self, params: &[u8], cx: &mut Context<'_>) -> Poll<Result<Progress>> {
        let CallStream { link, emptied, .. } = &**self.stream;
        let mut state = self.stream.state();
        if let Some(key) = self.key {
            let Poll::Ready(answer) = state.calls.poll_answer(key, cx) else { return Poll::Pending };
            self.key = None;
            let outstanding = state.no_longer_outstanding();
            drop(state);
            drop(outstanding);
            return Poll::Ready(Ok(Progress::Answered(answer)));
        }
        if let Phase::Closed(end) = &state.phase
            && self.has_waited
        {
            return Poll::Ready(Ok(Progress::Answered(end.answer(state.refusal.as_ref(), state.has_answer))));
        }
        if state.calls.is_full() {
            return Poll::Ready(Ok(Progress::Full(emptied.listen())));
        }
        self.key = Some(state.calls.add(params, link.limits().max_frame_len(), cx.waker())?);
        if state.outstanding.is_none() {
            state.outstanding = Some(OutstandingGuard::new(link));
        }
        let opens = state.open();
        let driver = state.driver.take();
        drop(state);
        wake(driver);
        if opens {
            let driver = Driver { stream: Arc::clone(self.stream), end: None };
            link.clock().spawn(driver.run());
        }
        Poll::Pending
    }

    /// Waits for the answer no more. Says whether the call was sent.
    fn leave(&mut self) -> bool {
        let Some(key) = self.key.take() else { return false };
        let mut state = self.stream.state();
        let (sent, caller) = state.calls.leave(key);
        let outstanding = state.no_longer_outstanding();
        drop(state);
        // Not under the lock, since dropping a waker may run anything.
        drop((caller, outstanding));
        sent
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
