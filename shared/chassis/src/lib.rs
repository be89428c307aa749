#![doc = include_str!("../README.md")]

mod batch;
mod chores;
mod config;
mod crash;
mod desk;
mod dispatcher;
mod health;
mod http;
mod intake;
mod job;
mod lane;
mod outside;
mod run;
mod seeded;
mod service;
mod shell;
mod view;

pub use config::{Config, Dispatch};
pub use desk::{Desk, Row, Rows};
pub use http::{App, Asked, Respond};
pub use run::run;
pub use service::{Due, Service, Stored};
pub use view::{Seen, View};
