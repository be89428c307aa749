//! Owns what requests and answers look like from outside. Refuses to know more of them than a
//! scenario asks about.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The body of `POST /v1/orders`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewOrder {
    pub customer_id: String,
    pub currency: String,
    pub lines: Vec<Line>,
    pub payment_method: String,
    pub ship_to: ShipTo,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub sku: String,
    pub quantity: u32,
    pub unit_price_minor: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShipTo {
    pub name: String,
    pub street: String,
    pub city: String,
    pub postcode: String,
    pub country: String,
}

impl NewOrder {
    /// An order that arrives if there is stock for it.
    pub fn of(sku: &str, quantity: u32) -> Self {
        let ship_to = ShipTo {
            name: "Ada Example".to_owned(),
            street: "Station Road 1".to_owned(),
            city: "Basel".to_owned(),
            postcode: "4051".to_owned(),
            country: "CH".to_owned(),
        };
        let line = Line { sku: sku.to_owned(), quantity, unit_price_minor: 450 };
        Self {
            customer_id: "cus_1".to_owned(),
            currency: "EUR".to_owned(),
            lines: vec![line],
            payment_method: "pm_card_ok".to_owned(),
            ship_to,
        }
    }

    /// With one of the payment provider's test tokens.
    #[must_use]
    pub fn paid_with(mut self, token: &str) -> Self {
        token.clone_into(&mut self.payment_method);
        self
    }

    /// With one of the carrier's test postcodes.
    #[must_use]
    pub fn sent_to(mut self, postcode: &str) -> Self {
        postcode.clone_into(&mut self.ship_to.postcode);
        self
    }
}

/// The body of the 202.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Placed {
    pub order_id: Uuid,
    pub status: String,
    pub effects: Effects<String>,
    pub trace_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Effects<T> {
    pub inventory: T,
    pub payment: T,
    pub shipping: T,
}

/// What `GET /v1/orders/{id}` and the answer to a cancel say.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Shown {
    pub status: String,
    pub reason: Option<Reason>,
    /// `too_late`, if it was.
    pub cancel: Option<String>,
    pub effects: Option<Effects<Effect>>,
    pub total: Option<Money>,
}

impl Shown {
    pub fn is_terminal(&self) -> bool {
        ["confirmed", "cancelled"].contains(&self.status.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Effect {
    pub status: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Reason {
    pub code: String,
    pub service: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Money {
    pub amount_minor: i64,
    pub currency: String,
}

/// `GET /v1/orders/{id}/timeline`.
#[derive(Debug, Clone, Deserialize)]
pub struct Timeline {
    pub items: Vec<Told>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Told {
    pub event_id: Uuid,
    pub service: String,
    pub version: Option<i32>,
    #[serde(rename = "type")]
    pub name: String,
}

impl Timeline {
    pub fn tells(&self, event: &str) -> bool {
        self.items.iter().any(|told| told.name == event)
    }
}

/// One effect in the providers' ledger.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Entry {
    pub seq: u64,
    pub operation: String,
    pub order_id: Uuid,
    pub idempotency_key: String,
    pub amount_minor: Option<i64>,
    pub currency: Option<String>,
    /// The provider's name for it.
    pub reference: String,
    /// The charge that a refund gives back.
    pub capture_reference: Option<String>,
}

/// `GET /v1/counts/{provider}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct ProviderCounts {
    /// Requests that met a fault.
    pub struck: u64,
    /// Answers that were there before the question.
    pub repeated: u64,
}

/// What is broken on purpose at a provider.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Fault {
    pub mode: &'static str,
    pub share: f64,
    pub ttl_seconds: u64,
}

impl Fault {
    /// Meets every request for so long.
    pub const fn of_all(mode: &'static str, ttl_seconds: u64) -> Self {
        Self { mode, share: 1.0, ttl_seconds }
    }
}
