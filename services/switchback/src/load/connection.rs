//! Owns one connection to a service, over which one request goes at a time. Refuses to send a
//! request twice: whoever asked decides whether it may be asked again.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use reqwest::Url;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longer than a service takes to say that it is too busy.
const ANSWER_MAX: Duration = Duration::from_secs(15);
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Where a service listens.
#[derive(Debug, Clone)]
pub(super) struct Target {
    address: String,
    host: HeaderValue,
}

impl Target {
    pub(super) fn parse(url: &str) -> anyhow::Result<Self> {
        let parsed: Url = url.parse().with_context(|| format!("the address {url}"))?;
        ensure!(parsed.scheme() == "http", "the address {url} must begin with http://");
        let host = parsed.host_str().with_context(|| format!("{url} names no host"))?;
        let port = parsed.port_or_known_default().with_context(|| format!("{url} has no port"))?;
        let address = format!("{host}:{port}");
        Ok(Self { host: HeaderValue::from_str(&address)?, address })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

/// What a service said.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// Whether the service has done what it was asked is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    #[error("nobody answers at {0}")]
    NobodyThere(String),
    #[error("{0} broke off")]
    BrokenOff(String, #[source] hyper::Error),
    #[error("{0} said nothing for {ANSWER_MAX:?}")]
    Silent(String),
}

/// A connection that is opened when it is needed, and again when it was lost.
pub(super) struct Connection {
    target: Target,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    pub(super) const fn to(target: Target) -> Self {
        Self { target, sender: None }
    }

    pub(super) async fn get(&mut self, path: &str) -> Result<Answer, Unanswered> {
        self.send(Method::GET, path, None, Bytes::new()).await
    }

    pub(super) async fn put(&mut self, path: &str, body: Bytes) -> Result<Answer, Unanswered> {
        self.send(Method::PUT, path, None, body).await
    }

    pub(super) async fn post(
        &mut self,
        path: &str,
        key: &HeaderValue,
        body: Bytes,
    ) -> Result<Answer, Unanswered> {
        self.send(Method::POST, path, Some(key.clone()), body).await
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        key: Option<HeaderValue>,
        body: Bytes,
    ) -> Result<Answer, Unanswered> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(HOST, self.target.host.clone());
        headers.insert(CONTENT_TYPE, JSON);
        if let Some(key) = key {
            headers.insert(IDEMPOTENCY_KEY, key);
        }
        // Lost when this is given up half way: its answer would be taken for the next one's.
        let mut sender = self.opened().await?;
        let answered = timeout(ANSWER_MAX, async {
            let (head, body) = sender.send_request(request).await?.into_parts();
            Ok(Answer { status: head.status, body: body.collect().await?.to_bytes() })
        });
        let address = || self.target.address.clone();
        let answer = answered.await.map_err(|_| Unanswered::Silent(address()))?;
        let answer = answer.map_err(|error| Unanswered::BrokenOff(address(), error))?;
        self.sender = Some(sender);
        Ok(answer)
    }

    /// Opens it, if it is not open: whoever measures does so before the clock starts.
    pub(super) async fn open(&mut self) -> Result<(), Unanswered> {
        self.sender = Some(self.opened().await?);
        Ok(())
    }

    async fn opened(&mut self) -> Result<SendRequest<Full<Bytes>>, Unanswered> {
        if let Some(mut sender) = self.sender.take()
            && sender.ready().await.is_ok()
        {
            return Ok(sender);
        }
        let nobody = || Unanswered::NobodyThere(self.target.address.clone());
        let stream = timeout(ANSWER_MAX, TcpStream::connect(&self.target.address)).await;
        let stream = stream.map_err(|_| nobody())?.map_err(|_| nobody())?;
        stream.set_nodelay(true).map_err(|_| nobody())?;
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let address = || self.target.address.clone();
        let (sender, connection) =
            shaken.map_err(|error| Unanswered::BrokenOff(address(), error))?;
        // It ends with its sender; what goes wrong on it is told to who waits for an answer.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }
}
