//! Owns where spans go. Refuses to let a collector that is slow or gone hold anybody up: spans are
//! sent by a thread of their own, from a bounded queue, and dropped when it is full.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{Protocol, SpanExporter as Otlp, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter};
use tokio::runtime::{Builder, Runtime};

/// How long one batch may take to reach the collector, its retries included.
const EXPORT_MS_MAX: u64 = 5_000;

/// Gives spans their ids always, and sends them when there is an endpoint.
pub(crate) fn provider(
    service: &'static str,
    instance: Option<String>,
    endpoint: Option<&str>,
) -> anyhow::Result<SdkTracerProvider> {
    let resource = Resource::builder()
        .with_service_name(service)
        .with_attribute(KeyValue::new("service.namespace", "switchback"))
        .with_attributes(instance.map(|id| KeyValue::new("service.instance.id", id)))
        .build();
    let provider = SdkTracerProvider::builder().with_resource(resource);
    Ok(match endpoint {
        Some(endpoint) => provider.with_batch_exporter(OwnRuntime::connect(endpoint)?).build(),
        // Nobody would read them: spans keep their ids and say in the context that they are not
        // recorded, unless the caller records the trace.
        None => provider.with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOff))).build(),
    })
}

/// OTLP over HTTP on the runtime of the batch processor's thread, which has none.
#[derive(Debug)]
struct OwnRuntime {
    otlp: Otlp,
    runtime: Runtime,
}

impl OwnRuntime {
    fn connect(endpoint: &str) -> anyhow::Result<Self> {
        let otlp = Otlp::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(Duration::from_millis(EXPORT_MS_MAX))
            .build()?;
        Ok(Self { otlp, runtime: Builder::new_current_thread().enable_all().build()? })
    }
}

impl SpanExporter for OwnRuntime {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.runtime.block_on(self.otlp.export(batch))
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.otlp.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.otlp.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::Router;
    use axum::body::Bytes;
    use axum::routing::post;
    use opentelemetry::trace::{Span, TraceContextExt, Tracer, TracerProvider};
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use prost::Message;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;
    use crate::{SHUTDOWN_MS_MAX, Telemetry, meters};

    fn telemetry(endpoint: Option<&str>) -> Telemetry {
        let provider = provider("payment", Some("payment-1".to_owned()), endpoint);
        let metrics = meters::builder().expect("buckets are given").build_recorder().handle();
        Telemetry { provider: provider.expect("the endpoint is an address"), metrics }
    }

    fn one_span(telemetry: &Telemetry) {
        telemetry.provider.tracer("test").start("commit payment").end();
    }

    #[tokio::test]
    async fn what_is_left_reaches_the_collector_before_the_end() {
        let (sender, mut received) = mpsc::channel::<Bytes>(1);
        let collector = Router::new().route(
            "/v1/traces",
            post(async move |body: Bytes| sender.send(body).await.expect("the test waits for it")),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}/", listener.local_addr().expect("it is bound"));
        let collecting = tokio::spawn(async { axum::serve(listener, collector).await });

        let telemetry = telemetry(Some(&endpoint));
        one_span(&telemetry);
        telemetry.shutdown().await;
        collecting.abort();

        let body = received.try_recv().expect("sent before the shutdown ended");
        let mut request = ExportTraceServiceRequest::decode(body).expect("it is protobuf");
        let spans = request.resource_spans.pop().expect("one resource");
        let attributes = spans.resource.expect("a resource").attributes;
        let attribute = |name: &str| {
            let found = attributes.iter().find(|kept| kept.key == name)?;
            found.value.clone()?.value
        };
        let text = |text: &str| Some(Value::StringValue(text.to_owned()));
        assert_eq!(attribute("service.name"), text("payment"));
        assert_eq!(attribute("service.instance.id"), text("payment-1"));
        assert_eq!(spans.scope_spans[0].spans[0].name, "commit payment");
    }

    #[tokio::test]
    async fn a_collector_that_never_answers_holds_nobody_up() {
        let black_hole = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", black_hole.local_addr().expect("it is bound"));
        let telemetry = telemetry(Some(&endpoint));
        let start = Instant::now();
        for _ in 0..10_000 {
            one_span(&telemetry);
        }
        let elapsed_ms = start.elapsed().as_millis();
        assert!(elapsed_ms < u128::from(EXPORT_MS_MAX), "dropped, not waited for: {elapsed_ms} ms");

        let start = Instant::now();
        let (caught, ()) = tokio::join!(black_hole.accept(), telemetry.shutdown());
        let elapsed_ms = start.elapsed().as_millis();
        assert!(caught.is_ok(), "the collector was asked");
        assert!(elapsed_ms < u128::from(SHUTDOWN_MS_MAX) + 500, "{elapsed_ms} ms");
    }

    #[tokio::test]
    async fn a_collector_that_is_gone_does_not_hold_up_the_end() {
        let gone = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", gone.local_addr().expect("it is bound"));
        drop(gone);
        let telemetry = telemetry(Some(&endpoint));
        one_span(&telemetry);
        let start = Instant::now();
        telemetry.shutdown().await;
        let elapsed_ms = start.elapsed().as_millis();
        assert!(elapsed_ms < u128::from(SHUTDOWN_MS_MAX) + 500, "{elapsed_ms} ms");
    }

    #[tokio::test]
    async fn without_an_endpoint_a_span_has_an_id_and_is_not_recorded() {
        let telemetry = telemetry(None);
        let tracer = telemetry.provider.tracer("test");
        let span = tracer.start("commit payment");
        assert!(span.span_context().is_valid());
        assert!(!span.is_recording());
        let inside = opentelemetry::Context::new().with_span(span);
        let child = tracer.start_with_context("send payment.events.v1", &inside);
        assert_eq!(child.span_context().trace_id(), inside.span().span_context().trace_id());
        telemetry.shutdown().await;
    }
}
