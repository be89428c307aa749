//! The collector, spoken to by hand in OTLP.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use testkit::otlp::Collector;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn request() -> ExportTraceServiceRequest {
    let trace_id = (0..16).map(|at| u8::from_str_radix(&TRACE[at * 2..at * 2 + 2], 16));
    let span = Span {
        trace_id: trace_id.collect::<Result<_, _>>().expect("hexadecimal digits"),
        span_id: vec![1; 8],
        name: "capture".to_owned(),
        kind: SpanKind::Client.into(),
        attributes: vec![pair("attempt", Value::IntValue(2))],
        ..Span::default()
    };
    let resource = Resource {
        attributes: vec![pair("service.name", Value::StringValue("payment".to_owned()))],
        ..Resource::default()
    };
    let spans = ScopeSpans { spans: vec![span], ..ScopeSpans::default() };
    let of_resource = ResourceSpans {
        resource: Some(resource),
        scope_spans: vec![spans],
        ..ResourceSpans::default()
    };
    ExportTraceServiceRequest { resource_spans: vec![of_resource] }
}

async fn post(endpoint: &str, body: &[u8]) -> anyhow::Result<String> {
    let host = endpoint.trim_start_matches("http://");
    let mut socket = TcpStream::connect(host).await?;
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/x-protobuf\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await?;
    socket.write_all(body).await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn spans_are_kept_with_their_service_and_found_by_trace() -> anyhow::Result<()> {
    let collector = Collector::start().await?;
    let answer = post(collector.endpoint(), &request().encode_to_vec()).await?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let deadline = Duration::from_secs(5);
    let spans = collector.wait_for(TRACE, |spans| !spans.is_empty(), deadline).await?;
    assert_eq!(spans.len(), 1);
    let span = &spans[0];
    assert_eq!((span.service.as_str(), span.name.as_str()), ("payment", "capture"));
    assert_eq!((span.kind, span.parent_span_id.as_str()), (SpanKind::Client, ""));
    assert_eq!(span.attributes["attempt"], "2");
    Ok(())
}

#[tokio::test]
async fn a_body_that_is_no_trace_is_refused_and_kept_out() -> anyhow::Result<()> {
    let collector = Collector::start().await?;
    let answer = post(collector.endpoint(), b"not protobuf").await?;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(collector.spans().is_empty());

    let vain = collector.wait_for(TRACE, |_| false, Duration::from_millis(20)).await;
    assert!(vain.is_err());
    Ok(())
}
