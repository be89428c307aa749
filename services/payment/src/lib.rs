//! The payment service owns the money of an order: taken once, given back when the train is turned
//! round.
//!
//! Hears `InventoryReserved`, `RefundPayment`, `OrderCancelRequested`.
//! Says `PaymentCaptured`, `PaymentDeclined`, `PaymentRefunded`, `ReleaseInventory`.

pub mod domain;
mod provider;
mod store;

use std::convert::Infallible;

use calls::{Destination, Wanted};
use chassis::Service;
use contracts::payment::Event;
use domain::{Call, Heard, Input, NAME, State};
pub use provider::Config as ProviderConfig;
use saga::{Decision, Participant, Settled};
use uuid::Uuid;

/// The payment service and its way to the payment provider.
#[derive(Debug)]
pub struct Payment {
    provider: Destination,
}

impl Participant for Payment {
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

impl Service for Payment {
    fn wanted(order_id: Uuid, call: &Call) -> Wanted {
        provider::wanted(order_id, call)
    }

    fn answered(step: &str, settled: &Settled) -> Option<Input> {
        domain::answered(step, settled)
    }

    fn destinations(&self) -> Vec<Destination> {
        vec![self.provider.clone()]
    }

    fn observe(was: &State, input: &Input, now: &State) {
        use State::{Barred, Declined, Refunding, Turning};
        let thrown = match (was, input, now) {
            (Barred(why) | Turning(_, why), _, Declined | Refunding(..)) => why.code.clone(),
            (_, Input::Refused { code }, Declined) => code.clone().into(),
            _ => return,
        };
        telemetry::count_compensation(NAME, thrown, "started");
    }
}
