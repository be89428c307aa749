//! Owns the parcel of an order: booked once, or never. Refuses to recall a parcel: once the carrier
//! says yes, a cancel came too late.

use std::convert::Infallible;

use contracts::shipping::{Booked as Parcel, Event as Say};
use contracts::{Because, Reason, ShipTo, order, payment};
use saga::{Decision, Settled};

/// The service's name, signed under every switch that it throws.
pub const NAME: &str = "shipping";

saga::heard! {
    /// What shipping subscribes to, and nothing else: a producer that is not here can't break it.
    pub enum Heard { Order(order::Event), Payment(payment::Event) }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum State {
    #[default]
    Absent,
    /// The tombstone: cancelled before the train came, turned round when it arrives.
    Barred(Reason),
    /// The carrier is asked. The address is in the call, and nowhere else here.
    Booking,
    Booked {
        tracking_ref: String,
    },
    Failed,
}

/// There is no "unknown": a call without a definite answer cannot get in here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    Book(ShipTo),
    Booked { tracking_ref: String },
    Refused { code: String },
    Cancel(Reason),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Call {
    Book(ShipTo),
}

impl Call {
    const BOOK: &str = "book";

    /// The step that this call is, once and for ever, within its order.
    pub const fn step(&self) -> &'static str {
        match self {
            Self::Book(_) => Self::BOOK,
        }
    }

    /// Whether it undoes something: then it has no deadline and cannot be refused.
    pub const fn is_compensation(&self) -> bool {
        match self {
            Self::Book(_) => false,
        }
    }
}

/// What the definite answer to a step means.
pub fn answered(step: &str, settled: &Settled) -> Option<Input> {
    match (step, settled) {
        (Call::BOOK, Settled::Done { reference }) => {
            Some(Input::Booked { tracking_ref: reference.clone() })
        }
        (Call::BOOK, Settled::Refused { code }) => Some(Input::Refused { code: code.clone() }),
        _ => None,
    }
}

/// No `_`: a new event of a neighbour does not compile until it is answered.
pub fn route(heard: &Heard) -> Option<Input> {
    use {order::Event as Order, payment::Event as Money};
    match heard {
        Heard::Payment(Money::Captured(paid)) => Some(Input::Book(paid.ship_to.clone())),
        Heard::Order(Order::CancelRequested(why)) => Some(Input::Cancel(why.reason.clone())),
        Heard::Payment(Money::Declined(_) | Money::Refunded(_) | Money::ReleaseInventory(_)) => {
            None
        }
        Heard::Order(Order::Placed(_) | Order::Confirmed(_) | Order::Cancelled(_)) => None,
    }
}

pub fn decide(state: &State, input: &Input) -> Decision<State, Say, Call, Infallible> {
    use Decision::{Unchanged, Unexpected};
    use Input as In;
    use State::*;
    match (state, input) {
        (Absent, In::Book(to)) => Decision::turn_to(Booking).call(Call::Book(to.clone())),
        (Absent, In::Cancel(why)) => Decision::turn_to(Barred(why.clone())),
        (Barred(why), In::Book(_)) => failed(why.thrown_by(NAME)),
        (Booking, In::Booked { tracking_ref }) => booked(tracking_ref),
        (Booking, In::Refused { code }) => failed(Reason::new(code.clone(), NAME)),

        // The carrier has the last word: if it says yes, the cancel came too late; if it says no,
        // the train turns round anyway.
        (Booking, In::Cancel(_)) => Unchanged,
        // Repeats, and news that no longer matters.
        (Booking | Booked { .. } | Failed, In::Book(_)) => Unchanged,
        (Barred(_) | Booked { .. } | Failed, In::Cancel(_)) => Unchanged,
        (Booked { .. }, In::Booked { .. }) | (Failed, In::Refused { .. }) => Unchanged,

        (Absent | Barred(_), In::Booked { .. } | In::Refused { .. }) => {
            Unexpected("an answer to a booking never wanted")
        }
        (Failed, In::Booked { .. }) => Unexpected("a booking after a refusal"),
        (Booked { .. }, In::Refused { .. }) => Unexpected("a refusal of a parcel booked"),
    }
}

fn booked(tracking_ref: &str) -> Decision<State, Say, Call, Infallible> {
    let said = Say::Booked(Parcel { tracking_ref: tracking_ref.to_owned() });
    Decision::turn_to(State::Booked { tracking_ref: tracking_ref.to_owned() }).say(said)
}

fn failed(reason: Reason) -> Decision<State, Say, Call, Infallible> {
    let because = Because { reason };
    Decision::turn_to(State::Failed)
        .say(Say::Failed(because.clone()))
        .say(Say::RefundPayment(because))
}

#[cfg(test)]
mod tests {
    use contracts::Money;
    use proptest::prelude::*;

    use super::*;

    fn ship_to() -> ShipTo {
        ShipTo {
            name: "Ada Lovelace".into(),
            street: "Rheingasse 1".into(),
            city: "Basel".into(),
            postcode: "4051".into(),
            country: "CH".into(),
        }
    }

    fn customer() -> Reason {
        Reason::new(Reason::CUSTOMER, "order")
    }

    fn done() -> Input {
        Input::Booked { tracking_ref: "trk_1".into() }
    }

    fn refusal() -> Input {
        Input::Refused { code: "address_rejected".into() }
    }

    fn turned_to_failed(reason: Reason) -> Decision<State, Say, Call, Infallible> {
        let because = Because { reason };
        Decision::Become {
            state: State::Failed,
            events: vec![Say::Failed(because.clone()), Say::RefundPayment(because)],
            calls: vec![],
        }
    }

    #[test]
    fn money_taken_wants_a_booking() {
        assert_eq!(
            decide(&State::Absent, &Input::Book(ship_to())),
            Decision::Become {
                state: State::Booking,
                events: vec![],
                calls: vec![Call::Book(ship_to())],
            }
        );
    }

    #[test]
    fn a_booking_is_said_with_the_carriers_reference() {
        assert_eq!(
            decide(&State::Booking, &done()),
            Decision::Become {
                state: State::Booked { tracking_ref: "trk_1".into() },
                events: vec![Say::Booked(Parcel { tracking_ref: "trk_1".into() })],
                calls: vec![],
            }
        );
    }

    #[test]
    fn a_refused_booking_fails_and_wants_the_money_given_back() {
        assert_eq!(
            decide(&State::Booking, &refusal()),
            turned_to_failed(Reason::new("address_rejected", NAME))
        );
    }

    #[test]
    fn a_cancel_before_the_train_leaves_a_tombstone_that_turns_it_round() {
        let barred = State::Barred(customer());
        let tombstone = decide(&State::Absent, &Input::Cancel(customer()));
        assert_eq!(tombstone, Decision::turn_to(barred.clone()));
        assert_eq!(
            decide(&barred, &Input::Book(ship_to())),
            turned_to_failed(Reason::new(Reason::CUSTOMER, NAME))
        );
    }

    #[test]
    fn a_booking_wins_over_a_cancel_that_came_while_asking() {
        assert_eq!(decide(&State::Booking, &Input::Cancel(customer())), Decision::Unchanged);
        let booked = State::Booked { tracking_ref: "trk_1".into() };
        assert_eq!(decide(&booked, &Input::Cancel(customer())), Decision::Unchanged);
    }

    #[test]
    fn answers_that_contradict_each_other_are_unexpected() {
        let booked = State::Booked { tracking_ref: "trk_1".into() };
        for (state, input) in [
            (State::Absent, done()),
            (State::Barred(customer()), refusal()),
            (State::Failed, done()),
            (booked, refusal()),
        ] {
            let decision = decide(&state, &input);
            assert!(matches!(decision, Decision::Unexpected(_)), "{state:?}: {decision:?}");
        }
    }

    #[test]
    fn only_definite_answers_get_in() {
        let yes = Settled::Done { reference: "trk_1".into() };
        let no = Settled::Refused { code: "address_rejected".into() };
        assert_eq!(answered("book", &yes), Some(done()));
        assert_eq!(answered("book", &no), Some(refusal()));
        assert_eq!(answered("capture", &yes), None);
    }

    #[test]
    fn shipping_hears_money_taken_and_cancels_only() {
        let because = Because { reason: customer() };
        let paid = payment::Captured {
            amount: Money::new(900, "EUR".parse().expect("a currency")),
            ship_to: ship_to(),
            provider_ref: "cap_1".into(),
        };
        let heard = [
            (Heard::Payment(payment::Event::Captured(paid)), true),
            (Heard::Payment(payment::Event::Declined(because.clone())), false),
            (Heard::Payment(payment::Event::Refunded(because.clone())), false),
            (Heard::Payment(payment::Event::ReleaseInventory(because.clone())), false),
            (Heard::Order(order::Event::CancelRequested(because.clone())), true),
            (Heard::Order(order::Event::Confirmed(order::Confirmed {})), false),
            (Heard::Order(order::Event::Cancelled(because)), false),
        ];
        for (event, matters) in heard {
            assert_eq!(route(&event).is_some(), matters, "{event:?}");
        }
    }

    fn any_input() -> impl Strategy<Value = Input> {
        prop_oneof![
            Just(Input::Book(ship_to())),
            Just(done()),
            Just(refusal()),
            Just(Input::Cancel(customer())),
        ]
    }

    proptest! {
        #[test]
        fn no_sequence_panics_and_an_input_applied_twice_changes_nothing(
            inputs in prop::collection::vec(any_input(), 0..12),
        ) {
            let (mut state, mut bookings) = (State::Absent, 0);
            for input in inputs {
                let Decision::Become { state: next, calls, .. } = decide(&state, &input) else {
                    continue;
                };
                bookings += calls.len();
                prop_assert_eq!(decide(&next, &input), Decision::Unchanged);
                state = next;
            }
            prop_assert!(bookings <= 1);
        }
    }
}
