//! Where the publishing of a log continues.

use async_nats::jetstream::{
    ErrorCode,
    context::GetStreamErrorKind,
    stream::{Config, LastRawMessageErrorKind, StorageType, Stream},
};
use palyra_quic::Cursor;

use super::{LogState, MissingStream, SessionEnd, ToStreamOptions};
use crate::{
    error::{BridgeError, chain},
    message::cursor_of,
    nats::Nats,
};

/// The last message of a subject.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Position {
    /// Behind the last event published; `None` before the first.
    pub(super) cursor: Option<Cursor>,
    /// The stream sequence of the message; 0 if there is none.
    pub(super) sequence: u64,
}

/// The stream, created if that is allowed.
pub(super) async fn stream(
    nats: &Nats,
    options: &ToStreamOptions,
    logs: &[LogState],
) -> Result<Stream, SessionEnd> {
    let name = &options.stream;
    let error = match nats.context.get_stream(name).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    match error.kind() {
        GetStreamErrorKind::JetStream(answer) if answer.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
        GetStreamErrorKind::EmptyName | GetStreamErrorKind::InvalidStreamName => {
            return Err(SessionEnd::Stop(BridgeError::Options(format!("{name}: {error}"))));
        }
        _ => return Err(SessionEnd::Doubt(format!("stream {name}: {}", chain(&error)))),
    }
    if options.missing_stream == MissingStream::Stop {
        return Err(SessionEnd::Stop(BridgeError::StreamMissing(name.clone())));
    }
    tracing::warn!("there is no stream {name}; it is created, and gets all that the nodes hold");
    let config = Config {
        name: name.clone(),
        subjects: logs.iter().map(|log| log.source.subject.clone()).collect(),
        storage: StorageType::File,
        duplicate_window: options.duplicate_window,
        ..Config::default()
    };
    let created = nats.context.create_stream(config).await;
    created.map_err(|error| SessionEnd::Doubt(format!("creating stream {name}: {}", chain(&error))))
}

/// Reads the last message of a subject. `None` if the log failed, which it then knows.
pub(super) async fn position(
    stream: &Stream,
    options: &ToStreamOptions,
    log: &mut LogState,
) -> Result<Option<Position>, SessionEnd> {
    let subject = log.source.subject.clone();
    let message = match stream.get_last_raw_message_by_subject(&subject).await {
        Ok(message) => message,
        Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => {
            return empty(options, log, subject);
        }
        Err(error) => return Err(SessionEnd::Doubt(format!("reading {subject}: {}", chain(&error)))),
    };
    let sequence = message.sequence;
    let Some(cursor) = cursor_of(&message.headers) else {
        log.fail(BridgeError::ForeignMessage { subject, sequence });
        return Ok(None);
    };
    log.published_before = true;
    Ok(Some(Position { cursor: Some(cursor), sequence }))
}

fn empty(
    options: &ToStreamOptions,
    log: &mut LogState,
    subject: String,
) -> Result<Option<Position>, SessionEnd> {
    if log.published_before {
        if options.missing_stream == MissingStream::Stop {
            return Err(SessionEnd::Stop(BridgeError::SubjectEmptied(subject)));
        }
        tracing::warn!("subject {subject} was emptied; it gets all that its node holds");
        log.published_before = false;
    }
    Ok(Some(Position::default()))
}
