//! Owns one way out: how a destination is asked over HTTP. Refuses to ask twice, to follow a
//! redirect, and to read a reply without end: when to ask again is [`Policy`]'s.

use std::fmt;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Client, RequestBuilder, Response, Url, redirect, retry};
use saga::{LookUp, Outcome, Trace};
use serde_json::Value;

use crate::policy::Policy;
use crate::reply::{Refusals, Reply};

/// More than any honest reply needs.
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// Whether a successful reply answers this very request (ids, amount, currency): then its
/// reference, else `None`.
pub type Understand = fn(&Request, &Value) -> Option<String>;

/// An outside call as a participant wants it. Its idempotency key follows from the subject and
/// the step.
#[derive(Clone, PartialEq, Eq)]
pub struct Wanted {
    pub step: &'static str,
    /// The name of a [`Destination`].
    pub destination: &'static str,
    pub path: &'static str,
    /// The JSON body, final bytes: every attempt sends the same.
    pub body: Vec<u8>,
    /// It undoes an effect: it has no deadline, and a refusal of it is for a person to look at.
    pub compensation: bool,
}

/// One attempt of a call.
#[derive(Clone)]
pub struct Request {
    pub path: String,
    pub idempotency_key: String,
    /// JSON, final bytes.
    pub body: Vec<u8>,
    pub trace: Trace,
    /// For all of it: connecting, asking, and reading the reply to its end.
    pub timeout: Duration,
}

/// Without the body: it may hold personal data.
impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted")
            .field("step", &self.step)
            .field("destination", &self.destination)
            .field("path", &self.path)
            .field("compensation", &self.compensation)
            .finish_non_exhaustive()
    }
}

/// Without the body: it may hold personal data.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("path", &self.path)
            .field("idempotency_key", &self.idempotency_key)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// A destination that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("{0}: a destination is an http:// address with a host")]
    Address(Url),
    #[error("the HTTP client cannot be set up")]
    Client(#[from] reqwest::Error),
}

/// Somebody outside who does things for us when asked, and remembers them under our key.
#[derive(Clone)]
pub struct Destination {
    name: &'static str,
    base: Url,
    policy: Policy,
    refusals: Refusals,
    understand: Understand,
    client: Client,
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination")
            .field("name", &self.name)
            .field("base", &self.base.as_str())
            .finish_non_exhaustive()
    }
}

impl Destination {
    /// `refusals` is the whole list of what counts as a "no": HTTP status and `code` of the JSON
    /// body. Whatever is not on it is never read as one.
    pub fn try_new(
        name: &'static str,
        base: Url,
        policy: Policy,
        refusals: Refusals,
        understand: Understand,
    ) -> Result<Self, Unusable> {
        if base.scheme() != "http" || !base.has_host() {
            return Err(Unusable::Address(base));
        }
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            // Whoever counts attempts must see each of them.
            .retry(retry::never())
            // A call goes where the configuration says, whatever a proxy variable may want.
            .no_proxy()
            .tcp_nodelay(true)
            .build()?;
        Ok(Self { name, base, policy, refusals, understand, client })
    }

    pub const fn name(&self) -> &'static str {
        self.name
    }

    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Asks once: `POST <base><path>` with the idempotency key.
    ///
    /// The call may take effect although the outcome is unknown, and although this future is
    /// dropped.
    pub async fn send(&self, request: &Request) -> Outcome {
        let post = (self.client.post(self.address(request.path.split('/'))))
            .header("Idempotency-Key", &request.idempotency_key)
            .header(CONTENT_TYPE, "application/json")
            .body(request.body.clone());
        match exchange(post, request).await {
            Ok(reply) => reply.outcome(self.refusals, |json| (self.understand)(request, json)),
            Err(code) => Outcome::Unknown { code: code.to_owned(), retry_after_ms: None },
        }
    }

    /// Asks what is recorded under the request's key: `GET <base>/v1/operations/<key>`. Changes
    /// nothing.
    pub async fn look_up(&self, request: &Request) -> LookUp {
        let path = ["v1", "operations", &request.idempotency_key];
        match exchange(self.client.get(self.address(path)), request).await {
            Ok(reply) => reply.look_up(self.refusals, |json| (self.understand)(request, json)),
            Err(code) => LookUp::Unknown { code: code.to_owned(), retry_after_ms: None },
        }
    }

    fn address<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.base.clone();
        // Never refused: a base with a host has segments.
        if let Ok(mut segments) = url.path_segments_mut() {
            let path = path.into_iter().filter(|segment| !segment.is_empty());
            segments.pop_if_empty().extend(path);
        }
        url
    }
}

/// Sends and reads, all of it within the request's time. The error is a code.
async fn exchange(builder: RequestBuilder, request: &Request) -> Result<Reply, &'static str> {
    let asked = async {
        let response = traced(builder, &request.trace).send().await.map_err(|e| cause(&e))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Reply::new(status, &headers, read(response).await))
    };
    tokio::time::timeout(request.timeout, asked).await.unwrap_or(Err("timeout"))
}

async fn read(mut response: Response) -> Result<Vec<u8>, &'static str> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| cause(&e))? {
        if body.len() + chunk.len() > REPLY_BYTES_MAX {
            return Err("reply_too_large");
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// A context that is no header value is left out: it is advice.
fn traced(builder: RequestBuilder, trace: &Trace) -> RequestBuilder {
    let pairs = [("traceparent", &trace.traceparent), ("tracestate", &trace.tracestate)];
    pairs.into_iter().filter(|(_, text)| !text.is_empty()).fold(builder, |builder, (name, text)| {
        match HeaderValue::from_str(text) {
            Ok(value) => builder.header(HeaderName::from_static(name), value),
            Err(_) => builder,
        }
    })
}

fn cause(error: &reqwest::Error) -> &'static str {
    if error.is_builder() { "request_invalid" } else { "connection" }
}
