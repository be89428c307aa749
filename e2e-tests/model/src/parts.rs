//! Owns the seam at which a fault can be planted: the functions of production, by name. Refuses to
//! hold a fault itself.

use std::convert::Infallible;

use calls::{CallState, Heard, Next, Policy};
use contracts::{inventory as stock, order as orders, payment as money, shipping as parcels};
use saga::Decision;

pub type DecideOrder =
    fn(
        &order::domain::State,
        &order::domain::Input,
    ) -> Decision<order::domain::State, orders::Event, Infallible, order::domain::Rejection>;
pub type DecideInventory =
    fn(
        &inventory::domain::State,
        &inventory::domain::Input,
    ) -> Decision<inventory::domain::State, stock::Event, Infallible, Infallible>;
pub type DecidePayment =
    fn(
        &payment::domain::State,
        &payment::domain::Input,
    ) -> Decision<payment::domain::State, money::Event, payment::domain::Call, Infallible>;
pub type DecideShipping =
    fn(
        &shipping::domain::State,
        &shipping::domain::Input,
    )
        -> Decision<shipping::domain::State, parcels::Event, shipping::domain::Call, Infallible>;

/// What the line is made of.
#[derive(Clone, Copy)]
pub struct Parts {
    pub order: DecideOrder,
    pub inventory: DecideInventory,
    pub payment: DecidePayment,
    pub shipping: DecideShipping,
    pub next: fn(&Policy, &CallState, Heard) -> Next,
    /// The idempotency key of an attempt: one for all of a step's attempts.
    pub key: fn(&CallState) -> u32,
    /// Whether an event handled once is kept from `decide` by its id.
    pub inbox: bool,
    pub shell: Shell,
}

/// How a batch is handled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shell {
    /// State, events and calls in one transaction, the offset after it.
    Sound,
    /// The offset is stored before the transaction, which may then never come.
    OffsetFirst,
    /// The state is written and the events, in a transaction of their own, may never be.
    StateWithoutEvents,
    /// An order with an open dead letter loses what arrives meanwhile.
    FrozenByALetter,
}

impl Parts {
    /// As it runs in production, but without the inbox: `decide` must do without.
    pub fn real() -> Self {
        Self {
            order: order::domain::decide,
            inventory: inventory::domain::decide,
            payment: payment::domain::decide,
            shipping: shipping::domain::decide,
            next: calls::next,
            key: |_| 0,
            inbox: false,
            shell: Shell::Sound,
        }
    }
}
