//! Owns the money of an order: taken once, given back when the train is turned round. Refuses to
//! know why anybody wants it back.

use std::convert::Infallible;

use contracts::inventory::Waybill;
use contracts::payment::{Captured as Paid, Event as Say};
use contracts::{Because, Money, PaymentMethod, Reason, inventory, order, shipping};
use saga::{Decision, Settled};

/// The service's name, signed under every switch that it throws.
pub const NAME: &str = "payment";

saga::heard! {
    /// What payment subscribes to, and nothing else: a producer that is not here can't break it.
    pub enum Heard {
        Order(order::Event),
        Inventory(inventory::Event),
        Shipping(shipping::Event),
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum State {
    #[default]
    Absent,
    /// The tombstone: cancelled before the train came, turned round when it arrives.
    Barred(Reason),
    Capturing(Waybill),
    /// Cancelled while a capture is wanted: the answer comes first, then the train turns round.
    Turning(Waybill, Reason),
    Captured(Receipt),
    Refunding(Receipt, Reason),
    Declined,
    Refunded,
}

/// Money taken, and the provider's name for it: a refund names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Receipt {
    pub amount: Money,
    pub provider_ref: String,
}

/// There is no "unknown": a call without a definite answer cannot get in here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    Capture(Waybill),
    Captured { provider_ref: String },
    Refused { code: String },
    Cancel(Reason),
    Refund(Reason),
    Refunded,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Call {
    Capture(Money, PaymentMethod),
    Refund(Receipt),
}

impl Call {
    const CAPTURE: &str = "capture";
    const REFUND: &str = "refund";

    /// The step that this call is, once and for ever, within its order.
    pub const fn step(&self) -> &'static str {
        match self {
            Self::Capture(..) => Self::CAPTURE,
            Self::Refund(_) => Self::REFUND,
        }
    }

    /// Whether it undoes something: then it has no deadline and cannot be refused.
    pub const fn is_compensation(&self) -> bool {
        match self {
            Self::Capture(..) => false,
            Self::Refund(_) => true,
        }
    }
}

/// What the definite answer to a step means. A refused refund means nothing here: it stays with the
/// call, stuck, until a person has looked at it.
pub fn answered(step: &str, settled: &Settled) -> Option<Input> {
    match (step, settled) {
        (Call::CAPTURE, Settled::Done { reference }) => {
            Some(Input::Captured { provider_ref: reference.clone() })
        }
        (Call::CAPTURE, Settled::Refused { code }) => Some(Input::Refused { code: code.clone() }),
        (Call::REFUND, Settled::Done { .. }) => Some(Input::Refunded),
        _ => None,
    }
}

/// No `_`: a new event of a neighbour does not compile until it is answered.
pub fn route(heard: &Heard) -> Option<Input> {
    use {inventory::Event as Stock, order::Event as Order, shipping::Event as Parcel};
    match heard {
        Heard::Inventory(Stock::Reserved(waybill)) => Some(Input::Capture(waybill.clone())),
        Heard::Shipping(Parcel::RefundPayment(why)) => Some(Input::Refund(why.reason.clone())),
        Heard::Order(Order::CancelRequested(why)) => Some(Input::Cancel(why.reason.clone())),
        Heard::Inventory(Stock::Rejected(_) | Stock::Released(_)) => None,
        Heard::Shipping(Parcel::Booked(_) | Parcel::Failed(_)) => None,
        Heard::Order(Order::Placed(_) | Order::Confirmed(_) | Order::Cancelled(_)) => None,
    }
}

pub fn decide(state: &State, input: &Input) -> Decision<State, Say, Call, Infallible> {
    use Decision::{Unchanged, Unexpected};
    use Input as In;
    use State::*;
    match (state, input) {
        (Absent, In::Capture(bill)) => {
            let call = Call::Capture(bill.total, bill.payment_method.clone());
            Decision::turn_to(Capturing(bill.clone())).call(call)
        }
        (Absent, In::Cancel(why)) => Decision::turn_to(Barred(why.clone())),
        (Barred(why), In::Capture(_)) => declined(why.thrown_by(NAME)),
        (Capturing(bill), In::Captured { provider_ref }) => captured(bill, provider_ref),
        (Capturing(_), In::Refused { code }) => declined(Reason::new(code.clone(), NAME)),
        (Capturing(bill), In::Cancel(why)) => Decision::turn_to(Turning(bill.clone(), why.clone())),
        (Turning(bill, why), In::Captured { provider_ref }) => {
            refunding(receipt(bill, provider_ref), why.thrown_by(NAME))
        }
        (Turning(_, why), In::Refused { .. }) => declined(why.thrown_by(NAME)),
        (Captured(paid), In::Refund(why)) => refunding(paid.clone(), why.clone()),
        (Refunding(_, why), In::Refunded) => refunded(why.clone()),

        // The train has passed: it meets the switch further on, or it has arrived.
        (Captured(_), In::Cancel(_)) => Unchanged,
        // Repeats, and news that no longer matters.
        (
            Capturing(_) | Turning(..) | Captured(_) | Refunding(..) | Declined | Refunded,
            In::Capture(_),
        ) => Unchanged,
        (Captured(_) | Refunding(..) | Refunded, In::Captured { .. }) => Unchanged,
        (Declined, In::Refused { .. }) => Unchanged,
        (Barred(_) | Turning(..) | Refunding(..) | Declined | Refunded, In::Cancel(_)) => Unchanged,
        (Refunding(..) | Refunded, In::Refund(_)) => Unchanged,
        (Refunded, In::Refunded) => Unchanged,

        (Absent | Barred(_) | Capturing(_) | Turning(..) | Declined, In::Refund(_)) => {
            Unexpected("a refund for money never taken")
        }
        (Absent | Barred(_), In::Captured { .. } | In::Refused { .. }) => {
            Unexpected("an answer to a capture never wanted")
        }
        (Declined, In::Captured { .. }) => Unexpected("money taken after a refusal"),
        (Captured(_) | Refunding(..) | Refunded, In::Refused { .. }) => {
            Unexpected("a refusal of money taken")
        }
        (
            Absent | Barred(_) | Capturing(_) | Turning(..) | Captured(_) | Declined,
            In::Refunded,
        ) => Unexpected("an answer to a refund never wanted"),
    }
}

fn receipt(bill: &Waybill, provider_ref: &str) -> Receipt {
    Receipt { amount: bill.total, provider_ref: provider_ref.to_owned() }
}

fn captured(bill: &Waybill, provider_ref: &str) -> Decision<State, Say, Call, Infallible> {
    let paid = receipt(bill, provider_ref);
    let said = Paid {
        amount: paid.amount,
        ship_to: bill.ship_to.clone(),
        provider_ref: paid.provider_ref.clone(),
    };
    Decision::turn_to(State::Captured(paid)).say(Say::Captured(said))
}

fn declined(reason: Reason) -> Decision<State, Say, Call, Infallible> {
    let because = Because { reason };
    Decision::turn_to(State::Declined)
        .say(Say::Declined(because.clone()))
        .say(Say::ReleaseInventory(because))
}

fn refunding(paid: Receipt, why: Reason) -> Decision<State, Say, Call, Infallible> {
    Decision::turn_to(State::Refunding(paid.clone(), why)).call(Call::Refund(paid))
}

fn refunded(reason: Reason) -> Decision<State, Say, Call, Infallible> {
    let because = Because { reason };
    Decision::turn_to(State::Refunded)
        .say(Say::Refunded(because.clone()))
        .say(Say::ReleaseInventory(because))
}

#[cfg(test)]
mod tests {
    use contracts::ShipTo;
    use proptest::prelude::*;

    use super::*;

    fn waybill() -> Waybill {
        Waybill {
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

    fn paid() -> Receipt {
        Receipt { amount: waybill().total, provider_ref: "cap_1".into() }
    }

    fn customer() -> Reason {
        Reason::new(Reason::CUSTOMER, "order")
    }

    /// The customer's reason, once payment has thrown the switch.
    fn customer_here() -> Reason {
        Reason::new(Reason::CUSTOMER, NAME)
    }

    fn rejected() -> Reason {
        Reason::new("address_rejected", "shipping")
    }

    fn done() -> Input {
        Input::Captured { provider_ref: "cap_1".into() }
    }

    fn refusal() -> Input {
        Input::Refused { code: "card_declined".into() }
    }

    fn turned_to_declined(reason: Reason) -> Decision<State, Say, Call, Infallible> {
        let because = Because { reason };
        Decision::Become {
            state: State::Declined,
            events: vec![Say::Declined(because.clone()), Say::ReleaseInventory(because)],
            calls: vec![],
        }
    }

    fn turned_to_refunding(why: Reason) -> Decision<State, Say, Call, Infallible> {
        Decision::Become {
            state: State::Refunding(paid(), why),
            events: vec![],
            calls: vec![Call::Refund(paid())],
        }
    }

    #[test]
    fn reserved_stock_wants_a_capture_of_the_total() {
        let bill = waybill();
        assert_eq!(
            decide(&State::Absent, &Input::Capture(bill.clone())),
            Decision::Become {
                calls: vec![Call::Capture(bill.total, bill.payment_method.clone())],
                events: vec![],
                state: State::Capturing(bill),
            }
        );
    }

    #[test]
    fn a_capture_is_said_with_the_rest_of_the_waybill() {
        let said = Say::Captured(Paid {
            amount: waybill().total,
            ship_to: waybill().ship_to,
            provider_ref: "cap_1".into(),
        });
        assert_eq!(
            decide(&State::Capturing(waybill()), &done()),
            Decision::Become { state: State::Captured(paid()), events: vec![said], calls: vec![] }
        );
    }

    #[test]
    fn a_refused_capture_declines_and_releases_the_stock() {
        assert_eq!(
            decide(&State::Capturing(waybill()), &refusal()),
            turned_to_declined(Reason::new("card_declined", NAME))
        );
    }

    #[test]
    fn a_refund_wanted_by_shipping_names_the_capture_and_keeps_the_reason() {
        assert_eq!(
            decide(&State::Captured(paid()), &Input::Refund(rejected())),
            turned_to_refunding(rejected())
        );
    }

    #[test]
    fn money_given_back_is_said_and_releases_the_stock() {
        let because = Because { reason: rejected() };
        assert_eq!(
            decide(&State::Refunding(paid(), rejected()), &Input::Refunded),
            Decision::Become {
                state: State::Refunded,
                events: vec![Say::Refunded(because.clone()), Say::ReleaseInventory(because)],
                calls: vec![],
            }
        );
    }

    #[test]
    fn a_cancel_before_the_train_leaves_a_tombstone_that_turns_it_round() {
        let barred = State::Barred(customer());
        let tombstone = decide(&State::Absent, &Input::Cancel(customer()));
        assert_eq!(tombstone, Decision::turn_to(barred.clone()));
        let arrived = decide(&barred, &Input::Capture(waybill()));
        assert_eq!(arrived, turned_to_declined(customer_here()));
    }

    #[test]
    fn a_cancel_while_asking_waits_for_the_answer_then_turns_round() {
        let turning = State::Turning(waybill(), customer());
        assert_eq!(
            decide(&State::Capturing(waybill()), &Input::Cancel(customer())),
            Decision::turn_to(turning.clone())
        );
        assert_eq!(decide(&turning, &done()), turned_to_refunding(customer_here()));
        assert_eq!(decide(&turning, &refusal()), turned_to_declined(customer_here()));
    }

    #[test]
    fn a_cancel_after_the_capture_changes_nothing_here() {
        let decision = decide(&State::Captured(paid()), &Input::Cancel(customer()));
        assert_eq!(decision, Decision::Unchanged);
    }

    #[test]
    fn a_refund_for_money_never_taken_is_unexpected() {
        let never = [
            State::Absent,
            State::Barred(customer()),
            State::Capturing(waybill()),
            State::Turning(waybill(), customer()),
            State::Declined,
        ];
        for state in never {
            let decision = decide(&state, &Input::Refund(rejected()));
            assert!(matches!(decision, Decision::Unexpected(_)), "{state:?}: {decision:?}");
        }
    }

    #[test]
    fn only_definite_answers_get_in_and_a_refused_refund_never_does() {
        let yes = Settled::Done { reference: "cap_1".into() };
        let no = Settled::Refused { code: "card_declined".into() };
        assert_eq!(answered("capture", &yes), Some(done()));
        assert_eq!(answered("capture", &no), Some(refusal()));
        assert_eq!(answered("refund", &yes), Some(Input::Refunded));
        assert_eq!(answered("refund", &no), None);
    }

    #[test]
    fn payment_hears_reserved_stock_refunds_and_cancels_only() {
        let because = Because { reason: customer() };
        let heard = [
            (Heard::Inventory(inventory::Event::Reserved(waybill())), true),
            (Heard::Inventory(inventory::Event::Rejected(because.clone())), false),
            (Heard::Inventory(inventory::Event::Released(because.clone())), false),
            (Heard::Shipping(shipping::Event::RefundPayment(because.clone())), true),
            (Heard::Shipping(shipping::Event::Failed(because.clone())), false),
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
            Just(Input::Capture(waybill())),
            Just(done()),
            Just(refusal()),
            Just(Input::Cancel(customer())),
            Just(Input::Refund(rejected())),
            Just(Input::Refunded),
        ]
    }

    proptest! {
        #[test]
        fn no_sequence_panics_and_an_input_applied_twice_changes_nothing(
            inputs in prop::collection::vec(any_input(), 0..12),
        ) {
            let (mut state, mut captures, mut refunds) = (State::Absent, 0, 0);
            for input in inputs {
                let Decision::Become { state: next, calls, .. } = decide(&state, &input) else {
                    continue;
                };
                captures += calls.iter().filter(|call| !call.is_compensation()).count();
                refunds += calls.iter().filter(|call| call.is_compensation()).count();
                prop_assert_eq!(decide(&next, &input), Decision::Unchanged);
                state = next;
            }
            prop_assert!(captures <= 1 && refunds <= captures);
        }
    }
}
