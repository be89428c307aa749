//! Every state with every input, as a table in the documents. The table is written by `decide`
//! itself: `UPDATE_DOCS=1` writes it anew, otherwise it must be as it is checked in.

use std::fmt::{Debug, Write};
use std::path::Path;
use std::sync::Arc;

use contracts::{Currency, Line, Money, PaymentMethod, Reason, ShipTo};
use saga::{Decision, Event};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/decisions.md");

const HEAD: &str = "# What each service decides

Every state with every input, written by the `decide` of each service: run
`UPDATE_DOCS=1 cargo test -p model --test decisions` after a change.

A cell tells the next state, what is said, and which outside call is wanted. `·` changes nothing.
*Never* is what cannot be between these services, as the model shows: nothing changes, the input is
set aside, and somebody is called.
";

fn because() -> Reason {
    Reason::new(Reason::CUSTOMER, "order")
}

fn ship_to() -> ShipTo {
    let text = String::new;
    ShipTo { name: text(), street: text(), city: text(), postcode: text(), country: text() }
}

fn eur() -> Currency {
    "EUR".parse().expect("a currency")
}

fn lines() -> Vec<Line> {
    vec![Line { sku: "TEA-1".into(), quantity: 1, unit_price_minor: 450 }]
}

fn placed() -> contracts::order::Placed {
    contracts::order::Placed {
        lines: lines(),
        total: Money::new(450, eur()),
        payment_method: PaymentMethod(String::new()),
        ship_to: ship_to(),
    }
}

/// The name of an enum's variant, without what it carries.
fn variant(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    text.split(['(', '{', ' ']).next().unwrap_or_default().to_owned()
}

fn cell<S, E: Event, C: Debug, R: Debug>(
    decision: Decision<S, E, C, R>,
    name: impl Fn(&S) -> String,
) -> String {
    match decision {
        Decision::Unchanged => "·".to_owned(),
        Decision::Rejected(why) => format!("refused: {why:?}"),
        Decision::Unexpected(why) => format!("*never*: {why}"),
        Decision::Become { state, events, calls } => {
            let mut text = format!("**{}**", name(&state));
            for event in events {
                write!(text, ", says {}", event.event_type().name).expect("a string takes all");
            }
            for call in calls {
                write!(text, ", wants {}", variant(&call)).expect("a string takes all");
            }
            text
        }
    }
}

fn table<S, I: Debug>(
    title: &str,
    states: &[S],
    inputs: &[I],
    name: impl Fn(&S) -> String,
    decide: impl Fn(&S, &I) -> String,
) -> String {
    let mut text = format!("\n## {title}\n\n| |");
    for input in inputs {
        write!(text, " {} |", variant(input)).expect("a string takes all");
    }
    write!(text, "\n|{}\n", "---|".repeat(inputs.len() + 1)).expect("a string takes all");
    for state in states {
        write!(text, "| **{}** |", name(state)).expect("a string takes all");
        for input in inputs {
            write!(text, " {} |", decide(state, input)).expect("a string takes all");
        }
        text.push('\n');
    }
    text
}

fn order_table() -> String {
    use order::domain::{Input, Order, Place, State, Status, decide};
    let known = |status| {
        let order = Order {
            caller: "default".into(),
            customer_id: String::new(),
            lines: lines(),
            total: placed().total,
            payment_method: placed().payment_method,
            ship_to: ship_to(),
        };
        State::Known(Arc::new(order), status)
    };
    let states = [
        State::Absent,
        known(Status::Pending),
        known(Status::Cancelling(because())),
        known(Status::Confirmed { too_late: false }),
        known(Status::Cancelled(because())),
    ];
    let inputs = [
        Input::Place(Place {
            caller: "default".into(),
            customer_id: String::new(),
            currency: eur(),
            lines: lines(),
            payment_method: placed().payment_method,
            ship_to: ship_to(),
        }),
        Input::Cancel { caller: "default".into() },
        Input::Expire,
        Input::Booked,
        Input::CameBack(because()),
    ];
    let name = |state: &State| match state {
        State::Absent => "Absent".to_owned(),
        State::Known(_, Status::Confirmed { too_late: true }) => {
            "Confirmed, the cancel came too late".to_owned()
        }
        State::Known(_, fate) => variant(fate),
    };
    table("order", &states, &inputs, name, |state, input| cell(decide(state, input), name))
}

fn inventory_table() -> String {
    use inventory::domain::{Input, State, Step, Units, decide};
    let stock = Units::from([("TEA-1".to_owned(), 1)]);
    let states = [
        Step::Absent,
        Step::Barred(because()),
        Step::Reserved(stock.clone()),
        Step::Rejected,
        Step::Released,
        Step::Counted,
    ];
    let inputs = [
        Input::Reserve(placed()),
        Input::Release(because()),
        Input::Cancel(because()),
        Input::Count { sku: "TEA-1".into(), available: 9 },
    ];
    let decide = |step: &Step, input: &Input| {
        let state = State { step: step.clone(), stock: stock.clone() };
        cell(decide(&state, input), |state| variant(&state.step))
    };
    table("inventory (with stock enough)", &states, &inputs, variant, decide)
}

fn payment_table() -> String {
    use contracts::inventory::Waybill;
    use payment::domain::{Input, Receipt, State, decide};
    let contracts::order::Placed { total, payment_method, ship_to, .. } = placed();
    let bill = Waybill { total, payment_method, ship_to };
    let paid = Receipt { amount: total, provider_ref: String::new() };
    let states = [
        State::Absent,
        State::Barred(because()),
        State::Capturing(bill.clone()),
        State::Turning(bill.clone(), because()),
        State::Captured(paid.clone()),
        State::Refunding(paid, because()),
        State::Declined,
        State::Refunded,
    ];
    let inputs = [
        Input::Capture(bill),
        Input::Captured { provider_ref: String::new() },
        Input::Refused { code: "card_declined".into() },
        Input::Cancel(because()),
        Input::Refund(because()),
        Input::Refunded,
    ];
    let name = |state: &State| variant(state);
    table("payment", &states, &inputs, name, |state, input| cell(decide(state, input), name))
}

fn shipping_table() -> String {
    use shipping::domain::{Input, State, decide};
    let states = [
        State::Absent,
        State::Barred(because()),
        State::Booking,
        State::Booked { tracking_ref: String::new() },
        State::Failed,
    ];
    let inputs = [
        Input::Book(ship_to()),
        Input::Booked { tracking_ref: String::new() },
        Input::Refused { code: "address_rejected".into() },
        Input::Cancel(because()),
    ];
    let name = |state: &State| variant(state);
    table("shipping", &states, &inputs, name, |state, input| cell(decide(state, input), name))
}

#[test]
fn the_documents_show_what_is_decided() {
    let tables = [order_table(), inventory_table(), payment_table(), shipping_table()];
    let decided = format!("{HEAD}{}", tables.concat());
    let document = Path::new(DOCUMENT);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(document, &decided).expect("the document can be written");
    }
    let shown = std::fs::read_to_string(document).expect("the document is checked in");
    assert!(shown == decided, "docs/decisions.md is behind; its first lines tell how to renew it");
}
