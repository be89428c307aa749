//! Outside calls: asked until the answer is definite, under one key, and never taken for a "no".

use sqlx::Connection as _;
use testkit::wait;
use uuid::Uuid;

use crate::house::{AT_MOST, House, distinct, fitted, pressed};

const DARK: i16 = 2;
const CONNECTING: i16 = 3;
const LIT: i16 = 4;
const CUT: i16 = 5;

/// Wants a lamp with this label to be lit.
async fn light(house: &House, label: &str) -> anyhow::Result<Uuid> {
    let lamp = Uuid::now_v7();
    house.tell(&[fitted(lamp, label), pressed(lamp)]).await?;
    Ok(lamp)
}

#[tokio::test]
async fn a_definite_refusal_is_decided_on() -> anyhow::Result<()> {
    let house = House::open(&[]).await?;
    let lamp = light(&house, "unpaid").await?;
    let said = house.wait_for_said(lamp, 2).await?;
    let body: serde_json::Value = serde_json::from_slice(said[1].body.as_deref().expect("a body"))?;
    assert_eq!(body, serde_json::json!({"Cut": {"code": "bill_unpaid"}}));
    house.wait_for_status(lamp, CUT).await?;
    assert_eq!(house.count("select count(*) from calls").await?, 0);
    assert_eq!(house.count("select count(*) from dead_letters").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_refusal_that_has_waited_until_somebody_else_asked_decides_nothing() -> anyhow::Result<()>
{
    let house = House::open(&[("LANES", "1")]).await?;
    let lamp = light(&house, "reminded").await?;
    let key = format!("{lamp}-connect");
    wait::until(AT_MOST, "an attempt", async || house.grid.asked().get(&key).map(drop)).await?;
    let holder = house.lock(lamp).await?;
    house.grid.open_gate();
    house.wait_until_stuck().await?;
    let taken = "update calls set attempts = 2, in_doubt = true, boot = null,
                                  next_attempt_at = now() + interval '1 h'";
    assert_eq!(sqlx::query(taken).execute(&mut house.behind().await?).await?.rows_affected(), 1);
    holder.close().await?;

    // What comes after it in its lane is done.
    let next = Uuid::now_v7();
    house.tell(&[fitted(next, "hall")]).await?;
    house.wait_for_status(next, DARK).await?;
    assert_eq!(house.lamp(lamp).await?, Some((CONNECTING, None)));
    assert_eq!(house.count("select count(*) from calls where attempts = 2").await?, 1);
    assert_eq!(house.count("select count(*) from dead_letters").await?, 0);
    Ok(())
}

#[tokio::test]
async fn an_unknown_outcome_is_asked_again_in_doubt_under_the_same_key() -> anyhow::Result<()> {
    let house = House::open(&[]).await?;
    let lamp = light(&house, "flaky").await?;
    // The second answer is held back until the row was looked at.
    let key = format!("{lamp}-connect");
    wait::until(AT_MOST, "a second attempt", async || {
        (house.grid.asked().get(&key) == Some(&2)).then_some(())
    })
    .await?;
    let row: (i32, bool, String) =
        sqlx::query_as("select attempts, in_doubt, error_code from calls where subject = $1")
            .bind(lamp)
            .fetch_one(&mut house.behind().await?)
            .await?;
    assert_eq!(row, (2, true, "http_503".to_owned()));
    assert_eq!(house.lamp(lamp).await?, Some((CONNECTING, None)));

    house.grid.open_gate();
    house.wait_for_status(lamp, LIT).await?;
    assert_eq!(house.grid.asked().into_iter().collect::<Vec<_>>(), [(key, 2)]);
    assert_eq!(house.count("select count(*) from calls").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_refusal_in_doubt_is_decided_on_at_once_when_it_is_recorded() -> anyhow::Result<()> {
    // A third attempt, which might find it, is not there.
    let house = House::open(&[("GRID_ATTEMPTS_MAX", "2")]).await?;
    let lamp = light(&house, "overdue").await?;
    house.wait_for_status(lamp, CUT).await?;
    assert_eq!(house.grid.asked().into_values().collect::<Vec<_>>(), [2]);
    assert_eq!(house.count("select count(*) from calls").await?, 0);
    assert_eq!(house.count("select count(*) from dead_letters").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_call_whose_process_dies_is_taken_up_by_the_next_one_in_doubt() -> anyhow::Result<()> {
    let mut house = House::open(&[]).await?;
    let lamp = light(&house, "held").await?;
    let key = format!("{lamp}-connect");
    let asked = async |house: &House, times: u32| {
        wait::until(AT_MOST, "an attempt", async || {
            (house.grid.asked().get(&key) == Some(&times)).then_some(())
        })
        .await
    };
    let row = async |house: &House| -> anyhow::Result<(i32, bool)> {
        let row = "select attempts, in_doubt from calls";
        Ok(sqlx::query_as(row).fetch_one(&mut house.behind().await?).await?)
    };
    asked(&house, 1).await?;
    assert_eq!(row(&house).await?, (1, false));
    house.kill_and_start_again().await?;
    asked(&house, 2).await?;
    assert_eq!(row(&house).await?, (2, true));

    // One of the two is waited for by nobody any more.
    house.grid.open_gate();
    house.grid.open_gate();
    house.wait_for_status(lamp, LIT).await?;
    assert_eq!(house.grid.asked().keys().collect::<Vec<_>>(), [&key]);
    assert_eq!(house.count("select count(*) from calls").await?, 0);
    assert_eq!(distinct(&house.wait_for_said(lamp, 2).await?), 2);
    Ok(())
}

#[tokio::test]
async fn the_calls_of_many_subjects_are_under_way_at_the_same_time() -> anyhow::Result<()> {
    const LAMPS: usize = 200;
    let house = House::open(&[("LANES", "1")]).await?;
    let lamps: Vec<_> = (0..LAMPS).map(|_| Uuid::now_v7()).collect();
    let inputs = lamps.iter().flat_map(|lamp| [fitted(*lamp, "held"), pressed(*lamp)]);
    house.tell(&inputs.collect::<Vec<_>>()).await?;
    let under_way = "select count(*) from calls where boot is not null";
    house.wait_for_count(i64::try_from(LAMPS)?, under_way).await?;
    // One that was asked for too long is asked again, and its first answer is heard by nobody.
    for _ in 0..10 * LAMPS {
        house.grid.open_gate();
    }
    house.wait_for_count(i64::try_from(LAMPS)?, "select count(*) from lamps where status = 4").await
}

#[tokio::test]
async fn a_spent_budget_is_stuck_with_a_dead_letter_and_never_a_refusal() -> anyhow::Result<()> {
    let house = House::open(&[("GRID_ATTEMPTS_MAX", "2")]).await?;
    let lamp = light(&house, "down").await?;
    let letters = house.wait_for_letters(1).await?;
    let letter = &letters[0];
    assert_eq!((letter.origin.as_str(), letter.code.as_str()), ("call", "http_503"));
    assert_eq!((letter.subject, letter.attempts), (Some(lamp), 2));
    let body: serde_json::Value = serde_json::from_slice(&letter.body)?;
    assert_eq!(body["label"], "down");

    let stuck = "select count(*) from calls
                  where next_attempt_at = 'infinity' and in_doubt and attempts = 2 and boot is null";
    assert_eq!(house.count(stuck).await?, 1);
    assert_eq!(house.lamp(lamp).await?, Some((CONNECTING, None)));
    assert_eq!(house.wait_for_said(lamp, 1).await?.len(), 1, "it was fitted, and no more is known");
    assert_eq!(house.grid.asked().into_values().collect::<Vec<_>>(), [2]);
    Ok(())
}
