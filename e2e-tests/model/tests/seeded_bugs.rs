//! Faults planted round the real functions, each found by the rule that is named for it. A fault
//! that nothing finds would show that the model looks elsewhere.

use std::collections::BTreeSet;
use std::convert::Infallible;

use calls::{CallState, Heard, Next, Policy};
use contracts::{inventory as stock, order as orders, payment as money, shipping as parcels};
use model::line::Line;
use model::parts::{Parts, Shell};
use model::rules::{
    ADDS_UP, AGREED, CANCEL_HEEDED, NOTHING_UNEXPECTED, ONE_CHARGE, ONE_KEY, OWN_WORDS, PAID_FIRST,
    REPLAY_ENDS, SETTLED_FIRST, STOCK_CONSERVED,
};
use saga::{Decision, Outcome, Settled};
use stateright::{Checker, HasDiscoveries, Model};

type Stock = Decision<inventory::domain::State, stock::Event, Infallible, Infallible>;
type Money = Decision<payment::domain::State, money::Event, payment::domain::Call, Infallible>;
type Parcel = Decision<shipping::domain::State, parcels::Event, shipping::domain::Call, Infallible>;
type Order = Decision<order::domain::State, orders::Event, Infallible, order::domain::Rejection>;

/// The rule is broken; prints how soon, and compares that with what is known.
fn breaks(bug: &str, parts: Parts, rule: &'static str, known: (usize, usize)) {
    let line = Line::one_order(parts);
    let search = || {
        let named = HasDiscoveries::AnyOf(BTreeSet::from([rule]));
        line.clone().checker().finish_when(named)
    };
    let checker = search().spawn_bfs().join();
    let states = checker.unique_state_count();
    let path = checker.discovery(rule).unwrap_or_else(|| panic!("{bug}: {rule} is not broken"));
    let mut path = path.into_actions();
    // A block of states is looked at as a whole, and its last find is reported: look for shorter.
    while let Some(shorter) =
        search().target_max_depth(path.len() + 1).spawn_bfs().join().discovery(rule)
    {
        path = shorter.into_actions();
    }
    println!("{bug}: {rule}, after {} steps, in {states} unique states", path.len());
    assert_eq!(
        (path.len(), states),
        known,
        "{bug}: steps and states are others; find out why before you change them here"
    );
}

mod inventory_bugs {
    use inventory::domain::{Input, State, Step, decide};

    use super::{Decision, Stock};

    pub fn gives_back_twice(state: &State, input: &Input) -> Stock {
        if let (Step::Released, Input::Release(_)) = (&state.step, input) {
            let mut state = state.clone();
            state.stock.values_mut().for_each(|units| *units += 1);
            return Decision::turn_to(state);
        }
        decide(state, input)
    }

    pub fn no_tombstone(state: &State, input: &Input) -> Stock {
        match (&state.step, input) {
            (Step::Absent, Input::Cancel(_)) => Decision::Unchanged,
            _ => decide(state, input),
        }
    }

    pub fn gives_back_the_first_line_only(state: &State, input: &Input) -> Stock {
        if let (Step::Reserved(held), Input::Release(_)) = (&state.step, input) {
            let first = held.iter().take(1).map(|(sku, n)| (sku.clone(), *n)).collect();
            return decide(&State { step: Step::Reserved(first), ..state.clone() }, input);
        }
        decide(state, input)
    }
}

mod payment_bugs {
    use contracts::Because;
    use money::Event as Say;
    use payment::domain::{Input, State, decide};

    use super::{Decision, Money, money};

    pub fn no_tombstone(state: &State, input: &Input) -> Money {
        match (state, input) {
            (State::Absent, Input::Cancel(_)) => Decision::Unchanged,
            _ => decide(state, input),
        }
    }

    pub fn a_cancel_in_flight_closes_the_step(state: &State, input: &Input) -> Money {
        match (state, input) {
            (State::Capturing(bill), Input::Cancel(why)) => {
                decide(&State::Barred(why.clone()), &Input::Capture(bill.clone()))
            }
            (State::Declined, Input::Captured { .. }) => Decision::Unchanged,
            _ => decide(state, input),
        }
    }

    pub fn a_late_success_overwrites_the_cancel(state: &State, input: &Input) -> Money {
        match (state, input) {
            (State::Turning(bill, _), Input::Captured { .. }) => {
                decide(&State::Capturing(bill.clone()), input)
            }
            _ => decide(state, input),
        }
    }

    pub fn releases_the_stock_before_the_refund_is_definite(state: &State, input: &Input) -> Money {
        match (state, input) {
            (State::Captured(_), Input::Refund(why)) => {
                decide(state, input).say(Say::ReleaseInventory(Because { reason: why.clone() }))
            }
            _ => decide(state, input),
        }
    }

    pub fn says_its_compensation_twice(state: &State, input: &Input) -> Money {
        let decision = decide(state, input);
        let release = match &decision {
            Decision::Become { events, .. } => {
                events.iter().find(|said| matches!(said, Say::ReleaseInventory(_))).cloned()
            }
            _ => None,
        };
        match release {
            Some(release) => decision.say(release),
            None => decision,
        }
    }

    pub fn lets_the_parcel_go_before_the_money_is_definite(state: &State, input: &Input) -> Money {
        match (state, input) {
            (State::Absent, Input::Capture(bill)) => {
                decide(state, input).say(Say::Captured(money::Captured {
                    amount: bill.total,
                    ship_to: bill.ship_to.clone(),
                    provider_ref: String::new(),
                }))
            }
            _ => decide(state, input),
        }
    }
}

mod shipping_bugs {
    use contracts::Because;
    use parcels::Event as Say;
    use shipping::domain::{Input, State, decide};

    use super::{Decision, Parcel, parcels};

    pub fn no_tombstone(state: &State, input: &Input) -> Parcel {
        match (state, input) {
            (State::Absent, Input::Cancel(_)) => Decision::Unchanged,
            _ => decide(state, input),
        }
    }

    pub fn says_nothing_of_a_booking_after_a_cancel(state: &State, input: &Input) -> Parcel {
        match (state, input) {
            (State::Booking, Input::Cancel(why)) => Decision::turn_to(State::Barred(why.clone())),
            (State::Barred(_), Input::Booked { tracking_ref }) => {
                Decision::turn_to(State::Booked { tracking_ref: tracking_ref.clone() })
            }
            _ => decide(state, input),
        }
    }

    pub fn wants_a_refund_before_the_train_is_there(state: &State, input: &Input) -> Parcel {
        match (state, input) {
            (State::Absent, Input::Cancel(why)) => {
                decide(state, input).say(Say::RefundPayment(Because { reason: why.clone() }))
            }
            _ => decide(state, input),
        }
    }
}

fn ignores_a_booking_after_its_cancel(
    state: &order::domain::State,
    input: &order::domain::Input,
) -> Order {
    use order::domain::{Input, State, Status, decide};
    match (state, input) {
        (State::Known(_, Status::Cancelling(_)), Input::Booked) => Decision::Unchanged,
        _ => decide(state, input),
    }
}

fn takes_unknown_for_refused(policy: &Policy, call: &CallState, heard: Heard) -> Next {
    match heard {
        Heard::Answer(Outcome::Unknown { code, .. }) => Next::Settle(Settled::Refused { code }),
        _ => calls::next(policy, call, heard),
    }
}

fn trusts_a_refusal_in_doubt(policy: &Policy, call: &CallState, heard: Heard) -> Next {
    match heard {
        Heard::Answer(Outcome::Refused { code }) => Next::Settle(Settled::Refused { code }),
        _ => calls::next(policy, call, heard),
    }
}

fn sends_again_without_a_look_up(policy: &Policy, call: &CallState, heard: Heard) -> Next {
    match heard {
        Heard::Due => calls::next(policy, &CallState { in_doubt: false, ..*call }, heard),
        _ => calls::next(policy, call, heard),
    }
}

#[test]
fn without_the_inbox_a_decide_that_is_not_idempotent_loses_count_of_the_stock() {
    let parts = Parts { inventory: inventory_bugs::gives_back_twice, ..Parts::real() };
    breaks("no inbox, decide not idempotent", parts, STOCK_CONSERVED, (6, 2_916));
}

#[test]
fn with_the_inbox_a_decide_that_is_not_idempotent_does_no_harm() {
    let inventory = inventory_bugs::gives_back_twice;
    let line = Line::one_order(Parts { inventory, inbox: true, ..Parts::real() });
    line.checker().spawn_bfs().join().assert_properties();
}

#[test]
fn without_a_tombstone_at_inventory_a_cancel_in_time_is_confirmed() {
    let parts = Parts { inventory: inventory_bugs::no_tombstone, ..Parts::real() };
    breaks("no tombstone at inventory", parts, CANCEL_HEEDED, (9, 7_639));
}

#[test]
fn without_a_tombstone_at_payment_a_cancel_in_time_is_confirmed() {
    let parts = Parts { payment: payment_bugs::no_tombstone, ..Parts::real() };
    breaks("no tombstone at payment", parts, CANCEL_HEEDED, (9, 7_699));
}

#[test]
fn without_a_tombstone_at_shipping_a_cancel_in_time_is_confirmed() {
    let parts = Parts { shipping: shipping_bugs::no_tombstone, ..Parts::real() };
    breaks("no tombstone at shipping", parts, CANCEL_HEEDED, (9, 5_297));
}

#[test]
fn a_fresh_key_per_attempt_charges_twice() {
    let parts = Parts { key: |call| call.attempts, ..Parts::real() };
    breaks("fresh key per attempt", parts, ONE_CHARGE, (5, 4_280));
    breaks("fresh key per attempt", parts, ONE_KEY, (5, 4_280));
}

#[test]
fn a_cancel_that_closes_a_step_in_flight_keeps_the_money() {
    let parts =
        Parts { payment: payment_bugs::a_cancel_in_flight_closes_the_step, ..Parts::real() };
    breaks("cancel in flight closes the step", parts, ADDS_UP, (10, 9_498));
}

#[test]
fn a_late_success_that_overwrites_the_cancel_confirms_what_was_cancelled() {
    let parts =
        Parts { payment: payment_bugs::a_late_success_overwrites_the_cancel, ..Parts::real() };
    breaks("late success overwrites the waiting cancel", parts, CANCEL_HEEDED, (9, 5_036));
}

#[test]
fn an_offset_stored_before_the_transaction_leaves_orders_lying() {
    let parts = Parts { shell: Shell::OffsetFirst, ..Parts::real() };
    breaks("offset stored before the transaction", parts, ADDS_UP, (2, 2_694));
}

#[test]
fn a_state_without_its_events_leaves_orders_lying() {
    let parts = Parts { shell: Shell::StateWithoutEvents, ..Parts::real() };
    breaks("state without its events", parts, ADDS_UP, (2, 2_789));
}

#[test]
fn unknown_taken_for_refused_keeps_the_money() {
    let parts = Parts { next: takes_unknown_for_refused, ..Parts::real() };
    breaks("unknown taken as refused", parts, ADDS_UP, (6, 2_394));
}

#[test]
fn a_refusal_trusted_in_doubt_keeps_the_money_of_the_attempt_before() {
    let parts = Parts { next: trusts_a_refusal_in_doubt, ..Parts::real() };
    breaks("refusal after an unknown attempt trusted", parts, ADDS_UP, (8, 5_370));
}

#[test]
fn a_forgotten_key_sent_again_without_a_look_up_charges_twice() {
    let parts = Parts { next: sends_again_without_a_look_up, ..Parts::real() };
    breaks("key expired, sent again without a look-up", parts, ONE_CHARGE, (6, 3_066));
}

#[test]
fn stock_released_before_the_refund_is_definite_is_a_failure_said_too_early() {
    let payment = payment_bugs::releases_the_stock_before_the_refund_is_definite;
    breaks(
        "stock released too early",
        Parts { payment, ..Parts::real() },
        SETTLED_FIRST,
        (7, 2_830),
    );
}

#[test]
fn a_compensation_said_twice_is_no_word_of_payment() {
    let parts = Parts { payment: payment_bugs::says_its_compensation_twice, ..Parts::real() };
    breaks("compensation said twice", parts, OWN_WORDS, (4, 3_022));
}

#[test]
fn an_order_that_ignores_a_booking_after_its_cancel_never_ends() {
    let parts = Parts { order: ignores_a_booking_after_its_cancel, ..Parts::real() };
    breaks("order ignores a booking after its cancel", parts, ADDS_UP, (11, 13_883));
    breaks("order ignores a booking after its cancel", parts, AGREED, (11, 13_883));
}

#[test]
fn a_booking_after_a_cancel_that_is_not_said_leaves_the_order_lying() {
    let shipping = shipping_bugs::says_nothing_of_a_booking_after_a_cancel;
    breaks(
        "booked after a cancel, nothing said",
        Parts { shipping, ..Parts::real() },
        ADDS_UP,
        (10, 10_196),
    );
}

#[test]
fn an_event_set_aside_that_freezes_its_order_never_lets_it_end() {
    let parts = Parts { shell: Shell::FrozenByALetter, ..Parts::real() };
    breaks("an event set aside freezes its order", parts, REPLAY_ENDS, (7, 2_511));
    breaks("an event set aside freezes its order", parts, ADDS_UP, (7, 2_511));
}

#[test]
fn a_release_of_the_first_line_only_loses_stock() {
    let inventory = inventory_bugs::gives_back_the_first_line_only;
    breaks(
        "release gives back the first line only",
        Parts { inventory, ..Parts::real() },
        STOCK_CONSERVED,
        (5, 2_826),
    );
}

#[test]
fn a_parcel_that_goes_before_the_money_is_definite_is_booked_unpaid() {
    let payment = payment_bugs::lets_the_parcel_go_before_the_money_is_definite;
    breaks(
        "parcel goes before the money is definite",
        Parts { payment, ..Parts::real() },
        PAID_FIRST,
        (5, 4_463),
    );
}

#[test]
fn a_refund_wanted_before_the_train_is_there_is_unexpected() {
    let shipping = shipping_bugs::wants_a_refund_before_the_train_is_there;
    let parts = Parts { shipping, ..Parts::real() };
    breaks("refund wanted before the train is there", parts, NOTHING_UNEXPECTED, (4, 2_936));
}
