//! The inventory service owns the stock: every line of an order is held, or none.
//!
//! Hears `OrderPlaced`, `OrderCancelRequested`, `ReleaseInventory`.
//! Says `InventoryReserved`, `InventoryRejected`, `InventoryReleased`.

pub mod domain;
pub mod http;
mod store;

use std::convert::Infallible;

use chassis::Service;
use contracts::Reason;
use contracts::inventory::Event;
use domain::{Heard, Input, NAME, State, Step};
use saga::{Decision, Participant, Settled};
use uuid::Uuid;

#[derive(Debug)]
pub struct Inventory;

impl Participant for Inventory {
    const NAME: &'static str = NAME;
    type Heard = Heard;
    type State = State;
    type Input = Input;
    type Event = Event;
    type Call = Infallible;
    type Rejection = Infallible;

    fn route(heard: &Heard) -> Option<Input> {
        domain::route(heard)
    }

    fn decide(state: &State, input: &Input) -> Decision<State, Event, Infallible, Infallible> {
        domain::decide(state, input)
    }
}

impl Service for Inventory {
    fn wanted(_: Uuid, call: &Infallible) -> calls::Wanted {
        match *call {}
    }

    fn answered(_: &str, _: &Settled) -> Option<Input> {
        None
    }

    fn observe(was: &State, _: &Input, now: &State) {
        let thrown = match (&was.step, &now.step) {
            (Step::Barred(why), Step::Rejected) => why.code.clone(),
            (_, Step::Rejected) => Reason::OUT_OF_STOCK.into(),
            _ => return,
        };
        telemetry::count_compensation(NAME, thrown, "started");
    }
}
