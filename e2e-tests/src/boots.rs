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

/// What a process and its peers have made good since they started: repeats that they discarded, and
/// events that the dispatcher sent for somebody else.
pub async fn made_good(stack: &Stack, processes: &[&str]) -> anyhow::Result<f64> {
    let mut all = 0.0;
    for process in processes {
        let text = stack.client.metrics(process).await?;
        all += metrics::sum(&text, "switchback_inbox_duplicates_total", &[]);
        all += metrics::sum(&text, "switchback_dispatched_total", &[]);
    }
    Ok(all)
}

/// A death cost something: the new process, which begins at nothing, or one of its peers, which had
/// made good so much before, discarded a repeat, or sent what the old one had not.
pub async fn was_felt(stack: &Stack, service: &str, peers_before: f64) -> anyhow::Result<()> {
    let processes: Vec<&str> = stack.processes_of(service).collect();
    wait::until(BITTEN_MAX, &format!("{service} to feel its death"), async || {
        let all = made_good(stack, &processes).await.ok()?;
        (all > peers_before).then_some(())
    })
    .await
}
