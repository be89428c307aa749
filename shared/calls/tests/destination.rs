//! One destination against a real listener: what each reply, and each silence, comes to.

use std::future::{IntoFuture, pending};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use calls::{Destination, Policy, Request, Unusable};
use futures::StreamExt;
use saga::{LookUp, Outcome, Trace};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Believes a reply that names our amount.
fn understand(request: &Request, reply: &Value) -> Option<String> {
    let asked: Value = serde_json::from_slice(&request.body).ok()?;
    (reply.get("amount_minor") == asked.get("amount_minor"))
        .then(|| reply.get("reference")?.as_str().map(str::to_owned))
        .flatten()
}

fn destination(base: &str) -> Destination {
    let base = base.parse().expect("a URL");
    Destination::try_new("bank", base, Policy::default(), &[(402, "card_declined")], understand)
        .expect("a plain address")
}

fn request(path: &str) -> Request {
    Request {
        path: path.to_owned(),
        idempotency_key: "7/capture".to_owned(),
        body: br#"{"amount_minor":900}"#.to_vec(),
        trace: Trace { traceparent: TRACEPARENT.to_owned(), tracestate: String::new() },
        timeout: Duration::from_secs(5),
    }
}

#[derive(Debug, Clone)]
struct Seen {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

type Log = Arc<Mutex<Vec<Seen>>>;

/// A bank whose answer follows from the path.
async fn answer(
    State(log): State<Log>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path().to_owned();
    log.lock().expect("no holder panics").push(Seen { method, uri, headers, body });
    let json = |status: u16, body: &'static str| {
        let status = StatusCode::from_u16(status).expect("a status");
        (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
    };
    match path.as_str() {
        "/bank/done" => json(200, r#"{"reference":"cap_1","amount_minor":900}"#),
        "/bank/other_amount" => json(200, r#"{"reference":"cap_1","amount_minor":901}"#),
        "/bank/html" => (StatusCode::OK, "<html>Welcome to our hotel</html>").into_response(),
        "/bank/nothing" => StatusCode::OK.into_response(),
        "/bank/declined" => json(402, r#"{"code":"card_declined"}"#),
        "/bank/unlisted" => json(402, r#"{"code":"account_suspended"}"#),
        "/bank/unauthorized" => json(401, r#"{"code":"card_declined"}"#),
        "/bank/moved" => {
            (StatusCode::FOUND, [(header::LOCATION, "/bank/done")], "").into_response()
        }
        "/bank/busy" => {
            (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "7")], "").into_response()
        }
        "/bank/down" => {
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1000000000")], "")
                .into_response()
        }
        "/bank/silent" => pending().await,
        "/bank/trickle" => {
            let one = futures::stream::once(async { Ok::<_, std::io::Error>("{") });
            Body::from_stream(one.chain(futures::stream::pending())).into_response()
        }
        "/bank/endless" => {
            let zeros = futures::stream::repeat_with(|| Ok::<_, std::io::Error>([b'0'; 1024]));
            Body::from_stream(zeros.map(|chunk| chunk.map(|it| it.to_vec()))).into_response()
        }
        "/bank/v1/operations/7%2Fcapture" => {
            json(200, r#"{"status":"done","reference":"cap_1","amount_minor":900}"#)
        }
        "/bank/v1/operations/other" => {
            json(200, r#"{"status":"done","reference":"cap_1","amount_minor":901}"#)
        }
        "/bank/v1/operations/no" => json(200, r#"{"status":"refused","code":"card_declined"}"#),
        "/bank/v1/operations/new" => json(404, r#"{"code":"nothing_recorded"}"#),
        "/bank/v1/operations/down" => {
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "2")], "").into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn bank() -> (Destination, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let log = Log::default();
    let router = Router::new().fallback(answer).with_state(Arc::clone(&log));
    tokio::spawn(axum::serve(listener, router).into_future());
    (destination(&format!("http://127.0.0.1:{port}/bank")), log)
}

fn unknown(code: &str, retry_after_ms: Option<u64>) -> Outcome {
    Outcome::Unknown { code: code.to_owned(), retry_after_ms }
}

#[tokio::test]
async fn every_reply_comes_to_one_outcome() {
    let (bank, _) = bank().await;
    for (path, outcome) in [
        ("/done", Outcome::Done { reference: "cap_1".into() }),
        ("/declined", Outcome::Refused { code: "card_declined".into() }),
        ("/other_amount", unknown("unintelligible", None)),
        ("/html", unknown("unintelligible", None)),
        ("/nothing", unknown("unintelligible", None)),
        ("/unlisted", unknown("http_402", None)),
        ("/unauthorized", unknown("http_401", None)),
        ("/moved", unknown("http_302", None)),
        ("/no_such_route", unknown("http_404", None)),
        ("/busy", unknown("http_429", Some(7_000))),
        ("/down", unknown("http_503", Some(3_600_000))),
        ("/endless", unknown("reply_too_large", None)),
    ] {
        assert_eq!(bank.send(&request(path)).await, outcome, "{path}");
    }
}

#[tokio::test]
async fn a_look_up_says_what_is_recorded() {
    let (bank, _) = bank().await;
    let code = |code: &str, retry_after_ms| LookUp::Unknown { code: code.into(), retry_after_ms };
    for (key, found) in [
        ("7/capture", LookUp::Done { reference: "cap_1".into() }),
        ("no", LookUp::Refused { code: "card_declined".into() }),
        ("new", LookUp::Nothing),
        ("other", code("unintelligible", None)),
        ("down", code("http_503", Some(2_000))),
        ("elsewhere", code("http_404", None)),
    ] {
        let request = Request { idempotency_key: key.to_owned(), ..request("/done") };
        assert_eq!(bank.look_up(&request).await, found, "{key}");
    }
}

#[tokio::test]
async fn silence_ends_with_the_timeout() {
    let (bank, _) = bank().await;
    for path in ["/silent", "/trickle"] {
        let began = Instant::now();
        let request = Request { timeout: Duration::from_millis(200), ..request(path) };
        assert_eq!(bank.send(&request).await, unknown("timeout", None), "{path}");
        assert!(began.elapsed() < Duration::from_secs(3), "{path} took {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_call_carries_its_key_its_body_and_its_trace() {
    let (bank, log) = bank().await;
    bank.send(&request("/done")).await;
    bank.look_up(&request("/done")).await;

    let seen = log.lock().expect("no holder panics").clone();
    let [sent, looked_up] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!((&sent.method, sent.uri.path()), (&Method::POST, "/bank/done"));
    assert_eq!(sent.headers["idempotency-key"], "7/capture");
    assert_eq!(sent.headers["content-type"], "application/json");
    assert_eq!(sent.headers["traceparent"], TRACEPARENT);
    assert!(!sent.headers.contains_key("tracestate"));
    assert_eq!(sent.body, request("/done").body);
    assert_eq!(looked_up.method, Method::GET);
    assert_eq!(looked_up.uri.path(), "/bank/v1/operations/7%2Fcapture");
    assert_eq!(looked_up.headers["traceparent"], TRACEPARENT);
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_nothing_is_asked_twice() {
    let (bank, log) = bank().await;
    for path in ["/moved", "/down", "/busy"] {
        bank.send(&request(path)).await;
    }
    assert_eq!(log.lock().expect("no holder panics").len(), 3);
}

/// Accepts, reads a little, writes `reply`, and hangs up; counts the connections.
async fn rude(reply: &'static [u8]) -> (Destination, Arc<Mutex<u32>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let count = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            *counted.lock().expect("no holder panics") += 1;
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(reply).await;
        }
    });
    (destination(&format!("http://127.0.0.1:{port}/")), count)
}

#[tokio::test]
async fn a_cut_connection_is_unknown_and_is_tried_once() {
    for reply in [
        b"".as_slice(),
        b"HTTP/1.1 20",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"reference\":",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ] {
        let (rude, count) = rude(reply).await;
        assert_eq!(rude.send(&request("/x")).await, unknown("connection", None));
        assert_eq!(*count.lock().expect("no holder panics"), 1);
        let found = LookUp::Unknown { code: "connection".into(), retry_after_ms: None };
        assert_eq!(rude.look_up(&request("/x")).await, found);
    }
}

#[tokio::test]
async fn nobody_at_home_is_unknown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base = format!("http://{}/", listener.local_addr().expect("bound"));
    drop(listener);
    let nobody = destination(&base);
    assert_eq!(nobody.send(&request("/x")).await, unknown("connection", None));
}

#[tokio::test]
async fn a_key_that_is_no_header_is_never_sent() {
    let (bank, log) = bank().await;
    let request = Request { idempotency_key: "7\ncapture".to_owned(), ..request("/done") };
    assert_eq!(bank.send(&request).await, unknown("request_invalid", None));
    assert!(log.lock().expect("no holder panics").is_empty());
}

#[test]
fn an_address_that_cannot_be_asked_is_refused_at_once() {
    for base in ["https://bank.example/", "unix:/run/bank", "data:text/plain,x"] {
        let base = base.parse().expect("a URL");
        let refused = Destination::try_new("bank", base, Policy::default(), &[], understand);
        assert!(matches!(refused, Err(Unusable::Address(_))));
    }
}
