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
    answer::{DecodedResponse, decode, read, violated},
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
    /// Calls to be written.
    frames: Vec<u8>,
    /// The calls without an answer, in their order.
    unanswered: VecDeque<Arc<Slot>>,
    /// How many of them have been taken to be written.
    sent: usize,
    /// No handle to the pipeline is left.
    finishing: bool,
    end: Option<End>,
    /// Wakes the task, which waits for something to write.
    driver: Option<Waker>,
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
    NotTaken,
}

/// Where a caller finds its answer.
#[derive(Default)]
struct Slot(Mutex<SlotState>);

#[derive(Default)]
struct SlotState {
    answer: Option<Answer>,
    caller: Option<Waker>,
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

    /// Resolves when the call is answered.
    ///
    /// # Errors
    ///
    /// `MessageTooLarge` if the parameters do not fit a frame.
    pub(super) async fn call(&self, params: &Bytes) -> Result<Answer> {
        let slot = Arc::<Slot>::default();
        let item = Item { params: (!params.is_empty()).then(|| params.clone()), ..Item::default() };
        let max = self.link.limits().max_frame_len();
        loop {
            let is_full = |state: &State| state.end.is_none() && state.frames.len() >= MAX_UNWRITTEN;
            wait_until(&self.emptied, || !is_full(&self.state())).await;
            let mut state = self.state();
            if is_full(&state) {
                continue;
            }
            match &state.end {
                Some(End::Finished) => return Ok(Answer::NotTaken),
                Some(End::Failed(error)) => return Ok(Answer::Failed(error.duplicate())),
                None => {}
            }
            let before = state.frames.len();
            let appended = frame::append(&mut state.frames, max, |out| {
                item.encode(Codec::Cbor, out).map_err(Error::from)
            });
            if let Err(error) = appended {
                state.frames.truncate(before);
                return Err(error);
            }
            state.unanswered.push_back(Arc::clone(&slot));
            let driver = state.driver.take();
            drop(state);
            wake(driver);
            break;
        }
        self.link.counters().calls.add();
        Ok(Wait(slot).await)
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
            if state.sent == 0 {
                return Err(Error::protocol("more answers than calls"));
            }
            state.sent -= 1;
            state.unanswered.pop_front()
        };
        if let Some(slot) = slot {
            slot.fill(Answer::Response(response));
        }
        Ok(())
    }

    /// What is to be written, as soon as something is.
    fn poll_write(&self, cx: &mut Context<'_>) -> Poll<NextWrite> {
        let frames = {
            let mut state = self.state();
            match (state.finishing, state.unanswered.is_empty()) {
                (true, true) => return Poll::Ready(NextWrite::End),
                (true, false) => return Poll::Ready(NextWrite::Reset),
                (false, _) if state.frames.is_empty() => {
                    state.driver = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                (false, _) => {}
            }
            state.sent = state.unanswered.len();
            mem::take(&mut state.frames)
        };
        self.emptied.notify(usize::MAX);
        Poll::Ready(NextWrite::Calls(frames))
    }

    /// No more answers come.
    fn end(&self, end: End) {
        let (unanswered, sent) = {
            let mut state = self.state();
            state.frames = Vec::new();
            state.end.get_or_insert_with(|| match &end {
                End::Finished => End::Finished,
                End::Failed(error) => End::Failed(error.duplicate()),
            });
            (mem::take(&mut state.unanswered), mem::take(&mut state.sent))
        };
        for (at, slot) in unanswered.into_iter().enumerate() {
            slot.fill(match &end {
                End::Finished => Answer::NotTaken,
                End::Failed(error) if at < sent => Answer::Failed(error.duplicate().after_request()),
                End::Failed(error) => Answer::Failed(error.duplicate()),
            });
        }
        self.emptied.notify(usize::MAX);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
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

struct Wait(Arc<Slot>);

impl Future for Wait {
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
