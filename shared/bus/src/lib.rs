#![doc = include_str!("../README.md")]

mod config;
mod consumer;
mod gate;
mod member;
mod offsets;
mod producer;
mod report;
pub mod topics;

pub use config::Config;
pub use consumer::{Consumer, Received};
pub use gate::Partition;
pub use offsets::{Offsets, Place};
pub use producer::{Handed, Producer};
pub use report::Report;

/// The topic of a producer.
pub fn topic(producer: &str) -> String {
    format!("{producer}.events.v1")
}

/// What went wrong with the broker.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the client cannot be made: {0}")]
    Client(rdkafka::error::KafkaError),
    #[error("the client is beyond repair: {1}")]
    Fatal(#[source] rdkafka::error::KafkaError, String),
    #[error("no broker answers: {0}")]
    NoBroker(rdkafka::error::KafkaError),
    #[error("there is no topic {0}: {1}")]
    NoTopic(String, rdkafka::error::RDKafkaErrorCode),
}
