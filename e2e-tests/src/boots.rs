//! Owns what a dead process leaves behind under its number. Refuses to look at what it meant.

use std::time::Duration;

use sqlx::AssertSqlSafe;
use testkit::wait;

use crate::metrics;
use crate::stack::Stack;

/// How soon after the restart nothing may carry the dead process's number.
const TAKEN_OVER_MAX: Duration = Duration::from_secs(5);
const BITTEN_MAX: Duration = Duration::from_secs(15);

/// The number under which a service's living process writes.
pub async fn number(stack: &Stack, service: &str) -> anyhow::Result<i64> {
    let sql = format!("select last_value from {service:?}.boot");
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&stack.tables).await?)
}

/// Returns when no outbox row and no call carries a dead process's number, and fails when that
/// takes too long. To be called as soon as the service is started again.
pub async fn taken_over(stack: &Stack, service: &str, dead: i64) -> anyhow::Result<()> {
    let sql = format!(
        "select (select count(*) from {service:?}.outbox where boot <= $1)
              + (select count(*) from {service:?}.calls where boot <= $1)"
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
