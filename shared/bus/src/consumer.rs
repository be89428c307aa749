//! Owns the reading side: records with their envelopes, and when their offsets are stored. Refuses
//! to wait for whoever handles them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::statistics::Statistics;
use saga::{Envelope, RECORD_BYTES_MAX, Refused};

use crate::offsets::{Offsets, Place};
use crate::{Config, Error, topic};

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
    /// The record's envelope, if it can be trusted.
    pub fn envelope(&self) -> Result<Envelope, Refused> {
        let headers = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let size = headers.clone().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if size + self.body.len() > RECORD_BYTES_MAX {
            return Err(Refused::TooLarge);
        }
        Envelope::parse(headers, self.key.as_deref(), self.producer)
    }
}

/// One member of a consumer group.
pub struct Consumer {
    inner: StreamConsumer<Context>,
    producers: HashMap<Arc<str>, &'static str>,
}

impl Consumer {
    /// Joins `group` and subscribes to the topics of `producers`.
    pub fn try_new(
        config: &Config,
        group: &'static str,
        producers: &'static [&'static str],
    ) -> Result<Self, Error> {
        let context = Context {
            group,
            offsets: Offsets::default(),
            assigned: AtomicBool::new(false),
            connected: AtomicBool::new(false),
        };
        let inner: StreamConsumer<Context> =
            config.consumer(group).create_with_context(context).map_err(Error::Client)?;
        let producers: HashMap<Arc<str>, &'static str> =
            producers.iter().map(|producer| (topic(producer).into(), *producer)).collect();
        let topics: Vec<&str> = producers.keys().map(|topic| &**topic).collect();
        inner.subscribe(&topics).map_err(Error::Client)?;
        Ok(Self { inner, producers })
    }

    /// Waits for a record, then takes what is there, up to `records_max`. Cancel-safe until the
    /// first record: what has been taken is always returned.
    pub async fn receive(&self, records_max: usize) -> Result<Vec<Received>, Error> {
        let mut batch = Vec::new();
        while batch.is_empty() {
            match self.inner.recv().await {
                Ok(message) => batch.extend(self.read(&message)),
                Err(error) => note(error)?,
            }
        }
        while batch.len() < records_max {
            match futures_poll(self.inner.recv()).await {
                Poll::Ready(Ok(message)) => batch.extend(self.read(&message)),
                Poll::Ready(Err(error)) => note(error)?,
                Poll::Pending => break,
            }
        }
        Ok(batch)
    }

    fn read(&self, message: &BorrowedMessage<'_>) -> Option<Received> {
        let (topic, producer) = self.producers.get_key_value(message.topic())?;
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            headers
                .iter()
                .map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()))
                .collect()
        });
        let place = self.inner.context().offsets.received(
            Arc::clone(topic),
            message.partition(),
            message.offset(),
        );
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
        self.inner.context().offsets.finished(places, |topic, partition, offset| {
            if let Err(error) = self.inner.store_offset(topic, partition, offset) {
                // The partition was lost in between: its new owner hears these records again.
                tracing::debug!(%error, topic, partition, "not stored");
            }
        });
    }

    /// Whether it has its partitions and a broker answers.
    pub fn is_ready(&self) -> bool {
        let context = self.inner.context();
        context.assigned.load(Ordering::Relaxed) && context.connected.load(Ordering::Relaxed)
    }

    /// Gives the partitions back, so that others need not wait for the session to end.
    pub fn leave(&self) {
        self.inner.unsubscribe();
    }
}

/// Transport errors heal by themselves; only a fatal one ends the consumer.
fn note(error: KafkaError) -> Result<(), Error> {
    if let KafkaError::MessageConsumptionFatal(_) = error {
        return Err(Error::Fatal(error));
    }
    tracing::warn!(%error, "the broker is not well");
    Ok(())
}

/// Polls a future once.
async fn futures_poll<F: Future>(future: F) -> Poll<F::Output> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

struct Context {
    group: &'static str,
    offsets: Offsets,
    assigned: AtomicBool,
    connected: AtomicBool,
}

impl ClientContext for Context {
    fn stats(&self, stats: Statistics) {
        let connected = stats.brokers.values().any(|broker| broker.state == "UP");
        self.connected.store(connected, Ordering::Relaxed);
        let lag: i64 = stats
            .topics
            .values()
            .flat_map(|topic| topic.partitions.values())
            .map(|partition| partition.consumer_lag_stored.max(0))
            .sum();
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        metrics::gauge!("switchback_consumer_lag", "consumer" => self.group).set(lag as f64);
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, _: &Rebalance<'_>) {
        self.offsets.forget();
        self.assigned.store(false, Ordering::Relaxed);
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(partitions) = rebalance {
            self.assigned.store(true, Ordering::Relaxed);
            tracing::info!(group = self.group, partitions = partitions.count(), "assigned");
        }
    }
}
