//! Owns the stock: every line of an order is held, or none. Refuses to know what an order costs.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use contracts::inventory::{Event as Say, Waybill};
use contracts::{Because, Line, Reason, order, payment};
use saga::Decision;

/// The service's name, signed under every switch that it throws.
pub const NAME: &str = "inventory";

saga::heard! {
    /// What inventory subscribes to, and nothing else: a producer that is not here can't break it.
    pub enum Heard { Order(order::Event), Payment(payment::Event) }
}

/// Units by SKU, in the order in which they are locked.
pub type Units = BTreeMap<String, i64>;

/// One reservation, and the stock lines that the input at hand concerns (see [`skus`]).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct State {
    pub step: Step,
    /// What is available: a working copy of the shared stock. A SKU that is not there counts zero.
    pub stock: Units,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Step {
    #[default]
    Absent,
    /// The tombstone: cancelled before the train came, turned round when it arrives.
    Barred(Reason),
    Reserved(Units),
    Rejected,
    Released,
    /// Not an order: a change of the stock by hand, under an id of its own.
    Counted,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    Reserve(order::Placed),
    Release(Reason),
    Cancel(Reason),
    /// A command: from now on so many units are available.
    Count {
        sku: String,
        available: u32,
    },
}

/// The stock lines that [`decide`] must be shown for this input.
pub fn skus<'a>(step: &'a Step, input: &'a Input) -> BTreeSet<&'a str> {
    match (input, step) {
        (Input::Reserve(placed), _) => placed.lines.iter().map(|line| line.sku.as_str()).collect(),
        (Input::Release(_), Step::Reserved(held)) => held.keys().map(String::as_str).collect(),
        (Input::Count { sku, .. }, _) => BTreeSet::from([sku.as_str()]),
        (Input::Release(_) | Input::Cancel(_), _) => BTreeSet::new(),
    }
}

/// No `_`: a new event of a neighbour does not compile until it is answered.
pub fn route(heard: &Heard) -> Option<Input> {
    use {order::Event as Order, payment::Event as Money};
    match heard {
        Heard::Order(Order::Placed(placed)) => Some(Input::Reserve(placed.clone())),
        Heard::Order(Order::CancelRequested(why)) => Some(Input::Cancel(why.reason.clone())),
        Heard::Payment(Money::ReleaseInventory(why)) => Some(Input::Release(why.reason.clone())),
        Heard::Order(Order::Confirmed(_) | Order::Cancelled(_)) => None,
        Heard::Payment(Money::Captured(_) | Money::Declined(_) | Money::Refunded(_)) => None,
    }
}

pub fn decide(state: &State, input: &Input) -> Decision<State, Say, Infallible, Infallible> {
    use Decision::{Unchanged, Unexpected};
    use Input as In;
    use Step::*;
    let stock = &state.stock;
    match (&state.step, input) {
        (Absent, In::Reserve(placed)) => reserve(stock, placed),
        (Absent, In::Cancel(why)) => turn_to(Barred(why.clone()), stock.clone()),
        (Barred(why), In::Reserve(_)) => rejected(stock, why.thrown_by(NAME)),
        (Reserved(held), In::Release(why)) => release(stock, held, why),
        (Absent, In::Count { sku, available }) => {
            let mut stock = stock.clone();
            stock.insert(sku.clone(), i64::from(*available));
            turn_to(Counted, stock)
        }

        // The train has passed: it meets the switch further on, or it has arrived.
        (Reserved(_), In::Cancel(_)) => Unchanged,
        // Repeats, and news that no longer matters.
        (Reserved(_) | Rejected | Released, In::Reserve(_)) => Unchanged,
        (Barred(_) | Rejected | Released, In::Cancel(_)) => Unchanged,
        (Released, In::Release(_)) => Unchanged,
        (Counted, In::Count { .. }) => Unchanged,

        (Absent | Barred(_) | Rejected, In::Release(_)) => {
            Unexpected("a release of stock never held")
        }
        (Barred(_) | Reserved(_) | Rejected | Released, In::Count { .. }) => {
            Unexpected("a count under the id of an order")
        }
        (Counted, In::Reserve(_) | In::Release(_) | In::Cancel(_)) => {
            Unexpected("an order under the id of a count")
        }
    }
}

fn turn_to(step: Step, stock: Units) -> Decision<State, Say, Infallible, Infallible> {
    Decision::turn_to(State { step, stock })
}

fn reserve(stock: &Units, placed: &order::Placed) -> Decision<State, Say, Infallible, Infallible> {
    let wanted = units(&placed.lines);
    let mut left = stock.clone();
    for (sku, quantity) in &wanted {
        let available = left.entry(sku.clone()).or_default();
        if *available < *quantity {
            return rejected(stock, Reason::new(Reason::OUT_OF_STOCK, NAME));
        }
        *available -= quantity;
    }
    turn_to(Step::Reserved(wanted), left).say(Say::Reserved(Waybill {
        total: placed.total,
        payment_method: placed.payment_method.clone(),
        ship_to: placed.ship_to.clone(),
    }))
}

/// What the lines ask for together: two lines of one SKU sum up.
fn units(lines: &[Line]) -> Units {
    let mut units = Units::new();
    for line in lines {
        let sum = units.entry(line.sku.clone()).or_default();
        *sum = sum.saturating_add(i64::from(line.quantity));
    }
    units
}

fn rejected(stock: &Units, reason: Reason) -> Decision<State, Say, Infallible, Infallible> {
    turn_to(Step::Rejected, stock.clone()).say(Say::Rejected(Because { reason }))
}

fn release(
    stock: &Units,
    held: &Units,
    why: &Reason,
) -> Decision<State, Say, Infallible, Infallible> {
    let mut stock = stock.clone();
    for (sku, quantity) in held {
        let available = stock.entry(sku.clone()).or_default();
        *available = available.saturating_add(*quantity);
    }
    turn_to(Step::Released, stock).say(Say::Released(Because { reason: why.clone() }))
}

#[cfg(test)]
mod tests {
    use contracts::{Money, PaymentMethod, ShipTo};
    use proptest::prelude::*;

    use super::*;

    fn placed(lines: &[(&str, u32)]) -> order::Placed {
        let line = |(sku, quantity): &(&str, u32)| Line {
            sku: (*sku).into(),
            quantity: *quantity,
            unit_price_minor: 450,
        };
        order::Placed {
            lines: lines.iter().map(line).collect(),
            total: Money::new(900, "EUR".parse().expect("a currency")),
            payment_method: PaymentMethod("pm_card_ok".into()),
            ship_to: ShipTo {
                name: "Ada Lovelace".into(),
                street: "Rheingasse 1".into(),
                city: "Basel".into(),
                postcode: "4051".into(),
                country: "CH".into(),
            },
        }
    }

    fn units(lines: &[(&str, i64)]) -> Units {
        lines.iter().map(|(sku, n)| ((*sku).to_owned(), *n)).collect()
    }

    fn at(step: Step, stock: &[(&str, i64)]) -> State {
        State { step, stock: units(stock) }
    }

    fn customer() -> Reason {
        Reason::new(Reason::CUSTOMER, "order")
    }

    fn declined() -> Reason {
        Reason::new("card_declined", "payment")
    }

    fn become_saying(state: State, said: Say) -> Decision<State, Say, Infallible, Infallible> {
        Decision::turn_to(state).say(said)
    }

    #[test]
    fn every_line_is_held_and_the_waybill_passed_on() {
        let order = placed(&[("TEA-1", 2), ("TEA-2", 1)]);
        let waybill = Waybill {
            total: order.total,
            payment_method: order.payment_method.clone(),
            ship_to: order.ship_to.clone(),
        };
        let held = Step::Reserved(units(&[("TEA-1", 2), ("TEA-2", 1)]));
        assert_eq!(
            decide(&at(Step::Absent, &[("TEA-1", 5), ("TEA-2", 1)]), &Input::Reserve(order)),
            become_saying(at(held, &[("TEA-1", 3), ("TEA-2", 0)]), Say::Reserved(waybill))
        );
    }

    #[test]
    fn one_line_short_holds_none_and_an_unknown_sku_counts_zero() {
        let because = Because { reason: Reason::new(Reason::OUT_OF_STOCK, NAME) };
        for stock in [[("TEA-1", 5), ("TEA-2", 0)], [("TEA-1", 5), ("TEA-3", 9)]] {
            let order = placed(&[("TEA-1", 2), ("TEA-2", 1)]);
            assert_eq!(
                decide(&at(Step::Absent, &stock), &Input::Reserve(order)),
                become_saying(at(Step::Rejected, &stock), Say::Rejected(because.clone()))
            );
        }
    }

    #[test]
    fn two_lines_of_one_sku_sum_up() {
        let order = Input::Reserve(placed(&[("TEA-1", 2), ("TEA-1", 2)]));
        let Decision::Become { state, .. } = decide(&at(Step::Absent, &[("TEA-1", 3)]), &order)
        else {
            panic!("a reservation is answered");
        };
        assert_eq!(state, at(Step::Rejected, &[("TEA-1", 3)]));

        let Decision::Become { state, .. } = decide(&at(Step::Absent, &[("TEA-1", 4)]), &order)
        else {
            panic!("a reservation is answered");
        };
        assert_eq!(state, at(Step::Reserved(units(&[("TEA-1", 4)])), &[("TEA-1", 0)]));
    }

    #[test]
    fn a_release_gives_every_line_back_and_keeps_the_reason() {
        let held = Step::Reserved(units(&[("TEA-1", 2), ("TEA-2", 1)]));
        assert_eq!(
            decide(&at(held, &[("TEA-1", 3)]), &Input::Release(declined())),
            become_saying(
                at(Step::Released, &[("TEA-1", 5), ("TEA-2", 1)]),
                Say::Released(Because { reason: declined() })
            )
        );
    }

    #[test]
    fn a_cancel_before_the_train_leaves_a_tombstone_that_turns_it_round() {
        let barred = at(Step::Barred(customer()), &[]);
        let tombstone = decide(&State::default(), &Input::Cancel(customer()));
        assert_eq!(tombstone, Decision::turn_to(barred));

        let stock = [("TEA-1", 5)];
        let because = Because { reason: Reason::new(Reason::CUSTOMER, NAME) };
        assert_eq!(
            decide(&at(Step::Barred(customer()), &stock), &Input::Reserve(placed(&[("TEA-1", 1)]))),
            become_saying(at(Step::Rejected, &stock), Say::Rejected(because))
        );
    }

    #[test]
    fn a_cancel_after_the_reservation_changes_nothing_here() {
        let held = at(Step::Reserved(units(&[("TEA-1", 2)])), &[]);
        assert_eq!(decide(&held, &Input::Cancel(customer())), Decision::Unchanged);
    }

    #[test]
    fn a_release_of_stock_never_held_is_unexpected() {
        for step in [Step::Absent, Step::Barred(customer()), Step::Rejected] {
            let decision = decide(&at(step.clone(), &[]), &Input::Release(declined()));
            assert!(matches!(decision, Decision::Unexpected(_)), "{step:?}: {decision:?}");
        }
    }

    #[test]
    fn a_count_sets_what_is_available_and_says_nothing() {
        let count = Input::Count { sku: "TEA-1".into(), available: 1000 };
        let counted = at(Step::Counted, &[("TEA-1", 1000)]);
        for stock in [&[][..], &[("TEA-1", 3)]] {
            let decision = decide(&at(Step::Absent, stock), &count);
            assert_eq!(decision, Decision::turn_to(counted.clone()));
        }
    }

    #[test]
    fn decide_is_shown_the_stock_that_the_input_concerns() {
        let held = Step::Reserved(units(&[("TEA-1", 2), ("TEA-2", 1)]));
        let reserve = Input::Reserve(placed(&[("TEA-2", 1), ("TEA-1", 1), ("TEA-2", 1)]));
        let count = Input::Count { sku: "TEA-9".into(), available: 1 };
        let both = BTreeSet::from(["TEA-1", "TEA-2"]);
        assert_eq!(skus(&Step::Absent, &reserve), both);
        assert_eq!(skus(&held, &Input::Release(declined())), both);
        assert_eq!(skus(&Step::Absent, &count), BTreeSet::from(["TEA-9"]));
        assert!(skus(&held, &Input::Cancel(customer())).is_empty());
    }

    #[test]
    fn inventory_hears_orders_placed_cancels_and_releases_only() {
        let because = Because { reason: customer() };
        let heard = [
            (Heard::Order(order::Event::Placed(placed(&[]))), true),
            (Heard::Order(order::Event::CancelRequested(because.clone())), true),
            (Heard::Order(order::Event::Confirmed(order::Confirmed {})), false),
            (Heard::Order(order::Event::Cancelled(because.clone())), false),
            (Heard::Payment(payment::Event::ReleaseInventory(because.clone())), true),
            (Heard::Payment(payment::Event::Declined(because.clone())), false),
            (Heard::Payment(payment::Event::Refunded(because)), false),
        ];
        for (event, matters) in heard {
            assert_eq!(route(&event).is_some(), matters, "{event:?}");
        }
    }

    const SKUS: [&str; 3] = ["TEA-1", "TEA-2", "TEA-3"];

    fn any_input() -> impl Strategy<Value = Input> {
        let lines = prop::collection::vec((prop::sample::select(&SKUS[..]), 0..5_u32), 0..4);
        prop_oneof![
            lines.prop_map(|lines| Input::Reserve(placed(&lines))),
            Just(Input::Release(declined())),
            Just(Input::Cancel(customer())),
        ]
    }

    proptest! {
        #[test]
        fn stock_is_conserved_never_negative_and_no_input_counts_twice(
            inputs in prop::collection::vec((0..4_usize, any_input()), 0..40),
        ) {
            let mut stock = units(&[("TEA-1", 6), ("TEA-2", 6), ("TEA-3", 6)]);
            let mut steps = vec![Step::Absent; 4];
            for (order, input) in inputs {
                let state = State { step: steps[order].clone(), stock: stock.clone() };
                let Decision::Become { state: next, .. } = decide(&state, &input) else {
                    continue;
                };
                prop_assert_eq!(decide(&next, &input), Decision::Unchanged);
                State { step: steps[order], stock } = next;

                for sku in SKUS {
                    let held = |step: &Step| match step {
                        Step::Reserved(held) => held.get(sku).copied().unwrap_or_default(),
                        _ => 0,
                    };
                    prop_assert!(stock[sku] >= 0);
                    prop_assert_eq!(stock[sku] + steps.iter().map(held).sum::<i64>(), 6);
                }
            }
        }

        #[test]
        fn no_amount_of_anything_panics(
            quantities in prop::collection::vec(any::<u32>(), 0..4), available: i64,
        ) {
            let lines: Vec<_> = quantities.iter().map(|n| ("TEA-1", *n)).collect();
            let state = at(Step::Absent, &[("TEA-1", available)]);
            if let Decision::Become { state, .. } = decide(&state, &Input::Reserve(placed(&lines))) {
                let full = State { stock: units(&[("TEA-1", i64::MAX)]), ..state };
                let _ = decide(&full, &Input::Release(declined()));
            }
        }
    }
}
