#![doc = include_str!("../README.md")]

pub mod broker;
mod folder;
pub mod otlp;
pub mod ports;
pub mod postgres;
pub mod records;
pub mod wait;

pub use broker::{Broker, Refusal};
pub use postgres::{Database, Postgres, database};
