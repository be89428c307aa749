//! Owns the shape of requests, of answers, and of no answer. Refuses to decide which one is due.

use std::fmt;

use axum::body::Bytes;
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::books::{Effect, Entry, Outcome, Record, Verdict};
use crate::ledger::Closed;

pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;
const KEY_BYTES_MAX: usize = 255;

/// Marks a response that must never be written: the connection is cut instead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cut on purpose")
    }
}

impl std::error::Error for Cut {}

impl IntoResponse for Cut {
    fn into_response(self) -> Response {
        let mut never_written = StatusCode::SERVICE_UNAVAILABLE.into_response();
        never_written.extensions_mut().insert(self);
        never_written
    }
}

/// What is wrong with a request, or with us. Nothing was recorded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub status: u16,
    pub code: &'static str,
    pub detail: String,
}

impl Problem {
    pub(crate) fn new(status: u16, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into() }
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(422, "invalid_request", detail)
    }
}

impl From<Closed> for Problem {
    fn from(Closed: Closed) -> Self {
        Self::new(500, "ledger_closed", "the ledger takes no more entries")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        json(self.status, &json!({"code": self.code, "detail": self.detail}))
    }
}

pub(crate) fn json(status: u16, body: &impl Serialize) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, axum::Json(body)).into_response()
}

pub(crate) fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::invalid(error.to_string()))
}

pub(crate) fn fingerprint(body: &Bytes) -> String {
    format!("{:x}", Sha256::digest(body))
}

/// The `Idempotency-Key` of a request: once, and 1 to 255 visible ASCII characters.
pub(crate) struct Key(pub String);

impl<S: Sync> FromRequestParts<S> for Key {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut keys = parts.headers.get_all("idempotency-key").iter();
        let (Some(key), None) = (keys.next(), keys.next()) else {
            return Err(Problem::new(400, "idempotency_key_missing", "send one Idempotency-Key"));
        };
        match key.to_str() {
            Ok(key)
                if (1..=KEY_BYTES_MAX).contains(&key.len())
                    && key.bytes().all(|byte| byte.is_ascii_graphic()) =>
            {
                Ok(Self(key.to_owned()))
            }
            _ => Err(Problem::new(400, "idempotency_key_invalid", "1 to 255 visible ASCII")),
        }
    }
}

impl IntoResponse for Verdict {
    fn into_response(self) -> Response {
        match self {
            Self::Recorded { record: Record { entry, outcome }, .. } => match outcome {
                Outcome::Done(effect) => json(200, &done(&entry, &effect)),
                Outcome::Refused(refusal) => json(refusal.status(), &json!({"code": refusal})),
            },
            Self::KeyReused => {
                let detail = "this key belongs to another request";
                Problem::new(422, "idempotency_key_reused", detail).into_response()
            }
            Self::Busy => unavailable(),
        }
    }
}

/// Nothing was done; ask again.
pub(crate) fn unavailable() -> Response {
    Problem::new(503, "temporarily_unavailable", "ask again").into_response()
}

/// The answer to a look-up.
pub(crate) fn found(record: Option<&Record>) -> Response {
    let Some(Record { entry, outcome }) = record else {
        return Problem::new(404, "nothing_recorded", "nothing under this key").into_response();
    };
    match outcome {
        Outcome::Done(effect) => {
            let mut body = done(entry, effect);
            body["status"] = json!("done");
            json(200, &body)
        }
        Outcome::Refused(refusal) => json(200, &json!({"status": "refused", "code": refusal})),
    }
}

fn done(entry: &Entry, effect: &Effect) -> Value {
    json!({
        "reference": effect.reference,
        "order_id": entry.order_id,
        "operation": entry.operation,
        "amount_minor": entry.amount_minor,
        "currency": entry.currency,
    })
}
