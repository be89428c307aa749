//! Owns the statements about a whole stack: stock, topics, dead letters, and that nothing is left
//! behind. Refuses to look at one order alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, ensure};
use sqlx::{AssertSqlSafe, FromRow, PgPool};
use testkit::records::{self, Record};
use testkit::wait;
use uuid::Uuid;

use crate::SERVICES;
use crate::saga::{self, everywhere};
use crate::stack::Stack;

const EMPTY_MAX: Duration = Duration::from_secs(20);

/// A dead letter that is open: the service that has it, who gave up, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, FromRow)]
pub struct DeadLetter {
    pub service: String,
    pub consumer: String,
    pub code: String,
}

/// What a test put into the topics itself: judged by the test, not as events of ours.
#[derive(Debug, Default)]
pub struct Injected {
    pub event_ids: BTreeSet<Uuid>,
    /// One for each that must be there.
    pub dead_letters: Vec<DeadLetter>,
}

/// Judges every order of the stack, and what the orders share.
pub async fn judge(stack: &Stack, injected: &Injected) -> anyhow::Result<()> {
    let orders: Vec<Uuid> = sqlx::query_scalar("select order_id from \"order\".orders")
        .fetch_all(&stack.tables)
        .await?;
    ensure!(!orders.is_empty(), "a run without orders proves nothing");
    for order_id in orders {
        saga::judge(stack, order_id).await?;
    }
    nothing_is_left(stack).await?;
    stock_is_conserved(&stack.tables).await?;
    the_topics_hold_what_was_said(stack, injected).await?;
    dead_letters_are(stack, injected).await
}

async fn nothing_is_left(stack: &Stack) -> anyhow::Result<()> {
    let all = everywhere(
        "select '{schema}' || ' outbox ' || event_id as what from \"{schema}\".outbox
          union all
         select '{schema}' || ' call ' || step || ' ' || subject from \"{schema}\".calls
          union all
         select '{schema}' || ' event without a week ' || id from \"{schema}\".events_default
          union all
         select '{schema}' || ' inbox without a week ' || event_id from \"{schema}\".inbox_default",
    );
    let mut left: Vec<String> = Vec::new();
    let empty = wait::until(EMPTY_MAX, "nothing to be left", async || {
        left =
            sqlx::query_scalar(AssertSqlSafe(all.clone())).fetch_all(&stack.tables).await.ok()?;
        left.is_empty().then_some(())
    });
    empty.await.with_context(|| left.join(", "))
}

#[derive(Debug, FromRow)]
struct Shelf {
    sku: String,
    available: i64,
    counted: i64,
}

/// What is available and what is held is what was ever counted.
async fn stock_is_conserved(tables: &PgPool) -> anyhow::Result<()> {
    let held: Vec<String> = sqlx::query_scalar(
        "select convert_from(held, 'UTF8') from inventory.reservations where held is not null",
    )
    .fetch_all(tables)
    .await?;
    let mut by_sku = BTreeMap::<String, i64>::new();
    for held in held {
        for (sku, units) in serde_json::from_str::<BTreeMap<String, i64>>(&held)? {
            ensure!(units > 0, "a reservation of {units} {sku}");
            *by_sku.entry(sku).or_default() += units;
        }
    }
    let shelves: Vec<Shelf> = sqlx::query_as(
        "select sku, available,
                coalesce((select sum(delta) from inventory.stock_changes c where c.sku = s.sku), 0)
                    ::bigint as counted
           from inventory.stock s",
    )
    .fetch_all(tables)
    .await?;
    for Shelf { sku, available, counted } in shelves {
        let held = by_sku.remove(&sku).unwrap_or_default();
        ensure!(
            available >= 0 && available + held == counted,
            "{sku}: {available} available and {held} held are not {counted}"
        );
    }
    ensure!(by_sku.is_empty(), "stock is held that never was: {by_sku:?}");
    Ok(())
}

#[derive(Debug, PartialEq, Eq, FromRow)]
struct Stored {
    id: Uuid,
    subject: Uuid,
    version: Option<i32>,
    kind: String,
    body: Vec<u8>,
}

impl Stored {
    /// The same record as it is on the wire, if it is one of ours at all.
    fn of(record: &Record) -> Option<Self> {
        let header = |name| record.header(name);
        let subject: Uuid = header("ce_subject")?.parse().ok()?;
        (record.key.as_deref() == Some(subject.to_string().as_bytes())).then_some(())?;
        Some(Self {
            id: header("ce_id")?.parse().ok()?,
            subject,
            version: header("ce_version").and_then(|version| version.parse().ok()),
            kind: header("ce_type")?.to_owned(),
            body: record.body.clone()?,
        })
    }
}

/// Each event is in its producer's topic at least once, unchanged, and nothing else is.
async fn the_topics_hold_what_was_said(stack: &Stack, injected: &Injected) -> anyhow::Result<()> {
    for service in SERVICES {
        let sql =
            format!("select id, subject, version, type as kind, body from {service:?}.events");
        let stored: Vec<Stored> =
            sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&stack.tables).await?;
        let stored: BTreeMap<Uuid, Stored> =
            stored.into_iter().map(|stored| (stored.id, stored)).collect();
        let mut unseen: BTreeSet<Uuid> = stored.keys().copied().collect();
        let topic = format!("{service}.events.v1");
        for record in records::read(&stack.bootstrap(), &topic).await? {
            let id = record.header("ce_id").and_then(|id| id.parse().ok());
            if id.is_some_and(|id| injected.event_ids.contains(&id)) {
                continue;
            }
            let said = Stored::of(&record).with_context(|| format!("{topic}: {record:?}"))?;
            ensure!(stored.get(&said.id) == Some(&said), "{topic}: nobody said {said:?}");
            unseen.remove(&said.id);
        }
        ensure!(unseen.is_empty(), "{topic}: never sent: {unseen:?}");
    }
    Ok(())
}

async fn dead_letters_are(stack: &Stack, injected: &Injected) -> anyhow::Result<()> {
    let mut wanted = injected.dead_letters.clone();
    wanted.sort();
    let found = dead_letters(stack).await?;
    ensure!(found == wanted, "dead letters {found:#?} instead of {wanted:#?}");
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
