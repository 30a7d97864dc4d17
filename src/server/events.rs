//! Serves `node.stream_events`, and the logs of the application in the same way: replay, then follow.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use futures_lite::future;

use super::{
    exchange_result::ExchangeResult,
    exchange_state::ExchangeState,
    run_handler::{Outcome, ShutdownWaits, run_handler},
};
use crate::{
    admission::Charge,
    code::Code,
    error::{Error, ErrorKind, Result},
    events::{EventLog, EventReader, GapBefore},
    frame,
    link::Link,
    message::{EVENT_OVERHEAD, Request, Response, encode_event},
    router::{Context, ExchangeGuard, MethodError},
    stream::FrameWriter,
    sync::EventListener,
};

/// How many bytes of events go into one write. Large enough that packets are full and writes are few, and
/// small enough that a subscriber which does not read costs little.
const WRITE_BYTES: usize = 16 * 1024;

/// When a subscriber that found no place may try again: places become free as connections end, and a mirror
/// receives what it does not have.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// When a subscriber may come back whose events could not be read, unless the log says.
const READ_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Serves a subscription.
pub(super) async fn stream(
    exchange: &ExchangeState<'_>,
    log: &EventLog,
    request: &Request,
    mut writer: FrameWriter,
) -> ExchangeResult {
    // Where the cursor is ahead of the log, a mirror refuses, and an origin may begin another epoch.
    let refusal = if log.is_behind(request.resume_from, request.epoch) {
        Some(MethodError::unavailable("this mirror is behind the cursor: another holder may not be"))
    } else {
        let (peer, cursor) = (exchange.link.peer(), request.resume_from.zip(request.epoch));
        match exchange.node.router.epoch_change(peer, &request.method, log, cursor) {
            Some(change) => change.await.err(),
            None => None,
        }
    };
    if let Some(refusal) = refusal {
        return refuse(exchange, refusal, writer);
    }
    let Some(_slot) = log.admit_subscriber() else {
        let full = MethodError::resource_exhausted("the event log has all the subscribers that it may have");
        return refuse(exchange, full, writer);
    };
    let clock = &exchange.node.clock;
    // The node's own limit for handlers is not for subscriptions; a caller's wish counts.
    let deadline = request.timeout_ms.map(|asked| clock.deadline(Duration::from_millis(asked)));
    let stopped = writer.given_up();
    let context = Context::new(exchange.link.clone(), deadline);
    let guard = context.guard();
    let outcome = {
        let charge = exchange.link.allowance().charge();
        let subscription = Subscription { exchange, log, writer: &mut writer, charge };
        let serving = async {
            let served = subscription.serve(request).await;
            Ok(served.unwrap_or_else(|error| broken_by(exchange.link, &error)))
        };
        run_handler(exchange.node, ShutdownWaits::ForHandler, deadline, pin!(stopped), Box::pin(serving))
            .await
    };
    conclude(exchange, outcome, writer, guard)
}

/// Tells the subscriber how its subscription ended.
fn conclude(
    exchange: &ExchangeState<'_>,
    outcome: Outcome<EndedBy>,
    writer: FrameWriter,
    guard: ExchangeGuard,
) -> ExchangeResult {
    let outcome = match outcome {
        // A follower comes back to another node, or later, from where it was.
        Outcome::Returned(Ok(EndedBy::Shutdown)) => {
            return ExchangeResult::reset(exchange, writer, Code::SHUTTING_DOWN);
        }
        Outcome::Returned(Ok(EndedBy::Fault)) => {
            return ExchangeResult::reset(exchange, writer, Code::INTERNAL);
        }
        Outcome::Returned(Ok(EndedBy::FailedRead(error))) => {
            let failed = MethodError::resource_exhausted("the events cannot be read now");
            let retry_after = error.retry_after().unwrap_or(READ_RETRY_AFTER);
            Outcome::Returned(Err(failed.retry_after(retry_after)))
        }
        Outcome::Returned(Ok(EndedBy::Replaced)) => {
            let replaced = MethodError::unavailable("the log has begun another epoch: subscribe again");
            Outcome::Returned(Err(replaced.retry_after(Duration::ZERO)))
        }
        Outcome::Returned(Ok(EndedBy::GivenUp(code))) => Outcome::GivenUp(code),
        outcome => outcome.map(|_last_event| None),
    };
    ExchangeResult::conclude(exchange, outcome, writer, Some(guard))
}

/// How a subscription ended whose events could not be sent.
fn broken_by(link: &Link, error: &Error) -> EndedBy {
    tracing::debug!(remote = %link.remote_address(), %error, "a subscription broke");
    match error.kind() {
        ErrorKind::StreamReset(code) => EndedBy::GivenUp(*code),
        _ if !link.is_open() => EndedBy::GivenUp(Code::CANCELLED),
        _ => EndedBy::Fault,
    }
}

fn refuse(exchange: &ExchangeState<'_>, refusal: MethodError, writer: FrameWriter) -> ExchangeResult {
    let response = refusal.retry_after(RETRY_AFTER).not_run().into_response();
    ExchangeResult::respond(exchange, &response, writer)
}

/// The response to subscribers of a mirror that has not heard of its origin.
pub(super) fn nothing_yet() -> Response {
    let nothing = MethodError::unavailable("this mirror has nothing yet: another holder may");
    nothing.retry_after(RETRY_AFTER).not_run().into_response()
}

enum EndedBy {
    LastEvent,
    Shutdown,
    /// The node serves another log under this name.
    Replaced,
    /// The next events could not be read from the log.
    FailedRead(Error),
    /// The subscriber has stopped the stream while events were written, or is gone.
    GivenUp(Code),
    /// The next events could not be sent, for a reason of this side.
    Fault,
}

struct Subscription<'a> {
    exchange: &'a ExchangeState<'a>,
    log: &'a EventLog,
    writer: &'a mut FrameWriter,
    /// For the frames that are being written.
    charge: Charge,
}

impl Subscription<'_> {
    async fn serve(mut self, request: &Request) -> Result<EndedBy> {
        let mut reader = self.log.subscribe(request.resume_from, request.epoch);
        let (mut frames, mut batch) = (Vec::new(), Vec::new());
        // A subscriber that resumes learns soon that there is nothing new, or that the log ends before an
        // event that it expects.
        let mut is_told_nothing = request.resume_from.is_some();
        loop {
            let published = self.log.listen();
            loop {
                let room = self.charge.while_there_is_room(future::ready(()));
                let shutdown = self.exchange.node.drain.begun();
                if request.follow {
                    future::or(room, shutdown).await
                } else {
                    room.await
                }
                match self.log.read(&mut reader, WRITE_BYTES, &mut batch).await {
                    Ok(gap) => self.encode(reader.epoch(), gap, &mut batch, &mut frames)?,
                    Err(error) => return Ok(EndedBy::FailedRead(error)),
                }
                if frames.is_empty() && request.follow && is_told_nothing {
                    self.append_heartbeat(&mut frames, &reader)?;
                }
                is_told_nothing = false;
                if frames.is_empty() {
                    break;
                }
                self.charge.add(frames.len());
                let write = async { self.writer.write(std::mem::take(&mut frames)).await.map(|()| None) };
                // A subscriber that does not read must not hold up the end.
                let shutdown = async {
                    self.exchange.node.drain.begun().await;
                    Ok(Some(EndedBy::Shutdown))
                };
                let ended = if request.follow { future::or(write, shutdown).await? } else { write.await? };
                if let Some(ended) = ended {
                    return Ok(ended);
                }
                self.charge.settle(0);
            }
            if !request.follow {
                return Ok(EndedBy::LastEvent);
            }
            if self.log.is_replaced() {
                return Ok(EndedBy::Replaced);
            }
            match self.wait(published).await {
                Wake::Published => {}
                Wake::Heartbeat => {
                    self.append_heartbeat(&mut frames, &reader)?;
                }
                Wake::ShuttingDown => return Ok(EndedBy::Shutdown),
            }
        }
    }

    /// Waits until there is something to send: an event, a heartbeat, or the end.
    async fn wait(&self, published: EventListener) -> Wake {
        let node = self.exchange.node;
        let heartbeat = async {
            node.clock.sleep(node.limits.heartbeat_interval()).await;
            Wake::Heartbeat
        };
        let published = async {
            published.await;
            Wake::Published
        };
        let shutdown = async {
            node.drain.begun().await;
            Wake::ShuttingDown
        };
        future::or(shutdown, future::or(published, heartbeat)).await
    }

    /// Moves events into frames, behind the gap before them.
    fn encode(
        &self,
        epoch: u64,
        gap: Option<GapBefore>,
        batch: &mut Vec<(u64, Bytes)>,
        frames: &mut Vec<u8>,
    ) -> Result<()> {
        if let Some(gap) = gap {
            self.append(frames, &self.gap(epoch, gap))?;
        }
        self.exchange.node.counters.events_sent.add_many(batch.len());
        self.log.record_sent(batch.len());
        frames.reserve(batch.iter().map(|(_, payload)| payload.len() + EVENT_OVERHEAD).sum());
        let (codec, max) = (self.exchange.codec, self.exchange.node.max_frame_len());
        for (seq, payload) in batch.drain(..) {
            frame::append(frames, max, |out| {
                encode_event(codec, seq, Some(epoch), &payload, out).map_err(Error::from)
            })?;
        }
        Ok(())
    }

    fn gap(&self, epoch: u64, gap: GapBefore) -> Response {
        self.exchange.node.counters.gaps_sent.add();
        self.log.record_gap();
        let GapBefore { first_seq, missed } = gap;
        Response::Gap { first_seq, epoch, missed }
    }

    /// Not with the log's last event: another one may have been published since this looked.
    fn append_heartbeat(&self, frames: &mut Vec<u8>, reader: &EventReader) -> Result<()> {
        let heartbeat = Response::Heartbeat { seq: reader.last_seq(), epoch: reader.epoch() };
        self.append(frames, &heartbeat)
    }

    fn append(&self, frames: &mut Vec<u8>, response: &Response) -> Result<()> {
        frame::append(frames, self.exchange.node.max_frame_len(), |out| {
            response.encode(self.exchange.codec, out).map_err(Error::from)
        })
    }
}

enum Wake {
    Published,
    Heartbeat,
    ShuttingDown,
}
