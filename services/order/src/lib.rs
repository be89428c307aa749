//! The order service takes orders in and owns their fate as the customer sees it.
//!
//! Hears `InventoryRejected`, `InventoryReleased`, `ShipmentBooked`.
//! Says `OrderPlaced`, `OrderCancelRequested`, `OrderConfirmed`, `OrderCancelled`.

pub mod domain;
mod effects;
pub mod http;
pub mod placing;
mod store;

use std::convert::Infallible;
use std::time::Duration;

use chassis::Service;
use contracts::order::Event;
use domain::{Heard, Input, NAME, Rejection, State, Status};
use metrics::counter;
use saga::{Decision, Participant, Settled};
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
                let (service, code) = (reason.service.clone(), reason.code.clone());
                telemetry::count_compensation(service, code, "finished");
            }
            Status::Pending | Status::Cancelling(_) => {}
        }
    }
}
