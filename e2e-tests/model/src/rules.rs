//! Owns what must hold, written apart from the services. Refuses to look at how it comes about.

use contracts::{payment as money, shipping as parcels};
use inventory::domain::Step as Reservation;
use order::domain::{State as Order, Status};
use payment::domain::State as Money;
use saga::Event;
use shipping::domain::State as Parcel;
use stateright::Property;

use crate::line::{Line, World};
use crate::reached;
use crate::train::{Slot, Step, Train};

pub const ONE_CHARGE: &str = "at most one charge, and never more refunds than charges";
pub const ONE_KEY: &str = "one idempotency key per step";
pub const STOCK_CONSERVED: &str = "stock is conserved, and held for every line or none";
pub const OWN_WORDS: &str = "each producer says a prefix of a word of its own";
pub const PAID_FIRST: &str = "no booking without a charge before it";
pub const SETTLED_FIRST: &str = "no failure is said while a call is unsettled";
pub const REPLAY_ENDS: &str = "an event set aside and replayed, the order ends";
pub const CANCEL_HEEDED: &str = "a cancel in time is never confirmed";
pub const ADDS_UP: &str = "at rest an order is complete, undone, or stuck";
pub const AGREED: &str = "at rest the four services agree";
pub const NOTHING_UNEXPECTED: &str = "no service meets what cannot be";

/// States a rule that holds for every order on the line by itself.
macro_rules! each {
    ($name:ident, $holds:path) => {
        Property::always($name, |_, world: &World| world.trains.iter().all(|train| $holds(train)))
    };
}

/// All rules, and what must be reached for the run to count.
pub fn all(line: &Line) -> Vec<Property<Line>> {
    let mut all = vec![
        each!(ONE_CHARGE, is_charged_once),
        each!(ONE_KEY, has_one_key_per_step),
        Property::always(STOCK_CONSERVED, stock_is_conserved),
        each!(OWN_WORDS, says_its_words),
        each!(PAID_FIRST, is_paid_before_it_ships),
        each!(SETTLED_FIRST, asks_before_it_fails),
        each!(REPLAY_ENDS, ends_after_a_replay),
        each!(CANCEL_HEEDED, heeds_a_cancel_in_time),
        each!(ADDS_UP, adds_up),
        each!(AGREED, agrees),
        each!(NOTHING_UNEXPECTED, expects_everything),
    ];
    all.extend(if line.orders == 1 { reached::by_one() } else { reached::by_two() });
    all
}

fn is_charged_once(train: &Train) -> bool {
    let (charges, refunds) = (train.effects(Step::Capture), train.effects(Step::Refund));
    charges <= 1 && refunds <= charges
}

fn has_one_key_per_step(train: &Train) -> bool {
    train.errands.iter().all(|errand| errand.ledger.windows(2).all(|keys| keys[0] == keys[1]))
}

fn stock_is_conserved(line: &Line, world: &World) -> bool {
    let held = |train: &Train, sku: &str| match &train.inventory {
        Reservation::Reserved(held) => held.get(sku).copied().unwrap_or_default(),
        _ => 0,
    };
    let conserved = line.skus.iter().all(|sku| {
        let available = world.stock.get(*sku).copied().unwrap_or_default();
        let reserved: i64 = world.trains.iter().map(|train| held(train, sku)).sum();
        available >= 0 && available + reserved == world.units_at_first
    });
    let all_or_none = world.trains.iter().all(|train| {
        let units = line.skus.iter().map(|sku| held(train, sku));
        let lines = units.filter(|units| *units == 1).count();
        lines == 0 || lines == line.skus.len()
    });
    conserved && all_or_none
}

/// The words of each producer; at any moment it has said a prefix of one of them.
const ORDER: &[&[&str]] = &[
    &["OrderPlaced", "OrderConfirmed"],
    &["OrderPlaced", "OrderCancelled"],
    &["OrderPlaced", "OrderCancelRequested", "OrderConfirmed"],
    &["OrderPlaced", "OrderCancelRequested", "OrderCancelled"],
];
const INVENTORY: &[&[&str]] =
    &[&["InventoryRejected"], &["InventoryReserved", "InventoryReleased"]];
const PAYMENT: &[&[&str]] = &[
    &["PaymentDeclined", "ReleaseInventory"],
    &["PaymentRefunded", "ReleaseInventory"],
    &["PaymentCaptured", "PaymentRefunded", "ReleaseInventory"],
];
const SHIPPING: &[&[&str]] = &[&["ShipmentBooked"], &["ShipmentFailed", "RefundPayment"]];

fn says_its_words(train: &Train) -> bool {
    let said = &train.said;
    is_prefix(&said.order, ORDER)
        && is_prefix(&said.inventory, INVENTORY)
        && is_prefix(&said.payment, PAYMENT)
        && is_prefix(&said.shipping, SHIPPING)
}

fn is_prefix<E: Event>(said: &[E], words: &[&[&str]]) -> bool {
    words.iter().any(|word| {
        said.len() <= word.len()
            && said.iter().zip(*word).all(|(event, name)| event.event_type().name == *name)
    })
}

fn is_paid_before_it_ships(train: &Train) -> bool {
    train.effects(Step::Book) == 0 || train.effects(Step::Capture) > 0
}

fn asks_before_it_fails(train: &Train) -> bool {
    let unsettled = |step| matches!(train.errand(step).slot, Slot::Open(_) | Slot::Stuck);
    let turned_at_payment =
        train.said.payment.iter().any(|event| !matches!(event, money::Event::Captured(_)));
    let turned_at_shipping =
        train.said.shipping.iter().any(|event| !matches!(event, parcels::Event::Booked(_)));
    !(turned_at_payment && (unsettled(Step::Capture) || unsettled(Step::Refund)))
        && !(turned_at_shipping && unsettled(Step::Book))
}

fn ends_after_a_replay(train: &Train) -> bool {
    !(train.replayed && train.is_quiet()) || train.is_stuck() || is_over(train)
}

fn heeds_a_cancel_in_time(train: &Train) -> bool {
    !(train.must_come_back && is_confirmed(train))
}

fn adds_up(train: &Train) -> bool {
    if !train.is_quiet() || train.is_stuck() {
        return true;
    }
    let [charges, refunds, bookings] = Step::ALL.map(|step| train.effects(step));
    let holds_stock = matches!(train.inventory, Reservation::Reserved(_));
    match &train.order {
        Order::Absent => true,
        Order::Known(_, Status::Confirmed { .. }) => {
            (charges, refunds, bookings, holds_stock) == (1, 0, 1, true)
        }
        Order::Known(_, Status::Cancelled(_)) => {
            charges == refunds && bookings == 0 && !holds_stock
        }
        Order::Known(_, Status::Pending | Status::Cancelling(_)) => false,
    }
}

fn agrees(train: &Train) -> bool {
    if !train.is_quiet() || train.is_stuck() {
        return true;
    }
    let status = match &train.order {
        Order::Absent => return true,
        Order::Known(_, status) => status,
    };
    matches!(
        (status, &train.inventory, &train.payment, &train.shipping),
        (
            Status::Confirmed { .. },
            Reservation::Reserved(_),
            Money::Captured(_),
            Parcel::Booked { .. }
        ) | (
            Status::Cancelled(_),
            Reservation::Rejected,
            Money::Absent | Money::Barred(_),
            Parcel::Absent | Parcel::Barred(_)
        ) | (
            Status::Cancelled(_),
            Reservation::Released,
            Money::Declined,
            Parcel::Absent | Parcel::Barred(_)
        ) | (
            Status::Cancelled(_),
            Reservation::Released,
            Money::Refunded,
            Parcel::Absent | Parcel::Barred(_) | Parcel::Failed
        )
    )
}

fn expects_everything(train: &Train) -> bool {
    !train.unexpected
}

fn is_confirmed(train: &Train) -> bool {
    matches!(train.order, Order::Known(_, Status::Confirmed { .. }))
}

fn is_over(train: &Train) -> bool {
    is_confirmed(train) || matches!(train.order, Order::Known(_, Status::Cancelled(_)))
}
