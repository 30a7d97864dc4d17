//! Prints the spans that OpenTelemetry has recorded, one line each. A real node would send them to a
//! collector.

use std::io::{self, Write};

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use tracing::Level;
use tracing_subscriber::{Registry, filter::Targets, layer::SubscriberExt};

/// Begins to record the spans of this process. Those that have not ended are lost when the value is dropped.
pub(crate) fn start() -> SdkTracerProvider {
    let provider = SdkTracerProvider::builder().with_simple_exporter(ToStdout).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("palyra"));
    // The spans of palyra-quic are at level debug.
    let wanted = Targets::new().with_target("palyra_quic", Level::DEBUG).with_target(OWN, Level::INFO);
    let subscriber = Registry::default().with(wanted).with(layer);
    tracing::subscriber::set_global_default(subscriber).expect("no other subscriber");
    provider
}

/// The target of the spans of this program.
pub(crate) const OWN: &str = "opentelemetry_nodes";

#[derive(Debug)]
struct ToStdout;

impl SpanExporter for ToStdout {
    async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
        let mut stdout = io::stdout().lock();
        for SpanData { span_context, parent_span_id, parent_span_is_remote, name, .. } in spans {
            let (trace, id) = (span_context.trace_id(), span_context.span_id());
            let parent = if parent_span_is_remote { "remote-parent" } else { "parent" };
            // Nobody is left to be told that the reader is gone.
            let _ = writeln!(stdout, "span name={name} trace={trace} id={id} {parent}={parent_span_id}");
        }
        let _ = stdout.flush();
        Ok(())
    }
}
