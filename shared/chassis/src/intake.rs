//! Owns the way of a record from the broker into a lane. Refuses to decide, and to drop anything in
//! silence.

use std::sync::Arc;

use bus::{Consumer, Received};
use metrics::counter;
use saga::{Heard as _, Undecodable};
use sha2::{Digest, Sha256};
use store::Origin;

use crate::config::BATCH_INPUTS_MAX;
use crate::job::{Delivery, Job, Source, Unreadable, Work};
use crate::seeded::{self, Bug};
use crate::service::Service;
use crate::shell::Shell;
use telemetry::names;

/// Reads until the process closes.
pub(crate) async fn run<S: Service>(
    shell: Arc<Shell<S>>,
    consumer: Arc<Consumer>,
) -> anyhow::Result<()> {
    loop {
        let records = tokio::select! {
            () = shell.closing.cancelled() => return Ok(()),
            records = consumer.receive(BATCH_INPUTS_MAX) => records?,
        };
        for record in records {
            let lane_and_work = read::<S>(record, &consumer);
            if let Some((subject, work)) = lane_and_work {
                // A closed lane: the process ends, and the record comes again.
                if shell.lanes.of_subject(subject).send(work).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// What a record means here. `None`: nothing, and it is finished.
fn read<S: Service>(received: Received, consumer: &Arc<Consumer>) -> Option<(uuid::Uuid, Work<S>)> {
    let set_aside = |received, subject: Option<uuid::Uuid>, code| {
        let consumer = Arc::clone(consumer);
        let work = Work::SetAside(Unreadable { code, subject, received, consumer });
        Some((subject.unwrap_or_default(), work))
    };
    if seeded::has(Bug::AckFirst) {
        consumer.finished([&received.place]);
    }
    let envelope = match received.envelope() {
        Ok(envelope) => envelope,
        Err(refused) => return set_aside(received, None, refused.code()),
    };
    let subject = envelope.subject;
    let heard = match S::Heard::decode(&envelope.kind, &received.body) {
        Ok(Some(heard)) => heard,
        Ok(None) => {
            let kind = envelope.kind.to_string();
            counter!(names::EVENTS_SKIPPED, "type" => kind).increment(1);
            consumer.finished([&received.place]);
            return None;
        }
        Err(Undecodable::Version(_)) => {
            return set_aside(received, Some(subject), "UNSUPPORTED_VERSION");
        }
        Err(Undecodable::Body(_)) => return set_aside(received, Some(subject), "DECODE"),
    };
    let Some(input) = S::route(&heard) else {
        consumer.finished([&received.place]);
        return None;
    };
    let place = &received.place;
    let span =
        telemetry::spans::process(&place.topic, place.partition, place.offset, S::NAME, &envelope);
    let origin = Origin { cause: Some(envelope.id), trace: telemetry::spans::context(&span) };
    let delivery = Delivery {
        id: envelope.id,
        body_hash: body_hash(&received.body),
        received,
        consumer: Arc::clone(consumer),
    };
    Some((
        subject,
        Work::Decide(Job { subject, input, source: Source::Event(delivery), origin, span }),
    ))
}

/// Eight bytes of SHA-256: tells one id with two bodies, in every release alike.
fn body_hash(body: &[u8]) -> i64 {
    let digest = Sha256::digest(body);
    i64::from_be_bytes(std::array::from_fn(|i| digest[i]))
}
