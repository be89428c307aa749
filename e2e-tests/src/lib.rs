//! Scenarios on real processes, and the judge of what became of them. Owns the view from outside:
//! HTTP, tables, topics and the providers' ledger. Refuses to share a line of code with the
//! services: what is on the wire is described here a second time.

pub mod boots;
pub mod chaos;
pub mod check;
pub mod client;
pub mod compose;
pub mod crowd;
pub mod figures;
pub mod forged;
pub mod link;
pub mod metrics;
pub mod saga;
pub mod scenario;
pub mod stack;
pub mod trace;
pub mod whole;
pub mod wire;

/// The participants; also the names of their schemas and the first word of their topics.
pub const SERVICES: [&str; 4] = ["order", "inventory", "payment", "shipping"];

/// The service and the number of `payment` (the first) or `payment-2`.
pub(crate) fn instance_of(process: &str) -> (&str, u16) {
    let split = process.rsplit_once('-');
    let instance = split.and_then(|(service, number)| Some((service, number.parse().ok()?)));
    instance.unwrap_or((process, 1))
}
