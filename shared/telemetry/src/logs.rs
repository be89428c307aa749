//! Owns the form of a log line: one JSON object that names its service and its trace. Refuses the
//! fields of spans: what a line needs is on the line.

use std::fmt;

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use tracing::{Event, Subscriber, dispatcher};
use tracing_opentelemetry::get_otel_context;
use tracing_subscriber::fmt::format::{Format, Json, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The JSON lines of `tracing-subscriber`, with `service` and `trace_id` added at the end.
pub(crate) struct Lines {
    service: &'static str,
    json: Format<Json>,
}

impl Lines {
    pub(crate) fn new(service: &'static str) -> Self {
        let json = Format::default().json().with_current_span(false).with_span_list(false);
        Self { service, json }
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::with_capacity(256);
        self.json.format_event(context, Writer::new(&mut line), event)?;
        let open = line.trim_end().strip_suffix('}').ok_or(fmt::Error)?;
        write!(writer, r#"{open},"service":"{}""#, self.service)?;
        if let Some(id) = trace_id(event) {
            write!(writer, r#","trace_id":"{id}""#)?;
        }
        writer.write_str("}\n")
    }
}

/// The trace of the span that the event names as its parent, or of the one it happens in.
fn trace_id(event: &Event<'_>) -> Option<String> {
    let context = match event.parent() {
        Some(parent) => dispatcher::get_default(|dispatch| get_otel_context(parent, dispatch))?,
        None => Context::current(),
    };
    let span = context.span();
    let span = span.span_context();
    span.is_valid().then(|| span.trace_id().to_string())
}
