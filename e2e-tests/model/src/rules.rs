//! Owns what must hold, written apart from the services. Refuses to look at how it comes about.

use contracts::{inventory as stock, order as orders, payment as money, shipping as parcels};
use inventory::domain::Step as Reservation;
use order::domain::{State as Order, Status};
use payment::domain::State as Money;
use shipping::domain::State as Parcel;
use stateright::Property;

use crate::line::{Line, World};
use crate::reached;
use crate::train::{Slot, Step, Train};

pub const A1: &str = "A1 at most one charge, and never more refunds than charges";
pub const A3: &str = "A3 one idempotency key per step";
pub const A4: &str = "A4 stock is conserved, and held for every line or none";
pub const A5: &str = "A5 each producer says a prefix of a word of its own";
pub const A7: &str = "A7 no booking without a charge before it";
pub const A11: &str = "A11 no failure is said while a call is unsettled";
pub const A12: &str = "A12 an event set aside and replayed, the order ends";
pub const C1: &str = "C1 a cancel in time is never confirmed";
pub const Q2: &str = "Q2 at rest an order is complete, undone, or stuck";
pub const Q3: &str = "Q3 at rest the four services agree";
pub const UNEXPECTED: &str = "no service meets what cannot be";

/// All rules, and for one order also what must be reached for the run to count.
pub fn all(line: &Line) -> Vec<Property<Line>> {
    let mut all = vec![
        each(A1, |_, _, train| {
            train.effects(Step::Capture) <= 1
                && train.effects(Step::Refund) <= train.effects(Step::Capture)
        }),
        each(A3, |_, _, train| {
            train.errands.iter().all(|errand| errand.ledger.windows(2).all(|keys| keys[0] == keys[1]))
        }),
        Property::always(A4, |line, world| stock_is_conserved(line, world)),
        each(A5, |_, _, train| says_its_words(train)),
        each(A7, |_, _, train| {
            train.effects(Step::Book) == 0 || train.effects(Step::Capture) > 0
        }),
        each(A11, |_, _, train| !fails_while_asking(train)),
        each(A12, |_, _, train| {
            !(train.replayed && train.is_quiet()) || train.is_stuck() || is_over(train)
        }),
        each(C1, |_, _, train| !(train.must_come_back && confirmed(train))),
        each(Q2, |_, _, train| !train.is_quiet() || train.is_stuck() || adds_up(train)),
        each(Q3, |_, _, train| !train.is_quiet() || train.is_stuck() || agree(train)),
        each(UNEXPECTED, |_, _, train| !train.unexpected),
    ];
    all.extend(if line.orders == 1 { reached::by_one() } else { reached::by_two() });
    all
}

/// The same for every order on the line. The function must be plain, so it is given by type.
fn each<F>(name: &'static str, _holds: F) -> Property<Line>
where
    F: Fn(&Line, &World, &Train) -> bool + Copy + 'static,
{
    unreachable!("{name}")
}
