//! `switchback load` against an order service that does what a test wants: it is asked as it should
//! be, and what it answers is counted as what it is.

use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use testkit::ports;
use tokio::net::TcpListener;

/// An order service that takes everything and has ended it as soon as somebody counts.
#[derive(Debug, Default)]
struct Service {
    /// What it answers before it takes anything.
    excuses: Vec<StatusCode>,
    /// So many of its orders never end.
    stuck: u64,
    /// When it has told of so many ends, it begins its count again.
    forgets_after: Option<u64>,

    keys: Vec<String>,
    accepted: u64,
    told: u64,
    forgotten: u64,
    under_way_max: u64,
    looked_at: u64,
}

type Shared = Arc<Mutex<Service>>;

async fn place(State(service): State<Shared>, headers: HeaderMap) -> Response {
    let mut service = service.lock().expect("no handler panics");
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok());
    service.keys.push(key.unwrap_or_default().to_owned());
    if let Some(excuse) = service.excuses.pop() {
        return (excuse, "not like this").into_response();
    }
    service.accepted += 1;
    let under_way = service.accepted - service.forgotten - service.told;
    service.under_way_max = service.under_way_max.max(under_way);
    let id = format!("00000000-0000-7000-8000-{:012}", service.accepted);
    (StatusCode::ACCEPTED, json!({"order_id": id, "status": "pending"}).to_string()).into_response()
}

async fn metrics(State(service): State<Shared>) -> String {
    let mut service = service.lock().expect("no handler panics");
    if service.forgets_after.is_some_and(|after| service.told >= after) {
        service.forgets_after = None;
        service.forgotten = service.told;
    }
    service.told = service.accepted.saturating_sub(service.stuck) - service.forgotten;
    let told = service.told;
    format!("switchback_orders_finished_total{{outcome=\"confirmed\",reason=\"\"}} {told}\n")
}

async fn show(State(service): State<Shared>) -> String {
    service.lock().expect("no handler panics").looked_at += 1;
    let id = "00000000-0000-7000-8000-000000000001";
    json!({"order_id": id, "status": "confirmed"}).to_string()
}

/// Puts a load on such a service.
async fn load(service: Service, arguments: &[&str]) -> anyhow::Result<(Output, Value, Service)> {
    let shared = Arc::new(Mutex::new(service));
    let routes = Router::new()
        .route("/v1/orders", post(place))
        .route("/v1/orders/{id}", get(show))
        .route("/metrics", get(metrics))
        .with_state(Arc::clone(&shared));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let serving = tokio::spawn(async { axum::serve(listener, routes).await });
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchback"));
    command.args(["load", "--no-stock", "--order-url", &url, "--inventory-url", &url]);
    command.args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    serving.abort();
    let figures = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{}", String::from_utf8_lossy(&output.stderr)))?;
    let service = std::mem::take(&mut *shared.lock().expect("no handler panics"));
    Ok((output, figures, service))
}

#[tokio::test]
async fn never_more_orders_are_under_way_than_were_asked_for_and_never_fewer_for_long()
-> anyhow::Result<()> {
    let arguments = ["--orders", "200", "--in-flight", "7"];
    let (output, figures, service) = load(Service::default(), &arguments).await?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(service.under_way_max, 7);
    assert_eq!(service.keys.len(), 200);
    for (figure, wanted) in [("orders", 200), ("accepted", 200), ("confirmed", 200)] {
        assert_eq!(figures[figure], wanted, "{figures}");
    }
    for figure in ["refused", "unanswered", "retried", "cancelled", "unfinished"] {
        assert_eq!(figures[figure], 0, "{figures}");
    }
    assert_eq!(figures["load"], "saturated");
    assert!(figures["finished_ms"].is_null(), "{figures}");
    Ok(())
}

#[tokio::test]
async fn an_open_loop_places_as_many_as_its_time_has_room_for_and_watches_a_share_of_them()
-> anyhow::Result<()> {
    let arguments = ["--rate", "100", "--seconds", "1", "--watch-per-second", "10"];
    let (output, figures, service) = load(Service::default(), &arguments).await?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(figures["load"], "paced");
    assert_eq!(figures["accepted"], 100, "{figures}");
    assert_eq!(figures["finished_ms"]["watched"], 10, "{figures}");
    assert_eq!(service.looked_at, 10);
    // The last one is sent 990 ms after the first.
    let rate = figures["sagas_per_second"].as_f64().context("a number")?;
    assert!(rate < 102.0, "{figures}");
    Ok(())
}

#[tokio::test]
async fn a_service_that_is_busy_is_asked_again_under_the_same_key() -> anyhow::Result<()> {
    let excuses = vec![StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
    let service = Service { excuses, ..Service::default() };
    let (output, figures, service) = load(service, &["--orders", "1", "--in-flight", "1"]).await?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(figures["retried"], 2, "{figures}");
    let [first, second, third] = &service.keys[..] else { panic!("{:?}", service.keys) };
    assert_eq!(first.len(), 36);
    assert_eq!((second, third), (first, first));
    Ok(())
}

#[tokio::test]
async fn an_order_that_is_refused_is_not_asked_for_again_and_fails_the_load() -> anyhow::Result<()>
{
    let service = Service { excuses: vec![StatusCode::BAD_REQUEST], ..Service::default() };
    let (output, figures, service) = load(service, &["--orders", "5", "--in-flight", "1"]).await?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!((&figures["refused"], &figures["accepted"]), (&json!(1), &json!(4)), "{figures}");
    assert_eq!(service.keys.len(), 5);
    let said = String::from_utf8(output.stderr)?;
    assert!(said.contains("1 orders were refused, 0 not answered and 0 have not"), "{said}");
    assert!(said.contains("400 Bad Request: not like this"), "{said}");
    Ok(())
}

#[tokio::test]
async fn orders_that_do_not_end_are_given_up_and_counted() -> anyhow::Result<()> {
    for arguments in [
        ["--orders", "20", "--in-flight", "5", "--at-most", "1"],
        ["--orders", "20", "--rate", "100", "--at-most", "1"],
    ] {
        let service = Service { stuck: 2, ..Service::default() };
        let (output, figures, _) = load(service, &arguments).await?;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(figures["confirmed"], 18, "{figures}");
        assert_eq!(figures["unfinished"], 2, "{figures}");
    }
    Ok(())
}

#[tokio::test]
async fn a_load_that_is_stuck_half_way_is_given_up_too() -> anyhow::Result<()> {
    let service = Service { stuck: 5, ..Service::default() };
    let arguments = ["--orders", "20", "--in-flight", "5", "--at-most", "1"];
    let (output, figures, _) = load(service, &arguments).await?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!((&figures["orders"], &figures["unfinished"]), (&json!(5), &json!(5)), "{figures}");
    Ok(())
}

#[tokio::test]
async fn when_the_count_begins_again_each_order_is_asked() -> anyhow::Result<()> {
    let service = Service { forgets_after: Some(20), ..Service::default() };
    let arguments = ["--orders", "100", "--in-flight", "10", "--at-most", "20"];
    let (output, figures, service) = load(service, &arguments).await?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(service.forgets_after, None);
    assert_eq!(service.looked_at, 100);
    assert_eq!(figures["confirmed"], 100, "{figures}");
    assert_eq!(figures["unfinished"], 0, "{figures}");
    Ok(())
}

#[test]
fn an_order_service_that_is_not_there_is_told_apart_from_a_failure() -> anyhow::Result<()> {
    let base = ports::free_base(&[1, 2])?.to_string();
    let arguments = ["load", "--orders", "1", "--in-flight", "1", "--port-base", &base];
    let output = Command::new(env!("CARGO_BIN_EXE_switchback")).args(arguments).output()?;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let said = String::from_utf8(output.stderr)?;
    assert!(said.contains("nobody answers at 127.0.0.1:"), "{said}");
    Ok(())
}

#[test]
fn a_load_without_a_size_or_a_pace_is_no_load() -> anyhow::Result<()> {
    let wrong: [&[&str]; 7] = [
        &[],
        &["--orders", "5"],
        &["--in-flight", "5"],
        &["--orders", "5", "--seconds", "5", "--in-flight", "5"],
        &["--orders", "5", "--rate", "5", "--in-flight", "5"],
        &["--orders", "5", "--rate", "0"],
        &["--orders", "5", "--rate", "5", "--order-url", "http://127.0.0.1:1"],
    ];
    for wrong in wrong {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchback"));
        let output = command.arg("load").args(wrong).output()?;
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
    Ok(())
}
