//! Owns what waits in a lane: inputs with where they come from. Refuses to decide.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use api::{Answer, Problem};
use bus::{Consumer, Place, Received};
use sha2::{Digest as _, Sha256};
use store::{DeadLetter, Key, Origin, Record};
use tokio::sync::{mpsc, oneshot};
use tracing::Span;
use uuid::Uuid;

use crate::http::Respond;
use crate::service::Service;

/// What is kept of the body, and of the headers, of a record that is too large.
const EXCERPT_BYTES_MAX: usize = 4 * 1024;

/// One thing for a lane to do.
pub(crate) enum Work<S: Service> {
    Decide(Job<S>),
    /// A record that cannot become an input.
    SetAside(Unreadable),
}

/// An input and its subject.
pub(crate) struct Job<S: Service> {
    pub subject: Uuid,
    pub input: S::Input,
    pub source: Source<S>,
    /// What the events that it causes will name.
    pub origin: Origin,
    /// Open from receipt to commit.
    pub span: Span,
}

pub(crate) enum Source<S: Service> {
    Event(Delivery),
    Command(Command<S>),
    /// The definite answer of an outside call.
    Answer {
        step: String,
        /// It counts only if this attempt is still the call's only one.
        only: Option<u32>,
    },
    Clock,
}

/// An event as it came, and whom to tell when it is handled.
pub(crate) struct Delivery {
    pub id: Uuid,
    pub body_hash: i64,
    pub received: Received,
    pub consumer: Arc<Consumer>,
}

/// A record without a usable event in it, as it will be kept.
pub(crate) struct Unreadable {
    pub letter: DeadLetter,
    pub place: Place,
    pub consumer: Arc<Consumer>,
}

/// A client's request; the handler waits for the reply.
pub(crate) struct Command<S: Service> {
    pub keyed: Option<Keyed>,
    pub respond: Respond<S>,
    pub reply: oneshot::Sender<Result<Answer, Problem>>,
}

pub(crate) struct Keyed {
    pub key: Key,
    pub fingerprint: Vec<u8>,
}

/// The raw record, for a dead letter: bytes and headers as they came. Of one that is larger than any
/// of ours only the beginning, and what tells it from others.
pub(crate) fn letter(
    consumer: &str,
    code: &str,
    subject: Option<Uuid>,
    received: &Received,
) -> DeadLetter {
    let Received { place, headers, body, .. } = received;
    let mut kept: Vec<_> = headers.iter().map(|(name, value)| (&**name, text(value))).collect();
    let mut body = &**body;
    if received.is_too_large() {
        let mut room = EXCERPT_BYTES_MAX;
        kept.retain(|(name, value)| {
            let size = name.len() + value.to_string().len();
            let fits = size <= room;
            room -= if fits { size } else { 0 };
            fits
        });
        kept.push(("kept-of-bytes", body.len().to_string().into()));
        kept.push(("kept-of-sha256", format!("{:x}", Sha256::digest(body)).into()));
        body = &body[..body.len().min(EXCERPT_BYTES_MAX)];
    }
    DeadLetter {
        origin: "consumer",
        consumer: Some(consumer.to_owned()),
        record: Some(Record {
            topic: place.topic.to_string(),
            partition: place.partition,
            offset: place.offset,
        }),
        subject,
        code: code.to_owned(),
        headers: serde_json::to_vec(&kept).unwrap_or_default(),
        body: body.to_vec(),
        attempts: 1,
    }
}

/// A header's value: text, or its bytes if it is none.
fn text(value: &[u8]) -> serde_json::Value {
    std::str::from_utf8(value).map_or_else(|_| value.into(), Into::into)
}

/// What the clock brought. There was no record: the subject says what to look at.
pub(crate) fn letter_of_the_clock(consumer: &str, code: &str, subject: Uuid) -> DeadLetter {
    DeadLetter {
        origin: "consumer",
        consumer: Some(consumer.to_owned()),
        record: None,
        subject: Some(subject),
        code: code.to_owned(),
        headers: b"[]".to_vec(),
        body: Vec::new(),
        attempts: 1,
    }
}

/// The ways into the lanes of one service.
pub(crate) struct Lanes<S: Service>(Vec<mpsc::Sender<Work<S>>>);

impl<S: Service> Lanes<S> {
    pub fn new(senders: Vec<mpsc::Sender<Work<S>>>) -> Self {
        Self(senders)
    }

    /// Everything about a subject goes into one lane.
    pub fn of_subject(&self, subject: Uuid) -> &mpsc::Sender<Work<S>> {
        self.pick(subject)
    }

    /// Requests that create something go by their key, so that twins meet.
    pub fn of_key(&self, key: &Key) -> &mpsc::Sender<Work<S>> {
        self.pick((&key.caller, &key.key))
    }

    /// How many inputs wait in all of them.
    pub fn waiting(&self) -> usize {
        self.0.iter().map(|lane| lane.max_capacity() - lane.capacity()).sum()
    }

    fn pick(&self, what: impl Hash) -> &mpsc::Sender<Work<S>> {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        let lanes = u64::try_from(self.0.len()).unwrap_or(1);
        &self.0[usize::try_from(hasher.finish() % lanes).unwrap_or_default()]
    }
}
