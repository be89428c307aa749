//! Owns what the line of services is meant to do, written down a second time and apart from them:
//! who hears what, what each state has said, and in which ends all four agree. Refuses to look at
//! anything that happened.

/// `OrderPlaced` of `switchback.order.OrderPlaced.v1`.
pub fn name_of(kind: &str) -> &str {
    kind.split('.').nth(2).unwrap_or(kind)
}

/// Who handles which event; whatever is not here is nobody's input.
pub const HEARD: [(&str, &[&str]); 9] = [
    ("OrderPlaced", &["inventory"]),
    ("OrderCancelRequested", &["inventory", "payment", "shipping"]),
    ("InventoryReserved", &["payment"]),
    ("InventoryRejected", &["order"]),
    ("InventoryReleased", &["order"]),
    ("PaymentCaptured", &["shipping"]),
    ("ReleaseInventory", &["inventory"]),
    ("ShipmentBooked", &["order"]),
    ("RefundPayment", &["payment"]),
];

/// Who handles an event of this name.
pub fn hearers(event: &str) -> &'static [&'static str] {
    HEARD.iter().find(|(name, _)| *name == event).map_or(&[], |(_, by)| by)
}

/// What two events of one decision are: nothing else is said at once.
pub const SAID_TOGETHER: [[&str; 2]; 3] = [
    ["PaymentDeclined", "ReleaseInventory"],
    ["PaymentRefunded", "ReleaseInventory"],
    ["ShipmentFailed", "RefundPayment"],
];

/// What only a customer or a clock can be the cause of.
pub const CAUSED_BY_NO_EVENT: [&str; 2] = ["OrderPlaced", "OrderCancelRequested"];

/// What nobody may say while an outside call is open: the unknown compensates nobody.
pub const NEEDS_A_DEFINITE_ANSWER: [&str; 5] =
    ["PaymentDeclined", "PaymentRefunded", "ReleaseInventory", "ShipmentFailed", "RefundPayment"];

/// No state of any service has a higher number.
const STATUS_MAX: i16 = 7;

type Word = &'static [&'static str];

/// All that a service can have said of an order when its row has this status; 0: no row.
pub fn words(service: &str, status: i16) -> &'static [Word] {
    match (service, status) {
        ("order", 0) => &[&[]],
        ("order", 1) => &[&["OrderPlaced"]],
        ("order", 2) => &[&["OrderPlaced", "OrderCancelRequested"]],
        ("order", 3) => &[&["OrderPlaced", "OrderConfirmed"]],
        ("order", 4) => &[&["OrderPlaced", "OrderCancelRequested", "OrderConfirmed"]],
        ("order", 5) => &[
            &["OrderPlaced", "OrderCancelled"],
            &["OrderPlaced", "OrderCancelRequested", "OrderCancelled"],
        ],
        ("inventory", 0 | 1) => &[&[]],
        ("inventory", 2) => &[&["InventoryReserved"]],
        ("inventory", 3) => &[&["InventoryRejected"]],
        ("inventory", 4) => &[&["InventoryReserved", "InventoryReleased"]],
        ("payment", 0..=3) => &[&[]],
        ("payment", 4) => &[&["PaymentCaptured"]],
        ("payment", 5) => &[&["PaymentCaptured"], &[]],
        ("payment", 6) => &[&["PaymentDeclined", "ReleaseInventory"]],
        ("payment", 7) => &[
            &["PaymentCaptured", "PaymentRefunded", "ReleaseInventory"],
            &["PaymentRefunded", "ReleaseInventory"],
        ],
        ("shipping", 0..=2) => &[&[]],
        ("shipping", 3) => &[&["ShipmentBooked"]],
        ("shipping", 4) => &[&["ShipmentFailed", "RefundPayment"]],
        _ => &[],
    }
}

/// Whether a service can have said just this of an order, in whatever state.
pub fn is_a_word(service: &str, said: &[&str]) -> bool {
    (0..=STATUS_MAX).any(|status| words(service, status).contains(&said))
}

/// States in which an effect of this kind is wanted, under way or done: the service and its numbers.
pub fn wanted_in(operation: &str) -> (&'static str, &'static [i16]) {
    match operation {
        "capture" => ("payment", &[2, 3, 4, 5, 7]),
        "refund" => ("payment", &[5, 7]),
        "book" => ("shipping", &[2, 3]),
        _ => ("", &[]),
    }
}

/// The four tables' statuses of one order, in the order of the line; 0: no row.
pub type States = [i16; 4];

pub const CONFIRMED: i16 = 3;
pub const CONFIRMED_TOO_LATE: i16 = 4;
pub const CANCELLED: i16 = 5;
pub const RESERVED: i16 = 2;

/// Every way in which the four services may agree, and whether a cancel was under way.
const ENDS: [(States, bool); 9] = [
    ([CONFIRMED, RESERVED, 4, 3], false),
    // The cancel never met the train.
    ([CONFIRMED_TOO_LATE, RESERVED, 4, 3], true),
    // Turned round at inventory, at payment, at shipping.
    ([CANCELLED, 3, 0, 0], false),
    ([CANCELLED, 4, 6, 0], false),
    ([CANCELLED, 4, 7, 4], false),
    // The same with a cancel: whom the train did not reach keeps a tombstone.
    ([CANCELLED, 3, 1, 1], true),
    ([CANCELLED, 4, 6, 1], true),
    ([CANCELLED, 4, 7, 1], true),
    ([CANCELLED, 4, 7, 4], true),
];

pub fn is_an_end(states: States, cancel_requested: bool) -> bool {
    ENDS.contains(&(states, cancel_requested))
}

/// Charges, refunds and bookings that an end leaves behind.
pub fn effects_of([_, _, payment, shipment]: States) -> [usize; 3] {
    let is = usize::from;
    [is([4, 7].contains(&payment)), is(payment == 7), is(shipment == 3)]
}

/// What the customer is shown of inventory, payment and shipping at the end.
pub fn shown_at_the_end([_, reservation, payment, shipment]: States) -> [&'static str; 3] {
    [
        match reservation {
            RESERVED => "done",
            3 => "refused",
            _ => "undone",
        },
        match payment {
            4 => "done",
            6 => "refused",
            7 => "undone",
            _ => "not_needed",
        },
        match shipment {
            3 => "done",
            4 => "refused",
            _ => "not_needed",
        },
    ]
}

/// How the customer is told an order's status, and whether a cancel came too late.
pub fn shown_status(order: i16) -> (&'static str, bool) {
    match order {
        1 => ("pending", false),
        2 => ("cancelling", false),
        CONFIRMED => ("confirmed", false),
        CONFIRMED_TOO_LATE => ("confirmed", true),
        CANCELLED => ("cancelled", false),
        _ => ("", false),
    }
}

/// Calls: so many attempts are made; one more may be counted by whoever finds that they are spent.
pub const ATTEMPTS_MAX: i32 = 60 + 1;

/// How much later than its deadline a call may be due: whoever has it holds it for up to a minute,
/// and no longer than that can the database have been away in between.
pub const DEADLINE_SLACK_SECONDS: f64 = 120.0;
