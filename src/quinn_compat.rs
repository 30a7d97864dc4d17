//! Behaviour of quinn on which this crate relies, and which quinn does not guarantee.
//!
//! Each function has a test that fails when an update of quinn changes the behaviour, and names the change in
//! quinn that would replace it.

use std::{
    future::Future as _,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_lite::future;
use quinn::{Connection, ConnectionError, SendStream, VarInt};

use crate::{code::Code, runtime::Clock};

/// Whether the peer has acknowledged all that was written on a finished stream, or has stopped or lost it.
///
/// quinn forgets a stream as soon as all of it is acknowledged, and then knows no priority of it. A method of
/// `SendStream` that tells whether a finished stream is acknowledged would replace this;
/// [`stopped`](SendStream::stopped) cannot, since each future of it wakes a task for each stream.
pub(crate) fn is_delivered(finished: &SendStream) -> bool {
    finished.priority().is_err()
}

/// Marks what was written as complete; resets the stream with the peer's code if the peer has stopped it.
///
/// quinn does nothing about a stream that was stopped before, and says that it did: the stream would count as
/// open, and against the peer's limit, until it is dropped. Only a second call shows what the first one did:
/// it fails if the stream is finished. A `finish` that says that the peer has stopped the stream would
/// replace this.
pub(crate) fn finish(stream: &mut SendStream) {
    if stream.finish().is_err() || stream.finish().is_err() {
        return;
    }
    let stopped = pin!(stream.stopped()).poll(&mut Context::from_waker(Waker::noop()));
    let code = if let Poll::Ready(Ok(Some(code))) = stopped { code } else { Code::CANCELLED.to_varint() };
    // Fails only where the stream has ended meanwhile.
    let _ = stream.reset(code);
}

/// Lets the peer open `extra` bidirectional streams more than the `max` that it may have open, once.
///
/// quinn tells the peer of a higher limit of streams immediately, and for as long as more streams are open
/// than its limit allows, it replaces none that ends; so the limit is raised and lowered again. It is 0 in
/// between, because quinn sends MAX_STREAMS only for an increase of more than an eighth of its limit. A
/// method of `Connection` that sets the highest stream that the peer may open would replace this ([quinn
/// issue 1517](https://github.com/quinn-rs/quinn/issues/1517)).
pub(crate) fn grant_bi_streams(connection: &Connection, max: u32, extra: usize) {
    let raised = max.saturating_add(u32::try_from(extra).unwrap_or(u32::MAX));
    for limit in [raised, 0, max] {
        connection.set_max_concurrent_bi_streams(VarInt::from_u32(limit));
    }
}

/// How often [`handshake_confirmed`] looks in a round trip, and the shortest and the longest time between two
/// looks.
const LOOKS_PER_ROUND_TRIP: u32 = 8;
const MIN_PAUSE: Duration = Duration::from_micros(50);
const MAX_PAUSE: Duration = Duration::from_millis(20);

/// Resolves when a client's handshake is confirmed, which is when the server's HANDSHAKE_DONE has arrived
/// ([RFC 9001, section 4.1.2](https://www.rfc-editor.org/rfc/rfc9001#section-4.1.2)); or with an error if the
/// connection ends before that.
///
/// quinn counts that frame and wakes no task for it, so this looks at the count again and again. The future
/// that quinn has from 0.12 on replaces it ([quinn pull request
/// 2441](https://github.com/quinn-rs/quinn/pull/2441)).
pub(crate) async fn handshake_confirmed(
    connection: &Connection,
    clock: &Clock,
) -> Result<(), ConnectionError> {
    let pause = (connection.rtt() / LOOKS_PER_ROUND_TRIP).clamp(MIN_PAUSE, MAX_PAUSE);
    let arrival = async {
        while connection.stats().frame_rx.handshake_done == 0 {
            clock.sleep(pause).await;
        }
        Ok(())
    };
    let refusal = async { Err(connection.closed().await) };
    future::or(refusal, arrival).await
}

#[cfg(all(feature = "cert", feature = "sim"))]
#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use std::sync::Arc;

    use futures_lite::future::poll_once;
    use quinn::RecvStream;

    use super::*;
    use crate::{
        cert::CertificateAuthority,
        connection::Connection as Handle,
        endpoint::Endpoint,
        limits::TransportLimits,
        link::Link,
        router::Router,
        sim::{Link as Path, Sim},
        tls::{ClientTls, ServerTls},
    };

    const MAX_STREAMS: u32 = 16;
    const ROUND_TRIP: Duration = Duration::from_millis(40);

    /// Runs a test with a client's connection that is not confirmed yet, and the server's end of it.
    fn with_connection(test: impl AsyncFn(&Sim, &Handle, &Arc<Link>)) {
        let (sim, ca) = (Sim::new(7), CertificateAuthority::new("ca").unwrap());
        sim.set_default_link(Path::new().delay(ROUND_TRIP / 2));
        let (found, accepted) = async_channel();
        let router = Router::new().on_connection(move |connection: Handle| {
            let found = found.clone();
            async move {
                found.send(Arc::clone(connection.link())).await.unwrap();
                connection.closed().await;
            }
        });
        let limits = TransportLimits::builder().max_concurrent_bidi_streams(MAX_STREAMS).build().unwrap();
        let builder = Endpoint::builder()
            .server(ServerTls::new(ca.issue_server(&[]).unwrap().identity()))
            .limits(limits)
            .router(router);
        let node = sim.host([10, 0, 0, 1]).bind(builder, 7443).unwrap();
        let builder = Endpoint::builder().client(ClientTls::new(ca.trust()));
        let client = sim.host([10, 0, 0, 2]).bind(builder, 0).unwrap();
        sim.run(async {
            let connection =
                client.connect_unconfirmed((node.local_addr().unwrap(), "localhost")).await.unwrap();
            let unconfirmed = connection.link().quinn().stats().frame_rx.handshake_done;
            assert_eq!(unconfirmed, 0);
            let link = accepted.recv().await.unwrap();
            test(&sim, &connection, &link).await;
        });
    }

    fn async_channel<T>() -> (smol::channel::Sender<T>, smol::channel::Receiver<T>) {
        smol::channel::unbounded()
    }

    /// Opens streams until the peer's limit is reached.
    async fn open_all(connection: &Handle) -> Vec<(SendStream, RecvStream)> {
        let mut open = Vec::new();
        while let Some(opened) = poll_once(connection.link().open_bi()).await {
            open.push(opened.unwrap());
        }
        open
    }

    #[test]
    fn a_stream_that_was_stopped_before_it_is_finished_ends_with_the_code_of_the_peer() {
        with_connection(async |sim, connection, link| {
            let (mut send, _answers) = connection.link().open_bi().await.unwrap();
            send.write_all(&[0]).await.unwrap();
            let (_answers, mut recv) = link.quinn().accept_bi().await.unwrap();
            recv.stop(VarInt::from_u32(7)).unwrap();
            sim.sleep(ROUND_TRIP).await;
            finish(&mut send);
            sim.sleep(2 * ROUND_TRIP).await;
            assert!(is_delivered(&send), "the stream is not open any more, before it is dropped");
            assert_eq!(link.quinn().stats().frame_rx.reset_stream, 1);
            assert_eq!(send.stopped().await.unwrap(), None);
        });
    }

    #[test]
    fn what_was_written_on_a_stream_that_was_not_stopped_arrives_whole() {
        with_connection(async |_, connection, link| {
            let (mut send, _answers) = connection.link().open_bi().await.unwrap();
            send.write_all(b"whole").await.unwrap();
            finish(&mut send);
            let (_answers, mut recv) = link.quinn().accept_bi().await.unwrap();
            assert_eq!(recv.read_to_end(100).await.unwrap(), b"whole");
        });
    }

    #[test]
    fn a_finished_stream_is_delivered_once_it_is_acknowledged() {
        with_connection(async |sim, connection, _| {
            let mut finished = connection.link().open_uni().await.unwrap();
            let mut unfinished = connection.link().open_uni().await.unwrap();
            for stream in [&mut finished, &mut unfinished] {
                stream.write_all(&[0]).await.unwrap();
            }
            finished.finish().unwrap();
            assert!(!is_delivered(&finished), "nothing has been sent yet");
            sim.sleep(ROUND_TRIP / 4).await;
            assert!(!is_delivered(&finished), "it has not arrived yet");
            sim.sleep(4 * ROUND_TRIP).await;
            assert!(is_delivered(&finished));
            assert!(!is_delivered(&unfinished), "more may follow");
        });
    }

    #[test]
    fn granted_streams_come_on_top_of_the_limit_and_are_not_replaced_when_they_end() {
        with_connection(async |sim, connection, server| {
            let mut open = open_all(connection).await;
            assert_eq!(open.len(), 16);
            // Fewer than an eighth of the limit, which quinn alone would not tell the peer of.
            grant_bi_streams(server.quinn(), MAX_STREAMS, 1);
            sim.sleep(2 * ROUND_TRIP).await;
            open.append(&mut open_all(connection).await);
            assert_eq!(open.len(), 17);
            grant_bi_streams(server.quinn(), MAX_STREAMS, 8);
            sim.sleep(2 * ROUND_TRIP).await;
            open.append(&mut open_all(connection).await);
            assert_eq!(open.len(), 24);
            // Reset, as nothing was written on them; the server has to see them end.
            for (mut send, mut recv) in open.drain(..12) {
                send.reset(Code::CANCELLED.to_varint()).unwrap();
                recv.stop(Code::CANCELLED.to_varint()).unwrap();
            }
            sim.sleep(8 * ROUND_TRIP).await;
            open.append(&mut open_all(connection).await);
            assert_eq!(open.len(), 16, "as many as the limit says again");
        });
    }

    #[test]
    fn a_handshake_is_confirmed_by_the_server_and_not_before() {
        with_connection(async |sim, connection, _| {
            let quinn = connection.link().quinn();
            let clock = Clock::new(sim.runtime());
            handshake_confirmed(quinn, &clock).await.unwrap();
            assert_eq!(quinn.stats().frame_rx.handshake_done, 1);
            connection.close(Code::NO_ERROR, "");
        });
    }
}
