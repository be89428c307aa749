//! Owns the stored form of a response. Refuses to know where it is stored.

use std::fmt;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use axum::http::{Response as HttpResponse, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::{Code, Problem};

const REPLAYED: &str = "idempotent-replayed";

/// A response that can be kept beside an idempotency key and given again, byte for byte.
///
/// Its `Debug` hides the body: bodies belong in no log.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Stored headers that are none.
#[derive(Debug, thiserror::Error)]
#[error("stored response headers do not decode")]
pub struct Corrupt(#[from] serde_json::Error);

impl Answer {
    /// An answer with a JSON body. Fails only if the type has no JSON form.
    pub fn json(status: StatusCode, body: &impl Serialize) -> Result<Self, Problem> {
        Ok(Self {
            status: status.as_u16(),
            headers: vec![(CONTENT_TYPE.to_string(), "application/json".to_owned())],
            body: serde_json::to_vec(body).map_err(|_| Problem::new(Code::Internal))?,
        })
    }

    #[must_use]
    pub fn header(mut self, name: &HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name.to_string(), value.into()));
        self
    }

    /// The same answer, marked as given before.
    #[must_use]
    pub fn replayed(self) -> Self {
        self.header(&HeaderName::from_static(REPLAYED), "true")
    }

    /// The headers as bytes, to be stored beside the status and the body.
    pub fn headers_to_bytes(&self) -> Result<Vec<u8>, Corrupt> {
        Ok(serde_json::to_vec(&self.headers)?)
    }

    /// The answer again, from what was stored.
    pub fn from_stored(status: u16, headers: &[u8], body: Vec<u8>) -> Result<Self, Corrupt> {
        Ok(Self { status, headers: serde_json::from_slice(headers)?, body })
    }

    fn try_into_response(self) -> Result<Response, axum::http::Error> {
        let mut response = HttpResponse::builder().status(self.status);
        for (name, value) in self.headers {
            response = response.header(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        response.body(Body::from(self.body))
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, body, .. } = self;
        f.debug_struct("Answer").field("status", status).field("body_bytes", &body.len()).finish()
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        self.try_into_response().unwrap_or_else(|_| Problem::new(Code::Internal).into_response())
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use axum::http::header::LOCATION;
    use serde_json::json;

    use super::*;

    fn answer() -> Answer {
        let answer = Answer::json(StatusCode::ACCEPTED, &json!({"status": "pending"}));
        answer.expect("a map of strings").header(&LOCATION, "/v1/orders/1")
    }

    #[test]
    fn what_is_stored_is_read_back() {
        let answer = answer();
        let headers = answer.headers_to_bytes().expect("strings");
        let stored = Answer::from_stored(answer.status, &headers, answer.body.clone());
        assert_eq!(stored.expect("just written"), answer);
        assert!(Answer::from_stored(200, b"no headers", Vec::new()).is_err());
    }

    #[tokio::test]
    async fn a_replay_is_the_answer_of_then_and_says_so() {
        let (first, again) = (answer().into_response(), answer().replayed().into_response());
        assert_eq!(first.status(), again.status());
        assert!(!first.headers().contains_key(REPLAYED));
        assert_eq!(again.headers()[REPLAYED], "true");
        assert_eq!(again.headers()[LOCATION], "/v1/orders/1");
        assert_eq!(again.headers()[CONTENT_TYPE], "application/json");
        let (first, again) = (first.into_body(), again.into_body());
        let first = to_bytes(first, 1_024).await.expect("a body in memory");
        assert_eq!(first, to_bytes(again, 1_024).await.expect("a body in memory"));
    }

    #[test]
    fn a_stored_answer_that_is_none_is_our_fault_and_shows_nothing() {
        let impossible = Answer { status: 0, headers: Vec::new(), body: b"secret".to_vec() };
        assert_eq!(impossible.into_response().status(), StatusCode::INTERNAL_SERVER_ERROR);
        let split = answer().header(&LOCATION, "/a\r\nx: y");
        assert_eq!(split.into_response().status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn a_body_does_not_show_itself() {
        assert_eq!(format!("{:?}", answer()), "Answer { status: 202, body_bytes: 20 }");
    }
}
