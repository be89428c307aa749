//! Owns the way of a record from the broker into a lane. Refuses to decide, to drop anything in
//! silence, and to stop polling because a lane is full.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bus::{Consumer, Received};
use metrics::counter;
use saga::{Envelope, EventType, Heard, Undecodable};
use sha2::{Digest, Sha256};
use store::Origin;
use telemetry::names;
use uuid::Uuid;

use crate::fate::PANIC;
use crate::job::{Delivery, Job, Source, Unreadable, Work, letter};
use crate::seeded::{self, Bug};
use crate::service::Service;
use crate::shell::Shell;

/// How often a partition that brought too much poison is looked at.
const HOLD_EVERY: Duration = Duration::from_millis(250);

/// Reads until the process closes.
pub(crate) async fn run<S: Service>(
    shell: Arc<Shell<S>>,
    consumer: Arc<Consumer>,
) -> anyhow::Result<()> {
    loop {
        consumer.hold(shell.poison.held());
        let records = tokio::select! {
            () = shell.closing.cancelled() => return Ok(()),
            () = tokio::time::sleep(HOLD_EVERY) => continue,
            records = consumer.receive(shell.batch_max) => records?,
        };
        let works: Vec<_> =
            records.into_iter().filter_map(|record| read(record, &consumer)).collect();
        // What does not fit into the lanes waits here, with everything paused behind it.
        tokio::select! {
            () = shell.closing.cancelled() => return Ok(()),
            posted = consumer.keep_while(post(&shell, works)) => posted?,
        }
    }
}

async fn post<S: Service>(shell: &Shell<S>, works: Vec<(Uuid, Work<S>)>) {
    for (subject, work) in works {
        // A closed lane: the process ends, and the record comes again.
        drop(shell.lanes.of_subject(subject).send(work).await);
    }
}

/// What a record means here. `None`: nothing, and it is finished.
fn read<S: Service>(received: Received, consumer: &Arc<Consumer>) -> Option<(Uuid, Work<S>)> {
    if seeded::has(Bug::AckFirst) {
        consumer.finished([&received.place]);
    }
    let (envelope, meaning) = match understand::<S>(&received) {
        Ok(understood) => understood,
        Err(Unread { subject, code }) => {
            let letter = letter(S::NAME, code, subject, &received);
            let consumer = Arc::clone(consumer);
            let work = Work::SetAside(Unreadable { letter, place: received.place, consumer });
            return Some((subject.unwrap_or_default(), work));
        }
    };
    let Some(Meaning { input, is_compensation }) = meaning else {
        consumer.finished([&received.place]);
        return None;
    };
    let place = &received.place;
    let span = telemetry::spans::process(
        &place.topic,
        place.partition,
        place.offset,
        S::NAME,
        &envelope,
        is_compensation,
    );
    let origin = Origin { cause: Some(envelope.id), trace: telemetry::spans::context(&span) };
    let delivery = Delivery {
        id: envelope.id,
        body_hash: body_hash(&received.body),
        received,
        consumer: Arc::clone(consumer),
    };
    let subject = envelope.subject;
    Some((
        subject,
        Work::Decide(Job { subject, input, source: Source::Event(delivery), origin, span }),
    ))
}

/// Why a record is set aside unread.
struct Unread {
    subject: Option<Uuid>,
    code: &'static str,
}

/// The input that a record brings, and whether it asks to undo something.
struct Meaning<S: Service> {
    input: S::Input,
    is_compensation: bool,
}

/// The record's envelope, and what it means here if it means anything.
fn understand<S: Service>(received: &Received) -> Result<(Envelope, Option<Meaning<S>>), Unread> {
    let envelope =
        received.envelope().map_err(|refused| Unread { subject: None, code: refused.code() })?;
    let unread = |code| Unread { subject: Some(envelope.subject), code };
    let meaning = catch_unwind(AssertUnwindSafe(|| {
        let heard = decode::<S::Heard>(&envelope.kind, &received.body).map_err(unread)?;
        Ok(heard.and_then(|heard| {
            let is_compensation = S::Heard::is_compensation(&envelope.kind);
            S::route(&heard).map(|input| Meaning { input, is_compensation })
        }))
    }));
    let meaning = meaning.unwrap_or_else(|_| Err(unread(PANIC)))?;
    Ok((envelope, meaning))
}

/// `None`: a type that nobody here knows.
fn decode<H: Heard>(kind: &EventType, body: &[u8]) -> Result<Option<H>, &'static str> {
    match H::decode(kind, body) {
        // No text that Postgres keeps can hold one.
        Ok(Some(_)) if names_nul(body) => Err("DECODE"),
        Ok(Some(heard)) => Ok(Some(heard)),
        Ok(None) => {
            counter!(names::EVENTS_SKIPPED, "type" => kind.to_string()).increment(1);
            Ok(None)
        }
        Err(Undecodable::Version(_)) => Err("UNSUPPORTED_VERSION"),
        Err(Undecodable::Body(_)) => Err("DECODE"),
    }
}

/// Whether a string in a JSON text holds the character NUL, which JSON can only write as `\u0000`.
fn names_nul(json: &[u8]) -> bool {
    let mut rest = json;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        let escape = &rest[at + 1..];
        if escape.starts_with(b"u0000") {
            return true;
        }
        // Also over a second backslash, which begins nothing.
        rest = escape.get(1..).unwrap_or_default();
    }
    false
}

/// Eight bytes of SHA-256: tells one id with two bodies, in every release alike.
fn body_hash(body: &[u8]) -> i64 {
    let digest = Sha256::digest(body);
    i64::from_be_bytes(std::array::from_fn(|i| digest[i]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::names_nul;

    #[test]
    fn nul_is_found_however_it_is_wrapped_and_nothing_else_is_taken_for_it() {
        for nul in [r#"{"a":"\u0000"}"#, r#"{"\u0000b":1}"#, r#"["\\\u0000"]"#, r#"["\"\u0000"]"#] {
            assert!(names_nul(nul.as_bytes()), "{nul}");
        }
        for other in [r#"["\\u0000"]"#, r#"["u0000"]"#, r#"["\u0001"]"#, r#"["\u000"#, r"\", ""] {
            assert!(!names_nul(other.as_bytes()), "{other}");
        }
    }

    proptest! {
        #[test]
        fn a_text_names_nul_if_and_only_if_there_is_one_in_it(text in "[a0u\\\\\"\\x00-\\x02é]{0,12}") {
            let json = serde_json::json!({"label": text, "1": [text]}).to_string();
            prop_assert_eq!(names_nul(json.as_bytes()), text.contains('\0'));
        }

        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..100)) {
            names_nul(&body);
        }
    }
}
