//! Owns records of orders that nobody of ours would write, and whose dead letters they become.
//! Refuses to put them anywhere.

use anyhow::Context;
use testkit::records::{self, Record};
use uuid::Uuid;

use crate::whole::{DeadLetter, INJECTED, Injected};

/// Where they belong.
pub const TOPIC: &str = "order.events.v1";
/// Who hears it, beside the read model.
pub const HEARERS: [&str; 3] = ["inventory", "payment", "shipping"];
pub const VIEW: &str = "order-view";
const TYPE: &str = "switchback.order.OrderPlaced.v1";
/// Just more than a service reads: the in-memory broker keeps little.
const LARGE_BYTES: usize = 260 * 1024;

/// A way to be bad, and the dead letter that comes of it.
type Bad = (fn(&mut Record), Option<Code>);

#[derive(Clone, Copy)]
enum Code {
    /// At each that hears the topic, the read model too: the envelope is wrong.
    Envelope(&'static str),
    /// At those that want to know what is in it.
    Body(&'static str),
}

const BAD: [Bad; 20] = [
    (|record| record.body = Some(b"{\"lines\": [".to_vec()), Some(Code::Body("DECODE"))),
    (|record| record.body = Some(vec![0xff, 0, 0x1f, 0x8b, 7]), Some(Code::Body("DECODE"))),
    (|record| record.body = Some(Vec::new()), Some(Code::Body("DECODE"))),
    (|record| record.body = None, Some(Code::Body("DECODE"))),
    (|record| replace(record, "Ada", "A\\u0000a"), Some(Code::Body("DECODE"))),
    (|record| replace(record, "\"EUR\"", "\"euro\""), Some(Code::Body("DECODE"))),
    (
        |record| record.headers.push(("note".to_owned(), Some(vec![b'x'; LARGE_BYTES]))),
        Some(Code::Envelope("TOO_LARGE")),
    ),
    (|record| record.body = Some(vec![b' '; LARGE_BYTES]), Some(Code::Envelope("TOO_LARGE"))),
    (|record| remove(record, "ce_id"), Some(Code::Envelope("ENVELOPE"))),
    (|record| remove(record, "ce_time"), Some(Code::Envelope("ENVELOPE"))),
    (|record| remove(record, "ce_subject"), Some(Code::Envelope("ENVELOPE"))),
    (|record| set(record, "ce_id", &[0xff, 0xfe]), Some(Code::Envelope("ENVELOPE"))),
    (|record| set(record, "ce_id", b"order 7"), Some(Code::Envelope("ENVELOPE"))),
    (|record| twice(record, "ce_id"), Some(Code::Envelope("ENVELOPE"))),
    (|record| twice(record, "ce_type"), Some(Code::Envelope("ENVELOPE"))),
    (|record| record.key = Some(b"elsewhere".to_vec()), Some(Code::Envelope("KEY_MISMATCH"))),
    (|record| record.key = None, Some(Code::Envelope("KEY_MISMATCH"))),
    (
        |record| set(record, "ce_type", b"switchback.payment.PaymentCaptured.v1"),
        Some(Code::Envelope("FOREIGN_TYPE")),
    ),
    (
        |record| set(record, "ce_type", b"switchback.order.OrderPlaced.v9"),
        Some(Code::Body("UNSUPPORTED_VERSION")),
    ),
    (|record| set(record, "ce_type", b"switchback.order.OrderPraised.v1"), None),
];

/// The record of an order that was placed: the last one of some partition.
pub async fn good(bootstrap: &str) -> anyhow::Result<Record> {
    let log = records::read(bootstrap, TOPIC).await?;
    let good = log
        .into_iter()
        .rev()
        .find(|record| record.header("ce_type") == Some(TYPE) && record.header(INJECTED).is_none());
    good.context("nobody has placed an order")
}

/// A copy of a good record for each way to be bad, each of an order of its own that never was.
pub fn bad_copies(good: &Record, partition: i32) -> (Vec<Record>, Injected) {
    let mut injected = Injected::default();
    let copies = BAD.map(|(change, code)| {
        let mut record = Record { partition: Some(partition), ..good.clone() };
        let (id, subject) = (Uuid::now_v7(), Uuid::now_v7().to_string());
        injected.event_ids.insert(id);
        set(&mut record, "ce_id", id.to_string().as_bytes());
        set(&mut record, "ce_subject", subject.as_bytes());
        set(&mut record, INJECTED, b"true");
        record.key = Some(subject.into_bytes());
        change(&mut record);
        let view = matches!(code, Some(Code::Envelope(_))).then_some(VIEW);
        if let Some(Code::Envelope(code) | Code::Body(code)) = code {
            let by = HEARERS.into_iter().chain(view);
            injected.dead_letters.extend(by.map(|by| letter(by, code)));
        }
        record
    });
    (copies.into(), injected)
}

/// The id of a good record with other bytes, for its own partition: whoever has handled that one
/// sets this one aside.
pub fn collision(good: &Record) -> (Record, DeadLetter) {
    let mut record = good.clone();
    set(&mut record, INJECTED, b"true");
    record.body.get_or_insert_default().push(b' ');
    (record, letter("inventory", "ID_COLLISION"))
}

/// Instead of all headers of that name.
pub fn set(record: &mut Record, name: &str, value: &[u8]) {
    remove(record, name);
    record.headers.push((name.to_owned(), Some(value.to_vec())));
}

fn remove(record: &mut Record, name: &str) {
    record.headers.retain(|(header, _)| header != name);
}

fn twice(record: &mut Record, name: &str) {
    let again = record.headers.iter().find(|(header, _)| header == name).cloned();
    record.headers.extend(again);
}

fn replace(record: &mut Record, what: &str, with: &str) {
    let body = String::from_utf8_lossy(record.body.as_deref().unwrap_or_default());
    record.body = Some(body.replace(what, with).into_bytes());
}

/// A read model's letters lie in the schema of the service that it lives in.
pub fn letter(consumer: &str, code: &str) -> DeadLetter {
    let service = consumer.strip_suffix("-view").unwrap_or(consumer);
    DeadLetter { service: service.to_owned(), consumer: consumer.to_owned(), code: code.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn placed() -> Record {
        let headers = ["ce_id", "ce_type", "ce_subject", "ce_time"];
        Record {
            partition: Some(3),
            key: Some(b"order".to_vec()),
            headers: headers.map(|name| (name.to_owned(), Some(b"good".to_vec()))).into(),
            body: Some(b"{\"name\":\"Ada\",\"currency\":\"EUR\"}".to_vec()),
        }
    }

    #[test]
    fn no_two_bad_copies_are_alike_and_each_is_marked() {
        let (copies, injected) = bad_copies(&placed(), 1);
        assert_eq!(injected.event_ids.len(), copies.len());
        for copy in &copies {
            assert_eq!((copy.partition, copy.header(INJECTED)), (Some(1), Some("true")));
        }
        let bodies: BTreeSet<_> = copies.iter().map(|copy| copy.body.clone()).collect();
        assert_eq!(bodies.len(), 8, "seven bad bodies and the good one");
    }

    #[test]
    fn a_collision_keeps_all_but_a_byte() {
        let (copy, _) = collision(&placed());
        assert_eq!(copy.header("ce_id"), Some("good"));
        assert_eq!((copy.partition, &copy.key), (placed().partition, &placed().key));
        assert_ne!(copy.body, placed().body);
    }
}
