//! Owns events that are sent without a pause, and readers that handle them a little late. Refuses to
//! judge.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bus::{Config, Consumer, Handed, Producer, Report};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{AT_MOST, PRODUCERS, body, close, lit};

const SUBJECTS: u128 = 8;
/// Between events of one subject, while something else is waited for.
const PAUSE: Duration = Duration::from_millis(20);
/// A reader holds so many records that are not finished.
pub const OPEN_MAX: usize = 20;
/// And takes so many at once.
pub const BATCH_MAX: usize = 10;

/// Whose event it is, and which of his.
pub type Event = (Uuid, u32);

/// Events about a few subjects in turn.
pub struct Load {
    producer: Producer,
    reports_to: UnboundedSender<Report>,
    reports: UnboundedReceiver<Report>,
    waiting: HashMap<Uuid, Event>,
    version: u32,
    /// What had to be sent a second time: nobody knows whether the first came there.
    pub failed: BTreeSet<Event>,
}

impl Load {
    pub fn try_new(config: &Config) -> anyhow::Result<Self> {
        let (reports_to, reports) = unbounded_channel();
        let producer = Producer::try_new(config, "lamp")?;
        Ok(Self {
            producer,
            reports_to,
            reports,
            waiting: HashMap::new(),
            version: 0,
            failed: BTreeSet::new(),
        })
    }

    /// The next event of each subject.
    pub fn go_on(&mut self) {
        self.version += 1;
        for subject in (1..=SUBJECTS).map(Uuid::from_u128) {
            self.send((subject, self.version));
        }
    }

    /// Sends without a pause until something is done.
    pub async fn go_on_while<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            self.go_on();
            if let Ok(done) = timeout(PAUSE, &mut work).await {
                return done;
            }
        }
    }

    fn send(&mut self, (subject, version): Event) {
        let event = lit(subject, version);
        let handed = self.producer.send(&event, &body(version), &self.reports_to);
        assert_eq!(handed, Handed::Taken);
        self.waiting.insert(event.id, (subject, version));
    }

    /// Waits until the broker has all of them, and tells which these are. What has failed is sent
    /// again.
    pub async fn settle(&mut self) -> anyhow::Result<BTreeSet<Event>> {
        while !self.waiting.is_empty() {
            let report = timeout(AT_MOST, self.reports.recv()).await?.expect("held above");
            let event = self.waiting.remove(&report.id()).context("one report for each record")?;
            match report {
                Report::Acked(_) => {}
                Report::Failed(_) => {
                    self.failed.insert(event);
                    self.send(event);
                }
                Report::Refused(..) => bail!("{report:?}"),
            }
        }
        let subjects = (1..=SUBJECTS).map(Uuid::from_u128);
        Ok(subjects.flat_map(|subject| (1..=self.version).map(move |v| (subject, v))).collect())
    }
}

/// What readers have heard, in the order in which they did.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<(usize, Event)>>>);

impl Log {
    fn events(&self) -> std::sync::MutexGuard<'_, Vec<(usize, Event)>> {
        self.0.lock().expect("nobody panics while holding it")
    }

    pub fn count_by(&self, reader: usize) -> usize {
        self.events().iter().filter(|(by, _)| *by == reader).count()
    }

    pub fn has_all(&self, events: &BTreeSet<Event>) -> bool {
        let heard: BTreeSet<Event> = self.events().iter().map(|(_, event)| *event).collect();
        events.is_subset(&heard)
    }

    /// How many events were heard more often than once. Fails if one was first heard before an
    /// earlier one of its subject that did not have to be sent again.
    pub fn judge(&self, late: &BTreeSet<Event>) -> anyhow::Result<usize> {
        let (mut heard, mut again) = (BTreeSet::new(), 0);
        for (by, event) in self.events().iter() {
            let (subject, version) = *event;
            let before = (subject, version - 1);
            ensure!(
                version == 1 || heard.contains(&before) || late.contains(&before),
                "{by} heard {version} of {subject} too early"
            );
            again += usize::from(!heard.insert(*event));
        }
        Ok(again)
    }
}

/// A member of the group that finishes its records some time after it has heard them.
pub struct Reader {
    stop: CancellationToken,
    reading: JoinHandle<anyhow::Result<()>>,
}

impl Reader {
    pub fn start(config: &Config, number: usize, log: &Log) -> anyhow::Result<Self> {
        let config = Config { client_id: format!("test-{number}"), ..config.clone() };
        let consumer = Consumer::try_new(&config, crate::member::GROUP, PRODUCERS)?;
        let (stop, log) = (CancellationToken::new(), log.clone());
        let stopped = stop.clone();
        let reading = tokio::spawn(async move {
            let mut open = VecDeque::new();
            while let Some(received) =
                stopped.run_until_cancelled(consumer.receive(BATCH_MAX)).await
            {
                for record in received? {
                    let envelope = record.envelope()?;
                    let event = (envelope.subject, envelope.version.unwrap_or_default());
                    log.events().push((number, event));
                    open.push_back(record.place);
                }
                let late = open.len().saturating_sub(OPEN_MAX);
                consumer.finished(&open.drain(..late).collect::<Vec<_>>());
            }
            consumer.finished(&open);
            close(consumer).await
        });
        Ok(Self { stop, reading })
    }

    /// Finishes all that it has heard, and leaves.
    pub async fn leave(self) -> anyhow::Result<()> {
        self.stop.cancel();
        timeout(AT_MOST, self.reading).await??
    }
}
