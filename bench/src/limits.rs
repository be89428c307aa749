//! Owns what this machine allows at best, so that a figure can be held against it. Refuses to go
//! through a service.

pub mod floor;
pub mod head;
pub mod raw;
