//! Owns the one transaction in which an input is handled. Refuses to act on it before the commit.

use std::time::Duration;

use anyhow::bail;
use api::{Answer, Code, Command, Problem};
use chassis::{Asked, Desk as _, Respond, Service};
use saga::{Decision, Event as _};
use sqlx::PgConnection;
use store::{Error, Key, KeyRecord, Origin};
use uuid::Uuid;

use super::Shell;
use super::store::{self as rows, Call, Message};

const TRIES_MAX: u32 = 300;
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// An input, and where it comes from.
pub struct Work<S: Service> {
    pub subject: Uuid,
    pub input: S::Input,
    pub source: Source<S>,
    /// What the events that it causes will name.
    pub origin: Origin,
}

pub enum Source<S: Service> {
    Event(Uuid),
    /// The definite answer of a call.
    Answer {
        step: String,
    },
    Request {
        keyed: Option<Command>,
        respond: Respond<S>,
    },
}

/// What is left to do after the commit.
#[derive(Default)]
pub struct Done {
    pub calls: Vec<Call>,
    pub reply: Option<Result<Answer, Problem>>,
}

impl<S: Service> Shell<S> {
    /// Handles an input whatever it takes: a conflict or an outage runs the transaction again, and
    /// what was committed before is found done.
    pub async fn handle(&self, work: &Work<S>) -> anyhow::Result<Done> {
        for _ in 0..TRIES_MAX {
            match self.try_handle(work).await {
                Ok(done) => return Ok(done),
                Err(Error::Rerun(why)) => tracing::debug!(why, "again"),
                Err(Error::Poison(why)) => bail!("{}: {why}", work.subject),
                Err(Error::Wait(why) | Error::CommitLost(why)) => {
                    tracing::warn!(why, "the database is not well");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
        bail!("{}: given up after {TRIES_MAX} tries", work.subject)
    }

    async fn try_handle(&self, work: &Work<S>) -> Result<Done, Error> {
        let mut tx = rows::transaction(&self.pool).await?;
        if let Some(done) = done_before(&mut tx, work).await? {
            return Ok(done);
        }
        let mut desk = S::load(&mut tx, &[(work.subject, &work.input)]).await?;
        let was = desk.view(work.subject, &work.input).into_owned();
        let mut wanted = Vec::new();
        let became = match S::decide(&was, &work.input) {
            Decision::Unchanged => Ok(was.clone()),
            Decision::Rejected(why) => Err(why),
            Decision::Unexpected(why) => return Err(Error::Poison(why.to_owned())),
            Decision::Become { state, events, calls } => {
                let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
                let first = desk.put(work.subject, state.clone(), count);
                self.service.save(&mut tx, &desk).await?;
                for (version, event) in (first..).zip(&events) {
                    let kind = event.event_type();
                    let message =
                        Message::new(work.subject, version, &kind, &work.origin, event.body());
                    rows::say(&mut tx, &message).await?;
                }
                for call in &calls {
                    let call = Call::new(work.subject, S::wanted(work.subject, call), &work.origin);
                    rows::want(&mut tx, &call).await?;
                    wanted.push(call);
                }
                Ok(state)
            }
        };
        let reply = match &work.source {
            Source::Request { keyed, respond } => {
                let asked = Asked { subject: work.subject, trace: &work.origin.trace };
                let answer = respond(became.as_ref(), &asked);
                if let (Some(request), Ok(answer)) = (keyed, &answer) {
                    remember(&mut tx, request, answer).await?;
                }
                Some(answer)
            }
            Source::Event(_) | Source::Answer { .. } => None,
        };
        tx.commit().await.map_err(|error| Error::CommitLost(error.to_string()))?;
        if let Ok(now) = became {
            S::observe(&was, &work.input, &now);
        }
        Ok(Done { calls: wanted, reply })
    }
}

/// Takes note of the input. `Some`: it was handled before.
async fn done_before<S: Service>(
    tx: &mut PgConnection,
    work: &Work<S>,
) -> Result<Option<Done>, Error> {
    let fresh = match &work.source {
        Source::Event(id) => rows::claim(tx, S::NAME, *id).await?,
        Source::Answer { step } => rows::settle(tx, work.subject, step).await?,
        Source::Request { keyed: None, .. } => true,
        Source::Request { keyed: Some(request), .. } => {
            let Some(record) = store::keys(tx, &[&key(request)]).await?.pop() else {
                return Ok(None);
            };
            let reply = if record.fingerprint == request.fingerprint.as_bytes() {
                let stored = Answer::from_stored(record.status, &record.headers, record.body);
                stored.map(Answer::replayed).map_err(|_| Code::Internal.into())
            } else {
                Err(Code::IdempotencyKeyReused.into())
            };
            return Ok(Some(Done { reply: Some(reply), ..Done::default() }));
        }
    };
    Ok((!fresh).then(Done::default))
}

/// The answer is stored beside the key, together with the change that it answers for.
async fn remember(tx: &mut PgConnection, request: &Command, answer: &Answer) -> Result<(), Error> {
    let headers = answer.headers_to_bytes().map_err(|error| Error::Poison(error.to_string()))?;
    let record = KeyRecord {
        key: key(request),
        fingerprint: request.fingerprint.as_bytes().to_vec(),
        status: answer.status,
        headers,
        body: answer.body.clone(),
    };
    rows::answer(tx, &record).await
}

fn key(request: &Command) -> Key {
    Key {
        caller: request.caller.as_str().to_owned(),
        method: request.method.to_string(),
        route: request.route.clone(),
        key: request.key.as_str().to_owned(),
    }
}
