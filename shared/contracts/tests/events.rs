//! Golden events decode for ever: a file in `golden/` is only ever added.

use std::fmt::Debug;
use std::fs;
use std::path::PathBuf;

use contracts::{
    Because, Currency, Line, Money, PaymentMethod, Reason, ShipTo, inventory, order, payment,
    shipping,
};
use proptest::prelude::*;
use saga::{Event, EventType, Undecodable};

fn waybill() -> inventory::Waybill {
    inventory::Waybill {
        total: Money::new(900, "EUR".parse::<Currency>().expect("a currency")),
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

fn because(code: &'static str, service: &'static str) -> Because {
    Reason::new(code, service).into()
}

fn order_events() -> Vec<order::Event> {
    use order::Event::*;
    let inventory::Waybill { total, payment_method, ship_to } = waybill();
    let lines = vec![Line { sku: "TEA-1".into(), quantity: 2, unit_price_minor: 450 }];
    vec![
        Placed(order::Placed { lines, total, payment_method, ship_to }),
        CancelRequested(because(Reason::CUSTOMER, "order")),
        Confirmed(order::Confirmed {}),
        Cancelled(because("card_declined", "payment")),
    ]
}

fn inventory_events() -> Vec<inventory::Event> {
    use inventory::Event::*;
    vec![
        Reserved(waybill()),
        Rejected(because(Reason::OUT_OF_STOCK, "inventory")),
        Released(because("card_declined", "payment")),
    ]
}

fn payment_events() -> Vec<payment::Event> {
    use payment::Event::*;
    let inventory::Waybill { total, ship_to, .. } = waybill();
    vec![
        Captured(payment::Captured { amount: total, ship_to, provider_ref: "cap_1".into() }),
        Declined(because("card_declined", "payment")),
        Refunded(because("address_rejected", "shipping")),
        ReleaseInventory(because("card_declined", "payment")),
    ]
}

fn shipping_events() -> Vec<shipping::Event> {
    use shipping::Event::*;
    vec![
        Booked(shipping::Booked { tracking_ref: "trk_1".into() }),
        Failed(because("address_rejected", "shipping")),
        RefundPayment(because("address_rejected", "shipping")),
    ]
}

/// Each event is what its golden file says, and is written so that it comes back.
fn hold<E: Event + Debug + PartialEq>(events: &[E]) {
    for event in events {
        let kind = event.event_type();
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join(format!("tests/golden/{}.v{}.json", kind.name, kind.version));
        let golden = fs::read(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        assert_eq!(E::decode(&kind, &golden).as_ref(), Ok(&Some(event.clone())), "{kind}");
        assert_eq!(E::decode(&kind, &event.body()).as_ref(), Ok(&Some(event.clone())), "{kind}");
    }
}

/// Fields may be added, other names are skipped, other versions are refused.
fn stand<E: Event + Debug + PartialEq>(events: &[E]) {
    for event in events {
        let kind = event.event_type();
        let mut body: serde_json::Value =
            serde_json::from_slice(&event.body()).expect("a body is JSON");
        body["added_later"] = serde_json::json!({"x": [1, null]});
        let body = body.to_string();
        assert_eq!(E::decode(&kind, body.as_bytes()).as_ref(), Ok(&Some(event.clone())), "{kind}");

        let newer = EventType { version: 2, ..kind.clone() };
        assert_eq!(E::decode(&newer, body.as_bytes()), Err(Undecodable::Version(2)));
        let unknown = EventType { name: "TrainPainted".into(), ..kind.clone() };
        assert_eq!(E::decode(&unknown, body.as_bytes()), Ok(None));
        let foreign = EventType { producer: "signalbox".into(), ..kind };
        assert_eq!(E::decode(&foreign, body.as_bytes()), Ok(None));
    }
}

#[test]
fn golden_events_decode_for_ever() {
    hold(&order_events());
    hold(&inventory_events());
    hold(&payment_events());
    hold(&shipping_events());
}

#[test]
fn every_golden_file_belongs_to_an_event() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let files = fs::read_dir(folder).expect("the folder is checked in").count();
    let events = order_events().len()
        + inventory_events().len()
        + payment_events().len()
        + shipping_events().len();
    assert_eq!(files, events, "a golden file is only ever added, together with its event");
}

#[test]
fn fields_may_be_added_other_names_are_skipped_other_versions_refused() {
    stand(&order_events());
    stand(&inventory_events());
    stand(&payment_events());
    stand(&shipping_events());
}

#[test]
fn only_the_two_compensations_ask_for_an_undo() {
    fn undoing<E: Event>(events: &[E]) -> Vec<String> {
        (events.iter().filter(|event| E::is_compensation(&event.event_type())))
            .map(|event| event.event_type().name.into_owned())
            .collect()
    }
    assert_eq!(undoing(&payment_events()), ["ReleaseInventory"]);
    assert_eq!(undoing(&shipping_events()), ["RefundPayment"]);
    assert!(undoing(&order_events()).is_empty() && undoing(&inventory_events()).is_empty());
}

#[test]
fn what_does_not_decode_is_named_by_its_place_and_never_quoted() {
    let kind = order_events()[0].event_type();
    let body = br#"{"lines": "Rheingasse 1"}"#;
    let Err(Undecodable::Body(why)) = order::Event::decode(&kind, body) else {
        panic!("a text is no list of lines");
    };
    assert!(why.starts_with("line 1 column"), "{why}");
    let wrong = br#"{"amount_minor": 1, "currency": "euro"}"#;
    assert!(serde_json::from_slice::<Money>(wrong).is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        for event in order_events() {
            let read = order::Event::decode(&event.event_type(), &body);
            prop_assert!(!matches!(read, Ok(None)), "a known event is read or refused");
        }
    }

    #[test]
    fn any_waybill_comes_back_as_it_was_written(
        amount_minor: i64, letters in "[A-Z]{3}", texts in prop::array::uniform6(any::<String>()),
    ) {
        let [token, name, street, city, postcode, country] = texts;
        let event = inventory::Event::Reserved(inventory::Waybill {
            total: Money::new(amount_minor, letters.parse().expect("three capitals")),
            payment_method: PaymentMethod(token),
            ship_to: ShipTo { name, street, city, postcode, country },
        });
        let read = inventory::Event::decode(&event.event_type(), &event.body());
        prop_assert_eq!(read, Ok(Some(event)));
    }
}
