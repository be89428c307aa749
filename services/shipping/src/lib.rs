//! The shipping service owns the parcel of an order: booked once, or never.
//!
//! Hears `PaymentCaptured`, `OrderCancelRequested`.
//! Says `ShipmentBooked`, `ShipmentFailed`, `RefundPayment`.

pub mod domain;
mod provider;
mod store;

use std::convert::Infallible;

use calls::{Destination, Wanted};
use chassis::{Rows, Service};
use contracts::shipping::Event;
use domain::{Call, Heard, Input, NAME, State};
use metrics::counter;
pub use provider::Config as ProviderConfig;
use saga::{Decision, Participant, Settled};
use sqlx::PgConnection;
use telemetry::names;
use uuid::Uuid;

/// The shipping service and its way to the carrier.
#[derive(Debug)]
pub struct Shipping {
    carrier: Destination,
}

impl Shipping {
    pub fn try_new(config: &ProviderConfig) -> anyhow::Result<Self> {
        Ok(Self { carrier: provider::destination(config)? })
    }
}

impl Participant for Shipping {
    const NAME: &'static str = NAME;
    type Heard = Heard;
    type State = State;
    type Input = Input;
    type Event = Event;
    type Call = Call;
    type Rejection = Infallible;

    fn route(heard: &Heard) -> Option<Input> {
        domain::route(heard)
    }

    fn decide(state: &State, input: &Input) -> Decision<State, Event, Call, Infallible> {
        domain::decide(state, input)
    }
}

impl Service for Shipping {
    type Desk = Rows<State>;

    fn migrations() -> ::store::Migrations {
        static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations/shipping");
        &MIGRATIONS
    }

    async fn load(
        tx: &mut PgConnection,
        batch: &[(Uuid, &Input)],
    ) -> Result<Rows<State>, ::store::Error> {
        store::load(tx, batch).await
    }

    async fn save(&self, tx: &mut PgConnection, desk: &Rows<State>) -> Result<(), ::store::Error> {
        store::save(tx, desk).await
    }

    fn wanted(order_id: Uuid, call: &Call) -> Wanted {
        provider::wanted(order_id, call)
    }

    fn answered(step: &str, settled: &Settled) -> Option<Input> {
        domain::answered(step, settled)
    }

    fn destinations(&self) -> Vec<Destination> {
        vec![self.carrier.clone()]
    }

    fn observe(was: &State, input: &Input, now: &State) {
        let thrown = match (was, input, now) {
            (State::Barred(why), _, State::Failed) => why.code.clone(),
            (_, Input::Refused { code }, State::Failed) => code.clone().into(),
            _ => return,
        };
        counter!(
            names::COMPENSATIONS,
            "service" => NAME, "reason" => thrown, "phase" => "started"
        )
        .increment(1);
    }
}
