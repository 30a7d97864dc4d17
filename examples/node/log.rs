//! Log messages of the library, as lines on standard error.

use std::{
    fmt::{self, Write as _},
    io::{self, Write as _},
};

use clap::ValueEnum;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
    subscriber,
};

use crate::failure::one_line;

/// The least severe events that are shown.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    #[default]
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => Self::OFF,
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// Shows events from now on. Without this subscriber, the library does not evaluate their fields.
pub(crate) fn start(level: LogLevel) {
    if level != LogLevel::Off {
        // The program sets no other subscriber, so this cannot fail.
        let _ = subscriber::set_global_default(Stderr { level: level.into() });
    }
}

/// Shows events, and no spans: each event names the peer that it is about.
struct Stderr {
    level: LevelFilter,
}

impl Subscriber for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let (level, target) = (event.metadata().level(), event.metadata().target());
        let mut text = Text { message: String::new(), fields: String::new() };
        event.record(&mut text);
        let line = one_line(&format!("{level} {target}: {}{}", text.message, text.fields));
        // One write, so that lines of several threads do not mix. An error means that stderr is closed.
        let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        // Never called, because no span is enabled.
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The message in front, and the other fields in their order.
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to memory does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
