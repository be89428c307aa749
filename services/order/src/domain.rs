//! Owns the fate of an order as its customer sees it. Refuses to know how stock, money and parcels
//! are handled.

use std::convert::Infallible;
use std::sync::Arc;

use contracts::order::{Confirmed, Event as Say, Placed};
use contracts::{Because, Currency, Line, Money, PaymentMethod, Reason, ShipTo};
use contracts::{inventory, shipping};
use saga::Decision;

/// The service's name, signed under every cancel that starts here.
pub const NAME: &str = "order";

saga::heard! {
    /// What order subscribes to, and nothing else: a producer that is not here can't break it.
    pub enum Heard { Inventory(inventory::Event), Shipping(shipping::Event) }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum State {
    #[default]
    Absent,
    Known(Arc<Order>, Status),
}

/// What an order is, from its first moment on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Order {
    /// Whose credentials placed it: nobody else can see it.
    pub caller: String,
    pub customer_id: String,
    pub lines: Vec<Line>,
    pub total: Money,
    pub payment_method: PaymentMethod,
    pub ship_to: ShipTo,
}

/// What has become of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Status {
    Pending,
    /// A cancel is on its way; the train may still arrive.
    Cancelling(Reason),
    /// Arrived; `too_late`: although a cancel was on its way.
    Confirmed {
        too_late: bool,
    },
    Cancelled(Reason),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    Place(Place),
    Cancel {
        caller: String,
    },
    /// The order's time is up.
    Expire,
    Booked,
    /// The train is back: its stock was never held, or is given back.
    CameBack(Reason),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    pub caller: String,
    pub customer_id: String,
    pub currency: Currency,
    pub lines: Vec<Line>,
    pub payment_method: PaymentMethod,
    pub ship_to: ShipTo,
}

/// Why a command is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// No such order, or somebody else's: one answer, so that ids can't be probed.
    NotFound,
    /// Nothing is wanted: no line, or a line of nothing.
    Empty,
    /// The total can't be held, or a price is below zero.
    NotPayable,
}

/// No `_`: a new event of a neighbour does not compile until it is answered.
pub fn route(heard: &Heard) -> Option<Input> {
    use {inventory::Event as Stock, shipping::Event as Parcel};
    match heard {
        Heard::Shipping(Parcel::Booked(_)) => Some(Input::Booked),
        Heard::Inventory(Stock::Rejected(why) | Stock::Released(why)) => {
            Some(Input::CameBack(why.reason.clone()))
        }
        Heard::Inventory(Stock::Reserved(_)) => None,
        Heard::Shipping(Parcel::Failed(_) | Parcel::RefundPayment(_)) => None,
    }
}

pub fn decide(state: &State, input: &Input) -> Decision<State, Say, Infallible, Rejection> {
    use Decision::{Rejected, Unchanged, Unexpected};
    use Input as In;
    use State::*;
    use Status::*;
    match (state, input) {
        (Absent, In::Place(order)) => place(order),
        (Absent, In::Cancel { .. }) => Rejected(Rejection::NotFound),
        (Known(order, _), In::Cancel { caller }) if order.caller != *caller => {
            Rejected(Rejection::NotFound)
        }
        (Known(order, Pending), In::Cancel { .. }) => cancel(order, Reason::CUSTOMER),
        (Known(order, Pending), In::Expire) => cancel(order, Reason::DEADLINE),
        (Known(order, Pending), In::Booked) => confirm(order, false),
        (Known(order, Cancelling(_)), In::Booked) => confirm(order, true),
        (Known(order, Pending | Cancelling(_)), In::CameBack(why)) => {
            Decision::turn_to(Known(Arc::clone(order), Cancelled(why.clone())))
                .say(Say::Cancelled(Because { reason: why.clone() }))
        }

        // Repeats, and news that no longer matters.
        (Known(..), In::Place(_)) => Unchanged,
        (
            Known(_, Cancelling(_) | Confirmed { .. } | Cancelled(_)),
            In::Cancel { .. } | In::Expire,
        ) => Unchanged,
        (Known(_, Confirmed { .. }), In::Booked) => Unchanged,
        (Known(_, Cancelled(_)), In::CameBack(_)) => Unchanged,

        (Absent, In::Expire | In::Booked | In::CameBack(_)) => {
            Unexpected("news of an order never placed")
        }
        (Known(_, Confirmed { .. }), In::CameBack(_)) => Unexpected("a train back after arrival"),
        (Known(_, Cancelled(_)), In::Booked) => Unexpected("an arrival after the train came back"),
    }
}

fn place(wanted: &Place) -> Decision<State, Say, Infallible, Rejection> {
    if wanted.lines.is_empty() || wanted.lines.iter().any(|line| line.quantity == 0) {
        return Decision::Rejected(Rejection::Empty);
    }
    let Some(total) = Money::total(&wanted.lines, wanted.currency) else {
        return Decision::Rejected(Rejection::NotPayable);
    };
    let order = Arc::new(Order {
        caller: wanted.caller.clone(),
        customer_id: wanted.customer_id.clone(),
        lines: wanted.lines.clone(),
        total,
        payment_method: wanted.payment_method.clone(),
        ship_to: wanted.ship_to.clone(),
    });
    let said = Say::Placed(Placed {
        lines: order.lines.clone(),
        total,
        payment_method: order.payment_method.clone(),
        ship_to: order.ship_to.clone(),
    });
    Decision::turn_to(State::Known(order, Status::Pending)).say(said)
}

fn cancel(order: &Arc<Order>, code: &'static str) -> Decision<State, Say, Infallible, Rejection> {
    let reason = Reason::new(code, NAME);
    Decision::turn_to(State::Known(Arc::clone(order), Status::Cancelling(reason.clone())))
        .say(Say::CancelRequested(Because { reason }))
}

fn confirm(order: &Arc<Order>, too_late: bool) -> Decision<State, Say, Infallible, Rejection> {
    Decision::turn_to(State::Known(Arc::clone(order), Status::Confirmed { too_late }))
        .say(Say::Confirmed(Confirmed {}))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wanted() -> Place {
        Place {
            caller: "default".into(),
            customer_id: "cus_1".into(),
            currency: "EUR".parse().expect("a currency"),
            lines: vec![Line { sku: "TEA-1".into(), quantity: 2, unit_price_minor: 450 }],
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

    fn order() -> Order {
        let Place { caller, customer_id, currency, lines, payment_method, ship_to } = wanted();
        let total = Money::new(900, currency);
        Order { caller, customer_id, lines, total, payment_method, ship_to }
    }

    fn at(status: Status) -> State {
        State::Known(Arc::new(order()), status)
    }

    fn why(code: &'static str) -> Reason {
        Reason::new(code, NAME)
    }

    fn declined() -> Reason {
        Reason::new("card_declined", "payment")
    }

    fn customers_cancel() -> Input {
        Input::Cancel { caller: "default".into() }
    }

    fn become_saying(status: Status, said: Say) -> Decision<State, Say, Infallible, Rejection> {
        Decision::turn_to(at(status)).say(said)
    }

    #[test]
    fn a_placed_order_is_pending_and_says_what_lies_ahead() {
        let Order { lines, total, payment_method, ship_to, .. } = order();
        let said = Say::Placed(Placed { lines, total, payment_method, ship_to });
        assert_eq!(
            decide(&State::Absent, &Input::Place(wanted())),
            become_saying(Status::Pending, said)
        );
    }

    #[test]
    fn an_order_of_nothing_or_of_no_payable_total_is_rejected() {
        let with = |quantity, unit_price_minor| {
            let line = Line { sku: "TEA-1".into(), quantity, unit_price_minor };
            decide(&State::Absent, &Input::Place(Place { lines: vec![line], ..wanted() }))
        };
        let empty = Place { lines: vec![], ..wanted() };
        assert_eq!(
            decide(&State::Absent, &Input::Place(empty)),
            Decision::Rejected(Rejection::Empty)
        );
        assert_eq!(with(0, 450), Decision::Rejected(Rejection::Empty));
        assert_eq!(with(1, -1), Decision::Rejected(Rejection::NotPayable));
        assert_eq!(with(2, i64::MAX), Decision::Rejected(Rejection::NotPayable));
    }

    #[test]
    fn a_booked_shipment_confirms() {
        assert_eq!(
            decide(&at(Status::Pending), &Input::Booked),
            become_saying(Status::Confirmed { too_late: false }, Say::Confirmed(Confirmed {}))
        );
    }

    #[test]
    fn a_train_that_came_back_cancels_with_the_reason_it_carries() {
        for status in [Status::Pending, Status::Cancelling(why(Reason::CUSTOMER))] {
            assert_eq!(
                decide(&at(status), &Input::CameBack(declined())),
                become_saying(
                    Status::Cancelled(declined()),
                    Say::Cancelled(Because { reason: declined() })
                )
            );
        }
    }

    #[test]
    fn a_cancel_or_a_deadline_asks_and_then_waits() {
        for (input, code) in
            [(customers_cancel(), Reason::CUSTOMER), (Input::Expire, Reason::DEADLINE)]
        {
            assert_eq!(
                decide(&at(Status::Pending), &input),
                become_saying(
                    Status::Cancelling(why(code)),
                    Say::CancelRequested(Because { reason: why(code) })
                )
            );
        }
    }

    #[test]
    fn a_booking_after_the_cancel_request_confirms_and_says_that_the_cancel_came_too_late() {
        assert_eq!(
            decide(&at(Status::Cancelling(why(Reason::CUSTOMER))), &Input::Booked),
            become_saying(Status::Confirmed { too_late: true }, Say::Confirmed(Confirmed {}))
        );
    }

    #[test]
    fn a_cancel_of_an_order_that_is_over_changes_nothing() {
        for status in [Status::Confirmed { too_late: false }, Status::Cancelled(declined())] {
            assert_eq!(decide(&at(status.clone()), &customers_cancel()), Decision::Unchanged);
            assert_eq!(decide(&at(status), &Input::Expire), Decision::Unchanged);
        }
    }

    #[test]
    fn an_order_unknown_or_somebody_elses_is_not_found() {
        let not_found = Decision::Rejected(Rejection::NotFound);
        assert_eq!(decide(&State::Absent, &customers_cancel()), not_found);
        let stranger = Input::Cancel { caller: "stranger".into() };
        for status in [Status::Pending, Status::Cancelled(declined())] {
            assert_eq!(decide(&at(status), &stranger), not_found);
        }
    }

    #[test]
    fn news_that_cannot_be_is_unexpected() {
        for (state, input) in [
            (State::Absent, Input::Booked),
            (State::Absent, Input::Expire),
            (State::Absent, Input::CameBack(declined())),
            (at(Status::Confirmed { too_late: true }), Input::CameBack(declined())),
            (at(Status::Cancelled(declined())), Input::Booked),
        ] {
            let decision = decide(&state, &input);
            assert!(matches!(decision, Decision::Unexpected(_)), "{state:?}: {decision:?}");
        }
    }

    #[test]
    fn order_hears_arrivals_and_trains_that_came_back_only() {
        let because = Because { reason: declined() };
        let booked = shipping::Booked { tracking_ref: "trk_1".into() };
        let heard = [
            (Heard::Shipping(shipping::Event::Booked(booked)), true),
            (Heard::Shipping(shipping::Event::Failed(because.clone())), false),
            (Heard::Shipping(shipping::Event::RefundPayment(because.clone())), false),
            (Heard::Inventory(inventory::Event::Rejected(because.clone())), true),
            (Heard::Inventory(inventory::Event::Released(because)), true),
        ];
        for (event, matters) in heard {
            assert_eq!(route(&event).is_some(), matters, "{event:?}");
        }
    }

    fn any_input() -> impl Strategy<Value = Input> {
        prop_oneof![
            Just(Input::Place(wanted())),
            Just(customers_cancel()),
            Just(Input::Expire),
            Just(Input::Booked),
            Just(Input::CameBack(declined())),
        ]
    }

    proptest! {
        #[test]
        fn no_sequence_panics_and_an_input_applied_twice_changes_nothing(
            inputs in prop::collection::vec(any_input(), 0..12),
        ) {
            let (mut state, mut ends) = (State::Absent, 0);
            for input in inputs {
                let Decision::Become { state: next, events, .. } = decide(&state, &input) else {
                    continue;
                };
                let end = |said: &&Say| matches!(said, Say::Confirmed(_) | Say::Cancelled(_));
                ends += events.iter().filter(end).count();
                prop_assert_eq!(decide(&next, &input), Decision::Unchanged);
                state = next;
            }
            prop_assert!(ends <= 1);
        }
    }
}
