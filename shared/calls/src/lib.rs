#![doc = include_str!("../README.md")]

mod destination;
mod policy;
mod reply;

pub use destination::{Destination, Request, Understand, Unusable, Wanted};
pub use policy::{CallState, Heard, Next, Policy, next};
pub use reply::Refusals;
pub use reqwest::Url;
