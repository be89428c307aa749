//! Owns the meters that a run is read with. Refuses to know what runs, and to judge.

pub mod batches;
pub mod cpu;
pub mod disk;
pub mod memory;
pub mod outbox;
mod times;
mod trees;
pub mod wal;

pub use times::Times;
