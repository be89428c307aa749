//! The pictures of traces, as a person sees them.

use std::collections::BTreeMap;

use switchback::trace::tree::tree;
use testkit::otlp::{Span, SpanKind};

/// A span's number and its parent's (0: none), who made it, and when it began and ended in µs.
fn span(
    (number, parent): (u32, u32),
    service: &str,
    name: &str,
    (begun_us, ended_us): (u64, u64),
    attributes: &[(&str, &str)],
) -> Span {
    let id = |number: u32| if number == 0 { String::new() } else { format!("{number:016x}") };
    let kind = match name.split(' ').next() {
        Some("process") => SpanKind::Consumer,
        Some("send") => SpanKind::Producer,
        Some("call") => SpanKind::Client,
        _ => SpanKind::Server,
    };
    let text = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let attributes: BTreeMap<_, _> = attributes.iter().map(text).collect();
    Span {
        trace_id: format!("{:032x}", 7),
        span_id: id(number),
        parent_span_id: id(parent),
        service: service.to_owned(),
        name: name.to_owned(),
        kind,
        begun_ns: 1_000_000_000 + begun_us * 1_000,
        ended_ns: 1_000_000_000 + ended_us * 1_000,
        links: Vec::new(),
        is_error: attributes.contains_key("error.type"),
        attributes,
    }
}

fn said(name: &str) -> [(&str, &str); 2] {
    [("saga.event", name), ("saga.compensation", "false")]
}

fn undoing(name: &str) -> [(&str, &str); 2] {
    [("saga.event", name), ("saga.compensation", "true")]
}

fn asked<'a>(attempt: &'a str, outcome: &'a str) -> [(&'a str, &'a str); 3] {
    [
        ("switchback.call.attempt", attempt),
        ("switchback.call.outcome", outcome),
        ("http.request.method", "POST"),
    ]
}

const PLACED: &str = "POST /v1/orders";
const ACCEPTED: [(&str, &str); 1] = [("http.response.status_code", "202")];

#[track_caller]
fn assert_picture(spans: &[Span], picture: &str) {
    let drawn = tree(spans);
    assert_eq!(drawn, picture.trim_start_matches('\n'), "\n{drawn}");
}

#[test]
fn a_span_stands_below_the_one_that_it_belongs_to_whatever_the_order_they_came_in() {
    let mut spans = vec![
        span((1, 0), "order", PLACED, (0, 4_210), &ACCEPTED),
        span((2, 1), "order", "send order.events.v1", (4_000, 4_100), &said("OrderPlaced")),
        span((3, 1), "inventory", "process order.events.v1", (5_300, 9_050), &said("OrderPlaced")),
        span(
            (4, 3),
            "inventory",
            "send inventory.events.v1",
            (8_900, 8_950),
            &said("InventoryReserved"),
        ),
        span(
            (5, 3),
            "payment",
            "process inventory.events.v1",
            (12_000, 1_512_000),
            &said("InventoryReserved"),
        ),
    ];
    let picture = "
5 spans of inventory, order, payment in 1.5 s

  0.0 ms   4.2 ms    order      POST /v1/orders, 202
  4.0 ms   0.1 ms    order      ├─ say OrderPlaced
  5.3 ms   3.7 ms    inventory  └─ handle OrderPlaced
  8.9 ms   0.0 ms    inventory     ├─ say InventoryReserved
   12 ms    1.5 s    payment       └─ handle InventoryReserved
";
    assert_picture(&spans, picture);
    spans.reverse();
    assert_picture(&spans, picture);
}

#[test]
fn the_way_back_is_marked_from_the_word_that_begins_it_to_the_end() {
    let refused = [&asked("1", "refused")[..], &[("error.type", "address_rejected")]].concat();
    let refund = [&asked("1", "done")[..], &[("saga.compensation", "true")]].concat();
    let spans = [
        span((1, 0), "shipping", "call carrier book", (0, 2_000), &refused),
        span(
            (2, 1),
            "shipping",
            "send shipping.events.v1",
            (1_500, 1_510),
            &said("ShipmentFailed"),
        ),
        span(
            (3, 1),
            "shipping",
            "send shipping.events.v1",
            (1_520, 1_530),
            &undoing("RefundPayment"),
        ),
        span(
            (4, 1),
            "payment",
            "process shipping.events.v1",
            (3_000, 4_000),
            &undoing("RefundPayment"),
        ),
        span((5, 4), "payment", "call payment-provider refund", (4_000, 6_000), &refund),
        span((6, 5), "payment", "send payment.events.v1", (5_000, 5_010), &said("PaymentRefunded")),
        span(
            (7, 5),
            "inventory",
            "process payment.events.v1",
            (7_000, 9_000),
            &undoing("ReleaseInventory"),
        ),
        span(
            (8, 7),
            "order",
            "process inventory.events.v1",
            (9_000, 11_000),
            &said("InventoryReleased"),
        ),
    ];
    assert_picture(
        &spans,
        "
8 spans of inventory, order, payment, shipping in 11 ms

  0.0 ms   2.0 ms    shipping   call carrier book, asked by attempt 1: refused ✗ address_rejected
  1.5 ms   0.0 ms    shipping   ├─ say ShipmentFailed
  1.5 ms   0.0 ms  ◀ shipping   ├─ say RefundPayment
  3.0 ms   1.0 ms  ◀ payment    └─ handle RefundPayment
  4.0 ms   2.0 ms  ◀ payment       └─ call payment-provider refund, asked by attempt 1: done
  5.0 ms   0.0 ms  ◀ payment          ├─ say PaymentRefunded
  7.0 ms   2.0 ms  ◀ inventory        └─ handle ReleaseInventory
  9.0 ms   2.0 ms  ◀ order               └─ handle InventoryReleased
",
    );
}

#[test]
fn an_attempt_says_how_it_went_and_a_repeat_that_it_is_one() {
    let unknown = [&asked("1", "unknown")[..], &[("error.type", "timeout")]].concat();
    let mut looked_up = asked("2", "done");
    looked_up[2].1 = "GET";
    let repeat = [&said("InventoryReserved")[..], &[("saga.duplicate", "true")]].concat();
    let spans = [
        span(
            (1, 0),
            "payment",
            "process inventory.events.v1",
            (0, 9_900),
            &said("InventoryReserved"),
        ),
        span((2, 1), "payment", "call payment-provider capture", (1_000, 90_000_000), &unknown),
        span(
            (3, 1),
            "payment",
            "call payment-provider capture",
            (91_000_000, 91_100_000),
            &looked_up,
        ),
        span((4, 1), "payment", "process inventory.events.v1", (92_000_000, 92_000_500), &repeat),
    ];
    assert_picture(
        &spans,
        "
4 spans of payment in 1 min

  0.0 ms   9.9 ms    payment  handle InventoryReserved
  1.0 ms    1 min    payment  ├─ call payment-provider capture, asked by attempt 1: unknown ✗ timeout
   1 min   100 ms    payment  ├─ call payment-provider capture, looked up by attempt 2: done
   1 min   0.5 ms    payment  └─ handle InventoryReserved, a repeat
",
    );
}

#[test]
fn what_belongs_to_a_span_that_was_lost_stands_apart() {
    let spans = [
        span((1, 0), "order", PLACED, (0, 900), &[]),
        span((3, 2), "payment", "send payment.events.v1", (3_000, 3_100), &said("PaymentCaptured")),
        span(
            (4, 2),
            "shipping",
            "process payment.events.v1",
            (4_000, 5_000),
            &said("PaymentCaptured"),
        ),
    ];
    assert_picture(
        &spans,
        "
3 spans of order, payment, shipping in 5.0 ms

  0.0 ms   0.9 ms    order     POST /v1/orders
  3.0 ms   0.1 ms    payment   ┄ say PaymentCaptured
  4.0 ms   1.0 ms    shipping  ┄ handle PaymentCaptured
",
    );
}
