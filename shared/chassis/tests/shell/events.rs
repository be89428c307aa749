//! What becomes of events: of the good, of the repeated, and of those that nobody can handle.

use sqlx::Connection;
use testkit::records::Record;
use uuid::Uuid;

use crate::house::{House, event, event_of_version, fitted, pressed, turned};

const DARK: i16 = 2;
const LIT: i16 = 4;
const MANY: usize = 500;

fn name(record: &Record) -> &str {
    let kind = record.header("ce_type").expect("every event has a type");
    kind.split('.').nth(2).expect("a type has four parts")
}

async fn a_lamp_is_lit(settings: &[(&'static str, &str)]) -> anyhow::Result<()> {
    let house = House::open(settings).await?;
    let lamp = Uuid::now_v7();
    // The switch is faster than the bulb.
    let (press, fit) = (pressed(lamp), fitted(lamp, "kitchen"));
    house.tell(&[press, fit.clone()]).await?;
    let said = house.wait_for_said(lamp, 2).await?;

    let facts: Vec<_> =
        said.iter().map(|event| (name(event), event.header("ce_version"))).collect();
    assert_eq!(facts, [("Fitted", Some("1")), ("Lit", Some("2"))]);
    for event in &said {
        assert_eq!(event.header("ce_causationid"), fit.header("ce_id"));
        assert_eq!(event.header("ce_subject"), Some(&*lamp.to_string()));
    }
    assert_eq!(house.lamp(lamp).await?, Some((LIT, Some(100))));
    assert_eq!(house.grid.asked().into_values().collect::<Vec<_>>(), [1]);
    house.wait_for_count(0, "select count(*) from outbox").await?;
    assert_eq!(house.count("select count(*) from calls").await?, 0);
    assert_eq!(house.count("select count(*) from events").await?, 2);
    assert_eq!(house.count("select count(*) from dead_letters").await?, 0);
    Ok(())
}

#[tokio::test]
async fn events_in_any_order_become_a_state_a_call_and_events_on_the_topic() -> anyhow::Result<()> {
    a_lamp_is_lit(&[]).await
}

#[tokio::test]
async fn the_dispatcher_alone_brings_the_same_events_out() -> anyhow::Result<()> {
    a_lamp_is_lit(&[("DISPATCH", "outbox")]).await
}

#[tokio::test]
async fn a_second_delivery_changes_nothing_and_is_counted() -> anyhow::Result<()> {
    let house = House::open(&[]).await?;
    let (lamp, last) = (Uuid::now_v7(), Uuid::now_v7());
    let fit = fitted(lamp, "kitchen");
    house.tell(&[fit.clone(), fit.clone()]).await?;
    house.wait_for_said(lamp, 1).await?;
    house.tell(&[fit.clone(), fit, fitted(last, "hall")]).await?;
    house.wait_for_said(last, 1).await?;
    house.wait_for_count(0, "select count(*) from outbox").await?;

    assert_eq!(house.wait_for_said(lamp, 1).await?.len(), 1);
    assert_eq!(house.count("select max(version)::bigint from lamps").await?, 1);
    assert_eq!(house.count("select count(*) from inbox").await?, 2);
    testkit::wait::until(crate::house::AT_MOST, "three duplicates to be counted", async || {
        let counted = house.metric("switchback_inbox_duplicates_total").await.ok()?;
        (counted == 3).then_some(())
    })
    .await
}

#[tokio::test]
async fn one_id_with_two_bodies_is_set_aside_and_never_skipped_in_silence() -> anyhow::Result<()> {
    let house = House::open(&[]).await?;
    let lamp = Uuid::now_v7();
    let fit = fitted(lamp, "kitchen");
    let other = Record { body: fitted(lamp, "hall").body, ..fit.clone() };
    house.tell(&[fit]).await?;
    house.wait_for_status(lamp, DARK).await?;
    house.tell(std::slice::from_ref(&other)).await?;
    let letters = house.wait_for_letters(1).await?;
    assert_eq!(letters[0].code, "ID_COLLISION");
    assert_eq!(Some(&letters[0].body), other.body.as_ref());
    assert_eq!(house.count("select count(*) from lamps where label = 'kitchen'").await?, 1);
    Ok(())
}

#[tokio::test]
async fn one_poisonous_input_in_a_batch_of_500_is_found_by_halving_and_set_aside_alone()
-> anyhow::Result<()> {
    let house = House::open(&[("LANES", "1")]).await?;
    let first = Uuid::now_v7();
    house.tell(&[fitted(first, "first")]).await?;
    house.wait_for_said(first, 1).await?;
    // All of them wait behind a batch that is stuck, so that they become the next one.
    let lock = house.lock(first).await?;
    house.tell(&[turned(first, 1)]).await?;
    house.wait_until_stuck().await?;
    let mut records: Vec<Record> =
        (1..MANY).map(|number| fitted(Uuid::now_v7(), &format!("lamp {number}"))).collect();
    let poison = fitted(Uuid::now_v7(), "longer than thirty characters, and");
    records.insert(MANY / 3, poison.clone());
    house.tell(&records).await?;
    house.wait_for_metric(500, "switchback_lane_waiting").await?;
    let before = house.metric("switchback_lane_commits_total").await?;
    lock.close().await?;

    house.wait_for_count(500, "select count(*) from lamps").await?;
    let mut letters = house.wait_for_letters(2).await?;
    // The stuck one, nine halves that were fine, and perhaps one more.
    let commits = house.metric("switchback_lane_commits_total").await? - before;
    assert!((9..13).contains(&commits), "{commits} commits");
    letters.retain(|letter| letter.subject != Some(first));
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!((letter.origin.as_str(), letter.code.as_str()), ("consumer", "POISON"));
    assert_eq!(Some(&letter.body), poison.body.as_ref());
    assert_eq!(letter.subject.map(|id| id.to_string().into_bytes()), poison.key);
    house.wait_for_count(0, "select count(*) from outbox").await?;
    assert_eq!(house.said().await?.len(), MANY);
    assert_eq!(house.count("select count(*) from lamps where said = 1").await?, 500);
    // Heard and done with: a repeat of it would be one.
    assert_eq!(house.count("select count(*) from inbox").await?, 502);
    Ok(())
}

#[tokio::test]
async fn what_the_clock_brings_and_cannot_be_is_set_aside_where_it_is_seen() -> anyhow::Result<()> {
    let house = House::open(&[]).await?;
    let timer = Uuid::now_v7();
    house.tell(&[fitted(timer, "timer")]).await?;
    let letters = house.wait_for_letters(1).await?;
    let [letter] = &*letters else { anyhow::bail!("{letters:?}") };
    assert_eq!((&*letter.origin, &*letter.code), ("consumer", "UNEXPECTED"));
    assert_eq!(letter.subject, Some(timer));
    assert_eq!(house.lamp(timer).await?, Some((DARK, None)));
    Ok(())
}

#[tokio::test]
async fn a_panic_and_what_cannot_be_are_set_aside_and_their_neighbours_are_not()
-> anyhow::Result<()> {
    let house = House::open(&[]).await?;
    let (lamp, dark) = (Uuid::now_v7(), Uuid::now_v7());
    house.tell(&[fitted(lamp, "kitchen"), pressed(lamp), fitted(dark, "hall")]).await?;
    house.wait_for_status(lamp, LIT).await?;
    house.wait_for_status(dark, DARK).await?;

    let (panics, unexpected) = (turned(lamp, 0), turned(dark, 30));
    house.tell(&[turned(lamp, 70), panics.clone(), unexpected.clone(), turned(lamp, 40)]).await?;
    house.wait_for_said(lamp, 4).await?;
    assert_eq!(house.lamp(lamp).await?, Some((LIT, Some(40))));
    assert_eq!(house.lamp(dark).await?, Some((DARK, None)));
    let mut letters = house.wait_for_letters(2).await?;
    letters.sort_by(|one, other| one.code.cmp(&other.code));
    let found: Vec<_> =
        letters.iter().map(|letter| (letter.code.as_str(), Some(&letter.body))).collect();
    assert_eq!(found, [("PANIC", panics.body.as_ref()), ("UNEXPECTED", unexpected.body.as_ref()),]);
    assert_eq!(house.status("/livez").await, Some(204));
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_read_is_kept_as_it_came_and_its_offset_moves_on() -> anyhow::Result<()> {
    let mut house = House::open(&[]).await?;
    // One lamp, so that all of it lies in one partition.
    let lamp = Uuid::now_v7();
    let undecodable = Record { body: Some(vec![0, 159, 146, 150]), ..fitted(lamp, "x") };
    let future = event_of_version(9, "BulbFitted", lamp, &serde_json::json!({"label": "x"}));
    let mut nameless = fitted(lamp, "x");
    nameless.headers.retain(|(name, _)| name != "ce_id");
    let mut foreign = fitted(lamp, "x");
    for (name, value) in &mut foreign.headers {
        if name == "ce_type" {
            *value = Some(b"switchback.cellar.BulbFitted.v1".to_vec());
        }
    }
    let unknown = event("WallPainted", lamp, &serde_json::json!({"colour": "red"}));
    let bad = [undecodable, future, nameless, foreign];
    let mut records = bad.to_vec();
    records.insert(2, unknown);
    records.push(fitted(lamp, "kitchen"));
    house.tell(&records).await?;

    house.wait_for_status(lamp, DARK).await?;
    let letters = house.wait_for_letters(4).await?;
    let codes: Vec<_> = letters.iter().map(|letter| letter.code.as_str()).collect();
    assert_eq!(codes, ["DECODE", "UNSUPPORTED_VERSION", "ENVELOPE", "FOREIGN_TYPE"]);
    for (letter, record) in letters.iter().zip(&bad) {
        assert_eq!(Some(&letter.body), record.body.as_ref(), "{}", letter.code);
        let headers: Vec<(String, String)> = serde_json::from_slice(&letter.headers)?;
        let sent: Vec<(String, String)> = (record.headers.iter())
            .map(|(name, value)| {
                let value = value.as_deref().unwrap_or_default();
                (name.clone(), String::from_utf8_lossy(value).into_owned())
            })
            .collect();
        assert_eq!(headers, sent, "{}", letter.code);
    }
    assert_eq!(house.metric("switchback_events_skipped_total").await?, 1);

    // The next process hears some of it again at most, and what is set aside stays so once.
    house.kill_and_start_again().await?;
    let next = Uuid::now_v7();
    house.tell(&[fitted(next, "hall")]).await?;
    house.wait_for_status(next, DARK).await?;
    assert_eq!(house.letters().await?.len(), 4);
    Ok(())
}
