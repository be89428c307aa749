//! The shipping service owns the parcel of an order: booked once, or never.
//!
//! Hears `PaymentCaptured`, `OrderCancelRequested`.
//! Says `ShipmentBooked`, `ShipmentFailed`, `RefundPayment`.

pub mod domain;
mod provider;
mod store;

use std::convert::Infallible;

use calls::{Destination, Wanted};
use chassis::Service;
use contracts::shipping::Event;
use domain::{Call, Heard, Input, NAME, State};
pub use provider::Config as ProviderConfig;
use saga::{Decision, Participant, Settled};
use uuid::Uuid;

/// The shipping service and its way to the carrier.
#[derive(Debug)]
pub struct Shipping {
    carrier: Destination,
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
        telemetry::count_compensation(NAME, thrown, "started");
    }
}
