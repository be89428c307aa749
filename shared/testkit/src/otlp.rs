//! Owns spans as a collector sees them, and a collector that keeps every one it is sent. Refuses
//! metrics and logs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span as Sent};
use prost::Message;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use crate::wait;

/// What arrived, or why no more is taken.
type Spans = Arc<Mutex<Result<Vec<Span>, String>>>;

/// A span as it arrived; ids in hexadecimal, attributes as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Span {
    pub trace_id: String,
    pub span_id: String,
    /// Empty for a root.
    pub parent_span_id: String,
    /// `service.name` of the resource that sent it.
    pub service: String,
    pub name: String,
    #[serde(serialize_with = "by_name")]
    pub kind: SpanKind,
    /// Since 1970, as is its end.
    pub begun_ns: u64,
    pub ended_ns: u64,
    pub attributes: BTreeMap<String, String>,
    pub links: Vec<Link>,
    pub is_error: bool,
}

impl Span {
    /// An attribute's text; empty if it is not there.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

/// What a span points at without being its child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    pub trace_id: String,
    pub span_id: String,
}

/// Listens for OTLP over HTTP with protobuf bodies until it is dropped.
pub struct Collector {
    endpoint: String,
    spans: Spans,
    server: JoinHandle<std::io::Result<()>>,
}

impl Collector {
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let spans = Arc::new(Mutex::new(Ok(Vec::new())));
        let routes = Router::new().route("/v1/traces", post(receive)).with_state(spans.clone());
        let server = tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok(Self { endpoint, spans, server })
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// All that arrived so far, in the order of arrival.
    ///
    /// # Panics
    ///
    /// When a span has arrived that no reader could rely on.
    pub fn spans(&self) -> Vec<Span> {
        match &*self.spans.lock().unwrap_or_else(PoisonError::into_inner) {
            Ok(spans) => spans.clone(),
            Err(why) => panic!("{why}"),
        }
    }

    /// The spans of one trace as soon as they are what the caller waits for.
    pub async fn wait_for(
        &self,
        trace_id: &str,
        complete: impl Fn(&[Span]) -> bool,
        at_most: Duration,
    ) -> anyhow::Result<Vec<Span>> {
        let of_trace = |mut spans: Vec<Span>| {
            spans.retain(|span| span.trace_id == trace_id);
            spans
        };
        let found = self.wait_for_all(at_most, |spans| complete(&of_trace(spans.to_vec())));
        found.await.map(of_trace).with_context(|| format!("trace {trace_id}"))
    }

    /// All spans as soon as they are what the caller waits for.
    pub async fn wait_for_all(
        &self,
        at_most: Duration,
        complete: impl Fn(&[Span]) -> bool,
    ) -> anyhow::Result<Vec<Span>> {
        let found = wait::until(at_most, "spans", async || {
            let spans = self.spans();
            complete(&spans).then_some(spans)
        });
        found.await.with_context(|| {
            let arrived = self.spans().into_iter();
            let arrived = arrived.map(|span| (span.trace_id, span.service, span.name));
            format!("arrived so far: {:?}", arrived.collect::<Vec<_>>())
        })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn receive(State(spans): State<Spans>, body: Bytes) -> Response {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let repeat = request.resource_spans.iter().find_map(repeat);
    let mut spans = spans.lock().unwrap_or_else(PoisonError::into_inner);
    match (repeat, &mut *spans) {
        (Some(why), _) => *spans = Err(why),
        (None, Ok(spans)) => spans.extend(read(request.resource_spans)),
        (None, Err(_)) => {}
    }
    drop(spans);
    let answer = ExportTraceServiceResponse::default().encode_to_vec();
    ([(CONTENT_TYPE, "application/x-protobuf")], answer).into_response()
}

/// A span with two values for one key, of which OTLP says that readers may take any.
fn repeat(of_resource: &ResourceSpans) -> Option<String> {
    let mut spans = of_resource.scope_spans.iter().flat_map(|scope| &scope.spans);
    spans.find_map(|span| {
        let mut keys = BTreeSet::new();
        let twice = span.attributes.iter().find(|pair| !keys.insert(&pair.key))?;
        Some(format!("{} has {} twice: {:?}", span.name, twice.key, span.attributes))
    })
}

/// What OTLP says in many layers.
pub(crate) fn read(resources: Vec<ResourceSpans>) -> impl Iterator<Item = Span> {
    resources.into_iter().flat_map(|of_resource| {
        let resource = attributes(of_resource.resource.unwrap_or_default().attributes);
        let service = resource.get("service.name").cloned().unwrap_or_default();
        let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.map(move |span| kept(&service, span))
    })
}

fn kept(service: &str, span: Sent) -> Span {
    let is_error = span.status.as_ref().is_some_and(|status| status.code() == SpanStatus::Error);
    let kind = span.kind();
    let links = span.links.into_iter();
    Span {
        kind,
        is_error,
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent_span_id: hex(&span.parent_span_id),
        service: service.to_owned(),
        name: span.name,
        begun_ns: span.start_time_unix_nano,
        ended_ns: span.end_time_unix_nano,
        attributes: attributes(span.attributes),
        links: links
            .map(|link| Link { trace_id: hex(&link.trace_id), span_id: hex(&link.span_id) })
            .collect(),
    }
}

fn attributes(pairs: Vec<KeyValue>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|pair| (pair.key, text(pair.value))).collect()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        None => String::new(),
        Some(Value::StringValue(text)) => text,
        Some(Value::BoolValue(yes)) => yes.to_string(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(other) => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference over")]
fn by_name<S: serde::Serializer>(kind: &SpanKind, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(kind.as_str_name())
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::trace::v1::ScopeSpans;

    use super::*;

    fn span(keys: &[&str]) -> ResourceSpans {
        let pair = |key: &&str| KeyValue { key: (*key).to_owned(), ..KeyValue::default() };
        let attributes = keys.iter().map(pair).collect();
        let span = Sent { name: "call".to_owned(), attributes, ..Sent::default() };
        let scope_spans = vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }];
        ResourceSpans { scope_spans, ..ResourceSpans::default() }
    }

    #[test]
    fn a_key_that_a_span_has_twice_is_named_with_its_span() {
        assert_eq!(repeat(&span(&["outcome", "method"])), None);
        let why = repeat(&span(&["outcome", "method", "outcome"])).expect("it is there twice");
        assert!(why.starts_with("call has outcome twice"), "{why}");
    }

    #[tokio::test]
    #[should_panic(expected = "call has outcome twice")]
    async fn a_collector_that_was_sent_such_a_span_says_so_to_whoever_reads() {
        let collector = Collector::start().await.expect("loopback has ports");
        for resource in [span(&["outcome", "outcome"]), span(&[])] {
            let request = ExportTraceServiceRequest { resource_spans: vec![resource] };
            let body = request.encode_to_vec().into();
            receive(State(Arc::clone(&collector.spans)), body).await;
        }
        collector.spans();
    }
}
