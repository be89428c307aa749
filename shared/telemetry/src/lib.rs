#![doc = include_str!("../README.md")]

mod exporter;
pub mod http;
mod logs;
mod meters;
pub mod names;
pub mod spans;

use std::convert::Infallible;
use std::env;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use metrics::{SharedString, counter};
use metrics_exporter_prometheus::PrometheusHandle;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::sync::oneshot;
use tokio::time::{interval, timeout};
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

/// The longest that [`Telemetry::shutdown`] takes.
pub const SHUTDOWN_MS_MAX: u64 = 3_000;

/// Samples that nobody scrapes are folded into their histograms this often.
const UPKEEP_SECONDS: u64 = 5;

/// The traces and metrics of this process.
#[derive(Clone)]
pub struct Telemetry {
    provider: SdkTracerProvider,
    metrics: PrometheusHandle,
}

/// Installs logs, traces and metrics for this process. Once: a second time is an error.
///
/// Reads `RUST_LOG` (default `info`), `OTEL_EXPORTER_OTLP_ENDPOINT` and `INSTANCE`.
pub fn init(service: &'static str) -> anyhow::Result<Telemetry> {
    let set = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let endpoint = set("OTEL_EXPORTER_OTLP_ENDPOINT");
    let provider = exporter::provider(service, set("INSTANCE"), endpoint.as_deref())
        .context("the trace exporter cannot be built")?;
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .from_env()
        .context("RUST_LOG cannot be read")?;
    subscriber(service, &provider, filter, std::io::stderr)
        .try_init()
        .context("another subscriber is installed")?;
    let metrics = meters::builder()?.install_recorder().context("another recorder is installed")?;
    names::describe();
    spans::SERVICE.get_or_init(|| service);
    spans::RECORDED.get_or_init(|| endpoint.is_some());
    Ok(Telemetry { provider, metrics })
}

/// Events become log lines, spans become traces: neither pays for the other.
fn subscriber(
    service: &'static str,
    provider: &SdkTracerProvider,
    filter: EnvFilter,
    writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static,
) -> impl Subscriber + Send + Sync {
    let events = filter_fn(|metadata| !metadata.is_span());
    let lines = fmt::layer().event_format(logs::Lines::new(service)).with_writer(writer);
    let saga_spans = filter_fn(|metadata| metadata.is_span() && *metadata.level() <= Level::INFO);
    let traces = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("switchback"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false);
    Registry::default()
        .with(traces.with_filter(saga_spans.with_max_level_hint(LevelFilter::INFO)))
        .with(lines.with_filter(filter.and(events)))
}

/// Counts a saga that `service` has turned round, or (`phase`) that is back from there.
pub fn count_compensation(
    service: impl Into<SharedString>,
    reason: impl Into<SharedString>,
    phase: &'static str,
) {
    counter!(
        names::COMPENSATIONS,
        "service" => service.into(), "reason" => reason.into(), "phase" => phase
    )
    .increment(1);
}

impl Telemetry {
    /// All metrics in the Prometheus text format.
    pub fn render(&self) -> String {
        self.metrics.render()
    }

    /// Keeps the memory of histograms bounded while nobody scrapes. Never ends: run it as a task.
    pub async fn upkeep(&self) -> Infallible {
        let mut ticks = interval(Duration::from_secs(UPKEEP_SECONDS));
        loop {
            ticks.tick().await;
            self.metrics.run_upkeep();
        }
    }

    /// Sends what is left, within [`SHUTDOWN_MS_MAX`] whatever the collector does.
    ///
    /// On a thread that nobody joins: the end of a runtime waits for its blocking tasks.
    pub async fn shutdown(&self) {
        let bound = Duration::from_millis(SHUTDOWN_MS_MAX);
        let (done, ended) = oneshot::channel();
        let provider = self.provider.clone();
        let flushing = thread::Builder::new().name("last-spans".to_owned()).spawn(move || {
            // Nobody waits any more if the bound has passed.
            let _ = done.send(provider.shutdown_with_timeout(bound));
        });
        match (flushing, timeout(bound, ended).await) {
            (Ok(_), Ok(Ok(Ok(())))) => {}
            (Ok(_), Ok(Ok(Err(error)))) => tracing::warn!(%error, "the last spans are lost"),
            (Ok(_), _) => tracing::warn!("the last spans are lost: the collector does not answer"),
            (Err(error), _) => tracing::warn!(%error, "the last spans are lost"),
        }
    }
}

#[cfg(test)]
mod testing {
    //! Spans of one thread, kept in memory.

    use opentelemetry_sdk::trace::{InMemorySpanExporter, SpanData};
    use tracing::subscriber::{DefaultGuard, set_default};

    use super::*;

    pub(crate) struct Kept {
        exporter: InMemorySpanExporter,
        _here: DefaultGuard,
    }

    pub(crate) fn keep_spans() -> Kept {
        spans::SERVICE.get_or_init(|| "payment");
        spans::RECORDED.get_or_init(|| true);
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let subscriber = subscriber("payment", &provider, EnvFilter::new("off"), std::io::sink);
        Kept { exporter, _here: set_default(subscriber) }
    }

    impl Kept {
        pub(crate) fn spans(&self) -> Vec<SpanData> {
            self.exporter.get_finished_spans().expect("nobody panicked while it was locked")
        }

        pub(crate) fn only(&self) -> SpanData {
            let [span] = self.spans().try_into().expect("one span");
            span
        }
    }
}
