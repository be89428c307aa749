//! Owns what each span is called and carries. Refuses bodies, keys and personal data: an attribute
//! that is not named here is not recorded.
//!
//! Every constructor sets the parent before the span can be entered; later would be too late.

use std::sync::OnceLock;

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{SpanContext, Status, TraceContextExt};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use saga::{Envelope, Trace};
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use uuid::Uuid;

use crate::names;

/// What the SDK keeps of one span's links.
const LINKS_MAX: usize = 128;

/// The service of this process, set once by `init`.
pub(crate) static SERVICE: OnceLock<&'static str> = OnceLock::new();

/// Whether spans of this process go anywhere, set once by `init`.
pub(crate) static RECORDED: OnceLock<bool> = OnceLock::new();

fn service() -> &'static str {
    SERVICE.get().copied().unwrap_or_default()
}

fn is_recorded() -> bool {
    RECORDED.get().copied().unwrap_or_default()
}

/// Where nobody reads what a span carries: its ids alone, for log lines and for those who record.
fn bare(parent: &Trace) -> Span {
    let span = info_span!(parent: None, "bare");
    join(&span, parent);
    span
}

/// A request, as a child of the caller's span.
pub(crate) fn server(method: &str, route: Option<&str>, parent: &Trace) -> Span {
    let span = info_span!(
        parent: None,
        "http",
        otel.name = route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}")),
        otel.kind = "server",
        { names::HTTP_METHOD } = method,
        { names::HTTP_ROUTE } = route,
        { names::SAGA_SERVICE } = service(),
    );
    join(&span, parent);
    span
}

/// One event, from its receipt to its commit: a child of the span that said it, and linked to it.
pub fn process(
    topic: &str,
    partition: i32,
    offset: i64,
    group: &str,
    envelope: &Envelope,
    is_compensation: bool,
) -> Span {
    if !is_recorded() {
        return bare(&envelope.trace);
    }
    let subject = envelope.subject.to_string();
    let span = info_span!(
        parent: None,
        "process",
        otel.name = format!("process {topic}"),
        otel.kind = "consumer",
        { names::MESSAGING_SYSTEM } = "kafka",
        { names::MESSAGING_OPERATION } = "process",
        { names::MESSAGING_OPERATION_TYPE } = "process",
        { names::MESSAGING_DESTINATION } = topic,
        { names::MESSAGING_PARTITION } = partition.to_string(),
        { names::MESSAGING_OFFSET } = offset,
        { names::MESSAGING_KEY } = subject,
        { names::MESSAGING_GROUP } = group,
        { names::MESSAGING_ID } = envelope.id.to_string(),
        { names::SAGA_EVENT } = envelope.kind.name.as_ref(),
        { names::SAGA_ID } = subject,
        { names::SAGA_SERVICE } = service(),
        { names::SAGA_COMPENSATION } = is_compensation,
    );
    join(&span, &envelope.trace);
    span.add_link(span_context(&envelope.trace));
    span
}

/// One transaction of a lane: a trace of its own, linked to the inputs it settles.
pub fn commit<'a>(service: &str, size: usize, links: impl IntoIterator<Item = &'a Trace>) -> Span {
    if !is_recorded() {
        return bare(&Trace::default());
    }
    let span = info_span!(
        parent: None,
        "commit",
        otel.name = format!("commit {service}"),
        otel.kind = "internal",
        { names::BATCH_INPUTS } = i64::try_from(size).unwrap_or(i64::MAX),
        { names::DB_SYSTEM } = "postgresql",
        { names::SAGA_SERVICE } = service,
    );
    for link in links.into_iter().take(LINKS_MAX) {
        span.add_link(span_context(link));
    }
    span
}

/// One event on its way to the broker: a child of the span that decided it, whoever sends it and
/// however late.
pub fn send(topic: &str, envelope: &Envelope, is_compensation: bool) -> Span {
    // Its context goes nowhere.
    if !is_recorded() {
        return Span::none();
    }
    let span = info_span!(
        parent: None,
        "send",
        otel.name = format!("send {topic}"),
        otel.kind = "producer",
        { names::MESSAGING_SYSTEM } = "kafka",
        { names::MESSAGING_OPERATION } = "send",
        { names::MESSAGING_OPERATION_TYPE } = "send",
        { names::MESSAGING_DESTINATION } = topic,
        { names::MESSAGING_ID } = envelope.id.to_string(),
        { names::SAGA_EVENT } = envelope.kind.name.as_ref(),
        { names::SAGA_ID } = envelope.subject.to_string(),
        { names::SAGA_SERVICE } = envelope.kind.producer.as_ref(),
        { names::SAGA_COMPENSATION } = is_compensation,
    );
    join(&span, &envelope.trace);
    span
}

/// One attempt of an outside call: a child of the span that decided it.
pub fn call(
    destination: &str,
    step: &str,
    attempt: u32,
    subject: Uuid,
    trace: &Trace,
    is_compensation: bool,
) -> Span {
    if !is_recorded() {
        return bare(trace);
    }
    let span = info_span!(
        parent: None,
        "call",
        otel.name = format!("call {destination} {step}"),
        otel.kind = "client",
        { names::CALL_ATTEMPT } = i64::from(attempt),
        { names::SAGA_ID } = subject.to_string(),
        { names::SAGA_SERVICE } = service(),
        { names::SAGA_COMPENSATION } = is_compensation,
    );
    join(&span, trace);
    span
}

/// A deadline that has passed: nobody said it, so it is a trace of its own.
pub fn clock(service: &str, subject: Uuid, trace: &Trace) -> Span {
    if !is_recorded() {
        return bare(trace);
    }
    let span = info_span!(
        parent: None,
        "clock",
        otel.name = format!("clock {service}"),
        otel.kind = "internal",
        { names::SAGA_ID } = subject.to_string(),
        { names::SAGA_SERVICE } = service,
        { names::SAGA_COMPENSATION } = false,
    );
    join(&span, trace);
    span
}

/// Where the span is, to be stored and sent along. Empty without [`init`](crate::init).
pub fn context(span: &Span) -> Trace {
    let mut trace = Trace::default();
    TraceContextPropagator::new().inject_context(&span.context(), &mut Slots(&mut trace));
    trace
}

/// What a request turned out to be about: the server span cannot know it from the start.
pub fn about(span: &Span, subject: Uuid) {
    span.set_attribute(names::SAGA_ID, subject.to_string());
    span.set_attribute(names::SAGA_COMPENSATION, false);
}

/// Whether the input had been handled before.
pub fn duplicate(span: &Span, is_duplicate: bool) {
    span.set_attribute(names::SAGA_DUPLICATE, is_duplicate);
}

/// What an attempt has asked, to be told once: `POST` if it did something, `GET` if it only looked it
/// up; and the last word it got.
pub fn asked(span: &Span, method: &'static str, outcome: &'static str) {
    span.set_attribute(names::HTTP_METHOD, method);
    span.set_attribute(names::CALL_OUTCOME, outcome);
}

/// The step failed, with a code from a catalogue and never with a text.
pub fn failed(span: &Span, code: &str) {
    span.set_attribute(names::ERROR_TYPE, code.to_owned());
    span.set_status(Status::error(""));
}

/// The status that a client was answered with. Only our own failures are errors of a server span.
pub(crate) fn answered(span: &Span, status: u16) {
    span.set_attribute(names::HTTP_STATUS, i64::from(status));
    if status >= 500 {
        failed(span, &status.to_string());
    }
}

/// An absent or broken context leaves the span the root of a new trace.
fn join(span: &Span, parent: &Trace) {
    let parent = remote(parent);
    if parent.span().span_context().is_valid() {
        // It fails only where no tracing is installed, and then there is nothing to join.
        let _ = span.set_parent(parent);
    }
}

fn remote(trace: &Trace) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Pair(trace))
}

fn span_context(trace: &Trace) -> SpanContext {
    remote(trace).span().span_context().clone()
}

struct Pair<'a>(&'a Trace);

impl Extractor for Pair<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(&self.0.traceparent),
            "tracestate" => Some(&self.0.tracestate),
            _ => None,
        }
        .filter(|value| !value.is_empty())
        .map(String::as_str)
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

struct Slots<'a>(&'a mut Trace);

impl Injector for Slots<'_> {
    fn set(&mut self, key: &str, value: String) {
        match key {
            "traceparent" => self.0.traceparent = value,
            "tracestate" => self.0.tracestate = value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use opentelemetry::Value;
    use opentelemetry::trace::{SpanId, SpanKind, TraceId};
    use opentelemetry_sdk::trace::SpanData;
    use saga::EventType;

    use super::*;
    use crate::testing::keep_spans;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const PARENT: &str = "b7ad6b7169203331";

    fn trace() -> Trace {
        let traceparent = format!("00-{TRACE}-{PARENT}-01");
        Trace { traceparent, tracestate: "vendor=1".to_owned() }
    }

    fn envelope(trace: Trace) -> Envelope {
        Envelope {
            id: Uuid::from_u128(5),
            kind: EventType::new("payment", "PaymentCaptured", 1),
            time: DateTime::UNIX_EPOCH,
            subject: Uuid::from_u128(7),
            version: Some(3),
            cause: None,
            trace,
        }
    }

    fn attribute(span: &SpanData, name: &str) -> Option<Value> {
        span.attributes.iter().find(|kept| kept.key.as_str() == name).map(|kept| kept.value.clone())
    }

    fn assert_attributes(span: &SpanData, expected: &[(&str, Value)]) {
        for (name, value) in expected {
            assert_eq!(attribute(span, name).as_ref(), Some(value), "{name}");
        }
    }

    #[test]
    fn an_event_is_handled_in_its_own_trace_and_links_to_who_said_it() {
        let kept = keep_spans();
        let span = process("payment.events.v1", 2, 41, "shipping", &envelope(trace()), true);
        assert_eq!(context(&span).trace_id(), TRACE);
        assert_eq!(context(&span).tracestate, "vendor=1");
        duplicate(&span, true);
        drop(span);

        let span = kept.only();
        assert_eq!(
            (span.name.as_ref(), &span.span_kind),
            ("process payment.events.v1", &SpanKind::Consumer)
        );
        assert_eq!(span.span_context.trace_id().to_string(), TRACE);
        assert_eq!(span.parent_span_id.to_string(), PARENT);
        assert!(span.parent_span_is_remote);
        let links: Vec<_> = span.links.iter().map(|link| link.span_context.span_id()).collect();
        assert_eq!(links, [span.parent_span_id]);
        assert_attributes(
            &span,
            &[
                ("messaging.system", "kafka".into()),
                ("messaging.operation.name", "process".into()),
                ("messaging.operation.type", "process".into()),
                ("messaging.destination.name", "payment.events.v1".into()),
                ("messaging.destination.partition.id", "2".into()),
                ("messaging.kafka.offset", 41.into()),
                ("messaging.kafka.message.key", Uuid::from_u128(7).to_string().into()),
                ("messaging.consumer.group.name", "shipping".into()),
                ("messaging.message.id", Uuid::from_u128(5).to_string().into()),
                ("saga.id", Uuid::from_u128(7).to_string().into()),
                ("saga.service", "payment".into()),
                ("saga.compensation", true.into()),
                ("saga.event", "PaymentCaptured".into()),
                ("saga.duplicate", true.into()),
            ],
        );
    }

    #[test]
    fn an_event_without_a_usable_context_starts_a_trace() {
        for traceparent in
            ["", "00-0-0-00", "garbage", &format!("00-{}-{PARENT}-01", "0".repeat(32))]
        {
            let kept = keep_spans();
            let broken = Trace { traceparent: traceparent.to_owned(), ..Trace::default() };
            drop(process("payment.events.v1", 0, 0, "shipping", &envelope(broken), false));
            let span = kept.only();
            assert_ne!(span.span_context.trace_id(), TraceId::INVALID, "{traceparent}");
            assert_eq!(span.parent_span_id, SpanId::INVALID, "{traceparent}");
            assert!(span.links.is_empty(), "{traceparent}");
        }
    }

    #[test]
    fn an_empty_tracestate_is_never_sent() {
        let _kept = keep_spans();
        let here = context(&commit("payment", 1, &[]));
        assert_eq!((here.traceparent.len(), here.tracestate.as_str()), (55, ""));
        let headers = envelope(here).headers();
        assert!(headers.iter().any(|(name, _)| *name == "traceparent"));
        assert!(!headers.iter().any(|(name, _)| *name == "tracestate"));
    }

    #[test]
    fn a_commit_is_a_trace_of_its_own_with_bounded_links() {
        let kept = keep_spans();
        let outer = process("order.events.v1", 0, 0, "payment", &envelope(trace()), false);
        outer.in_scope(|| drop(commit("payment", 500, &vec![trace(); 500])));
        let span = kept.only();
        assert_eq!(span.name, "commit payment");
        assert_ne!(span.span_context.trace_id().to_string(), TRACE);
        assert_eq!((span.links.len(), span.links.dropped_count), (LINKS_MAX, 0));
        assert_attributes(
            &span,
            &[("switchback.batch.size", 500.into()), ("db.system.name", "postgresql".into())],
        );
    }

    #[test]
    fn sending_belongs_to_the_span_that_decided_and_not_to_the_one_that_sends() {
        let kept = keep_spans();
        let sender = commit("payment", 1, &[]);
        sender.in_scope(|| {
            drop(send("payment.events.v1", &envelope(trace()), true));
        });
        let span = kept.only();
        assert_eq!(
            (span.name.as_ref(), &span.span_kind),
            ("send payment.events.v1", &SpanKind::Producer)
        );
        assert_eq!(span.span_context.trace_id().to_string(), TRACE);
        assert_eq!(span.parent_span_id.to_string(), PARENT);
        assert_attributes(
            &span,
            &[
                ("messaging.operation.type", "send".into()),
                ("saga.event", "PaymentCaptured".into()),
                ("saga.service", "payment".into()),
                ("saga.compensation", true.into()),
            ],
        );
    }

    #[test]
    fn a_failed_attempt_says_what_it_came_to() {
        let kept = keep_spans();
        let span = call("payment-provider", "capture", 2, Uuid::from_u128(7), &trace(), true);
        asked(&span, "POST", "unknown");
        failed(&span, "timeout");
        drop(span);
        let span = kept.only();
        assert_eq!(
            (span.name.as_ref(), &span.span_kind),
            ("call payment-provider capture", &SpanKind::Client)
        );
        assert_eq!(span.parent_span_id.to_string(), PARENT);
        assert_eq!(span.status, Status::error(""));
        assert_attributes(
            &span,
            &[
                ("switchback.call.attempt", 2.into()),
                ("switchback.call.outcome", "unknown".into()),
                ("error.type", "timeout".into()),
                ("http.request.method", "POST".into()),
                ("saga.compensation", true.into()),
                ("saga.id", Uuid::from_u128(7).to_string().into()),
            ],
        );
    }

    #[test]
    fn a_deadline_of_an_unknown_trace_has_one_of_its_own_that_names_its_saga() {
        let kept = keep_spans();
        let here = context(&clock("order", Uuid::from_u128(7), &Trace::default()));
        let span = kept.only();
        assert_eq!(span.span_context.trace_id().to_string(), here.trace_id());
        assert_eq!(span.parent_span_id, SpanId::INVALID);
        assert_attributes(
            &span,
            &[("saga.id", Uuid::from_u128(7).to_string().into()), ("saga.service", "order".into())],
        );
    }

    #[test]
    fn no_id_is_part_of_a_name() {
        let kept = keep_spans();
        let subject = Uuid::from_u128(0x0190_1234_5678_7000_8000_0000_0000_0007);
        let envelope = Envelope { subject, id: subject, ..envelope(trace()) };
        drop(process("order.events.v1", 0, 0, "payment", &envelope, false));
        drop(send("payment.events.v1", &envelope, false));
        drop(call("carrier", "book", 1, subject, &trace(), false));
        assert_eq!(kept.spans().len(), 3);
        for span in kept.spans() {
            assert!(!span.name.contains("0190"), "{}", span.name);
        }
    }

    #[test]
    fn without_tracing_a_span_has_no_context_and_nothing_fails() {
        let span = process("order.events.v1", 0, 0, "payment", &envelope(trace()), false);
        duplicate(&span, false);
        failed(&span, "timeout");
        assert_eq!(context(&span), Trace::default());
    }
}
