//! The judge of traces itself: it takes a trace that is as it should be, and finds each thing that
//! is made wrong with it.

use std::collections::{BTreeMap, BTreeSet};

use e2e_tests::saga::Event;
use e2e_tests::trace::{Told, violations, violations_of_commits};
use testkit::otlp::{Link, Span, SpanKind};
use uuid::Uuid;

const ORDER: Uuid = Uuid::from_u128(7);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// What is said on the way of an order whose address is refused, and by whom.
const SAID: [(&str, &str); 9] = [
    ("order", "OrderPlaced"),
    ("inventory", "InventoryReserved"),
    ("payment", "PaymentCaptured"),
    ("shipping", "ShipmentFailed"),
    ("shipping", "RefundPayment"),
    ("payment", "PaymentRefunded"),
    ("payment", "ReleaseInventory"),
    ("inventory", "InventoryReleased"),
    ("order", "OrderCancelled"),
];

/// The decisions on that way: the span, the one it belongs to, and the events that it says.
const DECISIONS: [(&str, &str, &str, &[usize]); 10] = [
    ("order", "POST /v1/orders", "", &[0]),
    ("inventory", "process 0", "POST /v1/orders", &[1]),
    ("payment", "process 1", "process 0", &[]),
    ("payment", "call payment-provider capture", "process 1", &[2]),
    ("shipping", "process 2", "call payment-provider capture", &[]),
    ("shipping", "call carrier book", "process 2", &[3, 4]),
    ("payment", "process 4", "call carrier book", &[]),
    ("payment", "call payment-provider refund", "process 4", &[5, 6]),
    ("inventory", "process 6", "call payment-provider refund", &[7]),
    ("order", "process 7", "process 6", &[8]),
];

struct Case {
    events: Vec<Event>,
    lost: BTreeSet<String>,
    spans: Vec<Span>,
    commits: Vec<Span>,
}

impl Case {
    /// Nothing is wrong with it.
    fn sound() -> Self {
        let events: Vec<Event> = (0..).zip(SAID).map(|(at, said)| event(at, said)).collect();
        let mut spans = Vec::new();
        for (service, name, parent, says) in DECISIONS {
            spans.push(decision(&events, service, name, parent));
            spans.extend(says.iter().map(|at| send(&events[*at], service, name)));
        }
        let settled = spans.iter().filter(|span| span.kind != SpanKind::Producer);
        let commits = settled.map(commit).collect();
        Self { events, lost: BTreeSet::new(), spans, commits }
    }

    fn span(&mut self, id: &str) -> &mut Span {
        let found = self.spans.iter_mut().find(|span| span.span_id == id);
        found.unwrap_or_else(|| panic!("there is a span {id}"))
    }

    fn set(&mut self, id: &str, name: &str, value: &str) {
        self.span(id).attributes.insert(name.to_owned(), value.to_owned());
    }

    fn remove(&mut self, id: &str) {
        self.spans.retain(|span| span.span_id != id);
    }

    fn wrong(&self) -> Vec<String> {
        let told =
            Told { order_id: ORDER, events: self.events.iter().collect(), lost: self.lost.clone() };
        let mut found = violations(&self.spans, &told);
        found.extend(violations_of_commits(&self.spans, &self.commits));
        found
    }
}

fn event(at: u128, (service, name): (&str, &str)) -> Event {
    Event {
        service: service.to_owned(),
        id: Uuid::from_u128(100 + at),
        version: Some(1),
        kind: format!("switchback.{service}.{name}.v1"),
    }
}

fn span(
    service: &str,
    id: &str,
    parent: &str,
    kind: SpanKind,
    attributes: &[(&str, &str)],
) -> Span {
    let of_saga = [
        ("saga.id", &*ORDER.to_string()),
        ("saga.service", service),
        ("saga.compensation", "false"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let own = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Span {
        trace_id: TRACE.to_owned(),
        span_id: id.to_owned(),
        parent_span_id: parent.to_owned(),
        service: service.to_owned(),
        name: id.to_owned(),
        kind,
        begun_ns: 1,
        ended_ns: 2,
        attributes: of_saga.into_iter().chain(own).collect::<BTreeMap<_, _>>(),
        links: Vec::new(),
        is_error: false,
    }
}

/// A span that decides is called after what it decides on, and so is its id.
fn decision(events: &[Event], service: &str, name: &str, parent: &str) -> Span {
    if let Some(at) = name.strip_prefix("process ") {
        let heard = &events[at.parse::<usize>().expect("a number of an event")];
        let mut span = message(heard, service, name, parent, SpanKind::Consumer, "process");
        span.links = vec![Link { trace_id: TRACE.to_owned(), span_id: parent.to_owned() }];
        span.attributes.extend(
            [
                ("messaging.kafka.message.key", ORDER.to_string()),
                ("messaging.consumer.group.name", service.to_owned()),
                ("messaging.destination.partition.id", "0".to_owned()),
                ("messaging.kafka.offset", "4".to_owned()),
                ("saga.duplicate", "false".to_owned()),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        return span;
    }
    if name.starts_with("POST ") {
        let answered = [
            ("http.request.method", "POST"),
            ("http.route", "/v1/orders"),
            ("http.response.status_code", "202"),
        ];
        return span(service, name, parent, SpanKind::Server, &answered);
    }
    let refused = name.ends_with(" book");
    let outcome = if refused { "refused" } else { "done" };
    let asked = [
        ("switchback.call.attempt", "1"),
        ("switchback.call.outcome", outcome),
        ("http.request.method", "POST"),
        ("saga.compensation", if name.ends_with(" refund") { "true" } else { "false" }),
    ];
    let mut call = span(service, name, parent, SpanKind::Client, &asked);
    call.is_error = refused;
    if refused {
        call.attributes.insert("error.type".to_owned(), "address_rejected".to_owned());
    }
    call
}

fn send(said: &Event, service: &str, decider: &str) -> Span {
    let id = format!("send {}", said.name());
    message(said, service, &id, decider, SpanKind::Producer, "send")
}

fn message(
    about: &Event,
    service: &str,
    id: &str,
    parent: &str,
    kind: SpanKind,
    operation: &str,
) -> Span {
    let topic = format!("{}.events.v1", about.service);
    let undoes = ["RefundPayment", "ReleaseInventory"].contains(&about.name());
    let attributes = [
        ("messaging.system", "kafka"),
        ("messaging.operation.name", operation),
        ("messaging.operation.type", operation),
        ("messaging.destination.name", &topic),
        ("messaging.message.id", &about.id.to_string()),
        ("saga.event", about.name()),
        ("saga.compensation", if undoes { "true" } else { "false" }),
    ];
    let mut span = span(service, id, parent, kind, &attributes);
    span.name = format!("{operation} {topic}");
    span
}

fn commit(of: &Span) -> Span {
    let attributes = [("switchback.batch.size", "1"), ("db.system.name", "postgresql")];
    let id = format!("commit of {}", of.span_id);
    let mut commit = span(&of.service, &id, "", SpanKind::Internal, &attributes);
    commit.attributes.remove("saga.id");
    commit.name = format!("commit {}", of.service);
    commit.trace_id = id;
    commit.links = vec![Link { trace_id: TRACE.to_owned(), span_id: of.span_id.clone() }];
    commit
}

const CAPTURE: &str = "call payment-provider capture";
const REFUND: &str = "call payment-provider refund";
const BOOK: &str = "call carrier book";
const ROOT: &str = "POST /v1/orders";

type Spoil = fn(&mut Case);

/// What is made wrong, and a word of what the judge has to say.
const SPOILT: [(Spoil, &str); 30] = [
    (|case| case.span("process 1").trace_id = "another".into(), "no single trace"),
    (|case| case.span(CAPTURE).span_id = "process 1".into(), "two spans have one id"),
    (|case| case.span("process 2").parent_span_id = String::new(), "not one request to order"),
    (|case| case.span(ROOT).service = "inventory".into(), "not one request to order"),
    (|case| case.remove(ROOT), "its parent is missing"),
    (|case| case.remove(CAPTURE), "its parent is missing"),
    (|case| case.spans.retain(|span| span.service != "shipping"), "it is of"),
    (|case| case.span("process 2").service = "providers".into(), "none of the four"),
    (|case| case.set("process 2", "saga.id", "another"), "its saga.id"),
    (|case| case.set("send PaymentCaptured", "saga.service", "order"), "its saga.service"),
    (|case| drop(case.span(ROOT).attributes.remove("saga.compensation")), "no saga.compensation"),
    (|case| case.set("send RefundPayment", "saga.compensation", "false"), "whether it undoes"),
    (|case| case.set(REFUND, "saga.compensation", "false"), "whether it undoes"),
    (|case| case.set("send PaymentCaptured", "saga.event", "Other"), "calls it something else"),
    (|case| case.span(BOOK).is_error = false, "an error without error.type"),
    (|case| case.span(ROOT).ended_ns = 0, "its end before its beginning"),
    (|case| drop(case.span(ROOT).attributes.remove("http.response.status_code")), "no status"),
    (|case| case.span("process 4").links.clear(), "no link to its parent"),
    (|case| drop(case.span("process 4").attributes.remove("saga.duplicate")), "no saga.duplicate"),
    (|case| case.set("process 4", "messaging.consumer.group.name", "order"), "its group"),
    (|case| case.set("process 4", "messaging.message.id", "another"), "which message"),
    (|case| case.set("send PaymentCaptured", "messaging.operation.type", "x"), "which message"),
    (|case| case.span("process 4").kind = SpanKind::Unspecified, "no kind"),
    (|case| case.remove("send InventoryReleased"), "it is not sent"),
    (|case| case.set("process 0", "saga.duplicate", "true"), "handles it 0 times"),
    (|case| case.span("send PaymentCaptured").parent_span_id = "process 1".into(), "children of"),
    (|case| case.set(CAPTURE, "switchback.call.attempt", "2,1"), "the attempts of"),
    (|case| case.set(REFUND, "switchback.call.outcome", "unknown"), "are definite"),
    (|case| drop(case.commits.pop()), "no commit of its service links to it"),
    (|case| case.commits[3].trace_id = TRACE.into(), "it is in the saga's trace"),
];

#[test]
fn a_trace_that_is_as_it_should_be_is_taken() {
    let found = Case::sound().wrong();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn each_thing_that_is_made_wrong_with_a_trace_is_found() {
    for (at, (spoil, word)) in SPOILT.iter().enumerate() {
        let mut case = Case::sound();
        spoil(&mut case);
        let found = case.wrong();
        assert!(found.iter().any(|what| what.contains(word)), "{at}: {word} not in {found:#?}");
    }
}

#[test]
fn a_decision_that_an_event_cannot_come_from_is_found() {
    let mut case = Case::sound();
    for id in ["send PaymentCaptured", "process 2"] {
        case.span(id).parent_span_id = "process 1".into();
    }
    let found = case.wrong();
    let decided = found.iter().any(|what| what.contains("decided by payment process"));
    assert!(decided, "{found:#?}");
}

#[test]
fn a_span_that_died_with_its_process_may_be_missing_if_it_is_known_and_nothing_else() {
    let mut case = Case::sound();
    case.remove(CAPTURE);
    case.lost.insert(CAPTURE.to_owned());
    assert!(case.wrong().is_empty(), "{:#?}", case.wrong());
    case.remove("process 4");
    assert!(!case.wrong().is_empty());
}
