//! Every way in which a record can be unreadable, live between good ones.

use serde_json::{Value, json};
use testkit::records::Record;
use uuid::Uuid;

use crate::house::{House, Letter, event, event_of_version, fitted, pressed, turned};

const DARK: i16 = 2;
const LIT: i16 = 4;
/// The mock broker keeps little more than that in a partition.
const HUGE_BYTES: usize = 5_000_000;
/// What is kept of a record that is larger than any of ours.
const EXCERPT_BYTES: usize = 4 * 1024;

fn with_header(mut record: Record, name: &str, value: &[u8]) -> Record {
    for (found, old) in &mut record.headers {
        if found == name {
            *old = Some(value.to_vec());
        }
    }
    record
}

fn without_header(mut record: Record, name: &str) -> Record {
    record.headers.retain(|(found, _)| found != name);
    record
}

fn header_again(mut record: Record, name: &str, value: &[u8]) -> Record {
    record.headers.push((name.to_owned(), Some(value.to_vec())));
    record
}

fn with_body(record: Record, body: impl Into<Vec<u8>>) -> Record {
    Record { body: Some(body.into()), ..record }
}

/// Records about one lamp, with the code under which each is kept.
fn bad(lamp: Uuid) -> Vec<(&'static str, Record)> {
    let good = || fitted(lamp, "x");
    let other = Uuid::now_v7().to_string();
    let body = good().body.expect("it has one");
    let half = &body[..body.len() / 2];
    let id = good().header("ce_id").expect("it has one").to_owned();
    vec![
        ("DECODE", Record { body: None, ..good() }),
        ("DECODE", with_body(good(), "")),
        ("DECODE", with_body(good(), [0, 159, 146, 150, 255])),
        ("DECODE", with_body(good(), half)),
        ("DECODE", with_body(good(), r#"{"BulbFitted":{"label":"a\u0000b"}}"#)),
        ("DECODE", with_body(good(), b"{\"BulbFitted\":{\"label\":\"a\0b\"}}".as_slice())),
        ("DECODE", with_body(good(), r#"{"SwitchPressed":{}}"#)),
        ("DECODE", event("DimmerTurned", lamp, &json!({"level": 300}))),
        ("DECODE", event("DimmerTurned", lamp, &json!({"level": "bright"}))),
        ("UNSUPPORTED_VERSION", event_of_version(2, "BulbFitted", lamp, &json!({"label": "x"}))),
        ("UNSUPPORTED_VERSION", event_of_version(0, "BulbFitted", lamp, &json!({"label": "x"}))),
        ("ENVELOPE", Record { headers: Vec::new(), ..good() }),
        ("ENVELOPE", without_header(good(), "ce_id")),
        ("ENVELOPE", without_header(good(), "ce_type")),
        ("ENVELOPE", without_header(good(), "ce_subject")),
        ("ENVELOPE", without_header(good(), "ce_specversion")),
        ("ENVELOPE", with_header(good(), "ce_id", &[0xff, 0xfe])),
        ("ENVELOPE", with_header(good(), "ce_id", b"7")),
        ("ENVELOPE", with_header(good(), "ce_type", b"BulbFitted")),
        ("ENVELOPE", with_header(good(), "ce_source", b"/switchback/cellar")),
        ("ENVELOPE", with_header(good(), "ce_time", b"yesterday")),
        ("ENVELOPE", header_again(good(), "ce_id", id.as_bytes())),
        ("ENVELOPE", header_again(good(), "ce_subject", other.as_bytes())),
        ("KEY_MISMATCH", with_header(good(), "ce_subject", other.as_bytes())),
        ("KEY_MISMATCH", Record { key: None, partition: Some(0), ..good() }),
        ("KEY_MISMATCH", Record { key: Some(vec![0xff]), partition: Some(0), ..good() }),
        ("FOREIGN_TYPE", with_header(good(), "ce_type", b"switchback.cellar.BulbFitted.v1")),
        ("FOREIGN_TYPE", with_header(good(), "ce_type", b"switchback.lamp.BulbFitted.v1")),
        ("TOO_LARGE", header_again(good(), "note", &vec![b'x'; 300_000])),
    ]
}

fn headers(letter: &Letter) -> anyhow::Result<Vec<(String, Value)>> {
    Ok(serde_json::from_slice(&letter.headers)?)
}

/// As a letter keeps them: text, or bytes where they are none.
fn kept(record: &Record) -> Vec<(String, Value)> {
    let value = |value: &[u8]| match std::str::from_utf8(value) {
        Ok(text) => json!(text),
        Err(_) => json!(value),
    };
    let headers = record.headers.iter();
    headers.map(|(name, bytes)| (name.clone(), value(bytes.as_deref().unwrap_or(b"")))).collect()
}

#[tokio::test]
async fn whatever_cannot_be_read_is_kept_under_its_code_between_good_records() -> anyhow::Result<()>
{
    let house = House::open(&[]).await?;
    let (mut records, mut lamps, mut expected) = (Vec::new(), Vec::new(), Vec::new());
    for (code, record) in bad(Uuid::now_v7()) {
        let lamp = Uuid::now_v7();
        lamps.push(lamp);
        // All in one partition, so that each has to get past its neighbours.
        records.push(Record { partition: Some(0), ..fitted(lamp, "good") });
        records.push(Record { partition: Some(0), ..record.clone() });
        expected.push((code, record));
    }
    // A producer's clock decides nothing.
    for time in ["1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2031-02-03T04:05:06.789+14:00"] {
        lamps.push(Uuid::now_v7());
        let good = fitted(lamps[lamps.len() - 1], "good");
        records.push(with_header(good, "ce_time", time.as_bytes()));
    }
    records.push(event("WallPainted", Uuid::now_v7(), &json!({"colour": "a\u{0}b"})));
    house.tell(&records).await?;

    let letters = house.wait_for_letters(expected.len()).await?;
    for lamp in &lamps {
        house.wait_for_status(*lamp, DARK).await?;
    }
    house.wait_for_metric(1, "switchback_events_skipped_total").await?;
    assert_eq!(letters.len(), expected.len());
    for (letter, (code, record)) in letters.iter().zip(&expected) {
        let sent = record.body.clone().unwrap_or_default();
        assert_eq!((letter.code.as_str(), &letter.body), (*code, &sent), "{record:?}");
        if *code != "TOO_LARGE" {
            assert_eq!(headers(letter)?, kept(record));
        }
    }
    assert_eq!(house.count("select count(*) from lamps").await?, i64::try_from(lamps.len())?);
    assert_eq!(house.status("/livez").await, Some(204));
    Ok(())
}

#[tokio::test]
async fn of_a_huge_record_the_beginning_and_its_hash_are_kept() -> anyhow::Result<()> {
    let house = House::open(&[]).await?;
    let (lamp, next) = (Uuid::now_v7(), Uuid::now_v7());
    let huge = with_body(fitted(lamp, "x"), vec![b'x'; HUGE_BYTES]);
    house.tell(&[huge]).await?;
    let letters = house.wait_for_letters(1).await?;
    house.tell(&[fitted(next, "hall")]).await?;
    house.wait_for_status(next, DARK).await?;

    let [letter] = &*letters else { panic!("{letters:?}") };
    assert_eq!(letter.code, "TOO_LARGE");
    assert_eq!(letter.body, vec![b'x'; EXCERPT_BYTES]);
    let headers = headers(letter)?;
    let header = |name: &str| {
        headers.iter().find(|(found, _)| found == name).and_then(|(_, value)| value.as_str())
    };
    assert_eq!(header("ce_subject"), Some(&*lamp.to_string()));
    assert_eq!(header("kept-of-bytes"), Some("5000000"));
    // head -c 5000000 /dev/zero | tr '\0' x | sha256sum
    let hash = "03a7bd518f3e4ecac11f2e77f7437928ba5d80ac0b2b26a523d90e7628bfd59b";
    assert_eq!(header("kept-of-sha256"), Some(hash));
    Ok(())
}

#[tokio::test]
async fn a_panic_in_a_services_own_code_is_the_fate_of_its_input_alone() -> anyhow::Result<()> {
    let house = House::open(&[("LANES", "1")]).await?;
    let (lamp, blank) = (Uuid::now_v7(), Uuid::now_v7());
    house.tell(&[fitted(lamp, "kitchen"), fitted(blank, " ")]).await?;
    house.wait_for_status(blank, DARK).await?;

    // Where it becomes an input, and where its call is made.
    let route = fitted(Uuid::now_v7(), &format!("{}é", "a".repeat(39)));
    let wanted = pressed(blank);
    let neighbours: Vec<Uuid> = (0..50).map(|_| Uuid::now_v7()).collect();
    let mut records: Vec<_> = neighbours.iter().map(|lamp| fitted(*lamp, "hall")).collect();
    records.insert(10, route.clone());
    records.insert(30, wanted.clone());
    house.tell(&records).await?;
    let mut letters = house.wait_for_letters(2).await?;
    for lamp in neighbours {
        house.wait_for_status(lamp, DARK).await?;
    }
    letters.sort_by_key(|letter| letter.subject.is_some_and(|subject| subject == blank));
    assert!(letters.iter().all(|letter| letter.code == "PANIC"), "{letters:?}");
    let bodies: Vec<_> = letters.iter().map(|letter| Some(&letter.body)).collect();
    assert_eq!(bodies, [route.body.as_ref(), wanted.body.as_ref()]);
    assert_eq!(house.lamp(blank).await?, Some((DARK, None)));

    // Where a request is answered.
    let request = reqwest::Client::new().post(house.url("/v1/lamps"));
    let request = request.header("Idempotency-Key", "k-1").json(&json!({"label": ""}));
    assert_eq!(request.send().await?.status(), 500);
    assert_eq!(house.count("select count(*) from lamps where label = ''").await?, 0);
    assert_eq!(house.count("select count(*) from idempotency_keys").await?, 0);

    // Where a change that is committed is counted.
    house.tell(&[pressed(lamp)]).await?;
    house.wait_for_status(lamp, LIT).await?;
    house.tell(&[turned(lamp, 50), turned(lamp, 100), turned(lamp, 30)]).await?;
    house.wait_for_said(lamp, 5).await?;
    house.wait_for_metric(2, "lamp_turns_total").await?;
    assert_eq!(house.letters().await?.len(), 2);
    assert_eq!(house.logged()?.matches("a change is not counted").count(), 1);
    assert_eq!(house.logged()?.matches(r#""message":"serving""#).count(), 1);
    Ok(())
}
