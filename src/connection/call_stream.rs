//! The stream of a pipeline: what writes its calls and reads their answers.

use std::{
    collections::VecDeque,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use event_listener::Event;
use futures_lite::future;

use super::{
    Connection,
    answer::{Deadline, DecodedResponse, decode, read, remote_error, timed_out, violated},
    takes_items,
};
use crate::{
    code::Code,
    error::{Error, ErrorKind, Result},
    frame,
    link::Link,
    message::{Codec, Item, Request, Response},
    stream::{FrameReader, FrameWriter},
    sync::{lock, wait_until},
};

/// Callers wait while this many bytes of calls wait to be written: enough for large packets.
const MAX_UNWRITTEN: usize = 64 * 1024;

/// Calls of one method on one stream. A task writes and reads, so that no caller depends on another one's
/// being polled.
pub(super) struct CallStream {
    link: Arc<Link>,
    state: Mutex<State>,
    /// Notified when what waited has been taken to be written, and when the stream has ended.
    emptied: Event,
}

#[derive(Default)]
struct State {
    /// The frames of the calls that wait to be written, one after another.
    frames: Vec<u8>,
    unsent: Vec<Unsent>,
    /// The calls that were taken to be written and have no answer, in their order.
    unanswered: VecDeque<Arc<Slot>>,
    /// The first answer, if it says that nothing has run, and is the only one: the peer refuses either the
    /// first call or the whole stream.
    refusal: Option<Error>,
    has_answer: bool,
    /// No handle to the pipeline is left.
    finishing: bool,
    end: Option<End>,
    /// Wakes the task, which waits for something to write.
    driver: Option<Waker>,
}

/// A call that waits to be written.
struct Unsent {
    slot: Arc<Slot>,
    frame_len: usize,
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
    /// The peer has finished the stream, and the call has not run. It comes with the only answer on the
    /// stream, if this was a refusal.
    NotTaken(Option<Error>),
}

/// Where a caller finds its answer.
#[derive(Default)]
struct Slot(Mutex<SlotState>);

#[derive(Default)]
struct SlotState {
    progress: Progress,
    answer: Option<Answer>,
    caller: Option<Waker>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    Unsent,
    Sent,
    /// The caller left before the call was sent, so it is not sent.
    Withdrawn,
}

impl CallStream {
    /// Begins to open a stream for calls of this method.
    pub(super) fn open(connection: &Connection, method: &str) -> Arc<Self> {
        let link = Arc::clone(connection.link());
        let clock = link.clock().clone();
        let stream = Arc::new(Self { link, state: Mutex::default(), emptied: Event::new() });
        let driver = Driver { stream: Arc::clone(&stream), method: method.into() };
        clock.spawn(async move { driver.run().await });
        stream
    }

    pub(super) fn takes_calls(&self) -> bool {
        self.state().end.is_none()
    }

    /// Resolves when the call is answered, or when its time is over. A call that is dropped before it was
    /// sent is not sent.
    ///
    /// # Errors
    ///
    /// `MessageTooLarge` if the parameters do not fit a frame.
    pub(super) async fn call(&self, params: &Bytes, deadline: Deadline) -> Result<Answer> {
        let clock = self.link.clock();
        let call = Caller(Arc::default());
        let answered = async {
            match self.enqueue(&call.0, params).await? {
                Some(answer) => Ok(answer),
                None => {
                    self.link.counters().calls.add();
                    Ok(Wait(&call.0).await)
                }
            }
        };
        let answered = clock.timeout_at(deadline, answered).await;
        answered.unwrap_or_else(|_elapsed| {
            let error = timed_out(clock);
            Ok(Answer::Failed(if call.0.withdraw() { error } else { error.after_request() }))
        })
    }

    /// Adds a call to those that wait to be written, or gives what ends it immediately. Waits while too many
    /// bytes wait.
    async fn enqueue(&self, slot: &Arc<Slot>, params: &Bytes) -> Result<Option<Answer>> {
        let item = Item { params: (!params.is_empty()).then(|| params.clone()), ..Item::default() };
        let max = self.link.limits().max_frame_len();
        let is_full = |state: &State| state.end.is_none() && state.frames.len() >= MAX_UNWRITTEN;
        loop {
            wait_until(&self.emptied, || !is_full(&self.state())).await;
            let mut state = self.state();
            if is_full(&state) {
                continue;
            }
            match &state.end {
                Some(End::Finished) => return Ok(Some(Answer::NotTaken(state.duplicate_refusal()))),
                Some(End::Failed(error)) => return Ok(Some(Answer::Failed(error.duplicate()))),
                None => {}
            }
            let before = state.frames.len();
            frame::append(&mut state.frames, max, |out| item.encode(Codec::Cbor, out).map_err(Error::from))?;
            let frame_len = state.frames.len() - before;
            state.unsent.push(Unsent { slot: Arc::clone(slot), frame_len });
            let driver = state.driver.take();
            drop(state);
            wake(driver);
            return Ok(None);
        }
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

    /// Gives the next answer to the call that it belongs to.
    fn answer(&self, response: Response) -> Result<()> {
        let slot = {
            let mut state = self.state();
            let Some(slot) = state.unanswered.pop_front() else {
                return Err(Error::protocol("more answers than calls"));
            };
            state.refusal = match &response {
                Response::Error { error, detail, retry_after, not_run: true } if !state.has_answer => {
                    Some(remote_error(error.clone(), detail.clone(), *retry_after, true))
                }
                _ => None,
            };
            state.has_answer = true;
            slot
        };
        slot.fill(Answer::Response(response));
        Ok(())
    }

    /// What is to be written, as soon as something is.
    fn poll_write(&self, cx: &mut Context<'_>) -> Poll<NextWrite> {
        let frames = {
            let mut state = self.state();
            if state.finishing {
                // Nobody waits for calls that were not sent, nor for answers.
                let all_answered = state.unanswered.is_empty();
                return Poll::Ready(if all_answered { NextWrite::End } else { NextWrite::Reset });
            }
            let frames = state.take_unsent();
            if frames.is_empty() {
                state.driver = Some(cx.waker().clone());
            }
            frames
        };
        self.emptied.notify(usize::MAX);
        if frames.is_empty() { Poll::Pending } else { Poll::Ready(NextWrite::Calls(frames)) }
    }

    /// No more answers come.
    fn end(&self, end: End) {
        let (unanswered, unsent, refusal) = {
            let mut state = self.state();
            state.frames = Vec::new();
            state.end.get_or_insert_with(|| match &end {
                End::Finished => End::Finished,
                End::Failed(error) => End::Failed(error.duplicate()),
            });
            (mem::take(&mut state.unanswered), mem::take(&mut state.unsent), state.duplicate_refusal())
        };
        let not_taken = || Answer::NotTaken(refusal.as_ref().map(Error::duplicate));
        for slot in unanswered {
            slot.fill(match &end {
                End::Finished => not_taken(),
                End::Failed(error) => Answer::Failed(error.duplicate().after_request()),
            });
        }
        for Unsent { slot, .. } in unsent {
            slot.fill(match &end {
                End::Finished => not_taken(),
                End::Failed(error) => Answer::Failed(error.duplicate()),
            });
        }
        self.emptied.notify(usize::MAX);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    /// The frames of the calls that somebody waits for, which are sent from now on.
    fn take_unsent(&mut self) -> Vec<u8> {
        let mut frames = mem::take(&mut self.frames);
        let (mut start, mut kept) = (0, 0);
        for Unsent { slot, frame_len } in self.unsent.drain(..) {
            let frame = start..start + frame_len;
            start = frame.end;
            if slot.send() {
                if kept < frame.start {
                    frames.copy_within(frame, kept);
                }
                kept += frame_len;
                self.unanswered.push_back(slot);
            }
        }
        frames.truncate(kept);
        frames
    }

    fn duplicate_refusal(&self) -> Option<Error> {
        self.refusal.as_ref().map(Error::duplicate)
    }
}

/// The task of a stream.
struct Driver {
    stream: Arc<CallStream>,
    method: Box<str>,
}

impl Driver {
    async fn run(self) {
        let end = match self.drive().await {
            Ok(()) => End::Finished,
            Err(error) => End::Failed(self.stream.link.explain(error)),
        };
        self.stream.end(end);
    }

    async fn drive(&self) -> Result<()> {
        let link = &self.stream.link;
        takes_items::ensure(&Connection::borrowed(Arc::clone(link)), None).await?;
        let (send, recv) = link.open_bi().await?;
        let mut writer = FrameWriter::new(send, Code::CANCELLED);
        let mut reader = FrameReader::new(recv, link.limits().max_frame_len(), link.allowance().charge());
        let request = Request::new(&*self.method).with_more(true);
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
        loop {
            let arrived = reader.take_arrived(|body| decode(link, Codec::Cbor, body));
            let response: DecodedResponse = match arrived {
                Some(response) => response.map_err(|error| violated(reader, error))?,
                None => match read(link, Codec::Cbor, reader).await? {
                    Some(response) => response,
                    None => return Ok(()),
                },
            };
            let answered = response.map_err(Error::from).and_then(|response| self.stream.answer(response));
            answered.map_err(|error| violated(reader, error))?;
        }
    }
}

/// An executor that drops the task ends the stream.
impl Drop for Driver {
    fn drop(&mut self) {
        self.stream.end(End::Failed(Error::new(ErrorKind::Closed)));
    }
}

impl Slot {
    /// Whether somebody waits for the call. Then it counts as sent.
    fn send(&self) -> bool {
        self.proceed(Progress::Sent)
    }

    /// Whether the call has not been sent. Then it never is.
    fn withdraw(&self) -> bool {
        self.proceed(Progress::Withdrawn)
    }

    /// Makes of a call that is not sent what `to` says. Says whether it is that now.
    fn proceed(&self, to: Progress) -> bool {
        let mut state = lock(&self.0);
        if state.progress == Progress::Unsent {
            state.progress = to;
        }
        state.progress == to
    }

    fn fill(&self, answer: Answer) {
        let caller = {
            let mut state = lock(&self.0);
            state.answer = Some(answer);
            state.caller.take()
        };
        wake(caller);
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Withdraws its call when it is dropped.
struct Caller(Arc<Slot>);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.withdraw();
    }
}

struct Wait<'a>(&'a Slot);

impl Future for Wait<'_> {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let mut state = lock(&self.0.0);
        match state.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                match &mut state.caller {
                    Some(caller) => caller.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}
