//! Owns what a client is told when a request fails (RFC 9457). Refuses to tell anything internal:
//! every text comes from the catalogue.

use axum::Json;
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use opentelemetry::trace::TraceContextExt;
use serde::Serialize;

use crate::Code;

/// The most field errors that one problem names.
pub const FIELD_ERRORS_MAX: usize = 16;

/// Keeps one problem small, whatever the client calls its members.
const POINTER_BYTES_MAX: usize = 256;
/// RFC 9457 allows a relative reference: the documentation is served beside the API.
const TYPE_BASE: &str = "/docs/problems#";

/// What is wrong with one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FieldCode {
    Missing,
    UnknownMember,
    DuplicateMember,
    WrongType,
    /// Of the right type, but no value that this field can have.
    Invalid,
    OutOfRange,
    Empty,
    TooLong,
    TooMany,
    TooDeep,
    NulCharacter,
}

/// One field and its fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// A JSON pointer (RFC 6901) into the body.
    pub pointer: String,
    pub code: FieldCode,
}

impl FieldError {
    /// A pointer that is too long points at the nearest parent that is not.
    pub fn new(pointer: impl Into<String>, code: FieldCode) -> Self {
        let mut pointer = pointer.into();
        while pointer.len() > POINTER_BYTES_MAX {
            pointer.truncate(pointer.rfind('/').unwrap_or(0));
        }
        Self { pointer, code }
    }
}

/// A failed request, as `application/problem+json`.
///
/// The trace id is that of the current OpenTelemetry span when the response is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    code: Code,
    errors: Vec<FieldError>,
    retry_after_seconds: Option<u32>,
}

impl Problem {
    pub const fn new(code: Code) -> Self {
        Self { code, errors: Vec::new(), retry_after_seconds: code.retry_after_seconds() }
    }

    /// `VALIDATION_FAILED` with what is wrong, up to [`FIELD_ERRORS_MAX`] of it.
    pub fn invalid(errors: impl IntoIterator<Item = FieldError>) -> Self {
        let errors = errors.into_iter().take(FIELD_ERRORS_MAX).collect();
        Self { errors, ..Self::new(Code::ValidationFailed) }
    }

    /// When to ask again, where the catalogue's one second is too soon. Without effect on a problem
    /// that time does not heal.
    #[must_use]
    pub fn retry_after_seconds(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = self.retry_after_seconds.map(|_| seconds.max(1));
        self
    }

    pub const fn code(&self) -> Code {
        self.code
    }

    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }
}

impl From<Code> for Problem {
    fn from(code: Code) -> Self {
        Self::new(code)
    }
}

#[derive(Serialize)]
struct Wire<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'static str,
    code: Code,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let code = self.code;
        let wire = Wire {
            r#type: format!("{TYPE_BASE}{}", code.as_str()),
            title: code.title(),
            status: code.status().as_u16(),
            detail: code.detail(),
            code,
            retryable: code.retryable(),
            retry_after_seconds: self.retry_after_seconds,
            trace_id: trace_id(),
            errors: &self.errors,
        };
        let mut response = (code.status(), Json(wire)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

fn trace_id() -> Option<String> {
    opentelemetry::Context::map_current(|context| {
        let span = context.span();
        let span = span.span_context();
        span.is_valid().then(|| span.trace_id().to_string())
    })
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use axum::http::StatusCode;
    use opentelemetry::Context;
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
    use serde_json::{Value, json};

    use super::*;

    async fn body(response: Response) -> Value {
        let bytes = to_bytes(response.into_body(), 64 * 1024).await.expect("a body in memory");
        serde_json::from_slice(&bytes).expect("a problem is JSON")
    }

    #[tokio::test]
    async fn a_problem_has_every_member_of_the_contract() {
        let problem = Problem::invalid([FieldError::new("/lines/0/sku", FieldCode::Missing)]);
        let response = problem.into_response();
        assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert!(!response.headers().contains_key(RETRY_AFTER));
        assert_eq!(
            body(response).await,
            json!({
                "type": "/docs/problems#VALIDATION_FAILED",
                "title": "The request has invalid fields",
                "status": 422,
                "detail": "Each entry of errors points at one field.",
                "code": "VALIDATION_FAILED",
                "retryable": false,
                "errors": [{"pointer": "/lines/0/sku", "code": "MISSING"}],
            })
        );
    }

    #[tokio::test]
    async fn a_problem_that_time_heals_says_when_in_header_and_body() {
        let response = Problem::new(Code::Unavailable).retry_after_seconds(7).into_response();
        assert_eq!(response.headers()[RETRY_AFTER], "7");
        let body = body(response).await;
        assert_eq!((&body["retryable"], &body["retry_after_seconds"]), (&json!(true), &json!(7)));
        for &code in Code::ALL {
            let response = Problem::new(code).into_response();
            assert_eq!(response.headers().contains_key(RETRY_AFTER), code.retryable(), "{code:?}");
        }
        let never = Problem::new(Code::NotFound).retry_after_seconds(7).into_response();
        assert!(!never.headers().contains_key(RETRY_AFTER));
    }

    #[tokio::test]
    async fn the_trace_id_is_that_of_the_current_span() {
        let span = SpanContext::new(
            TraceId::from(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c),
            SpanId::from(7),
            TraceFlags::SAMPLED,
            true,
            TraceState::NONE,
        );
        let response = {
            let _here = Context::new().with_remote_span_context(span).attach();
            Problem::new(Code::Internal).into_response()
        };
        assert_eq!(body(response).await["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        let elsewhere = body(Problem::new(Code::Internal).into_response()).await;
        assert_eq!(elsewhere.get("trace_id"), None);
    }

    #[test]
    fn a_problem_stays_small_whatever_the_client_sends() {
        let many = (0..1_000).map(|n| FieldError::new(format!("/{n}"), FieldCode::UnknownMember));
        assert_eq!(Problem::invalid(many).errors().len(), FIELD_ERRORS_MAX);
        let long = FieldError::new(format!("/lines/0/{}", "x".repeat(300)), FieldCode::Invalid);
        assert_eq!(long.pointer, "/lines/0");
    }
}
