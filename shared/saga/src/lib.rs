#![doc = include_str!("../README.md")]

mod decision;
mod envelope;
mod event;
mod outcome;
mod participant;

pub use decision::Decision;
pub use envelope::{Envelope, EventType, RECORD_BYTES_MAX, Refused, Trace};
pub use event::{Event, Heard, Undecodable};
pub use outcome::{LookUp, Outcome, Settled};
pub use participant::Participant;
