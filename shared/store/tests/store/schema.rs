//! What the schema allows, and how it grows.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection};
use store::{Db, Error, MigrationError};
use uuid::Uuid;

use crate::{Ground, NOTES, SERVICE, WINDOW, config, ground, said};

/// The first id of a moment so many days from now.
pub async fn id_in_days(ground: &Ground, days: i32) -> anyhow::Result<Uuid> {
    let floor: Uuid = sqlx::query_scalar("select uuid_floor(now() + $1 * interval '1 day')")
        .bind(days)
        .fetch_one(ground.db.autocommit())
        .await?;
    // A uuid v7 as any producer would make it in that millisecond.
    Ok(Uuid::from_u128(floor.as_u128() | 0x7000_8000_0000_0000_0001))
}

/// Where a row of `inbox` has gone.
pub async fn partition_of(ground: &Ground, id: Uuid) -> anyhow::Result<Option<String>> {
    Ok(sqlx::query_scalar("select tableoid::regclass::text from inbox where event_id = $1")
        .bind(id)
        .fetch_optional(ground.db.autocommit())
        .await?)
}

async fn claim(ground: &Ground, id: Uuid) -> Result<HashSet<Uuid>, Error> {
    let claimed =
        ground.db.with_tx(async |tx| store::claim(tx, SERVICE, &[id], &[1], WINDOW).await).await?;
    Ok(claimed.fresh)
}

/// Takes partitions away as nobody but the owner can.
async fn take_away(ground: &Ground, like: &str) -> anyhow::Result<()> {
    let names: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class where relname like $1 and relkind = 'r'",
    )
    .bind(like)
    .fetch_all(ground.db.autocommit())
    .await?;
    anyhow::ensure!(!names.is_empty(), "no partition like {like}");
    let mut owner = PgConnection::connect(&ground.database.owner_url).await?;
    for name in names {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("drop table \"{name}\"")))
            .execute(&mut owner)
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_weeks_around_now_have_partitions_and_asking_again_changes_nothing()
-> anyhow::Result<()> {
    let ground = ground().await?;
    let weeks = "select count(*) from pg_inherits i join pg_class p on p.oid = i.inhparent
                  where p.relname in ('events', 'inbox') and p.relkind = 'p'";
    // This one, four ahead and the default, twice; of `inbox` three weeks back, of `events` one.
    assert_eq!(ground.count(weeks).await?, 16);
    store::ensure_partitions(&ground.db, WINDOW).await?;
    assert_eq!(ground.count(weeks).await?, 16);
    for days in [-20, 0, 27] {
        let id = id_in_days(&ground, days).await?;
        assert_eq!(claim(&ground, id).await?.len(), 1);
        let partition = partition_of(&ground, id).await?.expect("just claimed");
        assert!(partition.starts_with("inbox_2"), "{days} days from now: {partition}");
        assert!(claim(&ground, id).await?.is_empty(), "the second time it is known");
    }
    Ok(())
}

#[tokio::test]
async fn vacuum_is_told_of_every_table_whose_rows_do_not_stay() -> anyhow::Result<()> {
    let ground = ground().await?;
    let told: Vec<(String, String)> = sqlx::query_as(
        "select regexp_replace(relname, '_2.*', ' of a week'),
                string_agg(distinct coalesce(array_to_string(reloptions, ' '), 'nothing'), '; ')
           from pg_class
          where relnamespace = 'lamp'::regnamespace
            and (reloptions is not null or relname ~ '^(inbox|events)_2')
            and relkind = 'r'
          group by 1
          order by 1",
    )
    .fetch_all(&mut ground.behind().await?)
    .await?;
    let often = "autovacuum_vacuum_scale_factor=0 autovacuum_vacuum_threshold=5000 \
                 autovacuum_vacuum_cost_delay=0";
    let freezing = "autovacuum_vacuum_insert_scale_factor=0 \
                    autovacuum_vacuum_insert_threshold=500000";
    let expected = [
        ("calls", often),
        ("events of a week", freezing),
        ("idempotency_keys", "autovacuum_vacuum_scale_factor=0 autovacuum_vacuum_threshold=20000"),
        ("inbox of a week", freezing),
        ("outbox", often),
    ];
    assert_eq!(told, expected.map(|(table, options)| (table.to_owned(), options.to_owned())));
    Ok(())
}

#[tokio::test]
async fn what_lies_in_no_week_is_caught_by_the_default_partition() -> anyhow::Result<()> {
    let ground = ground().await?;
    take_away(&ground, "inbox\\_2%").await?;
    let id = id_in_days(&ground, 7).await?;
    assert_eq!(claim(&ground, id).await?.len(), 1);
    assert_eq!(partition_of(&ground, id).await?.as_deref(), Some("inbox_default"));
    assert!(claim(&ground, id).await?.is_empty(), "the second time it is known");
    Ok(())
}

#[tokio::test]
async fn a_missing_partition_is_waited_for_and_poisons_nobody() -> anyhow::Result<()> {
    let ground = ground().await?;
    take_away(&ground, "inbox%").await?;
    let id = id_in_days(&ground, 0).await?;
    let claimed = claim(&ground, id).await;
    assert!(matches!(claimed, Err(Error::Wait(_))), "{claimed:?}");
    take_away(&ground, "events%").await?;
    let event = said(&ground, Uuid::now_v7(), 1).await?;
    let written = ground.say(1, vec![event]).await;
    assert!(matches!(written, Err(Error::Wait(_))), "{written:?}");

    store::ensure_partitions(&ground.db, WINDOW).await?;
    assert_eq!(claim(&ground, id).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_row_in_the_default_partition_keeps_no_process_from_starting() -> anyhow::Result<()> {
    let ground = ground().await?;
    take_away(&ground, "inbox\\_2%").await?;
    let id = id_in_days(&ground, 7).await?;
    assert_eq!(claim(&ground, id).await?.len(), 1);
    store::ensure_partitions(&ground.db, WINDOW).await?;
    let other = id_in_days(&ground, 14).await?;
    assert_eq!(claim(&ground, other).await?.len(), 1);
    let partition = partition_of(&ground, other).await?.expect("just claimed");
    assert!(partition.starts_with("inbox_2"), "the other weeks are made: {partition}");
    assert!(claim(&ground, id).await?.is_empty(), "what is known stays known");
    Ok(())
}

#[tokio::test]
async fn a_service_can_touch_no_other_schema_and_change_nothing_that_was_said() -> anyhow::Result<()>
{
    let ground = ground().await?;
    let mut behind = ground.behind().await?;
    let sql = store::bootstrap_sql("neighbour");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut behind).await?;
    sqlx::raw_sql("create table neighbour.secrets (word text)").execute(&mut behind).await?;

    let may = async |role: &str, table: &str, what: &str| -> anyhow::Result<bool> {
        Ok(sqlx::query_scalar("select has_table_privilege($1, $2, $3)")
            .bind(role)
            .bind(table)
            .bind(what)
            .fetch_one(&mut ground.behind().await?)
            .await?)
    };
    for what in ["select", "insert"] {
        assert!(may("lamp_app", "lamp.events", what).await?, "{what}");
    }
    let weeks: Vec<String> = sqlx::query_scalar(
        "select 'lamp.' || relname from pg_class
          where relname like 'events%' and relkind in ('r', 'p')",
    )
    .fetch_all(&mut behind)
    .await?;
    assert_eq!(weeks.len(), 8);
    for week in &weeks {
        for what in ["update", "delete", "truncate"] {
            assert!(!may("lamp_app", week, what).await?, "{what} {week}");
        }
        assert!(!may("lamp_ro", week, "insert").await?, "{week}");
    }
    assert!(may("lamp_app", "lamp.notes", "update").await?);
    assert!(!may("lamp_app", "lamp.notes", "truncate").await?);

    for (role, schema) in [("lamp_app", "neighbour"), ("lamp_owner", "neighbour")] {
        for what in ["usage", "create"] {
            let allowed: bool = sqlx::query_scalar("select has_schema_privilege($1, $2, $3)")
                .bind(role)
                .bind(schema)
                .bind(what)
                .fetch_one(&mut behind)
                .await?;
            assert!(!allowed, "{role}: {what} on {schema}");
        }
    }
    for sql in [
        "select * from neighbour.secrets",
        "create table public.mine (word text)",
        "create table mine (word text)",
        "update events set body = ''",
        "delete from events",
        "alter role lamp_app superuser",
    ] {
        let refused = sqlx::query(sql).execute(ground.db.autocommit()).await;
        let refused = refused.expect_err(sql).into_database_error().expect("Postgres says so");
        assert_eq!(refused.code().as_deref(), Some("42501"), "{sql}: {refused}");
    }
    Ok(())
}

/// As the first release made it, with rows of each kind.
async fn yesterdays(database: &testkit::Database) -> anyhow::Result<()> {
    static ALL: Migrator = sqlx::migrate!("./migrations");
    let first = ALL.migrations.iter().filter(|migration| migration.version == 1).cloned().collect();
    let mut first = Migrator { migrations: first, ..Migrator::DEFAULT };
    first.dangerous_set_table_name("_store_migrations");
    let mut owner = PgConnection::connect(&database.owner_url).await?;
    first.run(&mut owner).await?;
    sqlx::raw_sql(
        "select ensure_partitions(3, 4);
         insert into inbox (event_id, consumer, body_hash)
         values (uuid_floor(now() - interval '15 days'), 'lamp', 1);
         insert into dead_letters (id, origin, code, body, attempts, state, last_failed_at)
         select gen_random_uuid(), 'consumer', 'POISON', '', 1, state, now() - interval '1 year'
           from unnest(array['open', 'replaying', 'replayed', 'superseded', 'discarded']) as state",
    )
    .execute(&mut owner)
    .await?;
    Ok(())
}

#[tokio::test]
async fn yesterdays_schema_grows_with_its_rows_and_yesterdays_process_starts_on_it()
-> anyhow::Result<()> {
    let database = testkit::database(SERVICE).await?;
    yesterdays(&database).await?;
    store::migrate(Some(&database.owner_url), &database.app_url, &NOTES).await?;
    let db = Db::try_new(&config(&database.app_url))?;
    let ground = Ground { db, database };
    store::ensure_partitions(&ground.db, WINDOW).await?;
    sqlx::query("select ensure_partitions(3, 4)").execute(ground.db.autocommit()).await?;

    let id: Uuid =
        sqlx::query_scalar("select event_id from inbox").fetch_one(ground.db.autocommit()).await?;
    assert!(claim(&ground, id).await?.is_empty(), "what is known stays known");
    let month = Duration::from_hours(30 * 24);
    assert_eq!(store::purge_letters(&ground.db, month).await?, 3);
    let left = "select count(*) from dead_letters where state in ('open', 'replaying')";
    assert_eq!(ground.count(left).await?, 2);
    Ok(())
}

#[tokio::test]
async fn without_the_owners_url_a_schema_that_is_behind_is_an_error() -> anyhow::Result<()> {
    let database = testkit::database(SERVICE).await?;
    let empty = store::migrate(None, &database.app_url, &NOTES).await;
    assert!(matches!(empty, Err(MigrationError::Database(_))), "{empty:?}");

    store::migrate(Some(&database.owner_url), &database.app_url, &NOTES).await?;
    store::migrate(None, &database.app_url, &NOTES).await?;
    store::migrate(Some(&database.owner_url), &database.app_url, &NOTES).await?;

    let mut owner = PgConnection::connect(&database.owner_url).await?;
    sqlx::query("delete from _sqlx_migrations").execute(&mut owner).await?;
    let behind = store::migrate(None, &database.app_url, &NOTES).await;
    assert!(
        matches!(behind, Err(MigrationError::Behind { found: 0, needed: 1, .. })),
        "{behind:?}"
    );
    Ok(())
}
