//! The railway's shapes, as a person sees them.

use chrono::{DateTime, TimeDelta, Utc};
use switchback::client::{Reason, Said, Timeline};
use switchback::railway::railway;

type Told = (i64, &'static str, &'static str, Option<&'static str>);

/// Milliseconds after the start, service, event, and the code of its reason.
fn timeline(told: &[Told]) -> Timeline {
    let begun = DateTime::<Utc>::UNIX_EPOCH;
    let said = |(ms, service, kind, code): &Told| Said {
        at: begun + TimeDelta::milliseconds(*ms),
        service: (*service).to_owned(),
        kind: (*kind).to_owned(),
        reason: code.map(|code| Reason { code: code.to_owned(), service: (*service).to_owned() }),
    };
    Timeline { items: told.iter().map(said).collect() }
}

#[track_caller]
fn assert_picture(told: &[Told], picture: &str) {
    let drawn = railway(&timeline(told));
    assert_eq!(drawn, picture.trim_start_matches('\n'), "\n{drawn}");
}

const PLACED: Told = (0, "order", "OrderPlaced", None);
const RESERVED: Told = (12, "inventory", "InventoryReserved", None);
const CAPTURED: Told = (43, "payment", "PaymentCaptured", None);

#[test]
fn a_train_that_arrives_runs_along_one_line() {
    assert_picture(
        &[
            PLACED,
            RESERVED,
            CAPTURED,
            (71, "shipping", "ShipmentBooked", None),
            (80, "order", "OrderConfirmed", None),
        ],
        "
  order ──12 ms───▶ inventory ──31 ms───▶ payment ──28 ms───▶ shipping ───9 ms───▶ confirmed
",
    );
}

#[test]
fn a_declined_card_turns_the_train_round_at_payment() {
    let reason = Some("card_declined");
    assert_picture(
        &[
            PLACED,
            RESERVED,
            (43, "payment", "PaymentDeclined", reason),
            (44, "payment", "ReleaseInventory", reason),
            (53, "inventory", "InventoryReleased", reason),
            (61, "order", "OrderCancelled", reason),
        ],
        "
  order ──12 ms───▶ inventory ──31 ms───▶ payment ┄┄┄┄┄┄┄┄┄┄┄ shipping ┄┄┄┄┄┄┄┄┄┄┄ confirmed
    ▲                   │                    ✗ card_declined
    └─────── 8 ms ──────┴◀────── 10 ms ──────┘
  cancelled         released             declined
",
    );
}

#[test]
fn a_refused_address_runs_back_through_every_service() {
    let reason = Some("address_rejected");
    assert_picture(
        &[
            PLACED,
            RESERVED,
            CAPTURED,
            (71, "shipping", "ShipmentFailed", reason),
            (1_071, "payment", "PaymentRefunded", reason),
            (1_090, "inventory", "InventoryReleased", reason),
            (1_101, "order", "OrderCancelled", reason),
        ],
        "
  order ──12 ms───▶ inventory ──31 ms───▶ payment ──28 ms───▶ shipping ┄┄┄┄┄┄┄┄┄┄┄ confirmed
    ▲                   │                    │                    ✗ address_rejected
    └────── 11 ms ──────┴◀────── 19 ms ──────┴◀────── 1.0 s ──────┘
  cancelled         released             refunded              failed
",
    );
}

#[test]
fn sold_out_turns_the_train_round_at_the_first_station() {
    let reason = Some("out_of_stock");
    assert_picture(
        &[
            PLACED,
            (12, "inventory", "InventoryRejected", reason),
            (20, "order", "OrderCancelled", reason),
        ],
        "
  order ──12 ms───▶ inventory ┄┄┄┄┄┄┄┄┄┄┄ payment ┄┄┄┄┄┄┄┄┄┄┄ shipping ┄┄┄┄┄┄┄┄┄┄┄ confirmed
    ▲                   ✗ out_of_stock
    └─────── 8 ms ──────┘
  cancelled         rejected
",
    );
}

#[test]
fn a_cancel_while_the_answer_is_awaited_turns_round_after_it() {
    let reason = Some("customer");
    assert_picture(
        &[
            PLACED,
            RESERVED,
            (300, "order", "OrderCancelRequested", reason),
            (2_043, "payment", "PaymentRefunded", reason),
            (2_053, "inventory", "InventoryReleased", reason),
            (2_061, "order", "OrderCancelled", reason),
        ],
        "
  order ──12 ms───▶ inventory ──2.0 s───▶ payment ┄┄┄┄┄┄┄┄┄┄┄ shipping ┄┄┄┄┄┄┄┄┄┄┄ confirmed
    ▲                   │                    ✗ customer
    └─────── 8 ms ──────┴◀────── 10 ms ──────┘
  cancelled         released             refunded
  (cancel asked for after 300 ms)
",
    );
}

#[test]
fn a_cancel_after_the_train_has_passed_says_that_it_came_too_late() {
    assert_picture(
        &[
            PLACED,
            RESERVED,
            CAPTURED,
            (60, "order", "OrderCancelRequested", Some("customer")),
            (71, "shipping", "ShipmentBooked", None),
            (80, "order", "OrderConfirmed", None),
        ],
        "
  order ──12 ms───▶ inventory ──31 ms───▶ payment ──28 ms───▶ shipping ───9 ms───▶ confirmed
  (cancel asked for after 60 ms, too late)
",
    );
}

#[test]
fn what_has_not_been_reached_is_dotted() {
    assert_picture(
        &[PLACED, RESERVED],
        "
  order ──12 ms───▶ inventory ┄┄┄┄┄┄┄┄┄┄┄ payment ┄┄┄┄┄┄┄┄┄┄┄ shipping ┄┄┄┄┄┄┄┄┄┄┄ confirmed
",
    );
    assert_picture(
        &[],
        "
  order ┄┄┄┄┄┄┄┄┄┄┄ inventory ┄┄┄┄┄┄┄┄┄┄┄ payment ┄┄┄┄┄┄┄┄┄┄┄ shipping ┄┄┄┄┄┄┄┄┄┄┄ confirmed
",
    );
}

#[test]
fn a_train_on_its_way_back_shows_how_far_it_has_come() {
    let reason = Some("address_rejected");
    assert_picture(
        &[
            PLACED,
            RESERVED,
            CAPTURED,
            (71, "shipping", "ShipmentFailed", reason),
            (90, "payment", "PaymentRefunded", reason),
        ],
        "
  order ──12 ms───▶ inventory ──31 ms───▶ payment ──28 ms───▶ shipping ┄┄┄┄┄┄┄┄┄┄┄ confirmed
    ┆                   ┆                    │                    ✗ address_rejected
    └┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┴┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┴◀────── 19 ms ──────┘
                                         refunded              failed
",
    );
}

#[test]
fn events_that_arrived_out_of_order_or_incompletely_still_make_a_picture() {
    let reason = Some("address_rejected");
    assert_picture(
        &[
            (71, "shipping", "switchback.shipping.ShipmentFailed.v1", reason),
            PLACED,
            (75_000, "inventory", "InventoryReleased", reason),
        ],
        "
  order ──────────▶ inventory ──────────▶ payment ──────────▶ shipping ┄┄┄┄┄┄┄┄┄┄┄ confirmed
    ┆                   │                    ┆                    ✗ address_rejected
    └┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┴◀┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┴┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┘
                    released                                   failed
",
    );
}
