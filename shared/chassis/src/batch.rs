//! Owns one batch: its inputs are claimed, decided in memory one after another, and written, in one
//! transaction whatever their number. Refuses to begin or commit it, and to act on it before then.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use api::{Answer, Code, Problem};
use chrono::{DateTime, Utc};
use saga::{Decision, Envelope, Event as _, Participant, RECORD_BYTES_MAX};
use sqlx::PgConnection;
use store::{Claimed, Commit, Error, ID_COLLISION, Said, Wanted};
use tokio::sync::OwnedSemaphorePermit;
use uuid::{ContextV7, Timestamp, Uuid};

use crate::crash::crash_point;
use crate::desk::Desk as _;
use crate::fate::PANIC;
use crate::http::Asked;
use crate::job::{Job, Source, letter, letter_of_the_clock};
use crate::keys::Keys;
use crate::seeded::{self, Bug};
use crate::service::Service;
use crate::shell::Shell;

/// What a batch has come to: what is written, and what is done once it is committed.
pub(crate) struct Batch<S: Service> {
    pub commit: Commit,
    /// Calls in `commit.wanted`, by index, whose first attempt is counted.
    pub permits: Vec<(usize, OwnedSemaphorePermit)>,
    /// Answers to requests, by the index of their job.
    pub replies: Vec<(usize, Result<Answer, Problem>)>,
    /// Answers of calls that cannot be, by the index of their job.
    pub stuck: Vec<(usize, &'static str)>,
    /// Changes to be counted: the job's index, the state before and after.
    pub changes: Vec<(usize, S::State, S::State)>,
    pub duplicates: u64,
}

type DecisionOf<S> = Decision<
    <S as Participant>::State,
    <S as Participant>::Event,
    <S as Participant>::Call,
    <S as Participant>::Rejection,
>;

/// Runs a batch up to, and without, its COMMIT. Every await is one round trip.
pub(crate) async fn run<S: Service>(
    tx: &mut PgConnection,
    shell: &Shell<S>,
    jobs: &[Job<S>],
    acked: &[Uuid],
) -> Result<Batch<S>, Error> {
    let (ids, hashes) = events_of(jobs);
    let window = shell.kept.inbox_window();
    let claimed = store::claim(tx, S::NAME, &ids, &hashes, window).await?;
    let mut desk = {
        let inputs: Vec<_> = jobs.iter().map(|job| (job.subject, &job.input)).collect();
        S::load(tx, &inputs).await?
    };
    let mut keys = Keys::read(tx, jobs).await?;
    let standing = standing(tx, jobs).await?;
    let mut batch = Batch::new(acked);
    let mut seen = HashMap::new();
    let clock = Clock { now: claimed.now, ids: ContextV7::new() };
    for (index, job) in jobs.iter().enumerate() {
        if batch.is_settled_already(index, job, &claimed, &mut seen, &keys, &standing) {
            continue;
        }
        let forgotten = seeded::has(Bug::NoInboxNoIdempotence) && is_repeat(job, &claimed);
        let subject = if forgotten { Uuid::nil() } else { job.subject };
        let state = desk.view(subject, &job.input).into_owned();
        match decide::<S>(&state, &job.input) {
            Decision::Unchanged => {
                batch.settle(job);
                batch.reply(index, job, Ok(&state), &mut keys);
            }
            Decision::Rejected(why) => batch.reply(index, job, Err(&why), &mut keys),
            Decision::Unexpected(why) => batch.set_aside(index, job, why),
            Decision::Become { state: next, events, calls } => {
                let events: Vec<_> =
                    events.iter().map(|event| (event.event_type(), event.body())).collect();
                if events.iter().any(|(_, body)| body.len() > RECORD_BYTES_MAX - HEADER_BYTES_MAX) {
                    batch.set_aside(index, job, "TOO_LARGE");
                    continue;
                }
                let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
                let first = desk.put(job.subject, next.clone(), count);
                batch.say(job, first, events, &clock);
                batch.want(shell, job, &calls);
                batch.settle(job);
                batch.reply(index, job, Ok(&next), &mut keys);
                batch.changes.push((index, state, next));
            }
        }
    }
    batch.commit.answers = keys.fresh;
    shell.service.save(tx, &desk).await?;
    store::write(tx, shell.boot.number(), &batch.commit).await?;
    if jobs.iter().any(|job| matches!(job.source, Source::Answer { .. })) {
        crash_point!("lane.answer.before_commit");
    }
    crash_point!("lane.before_commit");
    Ok(batch)
}

/// Room for the envelope in a record.
const HEADER_BYTES_MAX: usize = 4 * 1024;

/// A panic in `decide` is the fault of one input, and sets aside that one alone.
fn decide<S: Service>(state: &S::State, input: &S::Input) -> DecisionOf<S> {
    catch_unwind(AssertUnwindSafe(|| S::decide(state, input)))
        .unwrap_or(Decision::Unexpected(PANIC))
}

/// Whether its event was handled before this batch.
fn is_repeat<S: Service>(job: &Job<S>, claimed: &Claimed) -> bool {
    matches!(&job.source, Source::Event(event) if !claimed.fresh.contains(&event.id))
}

fn events_of<S: Service>(jobs: &[Job<S>]) -> (Vec<Uuid>, Vec<i64>) {
    let mut distinct = HashSet::new();
    jobs.iter()
        .filter_map(|job| match &job.source {
            Source::Event(event) => Some((event.id, event.body_hash)),
            _ => None,
        })
        .filter(|(id, _)| distinct.insert(*id))
        .unzip()
}

/// The database's time, and ids made from it: the clock of this machine decides nothing.
struct Clock {
    now: DateTime<Utc>,
    ids: ContextV7,
}

impl Clock {
    fn id(&self) -> Uuid {
        let seconds = u64::try_from(self.now.timestamp()).unwrap_or_default();
        Uuid::new_v7(Timestamp::from_unix(&self.ids, seconds, self.now.timestamp_subsec_nanos()))
    }
}

impl<S: Service> Batch<S> {
    fn new(acked: &[Uuid]) -> Self {
        Self {
            commit: Commit { acked: acked.to_vec(), ..Commit::default() },
            permits: Vec::new(),
            replies: Vec::new(),
            stuck: Vec::new(),
            changes: Vec::new(),
            duplicates: 0,
        }
    }

    /// Whether there is nothing to decide: a repeat, an id that is refused, a request answered
    /// before, a refusal whose attempt was not the last.
    fn is_settled_already(
        &mut self,
        index: usize,
        job: &Job<S>,
        claimed: &Claimed,
        seen: &mut HashMap<Uuid, i64>,
        keys: &Keys,
        standing: &HashSet<(Uuid, String)>,
    ) -> bool {
        match &job.source {
            Source::Event(event) => {
                let collides = seen.get(&event.id).is_some_and(|hash| *hash != event.body_hash);
                let collides = collides.then_some(ID_COLLISION);
                if let Some(why) = claimed.refused.get(&event.id).copied().or(collides) {
                    self.set_aside(index, job, why);
                    return true;
                }
                let again = seen.insert(event.id, event.body_hash).is_some();
                let repeat = again || is_repeat(job, claimed);
                self.duplicates += u64::from(repeat);
                telemetry::spans::duplicate(&job.span, repeat);
                repeat && !seeded::has(Bug::NoInboxNoIdempotence)
            }
            Source::Command(command) => match keys.earlier(command.keyed.as_ref()) {
                Some(answer) => {
                    self.replies.push((index, answer));
                    true
                }
                None => false,
            },
            Source::Answer { step, only: Some(_) } => {
                !standing.contains(&(job.subject, step.clone()))
            }
            Source::Answer { only: None, .. } | Source::Clock => false,
        }
    }

    fn say(
        &mut self,
        job: &Job<S>,
        first: u32,
        events: Vec<(saga::EventType, Vec<u8>)>,
        clock: &Clock,
    ) {
        for (version, (kind, body)) in (first..).zip(events) {
            let envelope = Envelope {
                id: clock.id(),
                kind,
                time: clock.now,
                subject: job.subject,
                version: Some(version),
                cause: job.origin.cause,
                trace: job.origin.trace.clone(),
            };
            self.commit.said.push(Said { envelope, body });
        }
    }

    /// A call for which its destination has a slot free is attempted after the commit, and that
    /// attempt is counted with the intent.
    fn want(&mut self, shell: &Shell<S>, job: &Job<S>, calls: &[S::Call]) {
        for call in calls {
            let wanted = S::wanted(job.subject, call);
            let exit = shell.exit(wanted.destination);
            let policy = exit.map(|exit| *exit.destination.policy()).unwrap_or_default();
            let permit = exit.and_then(|exit| Arc::clone(&exit.permits).try_acquire_owned().ok());
            let millis = |ms: u64| i32::try_from(ms).unwrap_or(i32::MAX);
            let attempt_ms = permit.as_ref().map(|_| millis(policy.attempt_ms_max() + GRACE_MS));
            if let Some(permit) = permit {
                self.permits.push((self.commit.wanted.len(), permit));
            }
            self.commit.wanted.push(Wanted {
                subject: job.subject,
                step: wanted.step.to_owned(),
                destination: wanted.destination.to_owned(),
                path: wanted.path.to_owned(),
                idempotency_key: format!("{}-{}", job.subject, wanted.step),
                body: wanted.body,
                origin: job.origin.clone(),
                attempt_ms,
                life_ms: (!wanted.compensation).then(|| millis(policy.life_ms)),
            });
        }
    }

    fn settle(&mut self, job: &Job<S>) {
        if let Source::Answer { step, .. } = &job.source {
            self.commit.settled.push((job.subject, step.clone()));
        }
    }

    fn reply(
        &mut self,
        index: usize,
        job: &Job<S>,
        state: Result<&S::State, &S::Rejection>,
        keys: &mut Keys,
    ) {
        let Source::Command(command) = &job.source else { return };
        let asked = Asked { subject: job.subject, trace: &job.origin.trace };
        let answer = (command.respond)(state, &asked);
        if let (Some(keyed), Ok(answer)) = (&command.keyed, &answer) {
            keys.remember(keyed, answer);
        }
        self.replies.push((index, answer));
    }

    /// Nothing changes: the input is kept for a person. Nothing else of the subject is held.
    fn set_aside(&mut self, index: usize, job: &Job<S>, why: &'static str) {
        tracing::error!(parent: &job.span, subject = %job.subject, why, "an input is set aside");
        telemetry::spans::failed(&job.span, code(why));
        match &job.source {
            Source::Event(event) => {
                let subject = Some(job.subject);
                self.commit.dead.push(letter(S::NAME, code(why), subject, &event.received));
            }
            Source::Answer { .. } => self.stuck.push((index, code(why))),
            Source::Command(_) => {
                self.replies.push((index, Err(Code::Internal.into())));
            }
            Source::Clock => {
                self.commit.dead.push(letter_of_the_clock(S::NAME, code(why), job.subject));
            }
        }
    }
}

/// The calls whose refusal in this batch still answers their only attempt.
async fn standing<S: Service>(
    tx: &mut PgConnection,
    jobs: &[Job<S>],
) -> Result<HashSet<(Uuid, String)>, Error> {
    let refused = jobs.iter().filter_map(|job| match &job.source {
        Source::Answer { step, only } => Some((job.subject, step.as_str(), (*only)?)),
        _ => None,
    });
    let refused: Vec<_> = refused.collect();
    if refused.is_empty() { Ok(HashSet::new()) } else { store::untouched(tx, &refused).await }
}

/// How long after its timeout an attempt that nobody reported is due again.
pub(crate) const GRACE_MS: u64 = 2_000;

/// Codes are upper case; whatever else a decision says of an input is for the log.
fn code(why: &'static str) -> &'static str {
    if why.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') { why } else { "UNEXPECTED" }
}
