//! What a whole process writes: the test starts itself again as that process.

use std::env;
use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use saga::Trace;
use serde_json::Value;
use telemetry::{names, spans};
use uuid::Uuid;

const CHILD: &str = "TELEMETRY_TEST_CHILD";

/// Runs one of the tests below as a process of its own, in which [`is_child`] is true.
fn run(test: &str, settings: &[(&str, &str)]) -> Output {
    let mut child = Command::new(env::current_exe().expect("this test is a file"));
    child.args(["--exact", test, "--nocapture"]).env(CHILD, "1");
    child.env_remove("RUST_LOG").env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
    child.envs(settings.iter().copied()).output().expect("it can be started again")
}

fn is_child() -> bool {
    env::var_os(CHILD).is_some()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn child() {
    let telemetry = telemetry::init("payment").expect("nothing is installed yet");
    assert!(telemetry::init("payment").is_err(), "only once");
    tracing::info!("started");
    let span = spans::commit("payment", 1, &[]);
    let trace_id = spans::context(&span).trace_id().to_owned();
    span.in_scope(|| tracing::warn!(trace_id, "inside"));
    tracing::warn!(parent: &span, trace_id, "named");
    tracing::debug!("not for production");
    metrics::counter!(names::LANE_COMMITS).increment(1);
    println!("{}", telemetry.render());
}

#[test]
fn a_line_is_json_with_the_trace_it_happened_in() {
    if is_child() {
        return child();
    }
    let output = run("a_line_is_json_with_the_trace_it_happened_in", &[]);
    assert!(output.status.success(), "{output:?}");
    let [started, inside, named] = &lines(&output)[..] else { panic!("three lines: {output:?}") };
    assert_eq!(started["fields"]["message"], "started");
    assert_eq!((&started["service"], &started["level"]), (&"payment".into(), &"INFO".into()));
    assert_eq!(started.get("trace_id"), None);
    for line in [inside, named] {
        assert_eq!(line["trace_id"].as_str().map(str::len), Some(32), "{line}");
        assert_eq!(line["trace_id"], line["fields"]["trace_id"]);
    }
    let metrics = String::from_utf8_lossy(&output.stdout);
    assert!(metrics.contains("\nswitchback_lane_commits_total 1\n"), "{metrics}");
    assert!(metrics.contains("# HELP switchback_lane_commits_total "), "{metrics}");
}

#[test]
fn a_quieter_log_still_has_traces() {
    if is_child() {
        return child();
    }
    let output = run("a_quieter_log_still_has_traces", &[("RUST_LOG", "warn")]);
    assert!(output.status.success(), "{output:?}");
    let lines = lines(&output);
    assert_eq!(lines.len(), 2, "{output:?}");
    assert!(lines.iter().all(|line| line["trace_id"] == line["fields"]["trace_id"]));
}

#[test]
fn settings_that_cannot_be_read_end_the_start() {
    if is_child() {
        let refused = telemetry::init("payment").err().expect("the filter makes no sense");
        eprintln!("refused: {refused}");
        return;
    }
    let output = run("settings_that_cannot_be_read_end_the_start", &[("RUST_LOG", "a=b=c")]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("refused: RUST_LOG"), "{text}");
}

#[test]
fn a_process_ends_in_time_though_its_collector_never_answers() {
    if is_child() {
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        runtime.block_on(async {
            let telemetry = telemetry::init("payment").expect("nothing is installed yet");
            drop(spans::commit("payment", 1, &[]));
            telemetry.shutdown().await;
        });
        return;
    }
    let black_hole = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", black_hole.local_addr().expect("it is bound"));
    let start = Instant::now();
    let output = run(
        "a_process_ends_in_time_though_its_collector_never_answers",
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)],
    );
    let elapsed = start.elapsed();
    assert!(output.status.success(), "{output:?}");
    assert!(black_hole.accept().is_ok(), "the collector was asked");
    assert!(elapsed < Duration::from_millis(telemetry::SHUTDOWN_MS_MAX + 1_500), "{elapsed:?}");
    let said = lines(&output).iter().any(|line| line["fields"].to_string().contains("last spans"));
    assert!(said, "{output:?}");
}

fn unrecorded() {
    let _telemetry = telemetry::init("payment").expect("nothing is installed yet");
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let parent = Trace { traceparent: traceparent.to_owned(), ..Trace::default() };
    let span = spans::call("grid", "connect", 1, Uuid::nil(), &parent, false);
    spans::asked(&span, "POST", "done");
    spans::failed(&span, "TIMEOUT");
    let here = spans::context(&span);
    assert_eq!(here.trace_id(), parent.trace_id());
    assert_ne!(here.traceparent, parent.traceparent, "it is a span of its own");
    tracing::warn!(parent: &span, trace_id = here.trace_id(), "named");
    let alone = spans::call("grid", "connect", 1, Uuid::nil(), &Trace::default(), false);
    println!("{} {}", span.metadata().map_or("", |span| span.name()), alone.is_disabled());
}

#[test]
fn where_nobody_records_a_span_is_its_ids_and_goes_on_with_the_trace() {
    if is_child() {
        return unrecorded();
    }
    let output = run("where_nobody_records_a_span_is_its_ids_and_goes_on_with_the_trace", &[]);
    assert!(output.status.success(), "{output:?}");
    let [named] = &lines(&output)[..] else { panic!("one line: {output:?}") };
    assert_eq!(named["trace_id"], named["fields"]["trace_id"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("bare false"), "{output:?}");
}
