//! Whole requests against a router: what a client sees for good and bad ones.

use std::future::pending;

use api::{Answer, BODY_BYTES_MAX, Code, Command, Path, Problem, Strict};
use axum::body::{Body, to_bytes};
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use futures::stream;
use serde_json::{Value, json};
use tower::ServiceExt;
use uuid::Uuid;

fn router() -> Router {
    let inner = Router::new()
        .route(
            "/orders",
            post(async |command: Command| {
                let body: Value = command.json()?;
                Ok::<_, Problem>(Json(json!({
                    "caller": command.caller.as_str(),
                    "route": command.route,
                    "key": command.key.as_str(),
                    "fingerprint": command.fingerprint.as_bytes(),
                    "body": body,
                })))
            }),
        )
        .route(
            "/orders/{id}/cancel",
            post(async |Path(_): Path<Uuid>, command: Command| command.no_body()),
        )
        .route("/orders/{id}", get(async |Path(id): Path<Uuid>| id.to_string()))
        .route("/stock/{sku}", get(async |Path(sku): Path<String>| sku))
        .route(
            "/stock",
            put(async |Strict(body): Strict<Value>| Answer::json(StatusCode::OK, &body)),
        );
    Router::new()
        .nest("/v1", inner)
        .fallback(async || Problem::new(Code::NotFound))
        .method_not_allowed_fallback(async || Problem::new(Code::MethodNotAllowed))
}

fn order() -> axum::http::request::Builder {
    Request::post("/v1/orders")
        .header("idempotency-key", "k")
        .header("content-type", "application/json")
}

async fn ask(request: Request<Body>) -> (StatusCode, Value) {
    let response: Response<Body> = router().oneshot(request).await.into_response();
    let (status, bytes) =
        (response.status(), to_bytes(response.into_body(), 1 << 20).await.expect("a short body"));
    let body = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    (status, body)
}

async fn refused(request: Request<Body>, code: Code) {
    let (status, body) = ask(request).await;
    assert_eq!((status, body["code"].as_str()), (code.status(), Some(code.as_str())));
}

#[tokio::test]
async fn a_command_knows_its_caller_its_route_and_its_whole_address() {
    let send = async |uri: &str, body: &'static str| {
        let request = Request::post(uri)
            .header("idempotency-key", "\"k-1\"")
            .header("content-type", "Application/JSON; charset=utf-8");
        let (status, answer) = ask(request.body(body.into()).expect("a request")).await;
        assert_eq!(status, StatusCode::OK);
        answer
    };
    let answer = send("/v1/orders?a=1", r#"{"x": 1}"#).await;
    assert_eq!(
        (&answer["caller"], &answer["route"], &answer["key"], &answer["body"]),
        (&json!("default"), &json!("/v1/orders"), &json!("k-1"), &json!({"x": 1}))
    );
    let print = &answer["fingerprint"];
    assert_eq!(*print, send("/v1/orders?a=1", r#"{"x": 1}"#).await["fingerprint"]);
    assert_ne!(*print, send("/v1/orders?a=2", r#"{"x": 1}"#).await["fingerprint"]);
    assert_ne!(*print, send("/v1/orders?a=1", r#"{"x":1}"#).await["fingerprint"]);
}

#[tokio::test]
async fn a_command_needs_a_key_and_json() {
    let request = Request::post("/v1/orders").header("content-type", "application/json");
    refused(request.body("{}".into()).expect("a request"), Code::IdempotencyKeyMissing).await;
    let twice = order().header("idempotency-key", "k").body("{}".into()).expect("a request");
    refused(twice, Code::IdempotencyKeyInvalid).await;
    refused(order().body("{".into()).expect("a request"), Code::MalformedJson).await;
    for wrong in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
        let request = Request::post("/v1/orders")
            .header("idempotency-key", "k")
            .header("content-type", wrong)
            .body("{}".into());
        refused(request.expect("a request"), Code::UnsupportedMediaType).await;
    }
    let packed = order().header("content-encoding", "gzip").body("{}".into()).expect("a request");
    refused(packed, Code::UnsupportedMediaType).await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_announced_or_not() {
    let fits = format!("\"{}\"", "a".repeat(BODY_BYTES_MAX - 2));
    let (status, _) = ask(order().body(fits.into()).expect("a request")).await;
    assert_eq!(status, StatusCode::OK);

    let announced =
        order()
            .header("content-length", "104857600")
            .body(Body::from(vec![b'a'; BODY_BYTES_MAX + 1]));
    refused(announced.expect("a request"), Code::TooLarge).await;
    let endless = stream::repeat_with(|| Ok::<_, std::io::Error>([b'a'; 1_024].as_slice()));
    let endless = order().body(Body::from_stream(endless)).expect("a request");
    refused(endless, Code::TooLarge).await;
}

#[tokio::test]
async fn a_body_that_breaks_off_is_malformed() {
    let cut = stream::iter([Ok("{"), Err(std::io::Error::other("reset"))]);
    let cut = order().body(Body::from_stream(cut)).expect("a request");
    refused(cut, Code::MalformedJson).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_comes_ends_in_time() {
    let never = stream::once(pending::<Result<&str, std::io::Error>>());
    let never = order().body(Body::from_stream(never)).expect("a request");
    refused(never, Code::RequestTimeout).await;
}

#[tokio::test]
async fn a_command_without_content_takes_nothing_or_an_empty_object() {
    let cancel = |body: &'static str| {
        Request::post(format!("/v1/orders/{}/cancel", Uuid::nil()))
            .header("idempotency-key", "k")
            .header("content-type", "application/json")
            .body(Body::from(body))
            .expect("a request")
    };
    assert_eq!(ask(cancel("")).await.0, StatusCode::OK);
    assert_eq!(ask(cancel("{}")).await.0, StatusCode::OK);
    refused(cancel("{\"force\":true}"), Code::ValidationFailed).await;
}

#[tokio::test]
async fn a_path_that_names_nothing_is_not_found_and_says_no_more() {
    let get = |uri: String| Request::get(uri).body(Body::empty()).expect("a request");
    let known = Uuid::from_u128(7);
    assert_eq!(ask(get(format!("/v1/orders/{known}"))).await.1, json!(known.to_string()));
    assert_eq!(ask(get("/v1/stock/TEA-1".into())).await.1, json!("TEA-1"));
    let (_, absent) = ask(get("/nowhere".into())).await;
    for uri in [
        "/v1/orders/seven".to_owned(),
        "/v1/orders/%00".to_owned(),
        "/v1/orders/..%2f".to_owned(),
        "/v1/orders/%ff".to_owned(),
        format!("/v1/orders/{}", "a".repeat(8 * 1_024)),
        "/v1/stock/TEA%00".to_owned(),
    ] {
        assert_eq!(ask(get(uri)).await, (StatusCode::NOT_FOUND, absent.clone()));
    }
    let wrong = Request::delete("/v1/orders").body(Body::empty()).expect("a request");
    refused(wrong, Code::MethodNotAllowed).await;
}

#[tokio::test]
async fn a_request_without_a_key_is_read_as_strictly() {
    let put = |kind: &str, body: &'static str| {
        Request::put("/v1/stock")
            .header("content-type", kind)
            .body(Body::from(body))
            .expect("a request")
    };
    assert_eq!(
        ask(put("application/json", r#"{"available":1}"#)).await,
        (StatusCode::OK, json!({"available": 1}))
    );
    refused(put("text/plain", "{}"), Code::UnsupportedMediaType).await;
    refused(put("application/json", r#"{"a":1,"a":2}"#), Code::ValidationFailed).await;
}
