//! Owns how this program speaks to the services over HTTP. Refuses to hide an answer: a refusal is
//! an error that carries the service's own words.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, Utc};
use reqwest::{Method, RequestBuilder, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

const REQUEST_MAX: Duration = Duration::from_secs(10);

/// What a customer wants.
#[derive(Debug, Clone, Serialize)]
pub struct NewOrder {
    pub customer_id: String,
    pub currency: String,
    pub lines: Vec<Line>,
    pub payment_method: String,
    pub ship_to: ShipTo,
}

#[derive(Debug, Clone, Serialize)]
pub struct Line {
    pub sku: String,
    pub quantity: u32,
    pub unit_price_minor: i64,
}

#[derive(Debug, Clone, Serialize)]
pub struct ShipTo {
    pub name: String,
    pub street: String,
    pub city: String,
    pub postcode: String,
    pub country: String,
}

/// The current truth about an order.
#[derive(Debug, Clone, Deserialize)]
pub struct Order {
    pub order_id: Uuid,
    pub status: Status,
    #[serde(default)]
    pub reason: Option<Reason>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Pending,
    Cancelling,
    Confirmed,
    Cancelled,
}

impl Status {
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Confirmed | Self::Cancelled)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Reason {
    pub code: String,
    pub service: String,
}

/// What every service said about an order.
#[derive(Debug, Clone, Deserialize)]
pub struct Timeline {
    pub items: Vec<Said>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Said {
    pub at: DateTime<Utc>,
    pub service: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub reason: Option<Reason>,
}

impl Said {
    /// `PaymentCaptured`, of a full type or a bare name.
    pub fn name(&self) -> &str {
        self.kind.split('.').nth(2).unwrap_or(&self.kind)
    }
}

impl Timeline {
    /// When an event was said.
    pub fn at(&self, event: &str) -> Option<DateTime<Utc>> {
        self.items.iter().find(|said| said.name() == event).map(|said| said.at)
    }

    pub fn begun(&self) -> Option<DateTime<Utc>> {
        self.items.iter().map(|said| said.at).min()
    }

    pub fn ended(&self) -> Option<DateTime<Utc>> {
        self.items.iter().map(|said| said.at).max()
    }
}

/// Why a service refused, in its own words.
#[derive(Debug, Deserialize)]
struct Problem {
    code: String,
    detail: String,
    #[serde(default)]
    errors: Vec<FieldError>,
}

#[derive(Debug, Deserialize)]
struct FieldError {
    pointer: String,
    code: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail, self.code)?;
        self.errors.iter().try_for_each(|error| write!(f, "; {}: {}", error.pointer, error.code))
    }
}

/// One entry of the providers' ledger.
#[derive(Debug, Clone, Deserialize)]
pub struct LedgerEntry {
    pub operation: String,
}

/// Speaks to one service.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
}

impl Client {
    pub fn try_new(base: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(REQUEST_MAX).build()?;
        let base: Url = base.parse().with_context(|| format!("the address {base}"))?;
        ensure!(base.has_host(), "the address {base} must begin with http://");
        Ok(Self { http, base })
    }

    /// Places an order; the same key and order again is the same order again.
    pub async fn place(&self, order: &NewOrder, key: &str) -> anyhow::Result<Value> {
        let request = self.request(Method::POST, "/v1/orders")?;
        answer(request.header("Idempotency-Key", key).json(order)).await
    }

    pub async fn order(&self, id: Uuid) -> anyhow::Result<Value> {
        answer(self.request(Method::GET, &format!("/v1/orders/{id}"))?).await
    }

    pub async fn timeline(&self, id: Uuid) -> anyhow::Result<Timeline> {
        let request = self.request(Method::GET, &format!("/v1/orders/{id}/timeline"))?;
        read(answer(request).await?)
    }

    pub async fn cancel(&self, id: Uuid, key: &str) -> anyhow::Result<Value> {
        let request = self.request(Method::POST, &format!("/v1/orders/{id}/cancel"))?;
        answer(request.header("Idempotency-Key", key)).await
    }

    pub async fn set_stock(&self, sku: &str, available: u32) -> anyhow::Result<()> {
        let request = self.request(Method::PUT, &format!("/v1/stock/{sku}"))?;
        let key = Uuid::new_v4().to_string();
        let body = json!({ "available": available });
        answer(request.header("Idempotency-Key", key).json(&body)).await.map(drop)
    }

    pub async fn ledger(&self, order_id: Uuid) -> anyhow::Result<Vec<LedgerEntry>> {
        let path = format!("/v1/ledger?order_id={order_id}");
        read(answer(self.request(Method::GET, &path)?).await?)
    }

    /// Whether the service says that it can work.
    pub async fn is_ready(&self, path: &str) -> bool {
        let Ok(request) = self.request(Method::GET, path) else { return false };
        request.send().await.is_ok_and(|response| response.status().is_success())
    }

    fn request(&self, method: Method, path: &str) -> anyhow::Result<RequestBuilder> {
        Ok(self.http.request(method, self.base.join(path)?))
    }
}

/// The part of an answer that the caller knows.
pub fn read<T: DeserializeOwned>(answer: Value) -> anyhow::Result<T> {
    serde_json::from_value(answer).context("the service gave an answer of another shape")
}

async fn answer(request: RequestBuilder) -> anyhow::Result<Value> {
    let response = request.send().await?;
    let (status, body) = (response.status(), response.bytes().await?);
    if !status.is_success() {
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => bail!("{status}: {problem}"),
            Err(_) => bail!("{status}: {}", String::from_utf8_lossy(&body)),
        }
    }
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&body).with_context(|| format!("{status} with a body that is no JSON"))
}
