//! Owns what a run must have come across to prove anything. Refuses to count a run that has not.

use contracts::Reason;
use inventory::domain::Step as Reservation;
use order::domain::{State as Order, Status};
use payment::domain::State as Money;
use shipping::domain::State as Parcel;
use stateright::Property;

use crate::line::{Line, World};
use crate::train::{REFUSAL, Slot, Step, Train};

macro_rules! some {
    ($name:literal, $reached:expr) => {
        Property::sometimes($name, |_, world: &World| {
            let reached: fn(&Train) -> bool = $reached;
            world.trains.iter().any(|train| reached(train))
        })
    };
}

/// What one order must have been through.
pub(crate) fn by_one() -> Vec<Property<Line>> {
    vec![
        some!("confirmed", |train| {
            matches!(train.order, Order::Known(_, Status::Confirmed { too_late: false }))
        }),
        some!("confirmed, the cancel came too late", |train| {
            matches!(train.order, Order::Known(_, Status::Confirmed { too_late: true }))
        }),
        some!("refused by inventory", |train| ended(train, Reason::OUT_OF_STOCK, "inventory")),
        some!("refused by payment", |train| ended(train, REFUSAL, "payment")),
        some!("refused by shipping", |train| ended(train, REFUSAL, "shipping")),
        some!("cancelled by the deadline", |train| ended(train, Reason::DEADLINE, "payment")),
        some!("cancelled after the charge", |train| {
            ended(train, Reason::CUSTOMER, "shipping") && train.effects(Step::Capture) == 1
        }),
        some!("the tombstone at inventory turned a train round", |train| {
            ended(train, Reason::CUSTOMER, "inventory")
        }),
        some!("the tombstone at payment turned a train round", |train| {
            ended(train, Reason::CUSTOMER, "payment")
                && train.errand(Step::Capture).slot == Slot::NeverWanted
        }),
        some!("the tombstone at shipping turned a train round", |train| {
            ended(train, Reason::CUSTOMER, "shipping")
                && train.errand(Step::Book).slot == Slot::NeverWanted
        }),
        some!("payment waited for its answer, then turned round", |train| {
            ended(train, Reason::CUSTOMER, "payment") && train.payment == Money::Refunded
        }),
        some!("payment waited for its answer, and there was nothing to give back", |train| {
            ended(train, Reason::CUSTOMER, "payment")
                && train.payment == Money::Declined
                && train.errand(Step::Capture).slot == Slot::Settled
        }),
        some!("set aside, replayed, over", |train| {
            train.replayed && train.is_quiet() && !train.is_stuck()
        }),
        some!("a call is stuck", |train| train.errand(Step::Capture).slot == Slot::Stuck),
        some!("a refused refund is stuck", |train| {
            let refund = train.errand(Step::Refund);
            refund.slot == Slot::Stuck && !refund.refused.is_empty()
        }),
        some!("settled after the provider forgot the key", |train| {
            let capture = train.errand(Step::Capture);
            capture.forgotten && capture.slot == Slot::Settled
        }),
        some!("an attempt is still on its way after its call was settled", |train| {
            let book = train.errand(Step::Book);
            book.late.is_some() && matches!(train.shipping, Parcel::Booked { .. })
        }),
    ]
}

/// What two orders that want the last unit must have been through.
pub(crate) fn by_two() -> Vec<Property<Line>> {
    vec![
        Property::sometimes("one is confirmed, the other sold out", |_, world: &World| {
            matches!(&world.trains[..], [one, other]
                if is_confirmed(one) && ended(other, Reason::OUT_OF_STOCK, "inventory"))
        }),
        Property::sometimes("a unit given back goes to the other", |_, world: &World| {
            matches!(&world.trains[..], [one, other]
                if one.inventory == Reservation::Released && is_confirmed(other))
        }),
        Property::sometimes("both are cancelled", |_, world: &World| {
            world
                .trains
                .iter()
                .all(|train| matches!(train.order, Order::Known(_, Status::Cancelled(_))))
        }),
    ]
}

fn is_confirmed(train: &Train) -> bool {
    matches!(train.order, Order::Known(_, Status::Confirmed { .. }))
}

fn ended(train: &Train, code: &str, service: &str) -> bool {
    match &train.order {
        Order::Known(_, Status::Cancelled(why)) => why.code == code && why.service == service,
        _ => false,
    }
}
