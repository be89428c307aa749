//! Writers that overlap: a stale owner and a new one, two instances, a retry and its original.
//! Whatever they share is done once, and two who wait for each other are an accident, never a storm.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use futures::future::{try_join, try_join_all};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use sqlx::PgConnection;
use store::{Commit, Db, Error, Said, all_saved, column};
use uuid::Uuid;

use crate::batch::wanted;
use crate::{Ground, SERVICE, WINDOW, ground, said};

/// How often; `OVERLAP_ROUNDS` asks for more.
const ROUNDS: usize = 400;
/// So many meet on one subject for each that meets on two.
const ON_ONE_FOR_ON_TWO: usize = 4;
/// A deadlock alone costs a second. What a machine has besides to do costs less.
const ROUND_MAX: Duration = Duration::from_millis(20);
const PAUSES_MAX: Duration = Duration::from_secs(10);
const ATTEMPTS_MAX: u64 = 100;
const WRITERS: usize = 4;
const EVENTS_PER_EPOCH: usize = 60;
const SUBJECTS_PER_EPOCH: usize = 6;
const BATCHES_PER_EPOCH: usize = 40;
const BATCH_EVENTS_MAX: u64 = 8;

fn rounds() -> usize {
    std::env::var("OVERLAP_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS)
}

/// An event, whom it is about, and what it adds to his note.
#[derive(Debug, Clone)]
struct Input {
    event: Uuid,
    subject: Uuid,
    word: String,
}

fn input(subject: Uuid, word: &str) -> Input {
    Input { event: Uuid::now_v7(), subject, word: format!("{word} ") }
}

/// What the overlap has cost.
#[derive(Debug, Default)]
struct Cost {
    reruns: u64,
    deadlocks: u64,
    /// Somebody stood behind two that waited for each other.
    lock_timeouts: u64,
    repeats: usize,
}

impl Cost {
    fn add(&mut self, other: &Self) {
        self.reruns += other.reruns;
        self.deadlocks += other.deadlocks;
        self.lock_timeouts += other.lock_timeouts;
        self.repeats += other.repeats;
    }
}

/// A writer with its events ready-made, so that only its own statements are in the race.
struct Writer<'a> {
    db: &'a Db,
    pattern: &'a Said,
}

impl Writer<'_> {
    /// One transaction as a lane makes it. Tells how many of the inputs were known before.
    async fn batch(&self, tx: &mut PgConnection, inputs: &[Input]) -> Result<usize, Error> {
        let ids = column(inputs, |input| input.event);
        let claimed = store::claim(tx, SERVICE, &ids, &vec![1; ids.len()], WINDOW).await?;
        let loaded: Vec<(Uuid, String, i32)> = sqlx::query_as(
            "select subject, text, version from notes
              where subject = any($1::uuid[]) order by subject for update",
        )
        .bind(column(inputs, |input| input.subject))
        .fetch_all(&mut *tx)
        .await?;
        let mut notes: BTreeMap<Uuid, (String, i32)> =
            loaded.into_iter().map(|(subject, text, version)| (subject, (text, version))).collect();
        let mut changed = BTreeMap::new();
        for input in inputs.iter().filter(|input| claimed.fresh.contains(&input.event)) {
            let (text, version) = notes.entry(input.subject).or_default();
            text.push_str(&input.word);
            changed.insert(input.subject, (text.clone(), *version + 1));
        }
        let changed: Vec<_> = changed.into_iter().collect();
        let saved = sqlx::query(
            "insert into notes as n (subject, version, text)
             select * from unnest($1::uuid[], $2::int[], $3::text[])
             on conflict (subject) do update set text = excluded.text, version = excluded.version
              where n.version = excluded.version - 1",
        )
        .bind(column(&changed, |(subject, _)| *subject))
        .bind(column(&changed, |(_, (_, version))| *version))
        .bind(column(&changed, |(_, (text, _))| text.as_str()))
        .execute(&mut *tx)
        .await?;
        all_saved(saved.rows_affected(), changed.len())?;
        let said = changed.iter().map(|(subject, (_, version))| {
            let mut said = self.pattern.clone();
            said.envelope.id = Uuid::now_v7();
            said.envelope.subject = *subject;
            said.envelope.version = Some(version.cast_unsigned());
            said
        });
        let commit = Commit {
            said: said.collect(),
            wanted: changed.iter().map(|(subject, _)| wanted(*subject, "connect")).collect(),
            ..Commit::default()
        };
        store::write(tx, 1, &commit).await?;
        Ok(inputs.len() - claimed.fresh.len())
    }

    /// Until it is committed, as a lane does it.
    async fn settle(&self, inputs: &[Input]) -> anyhow::Result<Cost> {
        let mut cost = Cost::default();
        while cost.reruns < ATTEMPTS_MAX {
            match self.db.with_tx(async |tx| self.batch(tx, inputs).await).await {
                Ok(repeats) => return Ok(Cost { repeats, ..cost }),
                Err(Error::Rerun(why)) => {
                    cost.reruns += 1;
                    cost.deadlocks += u64::from(why.contains("40P01"));
                }
                Err(Error::Wait(why)) if why.contains("55P03") => {
                    cost.reruns += 1;
                    cost.lock_timeouts += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
        anyhow::bail!("{ATTEMPTS_MAX} attempts were not enough: {cost:?}")
    }
}

/// The words of each note, sorted, and that its events are numbered without a gap.
async fn notes(ground: &Ground) -> anyhow::Result<HashMap<Uuid, Vec<String>>> {
    let gaps = "select count(*)
                  from notes n
                  left join (select subject, count(*) as said, min(version) as first,
                                    max(version) as last
                               from events group by subject) e using (subject)
                 where (e.first, e.last, e.said) is distinct from (1, n.version, n.version)";
    assert_eq!(ground.count(gaps).await?, 0, "a change without its event, or the other way round");
    let rows: Vec<(Uuid, String)> =
        sqlx::query_as("select subject, text from notes").fetch_all(ground.db.autocommit()).await?;
    let words = |text: String| {
        let mut words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
        words.sort();
        words
    };
    Ok(rows.into_iter().map(|(subject, text)| (subject, words(text))).collect())
}

/// Whether it was done in time, shown with what it has cost.
fn judge(cost: &Cost, begun: Instant, rounds: usize) {
    let took = begun.elapsed();
    println!("{rounds} rounds in {took:?}: {cost:?}");
    assert!(cost.reruns > 0 && cost.repeats > 0, "void: nobody met anybody, {cost:?}");
    // A row that is not there yet cannot be locked in its turn, so a batch that creates some and
    // changes others may meet its like. One of the two runs again: that is an accident, no storm.
    let accidents_max = 5 + rounds as u64 / 100;
    assert!(cost.deadlocks + cost.lock_timeouts <= accidents_max, "{cost:?}");
    let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
    assert!(took <= PAUSES_MAX + ROUND_MAX * rounds, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_batches_reversed_on_one_subject_lose_no_input() -> anyhow::Result<()> {
    let ground = ground().await?;
    let pattern = said(&ground, Uuid::now_v7(), 1).await?;
    let writer = Writer { db: &ground.db, pattern: &pattern };
    let (mut cost, mut expected) = (Cost::default(), HashMap::new());
    let begun = Instant::now();
    let mut pairs = Vec::new();
    let mut pair = |ahead: Vec<Input>, mut behind: Vec<Input>| {
        expected.extend(ahead.iter().map(|input| (input.subject, ["cancel", "charge"])));
        behind.reverse();
        pairs.push((ahead, behind));
    };
    for round in 0..rounds() {
        let one = Uuid::now_v7();
        // A stale owner and the new one: the same events.
        let both = vec![input(one, "charge"), input(one, "cancel")];
        pair(both.clone(), both);
        if round % ON_ONE_FOR_ON_TWO == 0 {
            // Two owners of two topics: other events about the same subjects.
            let two = [Uuid::now_v7(), Uuid::now_v7()];
            let about = |word| two.map(|subject| input(subject, word)).to_vec();
            pair(about("charge"), about("cancel"));
        }
    }
    let mut met = stream::iter(&pairs)
        .map(|(ahead, behind)| try_join(writer.settle(ahead), writer.settle(behind)))
        .buffer_unordered(WRITERS / 2);
    while let Some((ahead, behind)) = met.try_next().await? {
        cost.add(&ahead);
        cost.add(&behind);
    }
    judge(&cost, begun, pairs.len());
    assert_eq!(notes(&ground).await?.len(), expected.len());
    for (subject, words) in notes(&ground).await? {
        assert_eq!(words, expected[&subject], "{subject}");
    }
    Ok(())
}

/// A fixed row of draws.
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_writers_with_random_overlaps_do_everything_once() -> anyhow::Result<()> {
    let ground = ground().await?;
    let pattern = said(&ground, Uuid::now_v7(), 1).await?;
    let writer = Writer { db: &ground.db, pattern: &pattern };
    let (mut cost, mut expected) = (Cost::default(), HashMap::<Uuid, Vec<String>>::new());
    let mut draws = Draws(4);
    let begun = Instant::now();
    let epochs = rounds().div_ceil(BATCHES_PER_EPOCH);
    for _ in 0..epochs {
        let subjects: Vec<Uuid> = (0..SUBJECTS_PER_EPOCH).map(|_| Uuid::now_v7()).collect();
        let pool: Vec<Input> = (0..EVENTS_PER_EPOCH)
            .map(|number| input(subjects[number % SUBJECTS_PER_EPOCH], &format!("e{number}")))
            .collect();
        let mut picked = BTreeMap::new();
        let mut shares: Vec<Vec<Vec<Input>>> = vec![Vec::new(); WRITERS];
        for batch in 0..BATCHES_PER_EPOCH {
            let size = 1 + draws.below(BATCH_EVENTS_MAX);
            let mut inputs: Vec<Input> = Vec::new();
            for _ in 0..size {
                let place = usize::try_from(draws.below(EVENTS_PER_EPOCH as u64))?;
                if !inputs.iter().any(|input| input.event == pool[place].event) {
                    inputs.push(pool[place].clone());
                    picked.insert(place, &pool[place]);
                }
            }
            shares[batch % WRITERS].push(inputs);
        }
        for input in picked.values() {
            expected.entry(input.subject).or_default().push(input.word.trim().to_owned());
        }
        let works = shares.iter().map(async |share| {
            let mut cost = Cost::default();
            for inputs in share {
                cost.add(&writer.settle(inputs).await?);
            }
            anyhow::Ok(cost)
        });
        for one in try_join_all(works).await? {
            cost.add(&one);
        }
    }
    judge(&cost, begun, epochs * BATCHES_PER_EPOCH);
    for words in expected.values_mut() {
        words.sort();
    }
    assert_eq!(notes(&ground).await?, expected);
    Ok(())
}
