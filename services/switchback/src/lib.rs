//! The command line: a whole stack on this machine, a story told on it, and orders from a terminal.
//! Owns what a person sees. Refuses to know a service from inside: it starts their programs and
//! speaks to them over HTTP.

pub mod client;
pub mod demo;
pub mod events;
pub mod healthcheck;
pub mod load;
pub mod local;
pub mod orders;
pub mod processes;
pub mod railway;
mod signals;
pub mod supervisor;
pub mod topics;
pub mod trace;
