//! Owns how a request that changes something is read: body, key, fingerprint, caller. Refuses to
//! decide anything about it.

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{DefaultBodyLimit, FromRequest, MatchedPath, OriginalUri, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, Method};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{Code, Fingerprint, IdempotencyKey, Problem, strict};

/// The largest body.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// How long a client may take to send it.
pub const BODY_READ_MS_MAX: u64 = 10_000;

/// Who asks. Part of every idempotency key's scope, so that no caller ever meets another's key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller(Cow<'static, str>);

impl Caller {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Caller {
    /// The one caller there is while requests carry no credentials.
    fn default() -> Self {
        Self(Cow::Borrowed("default"))
    }
}

/// A request with an `Idempotency-Key`.
#[derive(Clone)]
pub struct Command {
    pub caller: Caller,
    pub method: Method,
    /// The route's template, `/v1/orders/{id}/cancel`: with caller and method the key's scope.
    pub route: String,
    pub key: IdempotencyKey,
    pub fingerprint: Fingerprint,
    /// The raw body.
    pub body: Bytes,
    is_json: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Empty {}

impl Command {
    /// The body as a `T`, read by the rules of [`strict`].
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        if !self.is_json {
            return Err(Code::UnsupportedMediaType.into());
        }
        strict(&self.body)
    }

    /// For a command that says everything in its path: no body, or `{}`.
    pub fn no_body(&self) -> Result<(), Problem> {
        if self.body.is_empty() { Ok(()) } else { self.json::<Empty>().map(|Empty {}| ()) }
    }
}

impl<S: Send + Sync> FromRequest<S> for Command {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let key = IdempotencyKey::from_headers(request.headers())?;
        let is_json = is_json(request.headers());
        let method = request.method().clone();
        let extensions = request.extensions();
        let uri = match extensions.get::<OriginalUri>() {
            Some(OriginalUri(uri)) => uri.clone(),
            None => request.uri().clone(),
        };
        let route = match extensions.get::<MatchedPath>() {
            Some(template) => template.as_str().to_owned(),
            None => uri.path().to_owned(),
        };
        let body = read_body(request, state).await?;
        let fingerprint = Fingerprint::of(&method, &uri, &body);
        Ok(Self { caller: Caller::default(), method, route, key, fingerprint, body, is_json })
    }
}

/// A JSON body of a request without a key, read by the rules of [`strict`].
#[derive(Debug, Clone, Copy)]
pub struct Strict<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Strict<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Code::UnsupportedMediaType.into());
        }
        Ok(Self(strict(&read_body(request, state).await?)?))
    }
}

async fn read_body<S: Send + Sync>(mut request: Request, state: &S) -> Result<Bytes, Problem> {
    DefaultBodyLimit::max(BODY_BYTES_MAX).apply(&mut request);
    let read = Bytes::from_request(request, state);
    match tokio::time::timeout(Duration::from_millis(BODY_READ_MS_MAX), read).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)))) => {
            Err(Code::TooLarge.into())
        }
        // The client cut the body or framed it wrongly.
        Ok(Err(_)) => Err(Code::MalformedJson.into()),
        Err(_) => Err(Code::RequestTimeout.into()),
    }
}

/// One content type, `application/json`, and no encoding: nothing here unpacks anything.
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(first), None) = (types.next(), types.next()) else { return false };
    let essence = first.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
        && !headers.contains_key(CONTENT_ENCODING)
}
