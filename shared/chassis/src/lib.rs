#![doc = include_str!("../README.md")]

mod aside;
mod batch;
mod chores;
mod config;
mod crash;
mod desk;
mod dispatcher;
mod fate;
mod health;
mod http;
mod intake;
mod job;
mod kept;
mod keys;
mod lane;
mod outgoing;
mod outside;
mod poison;
mod run;
mod seeded;
mod service;
mod shell;
mod stop;
mod view;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

pub use config::{Config, Dispatch};
pub use desk::{Desk, Row, Rows};
pub use http::{App, Asked, Respond};
pub use kept::Kept;
pub use outside::CALLS_MAX;
pub use run::run;
pub use service::{Due, Service, Stored};
pub use view::{Seen, View};
