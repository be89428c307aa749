//! Owns everything there is to see of a whole stack: rows, events, calls, the providers' ledger,
//! topics, and what customers are shown. Refuses to judge any of it.

use std::collections::BTreeMap;

use sqlx::FromRow;
use uuid::Uuid;

use super::rules::{self, States};
use crate::wire::{Entry, NewOrder, Shown};

/// A stack as it was found. Aggregates are sorted by order, events by order, service and number.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// Effects, in the order of their commit.
    pub ledger: Vec<Entry>,
    pub orders: BTreeMap<Uuid, OrderRow>,
    pub reservations: BTreeMap<Uuid, ReservationRow>,
    pub payments: BTreeMap<Uuid, StepRow>,
    pub shipments: BTreeMap<Uuid, StepRow>,
    pub shelves: Vec<Shelf>,
    pub events: Vec<Event>,
    pub outbox: Vec<Unsent>,
    pub inbox: Vec<Handled>,
    pub calls: Vec<Call>,
    pub dead_letters: Vec<Letter>,
    /// Answers that are kept for their idempotency keys.
    pub answers: Vec<KeptAnswer>,
    /// Only of a world that was read in full.
    pub outside: Option<Outside>,
}

/// What is looked at only when nothing moves any more.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    /// Every record of every topic.
    pub records: Vec<Spoken>,
    pub timeline: Vec<Told>,
    /// What `GET` answers, for every order.
    pub shown: BTreeMap<Uuid, Shown>,
}

#[derive(Debug, Clone, FromRow)]
pub struct OrderRow {
    pub order_id: Uuid,
    pub status: i16,
    pub said: i32,
    /// `code@service`.
    pub reason: Option<String>,
    pub amount_minor: i64,
    #[sqlx(json)]
    pub asked: NewOrder,
}

#[derive(Debug, Clone, FromRow)]
pub struct ReservationRow {
    pub order_id: Uuid,
    pub status: i16,
    pub said: i32,
    #[sqlx(json(nullable))]
    pub held: Option<BTreeMap<String, i64>>,
}

/// A payment or a shipment.
#[derive(Debug, Clone, FromRow)]
pub struct StepRow {
    pub order_id: Uuid,
    pub status: i16,
    pub said: i32,
}

/// The stock of one SKU, and the sum of what was ever counted of it.
#[derive(Debug, Clone, FromRow)]
pub struct Shelf {
    pub sku: String,
    pub available: i64,
    pub counted: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Event {
    pub service: String,
    pub id: Uuid,
    pub subject: Uuid,
    pub version: Option<i32>,
    /// The full type; see [`Event::name`].
    pub kind: String,
    pub cause: Option<Uuid>,
    /// The final bytes; empty in a world that was not read in full.
    pub body: Vec<u8>,
    /// It lies in no week's partition.
    pub is_stray: bool,
}

impl Event {
    /// `OrderPlaced` of `switchback.order.OrderPlaced.v1`.
    pub fn name(&self) -> &str {
        rules::name_of(&self.kind)
    }
}

/// An event that the broker has not acknowledged.
#[derive(Debug, Clone, FromRow)]
pub struct Unsent {
    pub service: String,
    pub event_id: Uuid,
}

#[derive(Debug, Clone, FromRow)]
pub struct Handled {
    pub event_id: Uuid,
    pub consumer: String,
    pub is_stray: bool,
}

/// An outside call that is not settled.
#[derive(Debug, Clone, FromRow)]
pub struct Call {
    pub service: String,
    pub subject: Uuid,
    pub step: String,
    pub idempotency_key: String,
    pub attempts: i32,
    pub in_doubt: bool,
    /// Nobody asks again by himself.
    pub is_stuck: bool,
    /// How much later than its deadline it is due.
    pub late_seconds: Option<f64>,
}

/// A dead letter that is open.
#[derive(Debug, Clone, FromRow)]
pub struct Letter {
    pub service: String,
    /// Who gave up; for a call, `call`.
    pub consumer: String,
    pub code: String,
    pub subject: Option<Uuid>,
    /// As it was stored; see [`Letter::event_id`].
    pub headers: Option<Vec<u8>>,
}

impl Letter {
    /// The event that it keeps, if what it keeps has a readable envelope.
    pub fn event_id(&self) -> Option<Uuid> {
        let headers: Vec<(String, String)> =
            serde_json::from_slice(self.headers.as_deref()?).ok()?;
        headers.iter().find(|(name, _)| name == "ce_id")?.1.parse().ok()
    }
}

#[derive(Debug, Clone, FromRow)]
pub struct KeptAnswer {
    pub route: String,
    pub key: String,
    pub status: i16,
    /// The order that the answer names.
    pub order_id: Option<Uuid>,
}

/// A record of a topic, as far as it can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoken {
    pub service: String,
    pub id: Option<Uuid>,
    pub subject: Option<Uuid>,
    pub key: Option<Vec<u8>>,
    pub version: Option<i32>,
    pub kind: String,
    pub cause: Option<Uuid>,
    pub body: Option<Vec<u8>>,
    /// It says of itself that the run made it up.
    pub injected: bool,
}

/// A row of the read model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, FromRow)]
pub struct Told {
    pub order_id: Uuid,
    pub event_id: Uuid,
    pub service: String,
    pub version: Option<i32>,
    pub name: String,
    pub cause: Option<Uuid>,
}

impl World {
    /// The statuses of one order's rows, in the order of the line.
    pub fn states(&self, order_id: Uuid) -> States {
        [
            self.orders.get(&order_id).map_or(0, |row| row.status),
            self.reservations.get(&order_id).map_or(0, |row| row.status),
            self.payments.get(&order_id).map_or(0, |row| row.status),
            self.shipments.get(&order_id).map_or(0, |row| row.status),
        ]
    }

    /// The number of the last event that each service believes to have said of an order.
    pub fn numbers(&self, order_id: Uuid) -> [i32; 4] {
        [
            self.orders.get(&order_id).map_or(0, |row| row.said),
            self.reservations.get(&order_id).map_or(0, |row| row.said),
            self.payments.get(&order_id).map_or(0, |row| row.said),
            self.shipments.get(&order_id).map_or(0, |row| row.said),
        ]
    }
}
