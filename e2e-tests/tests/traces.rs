//! One saga is one trace, compensation included, as whoever receives the spans sees it: a collector
//! of the tests' own, or a real Jaeger with `TRACES=jaeger`.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e_tests::client::fresh_key;
use e2e_tests::link::Weather;
use e2e_tests::saga::{self, Event, Saga};
use e2e_tests::scenario::{run_all, scenario};
use e2e_tests::stack::{Options, Stack, programs, with_stack};
use e2e_tests::trace::receiver::Receiver;
use e2e_tests::trace::{self, Told};
use e2e_tests::wire::{NewOrder, Placed};
use e2e_tests::{metrics, whole};
use testkit::jaeger::Query;
use testkit::otlp::Span;
use testkit::{records, wait};
use uuid::Uuid;

const SKU: &str = "TEA-1";
const ARRIVED_MAX: Duration = Duration::from_secs(30);
const ENDED_MAX: Duration = Duration::from_secs(30);
const CANCEL: &str = "OrderCancelRequested";
/// Whoever waited for a collector would wait longer than this: its answer is given 5 s.
const ORDER_MAX: Duration = Duration::from_secs(4);
/// What the last spans may cost an end, and as much again as two ends differ by themselves.
const LAST_SPANS_MAX: Duration = Duration::from_millis(3_000 + 500);

fn traced(endpoint: String) -> Options {
    let environment = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        // So that a test does not wait for it.
        ("OTEL_BSP_SCHEDULE_DELAY", "200".to_owned()),
    ];
    // Each scenario knows which process it kills.
    Options { environment, instances: 1, ..Options::default() }
}

/// A stack, and who takes its spans.
struct Watched<'a> {
    stack: &'a Stack,
    spans: &'a Receiver,
}

#[tokio::test]
async fn every_order_of_the_story_is_one_trace() -> anyhow::Result<()> {
    let receiver = Receiver::start().await?;
    with_stack(&traced(receiver.endpoint()), async |stack| {
        stack.client.set_stock(SKU, 1_000).await?;
        let watched = Watched { stack, spans: &receiver };
        run_all([
            scenario("an order that arrives", watched.arrives()),
            scenario("a declined card", watched.declined()),
            scenario("a rejected address", watched.address_rejected()),
            scenario("a lost answer", watched.answer_lost()),
            scenario("a cancel under way", watched.cancelled()),
        ])
        .await?;
        watched.sent_by_the_dispatcher().await.context("kill -9 before an event is sent")?;
        watched.killed_during_a_call().await.context("kill -9 while payment calls")?;
        watched.delivered_again().await.context("every event delivered again")?;
        whole::judge(stack, &whole::Injected::default()).await
    })
    .await
}

impl Watched<'_> {
    async fn arrives(&self) -> anyhow::Result<()> {
        let spans = self.run(NewOrder::of(SKU, 1), "confirmed").await?;
        attempts_are(&spans, &[(CAPTURE, &["1"]), (BOOK, &["1"])])
    }

    async fn declined(&self) -> anyhow::Result<()> {
        let order = NewOrder::of(SKU, 1).paid_with("pm_card_declined");
        let spans = self.run(order, "cancelled").await?;
        attempts_are(&spans, &[(CAPTURE, &["1"])])
    }

    async fn address_rejected(&self) -> anyhow::Result<()> {
        let spans = self.run(NewOrder::of(SKU, 1).sent_to("00000"), "cancelled").await?;
        attempts_are(&spans, &[(BOOK, &["1"]), (CAPTURE, &["1"]), (REFUND, &["1"])])?;
        if let (Receiver::Jaeger(jaeger), Some(span)) = (self.spans, spans.first()) {
            let order_id = span.attribute("saga.id");
            shown_at_the_terminal(jaeger.query(), order_id, &span.trace_id)?;
        }
        Ok(())
    }

    /// The second attempt only looks the first one up.
    async fn answer_lost(&self) -> anyhow::Result<()> {
        let spans = self.run(NewOrder::of(SKU, 1).paid_with("pm_answer_lost"), "confirmed").await?;
        attempts_are(&spans, &[(BOOK, &["1"]), (CAPTURE, &["1", "2"])])?;
        let mut captures: Vec<_> = spans.iter().filter(|span| span.name == CAPTURE).collect();
        captures.sort_by_key(|span| span.begun_ns);
        let said = captures.iter().map(|span| {
            (span.attribute("http.request.method"), span.attribute("switchback.call.outcome"))
        });
        let said: Vec<_> = said.collect();
        ensure!(said == [("POST", "unknown"), ("GET", "done")], "{said:?}");
        Ok(())
    }

    /// The cancel is a request, and so a trace, of its own; the way back is in the order's.
    async fn cancelled(&self) -> anyhow::Result<()> {
        let placed = self.place(NewOrder::of(SKU, 1).paid_with("pm_slow")).await?;
        self.stack.client.done(placed.order_id, "capture").await?;
        self.stack.client.cancel(placed.order_id).await?;
        let saga = saga::judge(self.stack, placed.order_id).await?;
        saga.ended_as("cancelled", Some(("customer", "payment")))?;
        let spans = self.whole(&saga, &placed.trace_id, BTreeSet::new()).await?;
        attempts_are(&spans, &[(CAPTURE, &["1"]), (REFUND, &["1"])])?;

        let both = wait::until(ARRIVED_MAX, "the cancel's own trace", async || {
            let traces = self.spans.traces_of(placed.order_id).await.ok()?;
            (traces.len() == 2).then_some(traces)
        })
        .await?;
        let cancel = both.iter().find(|id| **id != placed.trace_id).context("a second trace")?;
        let events = saga.events.iter().filter(|event| event.name() == CANCEL).collect();
        let told = Told { order_id: saga.order_id, events, lost: BTreeSet::new() };
        self.without_violations(cancel, &told).await.map(drop)
    }

    /// Another process takes the call up, and its attempt is in the same trace.
    async fn killed_during_a_call(&self) -> anyhow::Result<()> {
        let placed = self.place(NewOrder::of(SKU, 1).paid_with("pm_slow")).await?;
        self.stack.client.done(placed.order_id, "capture").await?;
        // What had ended before is not what this is about.
        self.arrived(&placed.trace_id, "process inventory.events.v1").await?;
        let restarts = self.stack.restarts("payment");
        self.stack.kill("payment")?;
        self.stack.restarted("payment", restarts).await?;
        let saga = saga::judge(self.stack, placed.order_id).await?;
        saga.ended_as("confirmed", None)?;
        let spans = self.whole(&saga, &placed.trace_id, BTreeSet::new()).await?;
        attempts_are(&spans, &[(BOOK, &["1"]), (CAPTURE, &["2"])])
    }

    /// The process dies with the span in which it decided; what it stored keeps the trace together.
    async fn sent_by_the_dispatcher(&self) -> anyhow::Result<()> {
        let restarts = self.stack.restarts("payment");
        let placed = self.place(NewOrder::of(SKU, 1).paid_with("pm_slow")).await?;
        self.stack.client.done(placed.order_id, "capture").await?;
        // The next commit says what has come of the call.
        self.stack.client.arm("payment", "lane.committed.before_produce", 1).await?;
        self.stack.restarted("payment", restarts).await?;
        let saga = saga::judge(self.stack, placed.order_id).await?;
        saga.ended_as("confirmed", None)?;
        let text = self.stack.client.metrics("payment").await?;
        let sent = metrics::sum(&text, "switchback_dispatched_total", &[]);
        ensure!(sent > 0.0, "the dispatcher had nothing to send: the run is void");

        let stored: String = sqlx::query_scalar(
            "select convert_from(headers, 'UTF8')::json ->> 'traceparent'
               from payment.events where subject = $1",
        )
        .bind(placed.order_id)
        .fetch_one(&self.stack.tables)
        .await?;
        let lost = stored.split('-').nth(2).context("a traceparent has four parts")?;
        let spans = self.whole(&saga, &placed.trace_id, BTreeSet::from([lost.to_owned()])).await?;
        let died = spans.iter().all(|span| span.span_id != lost);
        ensure!(died, "the span of the decision was sent: the run is void");
        attempts_are(&spans, &[(BOOK, &["1"])])
    }

    /// Every repeat is a span of its own in the same trace, and says that it is a repeat.
    async fn delivered_again(&self) -> anyhow::Result<()> {
        let placed = self.place(NewOrder::of(SKU, 1).sent_to("00000")).await?;
        let saga = saga::judge(self.stack, placed.order_id).await?;
        self.whole(&saga, &placed.trace_id, BTreeSet::new()).await?;
        for service in ["order", "inventory", "payment", "shipping"] {
            let topic = format!("{service}.events.v1");
            let mut records = records::read(&self.stack.bootstrap(), &topic).await?;
            let id = placed.order_id.to_string();
            records.retain(|record| record.header("ce_subject") == Some(&id));
            records::produce(&self.stack.bootstrap(), &topic, &records).await?;
        }
        // Placed, reserved, captured, refund wanted, release wanted, released.
        wait::until(ARRIVED_MAX, "the spans of six repeats", async || {
            let spans = self.spans.trace(&placed.trace_id).await.ok()?;
            let repeats = spans.iter().filter(|span| span.attribute("saga.duplicate") == "true");
            (repeats.count() == 6).then_some(())
        })
        .await?;
        self.whole(&saga, &placed.trace_id, BTreeSet::new()).await.map(drop)
    }

    async fn place(&self, order: NewOrder) -> anyhow::Result<Placed> {
        self.stack.client.place(&order).await
    }

    async fn run(&self, order: NewOrder, end: &str) -> anyhow::Result<Vec<Span>> {
        let placed = self.place(order).await?;
        let saga = saga::judge(self.stack, placed.order_id).await?;
        ensure!(saga.shown.status == end, "it is {}", saga.shown.status);
        let spans = self.whole(&saga, &placed.trace_id, BTreeSet::new()).await?;
        let traces = self.spans.traces_of(placed.order_id).await?;
        ensure!(traces == BTreeSet::from([placed.trace_id]), "it is in {traces:?}");
        Ok(spans)
    }

    /// The trace of an order as soon as nothing is wrong with it, nor with its commits.
    async fn whole(
        &self,
        saga: &Saga,
        trace_id: &str,
        lost: BTreeSet<String>,
    ) -> anyhow::Result<Vec<Span>> {
        let events: Vec<&Event> =
            saga.events.iter().filter(|event| event.name() != CANCEL).collect();
        self.without_violations(trace_id, &Told { order_id: saga.order_id, events, lost }).await
    }

    async fn without_violations(
        &self,
        trace_id: &str,
        told: &Told<'_>,
    ) -> anyhow::Result<Vec<Span>> {
        let mut wrong = Vec::new();
        let what = format!("trace {trace_id} of order {} to be whole", told.order_id);
        let whole = wait::until(ARRIVED_MAX, &what, async || {
            let spans = self.spans.trace(trace_id).await.ok()?;
            wrong = trace::violations(&spans, told);
            if wrong.is_empty() {
                let commits = self.spans.commits().await.ok()?;
                wrong = trace::violations_of_commits(&spans, &commits);
            }
            wrong.is_empty().then_some(spans)
        });
        whole.await.with_context(|| wrong.join("\n"))
    }

    async fn arrived(&self, trace_id: &str, name: &str) -> anyhow::Result<()> {
        wait::until(ARRIVED_MAX, &format!("the span {name}"), async || {
            let spans = self.spans.trace(trace_id).await.ok()?;
            spans.iter().any(|span| span.name == name).then_some(())
        })
        .await
    }
}

#[tokio::test]
async fn an_event_that_only_the_next_process_could_send_leaves_no_gap() -> anyhow::Result<()> {
    let receiver = Receiver::start().await?;
    let options = Options { links: true, ..traced(receiver.endpoint()) };
    with_stack(&options, async |stack| {
        stack.client.set_stock(SKU, 1_000).await?;
        let watched = Watched { stack, spans: &receiver };
        let broker = stack.links.as_ref().context("the stack has links")?.broker_link();
        let placed = watched.place(NewOrder::of(SKU, 1).paid_with("pm_slow")).await?;
        stack.client.done(placed.order_id, "capture").await?;
        // What payment says now reaches nobody, and its spans do.
        broker.set(Weather::Reset);
        watched.arrived(&placed.trace_id, "send payment.events.v1").await?;
        let restarts = stack.restarts("payment");
        stack.kill("payment")?;
        broker.set(Weather::Pass);
        stack.restarted("payment", restarts).await?;
        let saga = saga::judge(stack, placed.order_id).await?;
        saga.ended_as("confirmed", None)?;

        let spans = watched.whole(&saga, &placed.trace_id, BTreeSet::new()).await?;
        let sent = spans.iter().filter(|span| span.name == "send payment.events.v1").count();
        ensure!(sent == 2, "{sent} processes have sent the event: the run is void");
        attempts_are(&spans, &[(BOOK, &["1"]), (CAPTURE, &["1"])])
    })
    .await
}

/// Whoever asks for an order's trace sees the way back and where to look, or is told that there is
/// none.
fn shown_at_the_terminal(jaeger: &Query, order_id: &str, trace_id: &str) -> anyhow::Result<()> {
    let ask = |order_id: &str| {
        let mut command = Command::new(programs()?.join("switchback"));
        command.args(["trace", order_id, "--jaeger-url", jaeger.base().as_str()]);
        anyhow::Ok(command.output()?)
    };
    let shown = ask(order_id)?;
    let said = String::from_utf8(shown.stdout)?;
    let page = jaeger.page(trace_id)?;
    let back = said.lines().any(|line| line.contains("◀ inventory") && line.contains("Release"));
    ensure!(shown.status.success() && back && said.contains(page.as_str()), "{said}");

    let unknown = ask(&Uuid::now_v7().to_string())?;
    let complaint = String::from_utf8(unknown.stderr)?;
    let is_told = unknown.status.code() == Some(1) && complaint.contains("knows no trace of order");
    ensure!(is_told, "{complaint}");
    Ok(())
}

const CAPTURE: &str = "call payment-provider capture";
const REFUND: &str = "call payment-provider refund";
const BOOK: &str = "call carrier book";

/// Calls by name, each with the numbers of its attempts.
fn attempts_are(spans: &[Span], wanted: &[(&str, &[&str])]) -> anyhow::Result<()> {
    let found = trace::attempts(spans);
    let is = |(name, numbers): &(&str, &[&str])| found.get(name).is_some_and(|it| it == numbers);
    ensure!(found.len() == wanted.len() && wanted.iter().all(is), "{found:?}");
    Ok(())
}

#[tokio::test]
async fn a_collector_that_dies_and_comes_back_costs_spans_and_no_order() -> anyhow::Result<()> {
    let mut receiver = Receiver::start().await?;
    with_stack(&traced(receiver.endpoint()), async |stack| {
        stack.client.set_stock(SKU, 1_000).await?;
        let before = Watched { stack, spans: &receiver };
        before.arrives().await.context("before")?;
        receiver.go_away()?;
        for _ in 0..3 {
            in_normal_time(stack).await.context("while nobody takes spans")?;
        }
        receiver.come_back().await?;
        let after = Watched { stack, spans: &receiver };
        // What was said to nobody is lost; what comes after it arrives.
        wait::until(ARRIVED_MAX, "spans to be taken again", async || {
            let placed = after.place(NewOrder::of(SKU, 1)).await.ok()?;
            stack.client.ended(placed.order_id).await.ok()?;
            after.spans.traces_of(placed.order_id).await.ok()?.first().map(drop)
        })
        .await?;
        after.arrives().await.context("after")?;
        whole::judge(stack, &whole::Injected::default()).await
    })
    .await
}

#[tokio::test]
async fn a_collector_that_is_away_delays_no_order_and_an_end_by_three_seconds() -> anyhow::Result<()>
{
    // It takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let gone = TcpListener::bind("127.0.0.1:0")?;
    let [silent_at, gone_at] = [&silent, &gone]
        .map(|listener| listener.local_addr().map(|address| format!("http://{address}")));
    drop(gone);
    let endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let settings = vec![
        ("payment".to_owned(), endpoint, silent_at?),
        ("shipping".to_owned(), endpoint, gone_at?),
    ];
    with_stack(&Options { settings, instances: 1, ..Options::default() }, async |stack| {
        stack.client.set_stock(SKU, 1_000).await?;
        for _ in 0..5 {
            in_normal_time(stack).await?;
        }
        // It has spans for nobody, so this is what an end takes otherwise.
        let otherwise = ended_in(stack, "inventory").await?;
        for service in ["payment", "shipping"] {
            in_normal_time(stack).await?;
            let took = ended_in(stack, service).await?;
            println!("{service} ended in {took:.1?}, and inventory in {otherwise:.1?}");
            ensure!(took <= otherwise + LAST_SPANS_MAX, "{service} took {took:?} to end");
        }
        let said = stack.log("payment").contains("last spans");
        ensure!(said, "no span was lost at the end: the run is void");
        whole::judge(stack, &whole::Injected::default()).await
    })
    .await
}

async fn in_normal_time(stack: &Stack) -> anyhow::Result<()> {
    let begun = Instant::now();
    let key = fresh_key();
    let placed: Placed = stack.client.try_place(&NewOrder::of(SKU, 1), &key).await?.read()?;
    let shown = stack.client.ended(placed.order_id).await?;
    let took = begun.elapsed();
    ensure!(shown.status == "confirmed", "it is {}", shown.status);
    ensure!(took <= ORDER_MAX, "order {} took {took:?}", placed.order_id);
    Ok(())
}

/// How long a process takes to end when it is asked to.
async fn ended_in(stack: &Stack, service: &str) -> anyhow::Result<Duration> {
    stack.ready().await?;
    let pid = stack.pid(service)?;
    let begun = Instant::now();
    stack.terminate(service)?;
    wait::until(ENDED_MAX, &format!("{service} to end"), async || {
        (stack.pid(service).ok() != Some(pid)).then_some(())
    })
    .await?;
    let took = begun.elapsed();
    stack.ready().await?;
    Ok(took)
}
