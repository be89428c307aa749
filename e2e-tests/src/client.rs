//! Owns the questions that a customer and an operator ask over HTTP. Refuses to judge an answer.

use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::{Method, RequestBuilder};
use serde::de::DeserializeOwned;
use testkit::wait;
use uuid::Uuid;

use crate::wire::{Entry, Fault, NewOrder, Placed, ProviderCounts, Shown, Timeline};
use crate::{SERVICES, instance_of};

/// Longer than a service takes to say that it has no time.
const REQUEST_MAX: Duration = Duration::from_secs(15);
const ORDER_MAX: Duration = Duration::from_secs(40);
const TOLD_MAX: Duration = Duration::from_secs(20);
const PROVIDERS_PORT: u16 = 5;
/// A page with fewer rows is the last one.
const LEDGER_PAGE_ROWS: usize = 10_000;
const INSTANCE_PORTS: u16 = 20;

/// An answer as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Given before, to a request with the same key.
    pub replayed: bool,
    pub body: String,
}

impl Answer {
    pub fn read<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_str(&self.body).with_context(|| format!("{}: {}", self.status, self.body))
    }

    fn expect(self, status: u16) -> anyhow::Result<Self> {
        ensure!(self.status == status, "{} instead of {status}: {}", self.status, self.body);
        Ok(self)
    }
}

/// Speaks to the services of one stack. A process is named `payment`, or `payment-2` for the second
/// one of a service.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    port_base: u16,
    /// Whom a customer asks.
    order: String,
}

impl Client {
    pub fn try_new(port_base: u16) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(REQUEST_MAX).build()?;
        Ok(Self { http, port_base, order: "order".to_owned() })
    }

    /// The same client, whose customers ask this process of the order service.
    #[must_use]
    pub fn through(&self, order: &str) -> Self {
        Self { order: order.to_owned(), ..self.clone() }
    }

    /// Sends an order under a key and tells the answer, whatever it is.
    pub async fn try_place(&self, order: &NewOrder, key: &str) -> anyhow::Result<Answer> {
        let request = self.request(&self.order, Method::POST, "/v1/orders");
        answer(request.header("Idempotency-Key", key).json(order)).await
    }

    /// Places an order under a key of its own.
    pub async fn place(&self, order: &NewOrder) -> anyhow::Result<Placed> {
        self.try_place(order, &fresh_key()).await?.expect(202)?.read()
    }

    pub async fn try_cancel(&self, order_id: Uuid, key: &str) -> anyhow::Result<Answer> {
        let path = format!("/v1/orders/{order_id}/cancel");
        let request = self.request(&self.order, Method::POST, &path);
        answer(request.header("Idempotency-Key", key)).await
    }

    /// Asks for a cancel while the order is under way.
    pub async fn cancel(&self, order_id: Uuid) -> anyhow::Result<()> {
        self.try_cancel(order_id, &fresh_key()).await?.expect(202).map(drop)
    }

    pub async fn order(&self, order_id: Uuid) -> anyhow::Result<Shown> {
        self.get(&self.order, &format!("/v1/orders/{order_id}")).await
    }

    pub async fn timeline(&self, order_id: Uuid) -> anyhow::Result<Timeline> {
        self.get(&self.order, &format!("/v1/orders/{order_id}/timeline")).await
    }

    /// The order when it has come to its end.
    pub async fn ended(&self, order_id: Uuid) -> anyhow::Result<Shown> {
        wait::until(ORDER_MAX, &format!("order {order_id} to end"), async || {
            self.order(order_id).await.ok().filter(Shown::is_terminal)
        })
        .await
    }

    /// Returns when a service has said something about an order.
    pub async fn told(&self, order_id: Uuid, event: &str) -> anyhow::Result<()> {
        wait::until(TOLD_MAX, &format!("{event} of order {order_id}"), async || {
            self.timeline(order_id).await.ok()?.tells(event).then_some(())
        })
        .await
    }

    pub async fn set_stock(&self, sku: &str, available: u32) -> anyhow::Result<()> {
        let request = self.request("inventory", Method::PUT, &format!("/v1/stock/{sku}"));
        let body = serde_json::json!({ "available": available });
        answer(request.json(&body)).await?.expect(200).map(drop)
    }

    /// What the third parties did for one order, or for all.
    pub async fn ledger(&self, order_id: Option<Uuid>) -> anyhow::Result<Vec<Entry>> {
        let mut ledger: Vec<Entry> = Vec::new();
        loop {
            let after = ledger.last().map_or(0, |entry| entry.seq);
            let page = self.ledger_page(order_id, after).await?;
            let is_last = page.len() < LEDGER_PAGE_ROWS;
            ledger.extend(page);
            if is_last {
                return Ok(ledger);
            }
        }
    }

    /// What stands there next, after an entry's number; nothing, once all was read.
    pub async fn ledger_page(
        &self,
        order_id: Option<Uuid>,
        after: u64,
    ) -> anyhow::Result<Vec<Entry>> {
        let which = order_id.map_or_else(String::new, |id| format!("order_id={id}&"));
        self.get("providers", &format!("/v1/ledger?{which}after={after}")).await
    }

    /// Returns when the ledger shows an operation of an order.
    pub async fn done(&self, order_id: Uuid, operation: &str) -> anyhow::Result<()> {
        wait::until(TOLD_MAX, &format!("a {operation} of order {order_id}"), async || {
            let ledger = self.ledger(Some(order_id)).await.ok()?;
            ledger.iter().any(|entry| entry.operation == operation).then_some(())
        })
        .await
    }

    /// Breaks a provider, `payment` or `carrier`, for a while.
    pub async fn break_provider(&self, provider: &str, fault: Fault) -> anyhow::Result<()> {
        let path = format!("/v1/faults/{provider}");
        answer(self.request("providers", Method::PUT, &path).json(&fault)).await?.expect(200)?;
        Ok(())
    }

    /// What a provider, `payment` or `carrier`, has been through.
    pub async fn provider_counts(&self, provider: &str) -> anyhow::Result<ProviderCounts> {
        self.get("providers", &format!("/v1/counts/{provider}")).await
    }

    pub async fn heal_provider(&self, provider: &str) -> anyhow::Result<()> {
        let path = format!("/v1/faults/{provider}");
        answer(self.request("providers", Method::DELETE, &path)).await?.expect(204).map(drop)
    }

    /// Lets a process die when it reaches a point for the `nth` time from now.
    pub async fn arm(&self, process: &str, point: &str, nth: u32) -> anyhow::Result<()> {
        let path = format!("/chaos/crash/{point}/{nth}");
        let armed = answer(self.request(process, Method::PUT, &path)).await?.expect(204);
        armed.map(drop).context("no such point, or the stack was built without crash points")
    }

    /// The metrics of a process, as Prometheus reads them.
    pub async fn metrics(&self, process: &str) -> anyhow::Result<String> {
        Ok(answer(self.request(process, Method::GET, "/metrics")).await?.expect(200)?.body)
    }

    pub async fn is_ready(&self, process: &str) -> bool {
        self.readiness(process).await.is_ok_and(|answer| answer.status == 200)
    }

    /// Whether a process can work, in its own words.
    pub async fn readiness(&self, process: &str) -> anyhow::Result<Answer> {
        answer(self.request(process, Method::GET, "/readyz")).await
    }

    /// The time that a process tells with an answer: what it takes for now.
    pub async fn date(&self, process: &str) -> anyhow::Result<String> {
        let response = self.request(process, Method::GET, "/livez").send().await?;
        let date = response.headers().get("Date").context("an answer tells its time")?;
        Ok(date.to_str()?.to_owned())
    }

    async fn get<T: DeserializeOwned>(&self, process: &str, path: &str) -> anyhow::Result<T> {
        answer(self.request(process, Method::GET, path)).await?.expect(200)?.read()
    }

    fn request(&self, process: &str, method: Method, path: &str) -> RequestBuilder {
        let (service, instance) = instance_of(process);
        let offset = SERVICES.iter().zip(1..).find(|(name, _)| **name == service);
        let offset = offset.map_or(PROVIDERS_PORT, |(_, offset)| offset);
        let port = self.port_base + offset + (instance - 1) * INSTANCE_PORTS;
        self.http.request(method, format!("http://127.0.0.1:{port}{path}"))
    }
}

/// A key that nobody has used.
pub fn fresh_key() -> String {
    Uuid::new_v4().to_string()
}

async fn answer(request: RequestBuilder) -> anyhow::Result<Answer> {
    let response = request.send().await?;
    let replayed = response.headers().contains_key("Idempotent-Replayed");
    Ok(Answer { status: response.status().as_u16(), replayed, body: response.text().await? })
}
