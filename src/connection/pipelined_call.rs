//! One call of a pipeline.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_lite::future;

use super::{
    answer::{Deadline, timed_out},
    call_driver::Driver,
    call_stream::{Answer, CallStream, Progress},
};
use crate::error::Result;

/// Resolves when the call is answered, or when its time is over. A call that is dropped before it was sent is
/// not sent.
///
/// # Errors
///
/// `MessageTooLarge` if the parameters do not fit a frame.
pub(super) async fn call(stream: &Arc<CallStream>, params: &[u8], deadline: Deadline) -> Result<Answer> {
    let clock = stream.link().clock();
    let mut caller = Caller { stream, key: None, has_waited: false };
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

/// Who waits for the answer. The call is not sent if this is dropped before it was.
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
                    let _outstanding = self.stream.link().outstanding().call();
                    emptied.await;
                    self.has_waited = true;
                }
            }
        }
    }

    fn poll(&mut self, params: &[u8], cx: &mut Context<'_>) -> Poll<Result<Progress>> {
        let Self { stream, key, has_waited } = self;
        let begin = || stream.link().clock().spawn(Driver::new(Arc::clone(stream)).run());
        stream.poll_call(key, *has_waited, params, begin, cx)
    }

    /// Waits for the answer no more. Says whether the call was sent.
    fn leave(&mut self) -> bool {
        self.key.take().is_some_and(|key| self.stream.leave(key))
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}
