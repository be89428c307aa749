//! The shell in a process of its own: the lamp of `examples/lamp`, on a real Postgres and an
//! in-memory broker.

mod commands;
mod decoding;
mod events;
mod flow;
mod house;
mod lives;
mod outages;
mod outside;
mod stop;
mod traces;
mod way_out;
