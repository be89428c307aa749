//! Owns what is set aside: records that cannot be read, and inputs that can never be stored. Refuses
//! to hold up anything else for them.

use std::sync::Arc;

use metrics::counter;
use store::{Commit, DeadLetter};
use telemetry::names;
use uuid::Uuid;

use crate::fate::{self, BackOff};
use crate::job::{Job, Source, Unreadable, letter, letter_of_the_clock};
use crate::outside;
use crate::service::Service;
use crate::shell::Shell;

/// Records that cannot be read, together in one transaction: they are kept as bytes, so that none
/// can poison it.
pub(crate) async fn unreadable<S: Service>(shell: &Shell<S>, records: Vec<Unreadable>) {
    let Some(first) = records.first() else { return };
    let (code, place) = (&first.letter.code, &first.place);
    tracing::error!(count = records.len(), code, ?place, "records cannot be read");
    let consumer = Arc::clone(&first.consumer);
    let (letters, places): (Vec<_>, Vec<_>) =
        records.into_iter().map(|record| (record.letter, record.place)).unzip();
    write(shell, letters, None).await;
    // A service hears through one consumer.
    consumer.finished(&places);
}

/// A single input that Postgres can never store, or that made the service's own code panic.
pub(crate) async fn poisonous<S: Service>(shell: &Arc<Shell<S>>, job: Job<S>, why: &str) {
    tracing::error!(parent: &job.span, subject = %job.subject, why, "an input is poisonous");
    let code = fate::code(why);
    telemetry::spans::failed(&job.span, code);
    match job.source {
        Source::Event(event) => {
            let dead = letter(S::NAME, code, Some(job.subject), &event.received);
            write(shell, vec![dead], Some((event.id, event.body_hash))).await;
            event.consumer.finished([&event.received.place]);
        }
        Source::Answer { step, .. } => {
            outside::stick(shell, (job.subject, &step), false, code, true).await;
        }
        Source::Command(command) => {
            drop(command.reply.send(Err(api::Code::Internal.into())));
        }
        Source::Clock => {
            write(shell, vec![letter_of_the_clock(S::NAME, code, job.subject)], None).await;
        }
    }
}

/// Dead letters in a transaction of their own, with the claim of their event if they have one. An
/// event that is claimed is done with.
async fn write<S: Service>(shell: &Shell<S>, dead: Vec<DeadLetter>, event: Option<(Uuid, i64)>) {
    let mut back_off = BackOff::default();
    let (ids, hashes): (Vec<_>, Vec<_>) = event.into_iter().unzip();
    let (boot, window) = (shell.boot.number(), shell.kept.inbox_window());
    let commit = Commit { dead, ..Commit::default() };
    loop {
        let written = shell.db.with_tx(async |tx| {
            if !ids.is_empty() {
                store::claim(tx, S::NAME, &ids, &hashes, window).await?;
            }
            store::write(tx, boot, &commit).await
        });
        let Err(error) = written.await else { break };
        if let Some(why) = back_off.endure(shell, error).await {
            // Bytes cannot poison it, so this is a fault of ours: stay loud and keep it.
            tracing::error!(why, "dead letters cannot be written");
            back_off.endure(shell, store::Error::Wait(why)).await;
        }
    }
    for dead in &commit.dead {
        note(shell, dead);
    }
}

/// Takes note of a dead letter that was written: of its partition, too.
pub(crate) fn note<S: Service>(shell: &Shell<S>, dead: &DeadLetter) {
    count(dead);
    if let Some(record) = &dead.record {
        shell.poison.note(&record.topic, record.partition);
    }
}

/// Counts a dead letter that was written.
pub(crate) fn count(dead: &DeadLetter) {
    let consumer = dead.consumer.clone().unwrap_or_else(|| dead.origin.to_owned());
    counter!(names::DEAD_LETTERS_TOTAL, "consumer" => consumer, "code" => dead.code.clone())
        .increment(1);
}
