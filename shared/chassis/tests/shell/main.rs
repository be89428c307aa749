//! The shell in a process of its own: the lamp of `examples/lamp`, on a real Postgres and an
//! in-memory broker.

mod commands;
mod events;
mod house;
mod outages;
mod outside;
