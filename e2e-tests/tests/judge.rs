//! A judge who finds nothing proves nothing: each statement finds the corruption planted for it.

use e2e_tests::check::rules;
use e2e_tests::metrics::sum;
use e2e_tests::saga::{Event, OrderRow, ReservationRow, Saga};
use e2e_tests::wire::{Effect, Effects, Entry, Money, Shown, Timeline, Told};
use uuid::Uuid;

fn event(number: u128, service: &str, version: i32, name: &str) -> Event {
    Event {
        service: service.to_owned(),
        id: Uuid::from_u128(number),
        version: Some(version),
        kind: format!("switchback.{service}.{name}.v1"),
    }
}

fn entry(seq: u64, operation: &str, amount_minor: Option<i64>) -> Entry {
    Entry {
        seq,
        operation: operation.to_owned(),
        order_id: Uuid::from_u128(100),
        idempotency_key: format!("key-{operation}"),
        amount_minor,
        currency: amount_minor.map(|_| "EUR".to_owned()),
        reference: format!("ref_{seq}"),
        capture_reference: None,
    }
}

fn told(event: &Event) -> Told {
    Told {
        event_id: event.id,
        service: event.service.clone(),
        version: event.version,
        name: event.name().to_owned(),
    }
}

/// An order that arrived, as it should be.
fn arrived() -> Saga {
    let events = vec![
        event(1, "inventory", 1, "InventoryReserved"),
        event(2, "order", 1, "OrderPlaced"),
        event(3, "order", 2, "OrderConfirmed"),
        event(4, "payment", 1, "PaymentCaptured"),
        event(5, "shipping", 1, "ShipmentBooked"),
    ];
    let heard = |event: &Event| {
        let id = event.id;
        rules::hearers(event.name()).iter().map(move |service| (id, (*service).to_owned()))
    };
    let done = || Effect { status: "done".to_owned() };
    Saga {
        order_id: Uuid::from_u128(100),
        is_over: true,
        order: OrderRow {
            status: 3,
            lines: r#"[{"sku":"TEA-1","quantity":2,"unit_price_minor":450}]"#.to_owned(),
            amount_minor: 900,
            currency: "EUR".to_owned(),
            reason_code: None,
            reason_service: None,
        },
        reservation: Some(ReservationRow { status: 2, held: Some(r#"{"TEA-1":2}"#.to_owned()) }),
        payment: Some(4),
        shipment: Some(3),
        handled: events.iter().flat_map(heard).collect(),
        unsent: Vec::new(),
        calls: 0,
        dead_letters: 0,
        ledger: vec![entry(1, "capture", Some(900)), entry(2, "book", None)],
        shown: Shown {
            status: "confirmed".to_owned(),
            reason: None,
            cancel: None,
            effects: Some(Effects { inventory: done(), payment: done(), shipping: done() }),
            total: Some(Money { amount_minor: 900, currency: "EUR".to_owned() }),
        },
        timeline: Timeline { items: events.iter().map(told).collect() },
        events,
    }
}

type Corruption = (&'static str, &'static str, fn(&mut Saga));

/// What is planted, and what the judge says to it.
const CORRUPTIONS: [Corruption; 16] = [
    ("a second charge", "2 charges", |saga| saga.ledger.push(entry(3, "capture", Some(900)))),
    ("a refund nobody wanted", "1 refunds", |saga| {
        saga.ledger.push(entry(3, "refund", Some(900)));
    }),
    ("a lost charge", "0 charges", |saga| drop(saga.ledger.remove(0))),
    ("a second booking", "2 bookings", |saga| saga.ledger.push(entry(3, "book", None))),
    ("a charge of another amount", "not of the total", |saga| {
        saga.ledger[0].amount_minor = Some(901);
    }),
    ("a booking before its charge", "before its charge", |saga| saga.ledger[0].seq = 9),
    ("a deleted event", "payment said []", |saga| drop(saga.events.remove(3))),
    ("an event said twice", "payment said", |saga| {
        saga.events.insert(4, event(6, "payment", 2, "PaymentCaptured"));
    }),
    ("a gap in the numbers", "not numbered", |saga| saga.events[2].version = Some(3)),
    ("an event never handled", "order never handled", |saga| {
        saga.handled.retain(|(_, service)| service != "order");
    }),
    ("a reservation that lost a unit", "holds", |saga| {
        saga.reservation = Some(ReservationRow { status: 2, held: Some(r#"{"TEA-1":1}"#.into()) });
    }),
    ("a payment put back one state", "disagree", |saga| saga.payment = Some(2)),
    ("a shipment that vanished", "disagree", |saga| saga.shipment = None),
    ("a status that is not stored", "not what is stored", |saga| {
        "cancelled".clone_into(&mut saga.shown.status);
    }),
    ("a timeline with a hole", "timeline", |saga| drop(saga.timeline.items.pop())),
    ("a timeline that repeats itself", "timeline", |saga| {
        let first = saga.timeline.items[0].clone();
        saga.timeline.items.push(first);
    }),
];

#[test]
fn an_order_as_it_should_be_is_found_in_order() {
    assert_eq!(arrived().violations(), [] as [String; 0]);
}

#[test]
fn every_planted_corruption_is_found() {
    for (what, said, plant) in CORRUPTIONS {
        let mut saga = arrived();
        plant(&mut saga);
        let found = saga.violations().join("; ");
        assert!(found.contains(said), "{what}: {found:?}");
    }
}

#[test]
fn series_are_summed_by_whole_name_and_by_label() {
    let text = "# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"1\"} 4\na 5\na_total 6\n";
    for (labels, wanted) in [(&[][..], 12.0), (&["x=\"1\""], 7.0), (&["y=\"2\""], 3.0)] {
        assert!((sum(text, "a", labels) - wanted).abs() < f64::EPSILON, "{labels:?}");
    }
}
