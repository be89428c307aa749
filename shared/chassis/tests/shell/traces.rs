//! What a collector is told of one service: each step below the one that led to it, and on to
//! whoever hears of it.

use testkit::otlp::{Collector, Link, Span, SpanKind};
use testkit::records::Record;
use uuid::Uuid;

use crate::house::{AT_MOST, House, fitted, pressed};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const WALL_SPAN: &str = "b7ad6b7169203331";
const LIT: i16 = 4;

/// As somebody says it who is traced.
fn traced(mut record: Record) -> Record {
    let context = format!("00-{TRACE}-{WALL_SPAN}-01");
    record.headers.push(("traceparent".to_owned(), Some(context.into_bytes())));
    record
}

fn only<'a>(spans: &'a [Span], wanted: &[(&str, &str)]) -> &'a Span {
    let is = |span: &&Span| wanted.iter().all(|(name, value)| span.attribute(name) == *value);
    let found: Vec<_> = spans.iter().filter(is).collect();
    let [span] = found[..] else { panic!("{wanted:?}: {found:#?}") };
    span
}

#[tokio::test]
async fn what_is_heard_and_asked_and_said_is_one_trace_from_the_wall_to_the_next_service()
-> anyhow::Result<()> {
    let collector = Collector::start().await?;
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint());
    let house = House::open(&[endpoint, ("OTEL_BSP_SCHEDULE_DELAY", "100")]).await?;
    let lamp = Uuid::now_v7();
    let press = traced(pressed(lamp));
    house.tell(&[traced(fitted(lamp, "flaky")), press.clone()]).await?;
    // The second answer of the power company is held back.
    house.grid.open_gate();
    house.wait_for_status(lamp, LIT).await?;
    house.tell(&[press]).await?;
    let said = house.wait_for_said(lamp, 2).await?;

    let spans = collector.wait_for(TRACE, |spans| spans.len() >= 7, AT_MOST).await?;
    assert_eq!(spans.len(), 7, "{spans:#?}");
    for span in &spans {
        assert_eq!((span.service.as_str(), span.attribute("saga.service")), ("lamp", "lamp"));
        assert_eq!(span.attribute("saga.id"), lamp.to_string(), "{span:#?}");
        assert_eq!(span.attribute("saga.compensation"), "false", "{span:#?}");
    }
    // What is heard belongs to who said it, also the second time.
    let process = ("messaging.operation.name", "process");
    let heard = |event, duplicate| {
        only(&spans, &[process, ("saga.event", event), ("saga.duplicate", duplicate)])
    };
    let (fit, press) = (heard("BulbFitted", "false"), heard("SwitchPressed", "false"));
    for span in [fit, press, heard("SwitchPressed", "true")] {
        assert_eq!((span.kind, span.parent_span_id.as_str()), (SpanKind::Consumer, WALL_SPAN));
        let wall = Link { trace_id: TRACE.to_owned(), span_id: WALL_SPAN.to_owned() };
        assert_eq!(span.links, [wall]);
    }
    // Each attempt belongs to who wanted the call.
    let attempt = |number| only(&spans, &[("switchback.call.attempt", number)]);
    let (first, second) = (attempt("1"), attempt("2"));
    for (span, outcome, code) in [(first, "unknown", "http_503"), (second, "done", "")] {
        assert_eq!((span.kind, &span.parent_span_id), (SpanKind::Client, &press.span_id));
        assert_eq!(span.attribute("switchback.call.outcome"), outcome);
        // The second has looked the first one up before.
        assert_eq!(span.attribute("http.request.method"), "POST");
        assert_eq!(span.attribute("error.type"), code);
        assert_eq!(span.is_error, !code.is_empty());
    }
    // What is said belongs to who decided it, and so it goes on to whoever hears it.
    for (event, decider) in [("Fitted", fit), ("Lit", second)] {
        let send = only(&spans, &[("messaging.operation.name", "send"), ("saga.event", event)]);
        assert_eq!((send.kind, &send.parent_span_id), (SpanKind::Producer, &decider.span_id));
        let id = send.attribute("messaging.message.id");
        let record = said.iter().find(|record| record.header("ce_id") == Some(id));
        let context = format!("00-{TRACE}-{}-01", decider.span_id);
        let carried = record.and_then(|record| record.header("traceparent"));
        assert_eq!(carried, Some(context.as_str()), "{event}");
    }
    // What settled them is told apart from the saga, and points at it.
    let settled = [fit, press, heard("SwitchPressed", "true"), second];
    let commits = collector.wait_for_all(AT_MOST, |spans| {
        let is_linked = |span: &Span| {
            let link = Link { trace_id: TRACE.to_owned(), span_id: span.span_id.clone() };
            spans.iter().any(|commit| commit.name == "commit lamp" && commit.links.contains(&link))
        };
        settled.into_iter().all(is_linked)
    });
    let all = commits.await?;
    let mut commits = all.iter().filter(|span| span.name == "commit lamp");
    assert!(commits.all(|commit| commit.trace_id != TRACE && commit.parent_span_id.is_empty()));
    Ok(())
}
