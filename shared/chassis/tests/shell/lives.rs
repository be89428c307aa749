//! How long a service remembers, and what it does not take from beyond.

use testkit::records::Record;
use testkit::{Broker, wait};
use uuid::Uuid;

use crate::house::{AT_MOST, Grid, House, LAMP, Login, WALL, fitted, log, start};

const DARK: i16 = 2;
const DAY_MS: i128 = 24 * 60 * 60 * 1_000;

/// The same under an id from so many days away.
fn from_day(record: &Record, days: i128) -> Record {
    let mut moved = record.clone();
    for (name, value) in &mut moved.headers {
        if name == "ce_id" {
            let now = Uuid::now_v7().as_u128();
            let shifted = now.cast_signed() + ((days * DAY_MS) << 80);
            let id = Uuid::from_u128(shifted.cast_unsigned());
            *value = Some(id.to_string().into_bytes());
        }
    }
    moved
}

#[tokio::test]
async fn a_service_that_would_forget_too_early_does_not_start_and_shows_the_sum()
-> anyhow::Result<()> {
    let database = testkit::database("lamp").await?;
    let broker = Broker::start(None, &[WALL, LAMP])?;
    let grid = Grid::start().await?;
    let login = Login {
        app: database.app_url.clone(),
        owner: database.owner_url.clone(),
        superuser: database.superuser_url.clone(),
    };
    let log = log()?;
    let short = [("INBOX_WINDOW_DAYS", "14".to_owned())];
    let mut lamp = start("127.0.0.1:0", &log, &login, &broker, &grid, &short)?;
    let ended = wait::until(AT_MOST, "the process to end", async || lamp.try_wait().ok().flatten());
    assert_eq!(ended.await?.code(), Some(1));
    let said = std::fs::read_to_string(&log)?;
    let sum = "Error: INBOX_WINDOW_DAYS is too short: 336 h are remembered, and an event can come \
               back after 168 h (REPUBLISH_SPAN_HOURS) + 168 h (TOPIC_RETENTION_HOURS) = 336 h: at \
               least 15 days are needed";
    assert!(said.lines().any(|line| line == sum), "{said}");
    std::fs::remove_file(log)?;
    Ok(())
}

#[tokio::test]
async fn an_event_from_outside_the_window_is_set_aside_and_its_neighbours_are_handled()
-> anyhow::Result<()> {
    let house = House::open(&[]).await?;
    let lamp = Uuid::now_v7();
    let (old, new) = (fitted(Uuid::now_v7(), "attic"), fitted(Uuid::now_v7(), "cellar"));
    let (old, new) = (from_day(&old, -22), from_day(&new, 29));
    house.tell(&[old.clone(), new.clone(), fitted(lamp, "kitchen")]).await?;
    house.wait_for_status(lamp, DARK).await?;
    let mut letters = house.wait_for_letters(2).await?;
    letters.sort_by(|one, other| one.code.cmp(&other.code));
    let found: Vec<_> =
        letters.iter().map(|letter| (letter.code.as_str(), Some(&letter.body))).collect();
    assert_eq!(found, [("TOO_NEW", new.body.as_ref()), ("TOO_OLD", old.body.as_ref())]);
    assert_eq!(house.count("select count(*) from lamps").await?, 1);
    assert_eq!(house.count("select count(*) from inbox").await?, 1);
    assert_eq!(house.metric("switchback_stray_rows").await?, 0);
    Ok(())
}

#[tokio::test]
async fn what_is_over_is_forgotten_and_a_gauge_falls_back_to_nothing() -> anyhow::Result<()> {
    let mut house = House::open(&[]).await?;
    let lamp = Uuid::now_v7();
    house.tell(&[from_day(&fitted(lamp, "attic"), -22), fitted(lamp, "kitchen")]).await?;
    house.wait_for_letters(1).await?;
    house.wait_for_metric(1, "switchback_dead_letters").await?;
    let mut behind = house.behind().await?;
    sqlx::query("update dead_letters set state = 'discarded', closed_at = now()")
        .execute(&mut behind)
        .await?;
    house.wait_for_metric(0, "switchback_dead_letters").await?;

    sqlx::raw_sql(
        "update dead_letters set closed_at = now() - interval '31 days';
         insert into idempotency_keys (caller, method, route, key, fingerprint, status, headers,
                                       body, created_at)
         select 'one', 'POST', '/v1/lamps', hours::text, '', 202, '[]', '',
                now() - hours * interval '1 hour'
           from unnest(array[23, 26]) as hours",
    )
    .execute(&mut behind)
    .await?;
    house.kill_and_start_again().await?;
    house.wait_for_count(0, "select count(*) from dead_letters").await?;
    house.wait_for_count(1, "select count(*) from idempotency_keys").await?;
    Ok(())
}
