//! What is forgotten, what is not, and what is left for later.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use store::{Claimed, Error, ID_COLLISION, PURGE_ROWS_MAX, TOO_NEW, TOO_OLD};
use uuid::Uuid;

use crate::schema::{id_in_days, partition_of};
use crate::{Ground, SERVICE, WINDOW, ground, said};

const DAY: Duration = Duration::from_hours(24);
const WEEK: Duration = Duration::from_hours(7 * 24);
const MONTH: Duration = Duration::from_hours(30 * 24);
/// More than there are weeks to drop.
const DROPS_MAX: usize = 10;
/// Far less than what the role of that test waits for a lock.
const HELD_UP_MAX: Duration = Duration::from_secs(3);

async fn claim(
    ground: &Ground,
    ids: &[Uuid],
    hash: i64,
    window: Duration,
) -> Result<Claimed, Error> {
    let hashes = vec![hash; ids.len()];
    ground.db.with_tx(async |tx| store::claim(tx, SERVICE, ids, &hashes, window).await).await
}

/// Drops until there is nothing to drop: what went each time.
async fn drop_all(
    ground: &Ground,
    window: Duration,
    events: Duration,
) -> anyhow::Result<Vec<Vec<String>>> {
    let mut dropped = Vec::new();
    for _ in 0..DROPS_MAX {
        let weeks = store::drop_partitions(&ground.db, window, events).await?;
        if weeks.is_empty() {
            return Ok(dropped);
        }
        dropped.push(weeks);
    }
    anyhow::bail!("there is no end: {dropped:?}")
}

/// A week of events as it was made long ago, with its place in time in its name.
async fn make_past_week(ground: &Ground, weeks_ago: u32) -> anyhow::Result<()> {
    let mut owner = PgConnection::connect(&ground.database.owner_url).await?;
    let sql = format!(
        "set timezone = 'UTC';
         create table events_past_{weeks_ago} partition of events
            for values from (uuid_floor(date_trunc('week', now()) - interval '{weeks_ago} weeks'))
                         to (uuid_floor(date_trunc('week', now()) - interval '{} weeks'))",
        weeks_ago - 1
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut owner).await?;
    Ok(())
}

#[tokio::test]
async fn an_id_from_outside_the_window_is_refused_and_leaves_no_row() -> anyhow::Result<()> {
    let ground = ground().await?;
    let mut ids = Vec::new();
    for days in [-22, -20, 27, 29] {
        ids.push(id_in_days(&ground, days).await?);
    }
    let claimed = claim(&ground, &ids, 1, WINDOW).await?;
    assert_eq!(claimed.refused, HashMap::from([(ids[0], TOO_OLD), (ids[3], TOO_NEW)]));
    assert_eq!(claimed.fresh, HashSet::from([ids[1], ids[2]]));
    assert_eq!(ground.count("select count(*) from inbox").await?, 2);
    assert_eq!(store::strays(&ground.db).await?, 0, "no stranger can raise this alarm");
    Ok(())
}

#[tokio::test]
async fn what_was_handled_stays_known_beyond_the_window_and_is_never_new_after_it()
-> anyhow::Result<()> {
    let ground = ground().await?;
    let id = id_in_days(&ground, -15).await?;
    assert_eq!(claim(&ground, &[id], 1, WINDOW).await?.fresh.len(), 1);

    let known = claim(&ground, &[id], 1, WEEK).await?;
    assert_eq!((known.fresh.len(), known.refused.len()), (0, 0), "a repeat, and nothing else");
    let collision = claim(&ground, &[id], 2, WEEK).await?;
    assert_eq!(collision.refused, HashMap::from([(id, ID_COLLISION)]));

    drop_all(&ground, WEEK, MONTH).await?;
    assert_eq!(ground.count("select count(*) from inbox").await?, 0);
    let forgotten = claim(&ground, &[id], 1, WEEK).await?;
    assert_eq!(forgotten.refused, HashMap::from([(id, TOO_OLD)]));
    assert!(forgotten.fresh.is_empty());
    Ok(())
}

#[tokio::test]
async fn weeks_go_one_at_a_time_oldest_first_and_none_that_is_made_or_default() -> anyhow::Result<()>
{
    let ground = ground().await?;
    for weeks_ago in [2, 3, 4] {
        make_past_week(&ground, weeks_ago).await?;
    }
    let weeks = "select count(*) from pg_inherits i join pg_class p on p.oid = i.inhparent
                  where p.relname in ('events', 'inbox') and p.relkind = 'p'";
    assert_eq!(ground.count(weeks).await?, 19);
    assert_eq!(drop_all(&ground, WINDOW, MONTH).await?, Vec::<Vec<String>>::new());

    let dropped = drop_all(&ground, WEEK, WEEK).await?;
    let inbox: Vec<_> = dropped.iter().map(|weeks| weeks[0].as_str()).take(2).collect();
    assert!(inbox[0] < inbox[1] && inbox[0].starts_with("inbox_2"), "{inbox:?}");
    let events: Vec<_> = dropped.iter().filter_map(|weeks| weeks.last()).collect();
    assert_eq!(events, ["events_past_4", "events_past_3", "events_past_2"]);
    // What is needed for a window of a week is there, and making it brings nothing back to drop.
    assert_eq!(ground.count(weeks).await?, 14);
    store::ensure_partitions(&ground.db, WEEK).await?;
    assert_eq!(ground.count(weeks).await?, 14);
    assert_eq!(drop_all(&ground, Duration::ZERO, Duration::ZERO).await?.len(), 0);
    for days in [-6, 0, 27] {
        let id = id_in_days(&ground, days).await?;
        claim(&ground, &[id], 1, WEEK).await?;
        let partition = partition_of(&ground, id).await?.expect("just claimed");
        assert!(partition.starts_with("inbox_2"), "{days} days from now: {partition}");
    }
    Ok(())
}

#[tokio::test]
async fn no_week_is_dropped_while_the_broker_lacks_an_event_of_it_or_of_one_before()
-> anyhow::Result<()> {
    let ground = ground().await?;
    for weeks_ago in [2, 3, 4, 5] {
        make_past_week(&ground, weeks_ago).await?;
    }
    let mut unsent = said(&ground, Uuid::now_v7(), 1).await?;
    unsent.envelope.id = id_in_days(&ground, -22).await?;
    ground.say(1, vec![unsent.clone()]).await?;
    let holds: String = sqlx::query_scalar("select tableoid::regclass::text from events")
        .fetch_one(ground.db.autocommit())
        .await?;
    assert!(["events_past_3", "events_past_4"].contains(&holds.as_str()), "{holds}");

    let dropped = drop_all(&ground, WINDOW, WEEK).await?.concat();
    assert!(!dropped.is_empty() && !dropped.contains(&holds), "{dropped:?}");
    assert_eq!(dropped.iter().max(), Some(&"events_past_5".to_owned()));
    assert_eq!(ground.count("select count(*) from events").await?, 1);

    store::delete_acked(ground.db.autocommit(), &[unsent.envelope.id]).await?;
    let dropped = drop_all(&ground, WINDOW, WEEK).await?.concat();
    assert_eq!(dropped.first(), Some(&holds));
    assert_eq!(dropped.last(), Some(&"events_past_2".to_owned()));
    assert_eq!(ground.count("select count(*) from events").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_table_in_use_is_left_for_later_and_nobody_queues_behind_the_wish() -> anyhow::Result<()>
{
    let ground = ground().await?;
    let patiently = "do $$ begin
                         execute format('alter role lamp_app in database %I set lock_timeout = %L',
                                        current_database(), '20s');
                     end $$";
    sqlx::raw_sql(patiently).execute(&mut ground.behind().await?).await?;
    let patient = ground.peer()?;
    let ids = [id_in_days(&ground, 0).await?];
    ground
        .db
        .with_tx(async |tx| {
            store::claim(tx, SERVICE, &ids, &[1], WINDOW).await?;
            let begun = Instant::now();
            let busy = store::drop_partitions(&patient, WEEK, MONTH).await;
            assert!(matches!(&busy, Err(Error::Wait(why)) if why.contains("55P03")), "{busy:?}");
            assert!(begun.elapsed() < HELD_UP_MAX, "{:?}", begun.elapsed());
            Ok(())
        })
        .await?;
    assert_eq!(store::drop_partitions(&ground.db, WEEK, MONTH).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_reader_drops_nothing_and_the_service_no_week_that_is_in_use() -> anyhow::Result<()> {
    let ground = ground().await?;
    let url = ground.database.app_url.replace("lamp_app", "lamp_ro");
    let mut reader = PgConnection::connect(&url).await?;
    let refused = sqlx::query("select drop_partitions(1, 1)").execute(&mut reader).await;
    let refused = refused.expect_err("it only reads").into_database_error().expect("it is told");
    assert_eq!(refused.code().as_deref(), Some("42501"), "{refused}");

    let made =
        "select count(*) from pg_class where relname ~ '^(inbox|events)_2' and relkind = 'r'";
    for _ in 0..DROPS_MAX {
        sqlx::query("select drop_partitions(-9, -9)").execute(ground.db.autocommit()).await?;
    }
    // Of each the last week, this one and four ahead.
    assert_eq!(ground.count(made).await?, 12);
    Ok(())
}

/// Answers that were given so long ago.
async fn keys(ground: &Ground, count: i32, hours_ago: f64) -> anyhow::Result<()> {
    sqlx::query(
        "insert into idempotency_keys (caller, method, route, key, fingerprint, status, headers,
                                       body, created_at)
         select 'one', 'POST', '/v1/lamps', gen_random_uuid()::text, '', 202, '[]', 'done',
                now() - $2 * interval '1 hour'
           from generate_series(1, $1)",
    )
    .bind(count)
    .bind(hours_ago)
    .execute(ground.db.autocommit())
    .await?;
    Ok(())
}

#[tokio::test]
async fn old_answers_are_forgotten_slice_by_slice_and_young_ones_kept() -> anyhow::Result<()> {
    let ground = ground().await?;
    keys(&ground, 2_500, 25.5).await?;
    keys(&ground, 7, 24.9).await?;
    assert_eq!(store::purge_keys(&ground.db, Duration::from_hours(25)).await?, 2_500);
    assert_eq!(store::purge_keys(&ground.db, Duration::from_hours(25)).await?, 0);
    assert_eq!(ground.count("select count(*) from idempotency_keys").await?, 7);
    Ok(())
}

#[tokio::test]
async fn a_purge_has_a_bound_and_says_when_it_has_left_some() -> anyhow::Result<()> {
    let ground = ground().await?;
    keys(&ground, i32::try_from(PURGE_ROWS_MAX)? + 5, 48.0).await?;
    assert_eq!(store::purge_keys(&ground.db, DAY).await?, PURGE_ROWS_MAX);
    assert_eq!(store::purge_keys(&ground.db, DAY).await?, 5);
    Ok(())
}

#[tokio::test]
async fn one_process_purges_while_another_goes_without() -> anyhow::Result<()> {
    let ground = ground().await?;
    keys(&ground, 3, 48.0).await?;
    let peer = ground.peer()?;
    peer.with_tx(async |tx| {
        sqlx::query("select pg_advisory_xact_lock(hashtext('purge ' || current_schema()), 0)")
            .execute(tx)
            .await?;
        assert_eq!(store::purge_keys(&ground.db, DAY).await?, 0);
        Ok(())
    })
    .await?;
    assert_eq!(store::purge_keys(&ground.db, DAY).await?, 3);
    Ok(())
}

#[tokio::test]
async fn dead_letters_go_a_while_after_they_were_closed_and_open_ones_never() -> anyhow::Result<()>
{
    let ground = ground().await?;
    sqlx::query(
        "insert into dead_letters (id, origin, code, body, attempts, state, first_failed_at,
                                   last_failed_at, closed_at)
         select gen_random_uuid(), 'consumer', 'POISON', '', 1, state, now() - interval '1 year',
                now() - interval '1 year', now() - days * interval '1 day'
           from (values ('open', null), ('replaying', null), ('replayed', 29), ('superseded', 29),
                        ('replayed', 31), ('superseded', 31), ('discarded', 31)) as t(state, days)",
    )
    .execute(ground.db.autocommit())
    .await?;
    assert_eq!(store::purge_letters(&ground.db, MONTH).await?, 3);
    assert_eq!(ground.count("select count(*) from dead_letters").await?, 4);
    assert_eq!(store::open_letters(&ground.db).await?.len(), 1);

    let silently = sqlx::query("update dead_letters set state = 'discarded' where state = 'open'")
        .execute(ground.db.autocommit())
        .await;
    let refused = silently.expect_err("nobody could tell for how long to keep it");
    assert_eq!(
        refused.into_database_error().expect("it is told").constraint(),
        Some("dead_letters_closed")
    );
    Ok(())
}
