//! One saga is one trace, compensation included, as a collector sees it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;
use e2e_tests::stack::{Options, with_stack};
use e2e_tests::wire::NewOrder;
use e2e_tests::{SERVICES, saga};
use testkit::otlp::{Collector, Span};

const SKU: &str = "TEA-1";
const ARRIVED_MAX: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_compensated_order_is_one_trace_over_the_four_services() -> anyhow::Result<()> {
    let collector = Collector::start().await?;
    let environment = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint().to_owned())];
    with_stack(&Options { environment, ..Options::default() }, async |stack| {
        stack.client.set_stock(SKU, 10).await?;
        let placed = stack.client.place(&NewOrder::of(SKU, 1).sent_to("00000")).await?;
        let saga = saga::judge(stack, placed.order_id).await?;
        saga.ended_as("cancelled", Some(("address_rejected", "shipping")))?;

        let complete = |spans: &[Span]| is_complete(spans);
        let spans = collector.wait_for(&placed.trace_id, complete, ARRIVED_MAX).await?;
        let services: BTreeSet<&str> = spans.iter().map(|span| span.service.as_str()).collect();
        ensure!(services == BTreeSet::from(SERVICES), "{services:?}");
        let sent = spans.iter().filter(|span| span.name.starts_with("send ")).count();
        ensure!(sent == EVENTS, "{sent} sends of {EVENTS} events");
        let back = spans.iter().any(|span| {
            span.attributes.get("saga.compensation").is_some_and(|undoes| undoes == "true")
        });
        ensure!(back, "no span says that it undoes something: {spans:#?}");

        let of_order = |span: &Span| {
            span.attributes.get("saga.id").is_some_and(|id| *id == placed.order_id.to_string())
        };
        let all = collector.spans();
        let elsewhere = all.iter().find(|span| of_order(span) && span.trace_id != placed.trace_id);
        ensure!(elsewhere.is_none(), "another trace is about this order: {elsewhere:?}");
        Ok(())
    })
    .await
}

/// Placed, reserved, captured, failed and refund wanted, refunded and release wanted, released,
/// cancelled.
const EVENTS: usize = 9;

/// The last event is sent, there is one root, and every parent is there.
fn is_complete(spans: &[Span]) -> bool {
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.span_id.as_str()).collect();
    let roots = spans.iter().filter(|span| span.parent_span_id.is_empty()).count();
    let orphans = spans.iter().filter(|span| {
        !span.parent_span_id.is_empty() && !ids.contains(span.parent_span_id.as_str())
    });
    let sent = spans.iter().filter(|span| span.name.starts_with("send ")).count();
    sent >= EVENTS && roots == 1 && orphans.count() == 0
}
