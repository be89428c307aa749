//! Owns the way from the broker to the transaction: who handles which record, and when its offset
//! is let go. Refuses to handle two records of one key at a time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use anyhow::Context as _;
use bus::{Consumer, Received};
use chassis::{Seen, Service, View};
use saga::Heard;
use store::Origin;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Shell;
use super::store as rows;
use super::transaction::{Source, Work};

/// Records that wait for one worker; what comes next waits at the broker.
const WAITING_MAX: usize = 64;

/// Events become inputs, and the calls that they want are made.
pub async fn to_events<S: Service>(
    shell: Arc<Shell<S>>,
    consumer: Arc<Consumer>,
) -> anyhow::Result<()> {
    work(shell.kind.workers(), consumer, move |received| hear(Arc::clone(&shell), received)).await
}

/// Events become rows of a read model.
pub async fn for_view<S: Service>(
    shell: Arc<Shell<S>>,
    consumer: Arc<Consumer>,
    view: View,
) -> anyhow::Result<()> {
    let workers = shell.kind.workers();
    work(workers, consumer, move |received| see(Arc::clone(&shell), view.clone(), received)).await
}

async fn hear<S: Service>(shell: Arc<Shell<S>>, received: Received) -> anyhow::Result<()> {
    let envelope = received.envelope()?;
    let heard = S::Heard::decode(&envelope.kind, &received.body)?;
    let Some(input) = heard.and_then(|heard| S::route(&heard)) else { return Ok(()) };
    let work = Work {
        subject: envelope.subject,
        input,
        source: Source::Event(envelope.id),
        origin: Origin { cause: Some(envelope.id), trace: envelope.trace },
    };
    let done = shell.handle(&work).await?;
    shell.call(done.calls).await
}

/// A row that is there already is left alone, so this needs no inbox.
async fn see<S: Service>(
    shell: Arc<Shell<S>>,
    view: View,
    received: Received,
) -> anyhow::Result<()> {
    let seen = [Seen { envelope: received.envelope()?, body: received.body }];
    let mut tx = rows::transaction(&shell.pool).await?;
    (view.insert)(&mut tx, &seen).await?;
    Ok(tx.commit().await?)
}

/// Each worker takes the records of its keys one after another, and an offset is stored when no
/// record up to it is open.
async fn work<F, H>(workers: usize, consumer: Arc<Consumer>, handle: F) -> anyhow::Result<()>
where
    F: Fn(Received) -> H + Clone + Send + 'static,
    H: Future<Output = anyhow::Result<()>> + Send,
{
    let mut working = JoinSet::new();
    let mut senders = Vec::with_capacity(workers);
    for _ in 0..workers {
        let (sender, mut queue) = mpsc::channel::<Received>(WAITING_MAX);
        let (consumer, handle) = (Arc::clone(&consumer), handle.clone());
        working.spawn(async move {
            while let Some(received) = queue.recv().await {
                let place = received.place.clone();
                handle(received).await?;
                consumer.finished([&place]);
            }
            anyhow::Ok(())
        });
        senders.push(sender);
    }
    let reading = async {
        loop {
            for received in consumer.receive(WAITING_MAX).await? {
                let worker = worker_of(&received, workers);
                senders[worker].send(received).await.context("a worker has ended")?;
            }
        }
    };
    tokio::select! {
        biased;
        Some(ended) = working.join_next() => ended?,
        ended = reading => ended,
    }
}

fn worker_of(received: &Received, workers: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    received.key.hash(&mut hasher);
    usize::try_from(hasher.finish() % workers as u64).unwrap_or_default()
}
