#![doc = include_str!("../README.md")]

mod batch;
mod boot;
mod bootstrap;
mod calls;
mod db;
mod error;
mod lives;
mod migrate;
mod outbox;
mod republish;

pub use batch::{
    Claimed, Commit, DeadLetter, ID_COLLISION, Key, KeyRecord, Origin, Record, Said, TOO_NEW,
    TOO_OLD, Wanted, all_saved, claim, column, keys, write,
};
pub use boot::Boot;
pub use bootstrap::bootstrap_sql;
pub use calls::{Attempt, DUE_CALLS_MAX, DueCall, due_calls, note_attempt, stick, untouched};
pub use db::{Config, Db};
pub use error::Error;
pub use lives::{
    PURGE_ROWS_MAX, drop_partitions, ensure_partitions, open_letters, purge_keys, purge_letters,
    strays,
};
pub use migrate::{MigrationError, Migrations, migrate};
pub use outbox::{Dispatch, OutboxState, delete_acked, give_up, outbox_state};
pub use republish::Republish;
