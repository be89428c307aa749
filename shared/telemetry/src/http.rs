//! Owns the span of a request. Refuses the address itself, query and headers: they are the
//! client's own words.

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::Response;
use saga::Trace;
use tracing::Instrument;

use crate::spans;

/// Middleware: runs a request inside a SERVER span.
///
/// Put it on with [`Router::layer`](axum::Router::layer) after the routes, so that the span has the
/// route's template as its name; leave health checks outside.
pub async fn trace(request: Request, next: Next) -> Response {
    let span = {
        let route = request.extensions().get::<MatchedPath>();
        let route = route.map(MatchedPath::as_str);
        spans::server(known(request.method()), route, &incoming(request.headers()))
    };
    let response = next.run(request).instrument(span.clone()).await;
    spans::answered(&span, response.status().as_u16());
    response
}

/// A method that nobody has registered is no name for a span.
fn known(method: &Method) -> &str {
    match method.as_str() {
        name @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "PATCH" | "OPTIONS") => name,
        _ => "_OTHER",
    }
}

fn incoming(headers: &HeaderMap) -> Trace {
    let text = |name| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    Trace { traceparent: text("traceparent"), tracestate: text("tracestate") }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Response, StatusCode};
    use axum::routing::{get, post};
    use axum::{Router, middleware};
    use opentelemetry::Value;
    use opentelemetry::trace::{SpanKind, Status};
    use tower::ServiceExt;
    use tracing::Span;
    use uuid::Uuid;

    use super::*;
    use crate::testing::keep_spans;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    async fn ask(request: axum::http::request::Builder) -> Response<Body> {
        let router = Router::new()
            .route(
                "/v1/orders/{id}/cancel",
                post(async || {
                    spans::about(&Span::current(), Uuid::from_u128(7));
                    spans::context(&Span::current()).trace_id().to_owned()
                }),
            )
            .route("/v1/broken", get(async || StatusCode::INTERNAL_SERVER_ERROR))
            .layer(middleware::from_fn(trace));
        let request = request.body(Body::empty()).expect("a request");
        let Ok(response) = router.oneshot(request).await;
        response
    }

    #[tokio::test]
    async fn a_request_continues_the_callers_trace_and_is_named_after_its_route() {
        let kept = keep_spans();
        let request = Request::post("/v1/orders/0190-secret/cancel?token=secret")
            .header("authorization", "secret")
            .header("idempotency-key", "secret")
            .header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"));
        let body = ask(request).await.into_body();
        let body = axum::body::to_bytes(body, 64).await.expect("a short body");
        assert_eq!(body, TRACE);

        let span = kept.only();
        assert_eq!(span.name, "POST /v1/orders/{id}/cancel");
        assert_eq!(span.span_kind, SpanKind::Server);
        assert_eq!(span.parent_span_id.to_string(), "b7ad6b7169203331");
        let attribute = |name: &str| {
            let found = span.attributes.iter().find(|kept| kept.key.as_str() == name);
            found.map(|kept| kept.value.clone())
        };
        assert_eq!(attribute("http.response.status_code"), Some(Value::I64(200)));
        assert_eq!(attribute("saga.id"), Some(Uuid::from_u128(7).to_string().into()));
        assert!(!format!("{span:?}").contains("secret"), "{span:?}");
    }

    #[tokio::test]
    async fn our_own_failure_is_an_error_and_the_clients_is_none() {
        let kept = keep_spans();
        ask(Request::get("/v1/broken")).await;
        assert_eq!(kept.only().status, Status::error(""));

        let kept = keep_spans();
        ask(Request::get("/v1/orders/7/cancel")).await;
        assert_eq!(kept.only().status, Status::Unset);
    }

    #[tokio::test]
    async fn a_method_that_nobody_knows_is_no_name() {
        let kept = keep_spans();
        ask(Request::builder().method("BREW").uri("/v1/broken")).await;
        assert_eq!(kept.only().name, "_OTHER /v1/broken");
    }
}
