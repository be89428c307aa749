#![doc = include_str!("../README.md")]

mod answer;
mod catalogue;
mod command;
mod fingerprint;
mod json;
mod key;
mod path;
mod problem;

pub use answer::{Answer, Corrupt};
pub use catalogue::Code;
pub use command::{BODY_BYTES_MAX, BODY_READ_MS_MAX, Caller, Command, Strict};
pub use fingerprint::Fingerprint;
pub use json::{NESTING_MAX, strict};
pub use key::{IdempotencyKey, KEY_CHARS_MAX};
pub use path::Path;
pub use problem::{FIELD_ERRORS_MAX, FieldCode, FieldError, Problem};
