//! Owns the keyed requests of a batch. Refuses to run one twice.

use std::collections::HashMap;

use api::{Answer, Code, Problem};
use sqlx::PgConnection;
use store::{Error, Key, KeyRecord};

use crate::job::{Job, Keyed, Source};
use crate::service::Service;

/// The keyed requests of a batch: those answered before it, and those that it answers.
pub(crate) struct Keys {
    known: HashMap<Key, KeyRecord>,
    pub fresh: Vec<KeyRecord>,
}

impl Keys {
    pub async fn read<S: Service>(tx: &mut PgConnection, jobs: &[Job<S>]) -> Result<Self, Error> {
        let asked: Vec<&Key> = jobs
            .iter()
            .filter_map(|job| match &job.source {
                Source::Command(command) => command.keyed.as_ref().map(|keyed| &keyed.key),
                _ => None,
            })
            .collect();
        let known = if asked.is_empty() { Vec::new() } else { store::keys(tx, &asked).await? };
        let known = known.into_iter().map(|record| (record.key.clone(), record)).collect();
        Ok(Self { known, fresh: Vec::new() })
    }

    /// The first run's answer, or a refusal when this is another request.
    pub fn earlier(&self, keyed: Option<&Keyed>) -> Option<Result<Answer, Problem>> {
        let keyed = keyed?;
        let record = self.known.get(&keyed.key)?;
        if record.fingerprint != keyed.fingerprint {
            return Some(Err(Code::IdempotencyKeyReused.into()));
        }
        let stored = Answer::from_stored(record.status, &record.headers, record.body.clone());
        Some(stored.map(Answer::replayed).map_err(|_| Code::Internal.into()))
    }

    pub fn remember(&mut self, keyed: &Keyed, answer: &Answer) {
        let Ok(headers) = answer.headers_to_bytes() else { return };
        let record = KeyRecord {
            key: keyed.key.clone(),
            fingerprint: keyed.fingerprint.clone(),
            status: answer.status,
            headers,
            body: answer.body.clone(),
        };
        self.known.insert(keyed.key.clone(), record.clone());
        self.fresh.push(record);
    }
}
