//! How fast Switchback is on this machine, against what, and how close to the limit.

pub mod backlog;
pub mod chart;
pub mod goals;
pub mod header;
pub mod invariants;
pub mod limits;
pub mod load;
pub mod meter;
pub mod mode;
pub mod opponent;
pub mod picture;
pub mod record;
pub mod report;
pub mod results;
pub mod round;
pub mod soak;
pub mod spread;
pub mod stage;
pub mod steady;
pub mod sweep;
pub mod table;
