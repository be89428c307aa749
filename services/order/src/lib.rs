//! The order service takes orders in and owns their fate as the customer sees it.
//!
//! Hears `InventoryRejected`, `InventoryReleased`, `ShipmentBooked`.
//! Says `OrderPlaced`, `OrderCancelRequested`, `OrderConfirmed`, `OrderCancelled`.

pub mod domain;
mod effects;
pub mod http;
mod placing;
mod store;

use std::convert::Infallible;
use std::time::Duration;

use chassis::{Due, Rows, Service, View};
use chrono::{DateTime, Utc};
use contracts::order::Event;
use domain::{Heard, Input, NAME, Rejection, State, Status};
use metrics::counter;
use saga::{Decision, Participant, Settled};
use sqlx::PgConnection;
use telemetry::names;
use uuid::Uuid;

/// The order service, and how long an order may take.
#[derive(Debug, Clone)]
pub struct Order {
    pub deadline: Duration,
}

impl Participant for Order {
    const NAME: &'static str = NAME;
    type Heard = Heard;
    type State = State;
    type Input = Input;
    type Event = Event;
    type Call = Infallible;
    type Rejection = Rejection;

    fn route(heard: &Heard) -> Option<Input> {
        domain::route(heard)
    }

    fn decide(state: &State, input: &Input) -> Decision<State, Event, Infallible, Rejection> {
        domain::decide(state, input)
    }
}

impl Service for Order {
    type Desk = Rows<State>;

    fn migrations() -> ::store::Migrations {
        static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations/order");
        &MIGRATIONS
    }

    async fn load(
        tx: &mut PgConnection,
        batch: &[(Uuid, &Input)],
    ) -> Result<Rows<State>, ::store::Error> {
        store::load(tx, batch).await
    }

    async fn save(&self, tx: &mut PgConnection, desk: &Rows<State>) -> Result<(), ::store::Error> {
        store::save(tx, desk, self.deadline).await
    }

    fn wanted(_: Uuid, call: &Infallible) -> calls::Wanted {
        match *call {}
    }

    fn answered(_: &str, _: &Settled) -> Option<Input> {
        None
    }

    fn observe(_: &State, _: &Input, now: &State) {
        let State::Known(_, now) = now else { return };
        match now {
            Status::Confirmed { .. } => {
                counter!(names::ORDERS_FINISHED, "outcome" => "confirmed", "reason" => "")
                    .increment(1);
            }
            Status::Cancelled(reason) => {
                counter!(
                    names::ORDERS_FINISHED,
                    "outcome" => "cancelled", "reason" => reason.code.clone()
                )
                .increment(1);
                counter!(
                    names::COMPENSATIONS,
                    "service" => reason.service.clone(), "reason" => reason.code.clone(),
                    "phase" => "finished"
                )
                .increment(1);
            }
            Status::Pending | Status::Cancelling(_) => {}
        }
    }

    async fn due(
        connection: &mut PgConnection,
        mark: Option<DateTime<Utc>>,
    ) -> Result<Due<Input>, ::store::Error> {
        store::expired(connection, mark).await
    }

    fn views() -> Vec<View> {
        vec![View {
            group: "order-view",
            producers: &["order", "inventory", "payment", "shipping"],
            insert: |tx, seen| Box::pin(store::insert_timeline(tx, seen)),
        }]
    }
}
