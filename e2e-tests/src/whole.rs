//! Owns the question whether a whole stack is as it should be, and what a test put into it itself.
//! Refuses to know the answer: the checker's statements do.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;
use sqlx::{AssertSqlSafe, FromRow};
use uuid::Uuid;

use crate::check::{self, Known, Violation};
use crate::saga::everywhere;
use crate::stack::Stack;

const QUIET_MAX: Duration = Duration::from_mins(1);

/// A dead letter that is open: the service that has it, who gave up, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, FromRow)]
pub struct DeadLetter {
    pub service: String,
    pub consumer: String,
    pub code: String,
}

/// The header of a record that a test put into a topic: it is judged by the test, not as ours.
pub const INJECTED: &str = "injected";

/// What comes of the records that a test put into the topics.
#[derive(Debug, Default)]
pub struct Injected {
    pub event_ids: BTreeSet<Uuid>,
    /// One for each that must be there.
    pub dead_letters: Vec<DeadLetter>,
}

/// Waits until nothing moves any more, and judges every order and what the orders share.
pub async fn judge(stack: &Stack, injected: &Injected) -> anyhow::Result<()> {
    let known = Known {
        dead_letters: injected.dead_letters.clone(),
        injected_event_ids: injected.event_ids.clone(),
        ..Known::default()
    };
    let world = check::until_quiet(stack, &known, QUIET_MAX).await?;
    ensure!(!world.orders.is_empty(), "a run without orders proves nothing");
    let found: Vec<_> = check::always(&world).iter().map(Violation::to_string).collect();
    ensure!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

/// Every dead letter of the stack, sorted.
pub async fn dead_letters(stack: &Stack) -> anyhow::Result<Vec<DeadLetter>> {
    let sql = everywhere(
        "select '{schema}' as service, coalesce(consumer, origin) as consumer, code
           from \"{schema}\".dead_letters",
    );
    let mut found: Vec<DeadLetter> =
        sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&stack.tables).await?;
    found.sort();
    Ok(found)
}
