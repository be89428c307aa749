//! Each of the checker's statements, on a small world made by hand: it holds there, and it finds
//! what contradicts it.

use std::collections::{BTreeMap, BTreeSet};

use e2e_tests::check::rules;
use e2e_tests::check::world::{
    Call, Event, Handled, KeptAnswer, Letter, OrderRow, Outside, ReservationRow, Shelf, Spoken,
    StepRow, Told, Unsent,
};
use e2e_tests::check::{self, Known, World, corruptions};
use e2e_tests::whole::DeadLetter;
use e2e_tests::wire::{Effect, Effects, Entry, Money, NewOrder, Reason, Shown};
use uuid::Uuid;

/// Arrived; refused by the carrier; sold out.
const ARRIVED: Uuid = Uuid::from_u128(100);
const SENT_BACK: Uuid = Uuid::from_u128(200);
const SOLD_OUT: Uuid = Uuid::from_u128(300);

/// Who says what because of which event of the same list.
type Script = &'static [(&'static str, &'static str, Option<usize>)];

const ARRIVES: Script = &[
    ("order", "OrderPlaced", None),
    ("inventory", "InventoryReserved", Some(0)),
    ("payment", "PaymentCaptured", Some(1)),
    ("shipping", "ShipmentBooked", Some(2)),
    ("order", "OrderConfirmed", Some(3)),
];
const IS_SENT_BACK: Script = &[
    ("order", "OrderPlaced", None),
    ("inventory", "InventoryReserved", Some(0)),
    ("payment", "PaymentCaptured", Some(1)),
    ("shipping", "ShipmentFailed", Some(2)),
    ("shipping", "RefundPayment", Some(2)),
    ("payment", "PaymentRefunded", Some(4)),
    ("payment", "ReleaseInventory", Some(4)),
    ("inventory", "InventoryReleased", Some(6)),
    ("order", "OrderCancelled", Some(7)),
];
const IS_SOLD_OUT: Script = &[
    ("order", "OrderPlaced", None),
    ("inventory", "InventoryRejected", Some(0)),
    ("order", "OrderCancelled", Some(1)),
];

fn asked() -> NewOrder {
    NewOrder::of("TEA-1", 2)
}

/// Three orders as they should be, and what is known of them.
fn world() -> (World, Known) {
    let mut world = World { outside: Some(Outside::default()), ..World::default() };
    add(&mut world, ARRIVED, ARRIVES, [3, 2, 4, 3], None);
    add(&mut world, SENT_BACK, IS_SENT_BACK, [5, 4, 7, 4], Some("address_rejected@shipping"));
    add(&mut world, SOLD_OUT, IS_SOLD_OUT, [5, 3, 0, 0], Some("out_of_stock@inventory"));
    world.shelves.push(Shelf { sku: "TEA-1".to_owned(), available: 8, counted: 10 });
    world.ledger = vec![
        entry(1, "capture", ARRIVED),
        entry(2, "capture", SENT_BACK),
        entry(3, "book", ARRIVED),
        entry(4, "refund", SENT_BACK),
    ];
    let acknowledged = BTreeMap::from([(ARRIVED, asked()), (SENT_BACK, asked())]);
    let unknown = BTreeMap::from([(format!("key of {SOLD_OUT}"), asked())]);
    (world, Known { acknowledged, unknown, ..Known::default() })
}

fn add(
    world: &mut World,
    order_id: Uuid,
    script: Script,
    states: rules::States,
    reason: Option<&str>,
) {
    let events = said(order_id, script);
    let heard = events.iter().flat_map(|event| {
        let by = rules::hearers(event.name()).iter();
        by.map(|by| Handled { event_id: event.id, consumer: (*by).to_owned(), is_stray: false })
    });
    world.inbox.extend(heard);
    let counts = e2e_tests::SERVICES
        .map(|service| events.iter().filter(|event| event.service == service).count());
    let [order, inventory, payment, shipping] =
        counts.map(|count| i32::try_from(count).expect("a handful"));
    let outside = world.outside.as_mut().expect("read in full");
    outside.records.extend(events.iter().map(record));
    outside.timeline.extend(events.iter().map(told));
    outside.shown.insert(order_id, shown(states, reason));
    world.events.extend(events);
    world.events.sort_by(|a, b| {
        (a.subject, &a.service, a.version).cmp(&(b.subject, &b.service, b.version))
    });
    let row = OrderRow {
        order_id,
        status: states[0],
        said: order,
        reason: reason.map(str::to_owned),
        amount_minor: 900,
        asked: asked(),
    };
    world.orders.insert(order_id, row);
    let held = (states[1] == 2).then(|| BTreeMap::from([("TEA-1".to_owned(), 2)]));
    let row = ReservationRow { order_id, status: states[1], said: inventory, held };
    world.reservations.insert(order_id, row);
    for (rows, status, said) in
        [(&mut world.payments, states[2], payment), (&mut world.shipments, states[3], shipping)]
    {
        if status > 0 {
            rows.insert(order_id, StepRow { order_id, status, said });
        }
    }
    world.answers.push(KeptAnswer {
        route: "/v1/orders".to_owned(),
        key: format!("key of {order_id}"),
        status: 202,
        order_id: Some(order_id),
    });
}

fn said(order_id: Uuid, script: Script) -> Vec<Event> {
    let id = |place: usize| Uuid::from_u128(order_id.as_u128() + place as u128 + 1);
    let mut events: Vec<Event> = Vec::new();
    for (place, (service, name, cause)) in script.iter().enumerate() {
        let before = events.iter().filter(|event| event.service == *service).count();
        events.push(Event {
            service: (*service).to_owned(),
            id: id(place),
            subject: order_id,
            version: i32::try_from(before + 1).ok(),
            kind: format!("switchback.{service}.{name}.v1"),
            cause: cause.map(id),
            body: format!("{{\"{name}\":1}}").into_bytes(),
            is_stray: false,
        });
    }
    events
}

fn record(event: &Event) -> Spoken {
    Spoken {
        service: event.service.clone(),
        id: Some(event.id),
        subject: Some(event.subject),
        key: Some(event.subject.to_string().into_bytes()),
        version: event.version,
        kind: event.kind.clone(),
        cause: event.cause,
        body: Some(event.body.clone()),
        injected: false,
    }
}

fn told(event: &Event) -> Told {
    Told {
        order_id: event.subject,
        event_id: event.id,
        service: event.service.clone(),
        version: event.version,
        name: event.name().to_owned(),
        cause: event.cause,
    }
}

fn shown(states: rules::States, reason: Option<&str>) -> Shown {
    let [inventory, payment, shipping] =
        rules::shown_at_the_end(states).map(|status| Effect { status: status.to_owned() });
    let reason = reason.and_then(|reason| reason.split_once('@'));
    Shown {
        status: rules::shown_status(states[0]).0.to_owned(),
        reason: reason.map(|(code, service)| Reason { code: code.into(), service: service.into() }),
        cancel: None,
        effects: Some(Effects { inventory, payment, shipping }),
        total: Some(Money { amount_minor: 900, currency: "EUR".to_owned() }),
    }
}

fn entry(seq: u64, operation: &str, order_id: Uuid) -> Entry {
    let is_money = operation != "book";
    Entry {
        seq,
        operation: operation.to_owned(),
        order_id,
        idempotency_key: format!("{order_id}-{operation}"),
        amount_minor: is_money.then_some(900),
        currency: is_money.then(|| "EUR".to_owned()),
        reference: format!("{operation} of {order_id}"),
        capture_reference: (operation == "refund").then(|| format!("capture of {order_id}")),
    }
}

fn call(subject: Uuid, step: &str) -> Call {
    Call {
        service: "payment".to_owned(),
        subject,
        step: step.to_owned(),
        idempotency_key: format!("{subject}-{step}"),
        attempts: 2,
        in_doubt: true,
        is_stuck: false,
        late_seconds: Some(-60.0),
    }
}

fn letter(service: &str, code: &str, subject: Option<Uuid>) -> Letter {
    Letter {
        service: service.to_owned(),
        consumer: service.to_owned(),
        code: code.to_owned(),
        subject,
        headers: None,
    }
}

fn event<'a>(world: &'a mut World, subject: Uuid, name: &str) -> &'a mut Event {
    let mut events = world.events.iter_mut();
    events.find(|event| event.subject == subject && event.name() == name).expect("it was said")
}

fn remove(world: &mut World, subject: Uuid, name: &str) {
    let id = event(world, subject, name).id;
    world.events.retain(|event| event.id != id);
}

fn outside(world: &mut World) -> &mut Outside {
    world.outside.as_mut().expect("read in full")
}

fn payment(world: &mut World, order_id: Uuid) -> &mut StepRow {
    world.payments.get_mut(&order_id).expect("there is a payment")
}

/// A statement, and what it has to find.
type Contradiction = (&'static str, fn(&mut World, &mut Known));

const AT_ANY_MOMENT: [Contradiction; 29] = [
    ("an order is charged once at most", |world, _| {
        world.ledger.push(entry(5, "capture", ARRIVED));
    }),
    ("a parcel is booked once at most", |world, _| world.ledger.push(entry(5, "book", ARRIVED))),
    ("refunds never exceed the charge that they name", |world, _| {
        world.ledger.push(entry(5, "refund", SENT_BACK));
    }),
    ("refunds never exceed the charge that they name", |world, _| {
        world.ledger[3].capture_reference = Some("capture of somebody else".to_owned());
    }),
    ("refunds never exceed the charge that they name", |world, _| world.ledger[3].seq = 1),
    ("refunds never exceed the charge that they name", |world, _| {
        world.ledger[3].currency = Some("CHF".to_owned());
    }),
    ("every effect was wanted", |world, _| world.ledger.push(entry(5, "capture", SOLD_OUT))),
    // A refusal was believed although the money was taken.
    ("every effect was wanted", |world, _| payment(world, SENT_BACK).status = 6),
    ("every effect was wanted", |world, _| world.ledger[0].amount_minor = Some(901)),
    ("a step has one key for ever", |world, _| {
        let mut again = call(ARRIVED, "capture");
        again.idempotency_key.push_str("-2");
        world.calls.push(again);
    }),
    ("stock is conserved", |world, _| world.shelves[0].available = 7),
    ("stock is conserved", |world, _| world.shelves.clear()),
    ("an order holds every line or none", |world, _| {
        let row = world.reservations.get_mut(&ARRIVED).expect("it holds something");
        row.held = Some(BTreeMap::from([("TEA-1".to_owned(), 1)]));
    }),
    ("an order holds every line or none", |world, _| {
        let row = world.reservations.get_mut(&SENT_BACK).expect("it held something");
        row.held = Some(BTreeMap::from([("TEA-1".to_owned(), 2)]));
    }),
    ("events are numbered without a gap", |world, _| remove(world, ARRIVED, "OrderPlaced")),
    // A state was committed without its event.
    ("events are numbered without a gap", |world, _| remove(world, ARRIVED, "OrderConfirmed")),
    ("a service says a word of its machine", |world, _| {
        let kind = &mut event(world, ARRIVED, "PaymentCaptured").kind;
        "switchback.payment.PaymentRefunded.v1".clone_into(kind);
    }),
    ("a state has said what led to it", |world, _| payment(world, ARRIVED).status = 2),
    ("a state has said what led to it", |world, _| world.shipments.clear()),
    ("a parcel follows its charge", |world, _| world.ledger[0].seq = 9),
    ("a parcel follows its charge", |world, _| remove(world, SENT_BACK, "PaymentCaptured")),
    ("an event is handled once", |world, _| world.inbox.push(world.inbox[0].clone())),
    ("an event has a cause that its producer has handled", |world, _| {
        world.inbox.retain(|row| row.consumer != "payment");
    }),
    ("an event has a cause that its producer has handled", |world, _| {
        event(world, ARRIVED, "PaymentCaptured").cause = None;
    }),
    ("a cause has one decision", |world, _| {
        let mut again = event(world, ARRIVED, "OrderConfirmed").clone();
        again.version = Some(3);
        world.events.push(again);
    }),
    ("the unknown compensates nobody", |world, _| world.calls.push(call(SENT_BACK, "refund"))),
    ("a call stays within its bounds", |world, _| {
        world.calls.push(Call { in_doubt: false, ..call(ARRIVED, "capture") });
    }),
    ("an answer that was given is true", |world, _| drop(world.orders.remove(&SOLD_OUT))),
    ("every row lies in its week", |world, _| world.inbox[0].is_stray = true),
];

const ONCE_QUIET: [Contradiction; 22] = [
    ("what was acknowledged is there as it was asked for", |_, known| {
        known.acknowledged.insert(Uuid::from_u128(400), asked());
    }),
    ("what was acknowledged is there as it was asked for", |_, known| {
        known.acknowledged.insert(ARRIVED, NewOrder::of("TEA-1", 3));
    }),
    ("what was acknowledged is there as it was asked for", |_, known| {
        known.cancelled = BTreeSet::from([ARRIVED]);
    }),
    ("what was never answered happened in full or not at all", |world, _| {
        let row = world.orders.get_mut(&SOLD_OUT).expect("it was placed");
        "Berne".clone_into(&mut row.asked.ship_to.city);
    }),
    ("the services agree on an end, or a person is told", |world, _| {
        payment(world, ARRIVED).status = 2;
    }),
    ("money and parcels are what the end says", |world, _| drop(world.ledger.remove(0))),
    ("nothing is left under way", |world, _| {
        world.outbox.push(Unsent { service: "order".to_owned(), event_id: ARRIVED });
    }),
    ("nothing is left under way", |world, _| world.calls.push(call(ARRIVED, "capture"))),
    ("nothing is left under way", |world, _| {
        // Stuck, and nobody is told.
        world.calls.push(Call { is_stuck: true, ..call(ARRIVED, "capture") });
    }),
    ("every event is handled or set aside by all who hear it", |world, _| {
        drop(world.inbox.remove(0));
    }),
    ("dead letters are those that had to be", |world, _| {
        world.dead_letters.push(letter("payment", "DECODE", None));
    }),
    ("dead letters are those that had to be", |_, known| {
        let [service, consumer, code] = ["payment", "payment", "DECODE"].map(str::to_owned);
        known.dead_letters.push(DeadLetter { service, consumer, code });
    }),
    ("customers are shown what is stored", |world, _| {
        let shown = outside(world).shown.get_mut(&ARRIVED).expect("it is shown");
        shown.cancel = Some("too_late".to_owned());
    }),
    ("customers are shown what is stored", |world, _| {
        let shown = outside(world).shown.get_mut(&SENT_BACK).expect("it is shown");
        let effects = shown.effects.as_mut().expect("with effects");
        "done".clone_into(&mut effects.payment.status);
    }),
    ("customers are shown what is stored", |world, _| {
        drop(outside(world).shown.remove(&SOLD_OUT));
    }),
    ("the timeline tells each event once", |world, _| drop(outside(world).timeline.pop())),
    ("the timeline tells each event once", |world, _| {
        let again = outside(world).timeline[0].clone();
        outside(world).timeline.push(again);
    }),
    ("the topics hold nothing but what was said", |world, _| {
        outside(world).records[0].body = Some(b"{}".to_vec());
    }),
    ("the topics hold nothing but what was said", |world, _| {
        outside(world).records[0].key = None;
    }),
    ("the topics hold nothing but what was said", |world, _| {
        "shipping".clone_into(&mut outside(world).records[0].service);
    }),
    ("what was said is in its topic", |world, _| drop(outside(world).records.pop())),
    ("the world was read in full", |world, _| world.outside = None),
];

fn found(world: &World, known: &Known) -> Vec<String> {
    let found = check::always(world).into_iter().chain(check::quiet(world, known));
    found.map(|violation| violation.to_string()).collect()
}

#[test]
fn a_world_as_it_should_be_contradicts_nothing() {
    let (world, known) = world();
    assert_eq!(found(&world, &known), [] as [String; 0]);
}

#[test]
fn every_statement_finds_what_contradicts_it() {
    let mut tried = BTreeSet::new();
    for (statement, contradict) in AT_ANY_MOMENT.into_iter().chain(ONCE_QUIET) {
        let (mut world, mut known) = world();
        contradict(&mut world, &mut known);
        let found = found(&world, &known);
        assert!(found.iter().any(|it| it.starts_with(statement)), "{statement}: {found:#?}");
        tried.insert(statement);
    }
    let all: BTreeSet<_> = check::statements().collect();
    assert_eq!(tried, all);
}

#[test]
fn what_the_run_made_up_itself_and_what_a_person_is_told_of_is_no_contradiction() {
    let (mut world, mut known) = world();
    let mut made_up = outside(&mut world).records[0].clone();
    made_up.id = None;
    made_up.injected = true;
    outside(&mut world).records.push(made_up);
    let mut named = outside(&mut world).records[1].clone();
    named.id = Some(Uuid::from_u128(7));
    known.injected_event_ids.insert(Uuid::from_u128(7));
    outside(&mut world).records.push(named);
    // Not handled, but set aside with its envelope, and expected to be.
    let missed = event(&mut world, ARRIVED, "ShipmentBooked").id;
    world.inbox.retain(|row| row.event_id != missed);
    remove(&mut world, ARRIVED, "OrderConfirmed");
    outside(&mut world).records.retain(|record| !record.kind.contains("OrderConfirmed"));
    outside(&mut world).timeline.retain(|row| row.name != "OrderConfirmed");
    let row = world.orders.get_mut(&ARRIVED).expect("it was placed");
    (row.status, row.said) = (1, 1);
    "pending".clone_into(&mut outside(&mut world).shown.get_mut(&ARRIVED).expect("shown").status);
    let headers = serde_json::json!([["ce_id", missed]]).to_string().into_bytes();
    world.dead_letters.push(Letter {
        headers: Some(headers),
        ..letter("order", "UNSUPPORTED_VERSION", Some(ARRIVED))
    });
    let [service, code] = ["order", "UNSUPPORTED_VERSION"].map(str::to_owned);
    known.dead_letters.push(DeadLetter { consumer: service.clone(), service, code });
    assert_eq!(found(&world, &known), [] as [String; 0]);
}

#[test]
fn what_a_broker_forgot_before_events_were_published_again_is_no_contradiction() {
    let (mut world, mut known) = world();
    outside(&mut world).records.clear();
    assert_eq!(found(&world, &known).len(), world.events.len());
    known.republished = true;
    assert_eq!(found(&world, &known), [] as [String; 0]);
}

#[test]
fn a_decision_on_a_record_that_the_run_made_up_is_no_contradiction() {
    let (mut world, known) = world();
    let made_up = Uuid::from_u128(7);
    event(&mut world, SOLD_OUT, "InventoryRejected").cause = Some(made_up);
    let told = outside(&mut world).timeline.iter_mut();
    told.filter(|row| row.name == "InventoryRejected").for_each(|row| row.cause = Some(made_up));
    let records = &mut outside(&mut world).records;
    let said = records.iter_mut().filter(|record| record.kind.contains("InventoryRejected"));
    said.for_each(|record| record.cause = Some(made_up));
    assert_eq!(found(&world, &known).len(), 1);
    let mut marked = outside(&mut world).records[0].clone();
    (marked.id, marked.injected) = (Some(made_up), true);
    outside(&mut world).records.push(marked);
    assert_eq!(found(&world, &known), [] as [String; 0]);
}

#[test]
fn every_planted_corruption_is_found_and_none_that_could_not_be_planted() {
    let (world, known) = world();
    assert_eq!(corruptions::not_found(&world, &known), [] as [&str; 0]);
    let missed = corruptions::not_found(&World::default(), &Known::default());
    assert_eq!(missed.len(), corruptions::CORRUPTIONS.len());
    let names: BTreeSet<_> = check::statements().collect();
    assert!(corruptions::CORRUPTIONS.iter().all(|it| names.contains(it.found_by)));
}
