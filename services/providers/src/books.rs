//! Owns what was asked of us and what came of it. Refuses to touch a file or a clock: the same
//! entries in the same order make the same books.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// The most rows in one answer; `after` reads on.
const ROWS_MAX: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Destination {
    Payment,
    Carrier,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Operation {
    Capture,
    Refund,
    Book,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Refusal {
    CardDeclined,
    AddressRejected,
    RefundExceedsCapture,
}

impl Refusal {
    pub(crate) const fn status(self) -> u16 {
        match self {
            Self::CardDeclined => 402,
            Self::AddressRejected | Self::RefundExceedsCapture => 422,
        }
    }
}

/// One request, as the ledger keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub destination: Destination,
    pub operation: Operation,
    pub order_id: String,
    pub idempotency_key: String,
    /// Of the whole body: what is personal in it is not kept.
    pub fingerprint: String,
    pub amount_minor: Option<i64>,
    pub currency: Option<String>,
    /// What a refund is for.
    pub capture_reference: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Done(Effect),
    Refused(Refusal),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Effect {
    pub seq: u64,
    pub reference: String,
}

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(flatten)]
    pub entry: Entry,
    pub outcome: Outcome,
}

/// An entry that somebody wants, and what it shall come to.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub entry: Entry,
    pub refusal: Option<Refusal>,
    /// So many times per order it does not work out yet.
    pub stumbles: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Under the key there is now, or was before, this record.
    Recorded { record: Record, first: bool },
    /// Under the key there is another request.
    KeyReused,
    /// Not now; nothing was recorded.
    Busy,
}

/// One effect, as the outside reads it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Row {
    seq: u64,
    destination: Destination,
    operation: Operation,
    order_id: String,
    idempotency_key: String,
    amount_minor: Option<i64>,
    currency: Option<String>,
    reference: String,
    capture_reference: Option<String>,
}

struct Captured {
    order_id: String,
    currency: Option<String>,
    left_minor: i64,
}

#[derive(Default)]
pub(crate) struct Books {
    records: Vec<Record>,
    by_key: HashMap<(Destination, String), usize>,
    by_order: HashMap<String, Vec<usize>>,
    /// By reference.
    captures: HashMap<String, Captured>,
    /// By order, until it works out.
    stumbled: HashMap<String, u8>,
    /// Answers that were there before the question, since the process began.
    repeated: HashMap<Destination, u64>,
    seq: u64,
}

impl Books {
    /// Answers from the record if there is one, else makes it.
    pub(crate) fn judge(&mut self, wanted: Wanted) -> Verdict {
        let Wanted { entry, refusal, stumbles } = wanted;
        if let Some(record) = self.find(entry.destination, &entry.idempotency_key) {
            if record.entry != entry {
                return Verdict::KeyReused;
            }
            let record = record.clone();
            self.repeat(entry.destination);
            return Verdict::Recorded { record, first: false };
        }
        if stumbles > 0 {
            let stumbled = self.stumbled.entry(entry.order_id.clone()).or_default();
            if *stumbled < stumbles {
                *stumbled += 1;
                return Verdict::Busy;
            }
            self.stumbled.remove(&entry.order_id);
        }
        let outcome = match refusal.or_else(|| self.refused_refund(&entry)) {
            Some(refusal) => Outcome::Refused(refusal),
            None => Outcome::Done(self.next_effect(entry.operation)),
        };
        let record = Record { entry, outcome };
        self.enter(record.clone());
        Verdict::Recorded { record, first: true }
    }

    /// Takes a record over as it is: a new one, or one read back from the file.
    pub(crate) fn enter(&mut self, record: Record) {
        let entry = &record.entry;
        if let Outcome::Done(effect) = &record.outcome {
            self.seq = self.seq.max(effect.seq);
            let amount_minor = entry.amount_minor.unwrap_or(0);
            if entry.operation == Operation::Capture {
                let captured = Captured {
                    order_id: entry.order_id.clone(),
                    currency: entry.currency.clone(),
                    left_minor: amount_minor,
                };
                self.captures.insert(effect.reference.clone(), captured);
            }
            let capture = entry.capture_reference.as_ref();
            if let Some(capture) = capture.and_then(|it| self.captures.get_mut(it)) {
                capture.left_minor = capture.left_minor.saturating_sub(amount_minor);
            }
        }
        let place = self.records.len();
        self.by_key.insert((entry.destination, entry.idempotency_key.clone()), place);
        self.by_order.entry(entry.order_id.clone()).or_default().push(place);
        self.records.push(record);
    }

    /// What is recorded under a key, for somebody who asks for it.
    pub(crate) fn look_up(&mut self, destination: Destination, key: &str) -> Option<Record> {
        let found = self.find(destination, key).cloned()?;
        self.repeat(destination);
        Some(found)
    }

    /// How often a destination has answered from what is recorded under a key.
    pub(crate) fn repeated(&self, destination: Destination) -> u64 {
        self.repeated.get(&destination).copied().unwrap_or(0)
    }

    fn repeat(&mut self, destination: Destination) {
        *self.repeated.entry(destination).or_default() += 1;
    }

    fn find(&self, destination: Destination, key: &str) -> Option<&Record> {
        let place = self.by_key.get(&(destination, key.to_owned()))?;
        self.records.get(*place)
    }

    /// The effects of one order, or of all, after a number. Refusals are none.
    pub(crate) fn rows(&self, order_id: Option<&str>, after: u64) -> Vec<Row> {
        match order_id {
            Some(order_id) => {
                let places = self.by_order.get(order_id).map(Vec::as_slice).unwrap_or_default();
                rows(places.iter().filter_map(|place| self.records.get(*place)), after)
            }
            None => rows(self.records.iter(), after),
        }
    }

    /// Money goes back only where it came from, and never more of it.
    fn refused_refund(&self, entry: &Entry) -> Option<Refusal> {
        if entry.operation != Operation::Refund {
            return None;
        }
        let capture = entry.capture_reference.as_ref().and_then(|it| self.captures.get(it));
        let covered = capture.is_some_and(|capture| {
            capture.order_id == entry.order_id
                && capture.currency == entry.currency
                && entry.amount_minor.is_some_and(|amount| amount <= capture.left_minor)
        });
        (!covered).then_some(Refusal::RefundExceedsCapture)
    }

    fn next_effect(&self, operation: Operation) -> Effect {
        let seq = self.seq + 1;
        let kind = match operation {
            Operation::Capture => "cap",
            Operation::Refund => "ref",
            Operation::Book => "trk",
        };
        Effect { seq, reference: format!("{kind}_{seq:08}") }
    }
}

fn rows<'a>(records: impl Iterator<Item = &'a Record>, after: u64) -> Vec<Row> {
    let row = |record: &Record| match &record.outcome {
        Outcome::Done(effect) if effect.seq > after => Some(Row {
            seq: effect.seq,
            destination: record.entry.destination,
            operation: record.entry.operation,
            order_id: record.entry.order_id.clone(),
            idempotency_key: record.entry.idempotency_key.clone(),
            amount_minor: record.entry.amount_minor,
            currency: record.entry.currency.clone(),
            reference: effect.reference.clone(),
            capture_reference: record.entry.capture_reference.clone(),
        }),
        Outcome::Done(_) | Outcome::Refused(_) => None,
    };
    records.filter_map(row).take(ROWS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(operation: Operation, order: &str, key: &str, amount_minor: i64) -> Entry {
        let destination = match operation {
            Operation::Capture | Operation::Refund => Destination::Payment,
            Operation::Book => Destination::Carrier,
        };
        Entry {
            destination,
            operation,
            order_id: order.to_owned(),
            idempotency_key: key.to_owned(),
            fingerprint: format!("{operation:?} {order} {amount_minor}"),
            amount_minor: Some(amount_minor),
            currency: Some("EUR".to_owned()),
            capture_reference: None,
        }
    }

    fn wanted(entry: Entry) -> Wanted {
        Wanted { entry, refusal: None, stumbles: 0 }
    }

    fn refund(order: &str, key: &str, amount_minor: i64, capture: &str) -> Wanted {
        let mut entry = entry(Operation::Refund, order, key, amount_minor);
        entry.capture_reference = Some(capture.to_owned());
        wanted(entry)
    }

    fn outcome(verdict: Verdict) -> Outcome {
        match verdict {
            Verdict::Recorded { record, first: true } => record.outcome,
            other => panic!("{other:?}"),
        }
    }

    fn captured(books: &mut Books, order: &str, key: &str, amount_minor: i64) -> String {
        let entry = entry(Operation::Capture, order, key, amount_minor);
        match outcome(books.judge(wanted(entry))) {
            Outcome::Done(effect) => effect.reference,
            refused @ Outcome::Refused(_) => panic!("{refused:?}"),
        }
    }

    #[test]
    fn a_key_is_answered_once_and_then_repeated() {
        let mut books = Books::default();
        let capture = wanted(entry(Operation::Capture, "o1", "k1", 900));
        let Verdict::Recorded { record, first: true } = books.judge(capture.clone()) else {
            panic!("not recorded")
        };
        let again = books.judge(capture);
        assert_eq!(again, Verdict::Recorded { record, first: false });
        assert_eq!(books.rows(Some("o1"), 0).len(), 1);
        assert!(books.look_up(Destination::Payment, "k1").is_some());
        assert!(books.look_up(Destination::Payment, "k2").is_none());
        let repeated = [Destination::Payment, Destination::Carrier].map(|it| books.repeated(it));
        assert_eq!(repeated, [2, 0]);
    }

    #[test]
    fn a_key_with_another_request_is_refused_and_changes_nothing() {
        let mut books = Books::default();
        captured(&mut books, "o1", "k1", 900);
        let other = wanted(entry(Operation::Capture, "o1", "k1", 901));
        assert_eq!(books.judge(other), Verdict::KeyReused);
        assert_eq!(books.rows(None, 0).len(), 1);
    }

    #[test]
    fn the_same_key_at_the_other_destination_is_another_key() {
        let mut books = Books::default();
        captured(&mut books, "o1", "k1", 900);
        let booking = books.judge(wanted(entry(Operation::Book, "o1", "k1", 1)));
        assert!(matches!(booking, Verdict::Recorded { first: true, .. }));
    }

    #[test]
    fn a_refusal_is_recorded_under_its_key_but_is_no_effect() {
        let mut books = Books::default();
        let declined = Wanted {
            refusal: Some(Refusal::CardDeclined),
            ..wanted(entry(Operation::Capture, "o1", "k1", 900))
        };
        let refused = Outcome::Refused(Refusal::CardDeclined);
        assert_eq!(outcome(books.judge(declined.clone())), refused);
        assert!(matches!(books.judge(declined), Verdict::Recorded { first: false, .. }));
        assert!(books.find(Destination::Payment, "k1").is_some());
        assert!(books.rows(None, 0).is_empty());
    }

    #[test]
    fn refunds_never_exceed_their_capture() {
        let mut books = Books::default();
        let reference = captured(&mut books, "o1", "k1", 900);
        let refused = Outcome::Refused(Refusal::RefundExceedsCapture);
        for (key, order, amount_minor, capture, granted) in [
            ("r1", "o1", 901, reference.as_str(), false),
            ("r2", "o2", 900, reference.as_str(), false),
            ("r3", "o1", 900, "cap_99999999", false),
            ("r4", "o1", 500, reference.as_str(), true),
            ("r5", "o1", 401, reference.as_str(), false),
            ("r6", "o1", 400, reference.as_str(), true),
            ("r7", "o1", 1, reference.as_str(), false),
        ] {
            let outcome = outcome(books.judge(refund(order, key, amount_minor, capture)));
            assert_eq!(outcome != refused, granted, "{key}");
        }
    }

    #[test]
    fn a_stumbling_order_is_busy_so_often_and_then_works() {
        let mut books = Books::default();
        let booking = |order: &str, key: &str| Wanted {
            stumbles: 2,
            ..wanted(entry(Operation::Book, order, key, 1))
        };
        assert_eq!(books.judge(booking("o1", "k1")), Verdict::Busy);
        assert_eq!(books.judge(booking("o2", "k2")), Verdict::Busy);
        assert_eq!(books.judge(booking("o1", "k1")), Verdict::Busy);
        assert!(books.find(Destination::Carrier, "k1").is_none());
        assert!(matches!(books.judge(booking("o1", "k1")), Verdict::Recorded { first: true, .. }));
        assert!(matches!(books.judge(booking("o1", "k1")), Verdict::Recorded { first: false, .. }));
        assert_eq!(books.judge(booking("o2", "k2")), Verdict::Busy);
    }

    #[test]
    fn books_read_back_from_their_records_are_the_same_books() {
        let mut books = Books::default();
        let reference = captured(&mut books, "o1", "k1", 900);
        captured(&mut books, "o2", "k2", 100);
        assert!(matches!(
            outcome(books.judge(refund("o1", "r1", 500, &reference))),
            Outcome::Done(_)
        ));

        let mut again = Books::default();
        for record in &books.records {
            let line = serde_json::to_string(record).expect("plain data");
            again.enter(serde_json::from_str(&line).expect("what was written"));
        }
        assert_eq!(again.records, books.records);
        assert_eq!(again.rows(None, 0), books.rows(None, 0));
        assert_eq!(again.rows(None, 2).len(), 1);
        let refused = Outcome::Refused(Refusal::RefundExceedsCapture);
        assert_eq!(outcome(again.judge(refund("o1", "r2", 401, &reference))), refused);
        let next = again.judge(wanted(entry(Operation::Capture, "o3", "k3", 1)));
        assert!(matches!(outcome(next), Outcome::Done(effect) if effect.seq == 4));
    }
}
