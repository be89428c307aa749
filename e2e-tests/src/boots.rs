//! Owns what a dead process leaves behind under its number. Refuses to look at what it meant.

use std::time::Duration;

use anyhow::Context;
use sqlx::AssertSqlSafe;
use testkit::wait;

use crate::stack::Stack;
use crate::{instance_of, metrics};

/// How soon after the restart nothing may carry the dead process's number.
const TAKEN_OVER_MAX: Duration = Duration::from_secs(5);
const BITTEN_MAX: Duration = Duration::from_secs(15);

/// The number under which a living process writes: the one that it holds the lock of.
pub async fn number(stack: &Stack, process: &str) -> anyhow::Result<i64> {
    let (service, instance) = instance_of(process);
    let number = sqlx::query_scalar(
        "select max(l.objid::bigint)
           from pg_locks l join pg_stat_activity a using (pid)
          where l.locktype = 'advisory'
            and l.classid = (hashtext('live ' || $1)::bigint & 4294967295)::oid
            and l.granted
            and a.application_name = $1 || '-' || $2",
    );
    let number: Option<i64> =
        number.bind(service).bind(instance.to_string()).fetch_one(&stack.tables).await?;
    number.with_context(|| format!("{process} holds no boot number"))
}

/// Returns when no outbox row and no call carries a dead process's number, and fails when that
/// takes too long. To be called as soon as the process is started again.
pub async fn taken_over(stack: &Stack, process: &str, dead: i64) -> anyhow::Result<()> {
    let (service, _) = instance_of(process);
    let sql = format!(
        "select (select count(*) from {service:?}.outbox where boot = $1)
              + (select count(*) from {service:?}.calls where boot = $1)"
    );
    wait::until(TAKEN_OVER_MAX, "the dead process's work to be taken over", async || {
        let query = sqlx::query_scalar(AssertSqlSafe(sql.clone())).bind(dead);
        let left: i64 = query.fetch_one(&stack.tables).await.ok()?;
        (left == 0).then_some(())
    })
    .await
}

/// The death cost something: the new process discarded a repeat, or sent what the old one had not.
pub async fn was_felt(stack: &Stack, service: &str) -> anyhow::Result<()> {
    wait::until(BITTEN_MAX, &format!("{service} to feel its death"), async || {
        let text = stack.client.metrics(service).await.ok()?;
        let repeats = metrics::sum(&text, "switchback_inbox_duplicates_total", &[]);
        let sent = metrics::sum(&text, "switchback_dispatched_total", &[]);
        (repeats + sent > 0.0).then_some(())
    })
    .await
}
