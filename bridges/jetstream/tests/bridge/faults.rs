//! The check finds what a bridge without expected sequences would do.

use async_nats::jetstream::{context::PublishErrorKind, message::PublishMessage, stream::Stream};

use crate::{
    check::{Fault, check, payload},
    kills::{WINDOW, window_has_passed},
    nats_server::{NatsServer, SUBJECT, read_all},
};

const EPOCH: u64 = 5;

/// As a bridge that relies on `Nats-Msg-Id` alone.
async fn publish(server: &NatsServer, seqs: impl IntoIterator<Item = u64>) {
    let context = server.context().await;
    for seq in seqs {
        let message = PublishMessage::build().message_id(format!("{EPOCH}:{seq}"));
        let message = message.payload(payload(seq).into());
        context.send_publish(SUBJECT, message).await.unwrap().await.unwrap();
    }
}

async fn checked(stream: &Stream, last: u64) -> Result<(), Fault> {
    check(&read_all(stream, SUBJECT).await, last)
}

#[tokio::test]
async fn without_expected_sequences_events_repeat_after_the_deduplication_window() {
    let Some(server) = NatsServer::start("repeated").await else { return };
    // Long enough for both of the first two, however busy the machine is.
    let stream = server.stream(5 * WINDOW).await;
    publish(&server, 1..=5).await;
    publish(&server, 4..=5).await;
    assert_eq!(checked(&stream, 5).await, Ok(()), "within the window");
    window_has_passed(&server).await;
    publish(&server, 4..=6).await;
    assert_eq!(checked(&stream, 6).await, Err(Fault::Repeated(4)));
}

#[tokio::test]
async fn an_expected_sequence_is_refused_after_the_deduplication_window() {
    let Some(server) = NatsServer::start("refused").await else { return };
    let stream = server.stream(WINDOW).await;
    publish(&server, 1..=5).await;
    window_has_passed(&server).await;
    let message = PublishMessage::build().message_id(format!("{EPOCH}:5")).payload(payload(5).into());
    let message = message.expected_last_subject_sequence(4);
    let refused = server.context().await.send_publish(SUBJECT, message).await.unwrap().await;
    assert_eq!(refused.unwrap_err().kind(), PublishErrorKind::WrongLastSequence);
    assert_eq!(checked(&stream, 5).await, Ok(()));
}

#[tokio::test]
async fn lost_and_exchanged_events_are_found() {
    let Some(server) = NatsServer::start("lost").await else { return };
    let stream = server.stream(WINDOW).await;
    publish(&server, [1, 2, 4, 3]).await;
    assert_eq!(checked(&stream, 4).await, Err(Fault::Missing(3)));
    stream.purge().await.unwrap();
    window_has_passed(&server).await;
    publish(&server, 1..=3).await;
    assert_eq!(checked(&stream, 4).await, Err(Fault::Missing(4)), "the last");
    let message = stream.get_last_raw_message_by_subject(SUBJECT).await.unwrap();
    stream.delete_message(message.sequence - 1).await.unwrap();
    assert_eq!(checked(&stream, 3).await, Err(Fault::Missing(2)));
}
