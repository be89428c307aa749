#![doc = include_str!("../README.md")]

pub mod broker;
mod folder;
pub mod jaeger;
pub mod kafka;
pub mod otlp;
pub mod parts;
pub mod ports;
pub mod postgres;
pub mod processes;
pub mod records;
pub mod wait;

pub use broker::{Broker, Refusal};
pub use jaeger::Jaeger;
pub use kafka::Kafka;
pub use postgres::{Database, Postgres, database};
