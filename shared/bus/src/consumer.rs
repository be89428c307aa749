//! Owns the reading side: records with their envelopes, and when their offsets are stored. Refuses
//! to wait for whoever handles them.

use std::collections::{BTreeSet, HashMap};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use saga::{Envelope, RECORD_BYTES_MAX, Refused};

use crate::gate::Partition;
use crate::member::{Client, Context, Member};
use crate::offsets::Place;
use crate::{Config, Error, topic};

/// Work that takes longer than this pauses the reading: what was fetched ahead is fetched again.
const PAUSE_AFTER: Duration = Duration::from_millis(200);

/// A record as it came.
#[derive(Debug)]
pub struct Received {
    pub place: Place,
    /// Who owns the topic.
    pub producer: &'static str,
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Received {
    /// Whether it is larger than any record of ours may be.
    pub fn is_too_large(&self) -> bool {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len());
        headers.sum::<usize>() + self.body.len() > RECORD_BYTES_MAX
    }

    /// The record's envelope, if it can be trusted.
    pub fn envelope(&self) -> Result<Envelope, Refused> {
        if self.is_too_large() {
            return Err(Refused::TooLarge);
        }
        let headers = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        Envelope::parse(headers, self.key.as_deref(), self.producer)
    }
}

/// One member of a consumer group, for one reader. Dropping it leaves the group, so that others need
/// not wait for the session to end; that takes its time, and must not be done on a thread that others
/// need.
pub struct Consumer {
    group: &'static str,
    member: Member,
    producers: HashMap<Arc<str>, &'static str>,
    /// What came although all partitions were paused. The client promises that nothing does; were it
    /// wrong, a record that is dropped here would be passed over for good.
    early: Mutex<Vec<Received>>,
}

impl Consumer {
    /// Joins `group` and subscribes to the topics of `producers`.
    pub fn try_new(
        config: &Config,
        group: &'static str,
        producers: &'static [&'static str],
    ) -> Result<Self, Error> {
        let topics = producers.iter().map(|producer| topic(producer)).collect();
        let member = Member::try_new(config, group, topics)?;
        let producers =
            producers.iter().map(|producer| (topic(producer).into(), *producer)).collect();
        Ok(Self { group, member, producers, early: Mutex::default() })
    }

    /// Waits for a record, then takes what is there, up to `records_max`. Cancel-safe until the
    /// first record: what has been taken is always returned.
    pub async fn receive(&self, records_max: usize) -> Result<Vec<Received>, Error> {
        let mut batch = std::mem::take(&mut *self.early());
        while batch.is_empty() {
            batch.extend(self.next().await?);
        }
        while batch.len() < records_max {
            match futures_poll(self.next()).await {
                Poll::Ready(next) => batch.extend(next?),
                Poll::Pending => break,
            }
        }
        Ok(batch)
    }

    /// Waits for a record, or for something else that the client has to say. Cancel-safe.
    async fn next(&self) -> Result<Option<Received>, Error> {
        let client = Arc::clone(&self.member.now().client);
        let error = match client.recv().await {
            Ok(message) => return Ok(self.read(client.context(), &message)),
            Err(error) => error,
        };
        self.note(client, error)?;
        Ok(None)
    }

    /// Waits for `work`, and stays a member of the group however long that takes: all partitions are
    /// paused, and the client goes on being polled.
    pub async fn keep_while<T>(&self, work: impl Future<Output = T>) -> Result<T, Error> {
        let mut work = pin!(work);
        if let Ok(done) = tokio::time::timeout(PAUSE_AFTER, &mut work).await {
            return Ok(done);
        }
        let (group, since) = (self.group, Instant::now());
        let paused = Paused::begin(self);
        tracing::warn!(group, "reading is paused: what was read is not taken");
        loop {
            tokio::select! {
                biased;
                done = &mut work => {
                    drop(paused);
                    tracing::info!(group, after = ?since.elapsed(), "reading goes on");
                    return Ok(done);
                }
                next = self.next() => self.early().extend(next?),
            }
        }
    }

    /// Reads nothing from these partitions, and from all others.
    pub fn hold(&self, partitions: BTreeSet<Partition>) {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        let count = partitions.len() as f64;
        let client = &self.member.now().client;
        let gate = &client.context().gate;
        if gate.shut_some(partitions) {
            gate.apply(&**client);
            metrics::gauge!("switchback_partitions_held", "consumer" => self.group).set(count);
        }
    }

    /// Transport errors heal by themselves, and a place in the group may be taken back; whatever else
    /// is fatal ends the consumer.
    fn note(&self, client: Arc<Client>, error: KafkaError) -> Result<(), Error> {
        let group = self.group;
        let code = error.rdkafka_error_code().map(|code| format!("{code:?}")).unwrap_or_default();
        metrics::counter!("switchback_consume_errors_total", "consumer" => group, "code" => code)
            .increment(1);
        if let KafkaError::MessageConsumptionFatal(_) = error {
            return self.member.replace(client, error);
        }
        tracing::warn!(%error, group, "the broker is not well");
        Ok(())
    }

    fn early(&self) -> std::sync::MutexGuard<'_, Vec<Received>> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, from: &Context, message: &BorrowedMessage<'_>) -> Option<Received> {
        let (topic, producer) = self.producers.get_key_value(message.topic())?;
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            headers
                .iter()
                .map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()))
                .collect()
        });
        let (partition, offset) = (message.partition(), message.offset());
        let place = from.offsets.received(Arc::clone(topic), partition, offset);
        Some(Received {
            place,
            producer,
            key: message.key().map(<[u8]>::to_vec),
            headers,
            body: message.payload().unwrap_or_default().to_vec(),
        })
    }

    /// Records are handled and committed. A partition's offset is stored up to where nothing below
    /// is open.
    pub fn finished<'a>(&self, places: impl IntoIterator<Item = &'a Place>) {
        let client = &self.member.now().client;
        client.context().offsets.finished(places, |topic, partition, offset| {
            if let Err(error) = client.store_offset(topic, partition, offset) {
                // The partition was lost in between: its new owner hears these records again.
                tracing::debug!(%error, topic, partition, "not stored");
            }
        });
    }

    /// Whether it has its partitions and a broker answers.
    pub fn is_ready(&self) -> bool {
        self.member.now().client.context().is_ready()
    }
}

/// Polls a future once.
async fn futures_poll<F: Future>(future: F) -> Poll<F::Output> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// All partitions are paused until this is dropped, with its work done or given up.
struct Paused<'a>(&'a Consumer);

impl<'a> Paused<'a> {
    fn begin(consumer: &'a Consumer) -> Self {
        let paused = Self(consumer);
        paused.set(true);
        paused
    }

    fn set(&self, all: bool) {
        let Self(Consumer { group, member, .. }) = self;
        let client = &member.now().client;
        let gate = &client.context().gate;
        if gate.shut_all(all) {
            gate.apply(&**client);
        }
        metrics::gauge!("switchback_consumer_paused", "consumer" => *group)
            .set(f64::from(u8::from(all)));
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}
