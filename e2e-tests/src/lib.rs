//! Scenarios on real processes, and the judge of what became of them. Owns the view from outside:
//! HTTP, tables, topics and the providers' ledger. Refuses to share a line of code with the
//! services: what is on the wire is described here a second time.

pub mod boots;
pub mod client;
pub mod metrics;
pub mod saga;
pub mod scenario;
pub mod stack;
pub mod whole;
pub mod wire;

/// The participants; also the names of their schemas and the first word of their topics.
pub const SERVICES: [&str; 4] = ["order", "inventory", "payment", "shipping"];
