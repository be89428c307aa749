//! Owns the loop of a lane: what is there becomes one batch, and what a batch promised is done
//! after its commit. Refuses to wait for company: there is no timer before a batch.

use std::sync::Arc;
use std::time::Duration;

use bus::{Handed, Report};
use metrics::{counter, histogram};
use store::{Commit, DeadLetter, Error};
use telemetry::names;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender};
use tokio::time::Instant;
use uuid::Uuid;

use crate::batch::{self, Batch};
use crate::config::{BATCH_INPUTS_MAX, Dispatch};
use crate::crash::crash_point;
use crate::job::{Delivery, Job, Source, Unreadable, Work, letter};
use crate::outside;
use crate::seeded::{self, Bug};
use crate::service::Service;
use crate::shell::Shell;

/// How long acknowledged outbox ids wait for a batch to go with.
const IDLE_FLUSH: Duration = Duration::from_millis(50);
/// How long a lane that ends waits for the reports of what it has sent.
const LAST_FLUSH: Duration = Duration::from_secs(2);
/// So many reruns at once are an accident; more are treated as an outage.
const RERUNS_MAX: u32 = 20;
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

pub(crate) struct Lane<S: Service> {
    pub shell: Arc<Shell<S>>,
    pub queue: Receiver<Work<S>>,
    pub reports: UnboundedReceiver<Report>,
    pub reports_to: UnboundedSender<Report>,
    /// What the broker has and the outbox still names.
    pub acked: Vec<Uuid>,
}

impl<S: Service> Lane<S> {
    /// Runs until the process drains and nothing is left.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let draining = self.shell.draining.clone();
        let mut works = Vec::with_capacity(BATCH_INPUTS_MAX);
        let mut flush_at = Instant::now();
        loop {
            tokio::select! {
                biased;
                taken = self.queue.recv_many(&mut works, BATCH_INPUTS_MAX) => {
                    if taken == 0 {
                        return Ok(());
                    }
                    self.note_reports();
                    self.handle(std::mem::take(&mut works)).await?;
                }
                Some(report) = self.reports.recv() => {
                    self.note(&report);
                    self.note_reports();
                }
                () = tokio::time::sleep_until(flush_at), if !self.acked.is_empty() => {
                    self.flush().await;
                }
                () = draining.cancelled() => {
                    self.await_reports().await?;
                    self.flush().await;
                    return Ok(());
                }
            }
            flush_at = Instant::now() + IDLE_FLUSH;
        }
    }

    fn note(&mut self, report: &Report) {
        if let Report::Acked(id) = report {
            crash_point!("lane.acked.before_delete");
            self.acked.push(*id);
        }
    }

    fn note_reports(&mut self) {
        while let Ok(report) = self.reports.try_recv() {
            self.note(&report);
        }
    }

    /// The last of this lane is on its way to the broker.
    async fn await_reports(&mut self) -> anyhow::Result<()> {
        let producer = self.shell.producer.clone();
        tokio::task::spawn_blocking(move || producer.flush(LAST_FLUSH)).await?;
        self.note_reports();
        Ok(())
    }

    async fn flush(&mut self) {
        if self.acked.is_empty() {
            return;
        }
        match store::delete_acked(self.shell.db.autocommit(), &self.acked).await {
            Ok(()) => self.acked.clear(),
            Err(error) => tracing::warn!(%error, "acknowledged events stay in the outbox for now"),
        }
    }

    async fn handle(&mut self, works: Vec<Work<S>>) -> anyhow::Result<()> {
        let mut jobs = Vec::with_capacity(works.len());
        for work in works {
            match work {
                Work::Decide(job) => jobs.push(job),
                Work::SetAside(unreadable) => self.set_aside_unreadable(unreadable).await,
            }
        }
        if jobs.is_empty() { Ok(()) } else { self.settle(jobs).await }
    }

    /// Brings a batch to its end, whatever it takes: run again, wait, or halve until a poisonous
    /// input stands alone.
    async fn settle(&mut self, mut jobs: Vec<Job<S>>) -> anyhow::Result<()> {
        let mut back_off = BackOff::default();
        let mut halves = Vec::new();
        loop {
            match self.attempt(&jobs).await {
                Ok(batch) => self.after_commit(jobs, batch).await?,
                Err(error) => {
                    let Some(why) = back_off.endure(&self.shell, error).await else { continue };
                    if jobs.len() > 1 {
                        halves.push(jobs.split_off(jobs.len() / 2));
                        continue;
                    }
                    for job in jobs {
                        self.set_aside(job, &why).await;
                    }
                }
            }
            match halves.pop() {
                Some(half) => jobs = half,
                None => return Ok(()),
            }
        }
    }

    async fn attempt(&mut self, jobs: &[Job<S>]) -> Result<Batch<S>, Error> {
        let started = Instant::now();
        let (shell, acked) = (&*self.shell, &*self.acked);
        let links: Vec<_> = jobs.iter().map(|job| job.origin.trace.clone()).collect();
        let _span = telemetry::spans::commit(S::NAME, jobs.len(), &links);
        let batch =
            shell.db.with_tx(async |tx| batch::run::<S>(tx, shell, jobs, acked).await).await?;
        histogram!(names::COMMIT_SECONDS).record(started.elapsed());
        #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
        histogram!(names::BATCH_SIZE).record(jobs.len() as f64);
        counter!(names::LANE_COMMITS).increment(1);
        self.acked.clear();
        Ok(batch)
    }

    /// Send, call, answer, and let the offsets go, in this order.
    async fn after_commit(&mut self, jobs: Vec<Job<S>>, batch: Batch<S>) -> anyhow::Result<()> {
        crash_point!("lane.committed.before_produce");
        let Batch { commit, permits, replies, stuck, changes, duplicates } = batch;
        if seeded::has(Bug::DualWrite) {
            self.acked.extend(commit.said.iter().map(|said| said.envelope.id));
        }
        if !commit.said.is_empty() {
            self.hand_over(&commit)?;
        }
        for (index, permit) in permits {
            outside::start(&self.shell, &commit.wanted[index], permit);
        }
        for (index, was, now) in &changes {
            S::observe(was, &jobs[*index].input, now);
        }
        counter!(names::INBOX_DUPLICATES, "cause" => "inbox").increment(duplicates);
        for dead in &commit.dead {
            count_letter(dead);
        }
        for (index, code) in stuck {
            if let Source::Answer { step } = &jobs[index].source {
                outside::stick(&self.shell, (jobs[index].subject, step), false, code, true).await;
            }
        }
        let events: Vec<&Delivery> = (jobs.iter())
            .filter_map(|job| match &job.source {
                Source::Event(event) => Some(event),
                _ => None,
            })
            .collect();
        if let Some(first) = events.first() {
            // A service hears through one consumer.
            first.consumer.finished(events.iter().map(|event| &event.received.place));
        }
        let mut replies = replies.into_iter().peekable();
        for (index, job) in jobs.into_iter().enumerate() {
            if let Source::Command(command) = job.source
                && let Some((_, answer)) = replies.next_if(|(at, _)| *at == index)
            {
                // The client may have gone; what was done is done.
                drop(command.reply.send(answer));
            }
        }
        Ok(())
    }

    /// The fast way out. What does not get out here is in the outbox for the dispatcher.
    fn hand_over(&self, commit: &Commit) -> anyhow::Result<()> {
        if self.shell.dispatch == Dispatch::Outbox {
            self.shell.outbox_filled.notify_one();
            return Ok(());
        }
        for said in &commit.said {
            let _span = telemetry::spans::send(self.shell.producer.topic(), &said.envelope);
            let handed = self.shell.producer.send(&said.envelope, &said.body, &self.reports_to)?;
            if handed == Handed::Full {
                tracing::warn!("the producer's queue is full: the dispatcher sends the rest");
                break;
            }
        }
        crash_point!("lane.produced.before_ack");
        Ok(())
    }

    /// A single input that Postgres can never store.
    async fn set_aside(&mut self, job: Job<S>, why: &str) {
        tracing::error!(parent: &job.span, subject = %job.subject, why, "an input is poisonous");
        match job.source {
            Source::Event(event) => {
                let dead = letter(S::NAME, "POISON", Some(job.subject), &event.received);
                self.write_letter(dead, Some((event.id, event.body_hash))).await;
                event.consumer.finished([&event.received.place]);
            }
            Source::Answer { step } => {
                outside::stick(&self.shell, (job.subject, &step), false, "POISON", true).await;
            }
            Source::Command(command) => {
                drop(command.reply.send(Err(api::Code::Internal.into())));
            }
            Source::Clock => {}
        }
    }

    async fn set_aside_unreadable(&mut self, unreadable: Unreadable) {
        let Unreadable { code, subject, received, consumer } = unreadable;
        tracing::error!(code, place = ?received.place, "a record cannot be read");
        self.write_letter(letter(S::NAME, code, subject, &received), None).await;
        consumer.finished([&received.place]);
    }

    /// A dead letter in a transaction of its own, with the claim of its event if it has one.
    async fn write_letter(&self, dead: DeadLetter, event: Option<(Uuid, i64)>) {
        let mut back_off = BackOff::default();
        let (ids, hashes): (Vec<_>, Vec<_>) = event.into_iter().unzip();
        let boot = self.shell.boot.number();
        let commit = Commit { dead: vec![dead], ..Commit::default() };
        loop {
            let written = self.shell.db.with_tx(async |tx| {
                store::claim(tx, S::NAME, &ids, &hashes).await?;
                store::write(tx, boot, &commit).await
            });
            match written.await {
                Ok(()) => return count_letter(&commit.dead[0]),
                Err(error) => {
                    if let Some(why) = back_off.endure(&self.shell, error).await {
                        // Its own bytes cannot poison it (they are kept as bytes), so this is a
                        // fault of ours: stay loud and keep it.
                        tracing::error!(why, "a dead letter cannot be written");
                        tokio::time::sleep(BACK_OFF_MAX).await;
                    }
                }
            }
        }
    }
}

fn count_letter(dead: &DeadLetter) {
    let consumer = dead.consumer.clone().unwrap_or_else(|| dead.origin.to_owned());
    counter!(names::DEAD_LETTERS_TOTAL, "consumer" => consumer, "code" => dead.code.clone())
        .increment(1);
}

/// How long to wait for infrastructure, and until when.
pub(crate) struct BackOff {
    wait: Duration,
    reruns: u32,
}

impl Default for BackOff {
    fn default() -> Self {
        Self { wait: BACK_OFF_MIN, reruns: 0 }
    }
}

impl BackOff {
    /// Lives with an error: returns when it is time to run again, or at once with what is
    /// poisonous.
    pub async fn endure<S: Service>(&mut self, shell: &Shell<S>, error: Error) -> Option<String> {
        match error {
            Error::Poison(why) => return Some(why),
            Error::Rerun(why) => {
                tracing::debug!(why, "a batch runs again");
                counter!(names::BATCH_RERUNS).increment(1);
                self.reruns += 1;
                if self.reruns <= RERUNS_MAX {
                    return None;
                }
            }
            // What was committed under the old number is due at once to the dispatcher.
            Error::CommitLost(why) => {
                tracing::warn!(why, "a commit's reply is lost");
                shell.boot.renew();
            }
            Error::Wait(why) => tracing::warn!(why, wait = ?self.wait, "waiting"),
        }
        let _waiting = shell.health.wait();
        tokio::time::sleep(self.wait).await;
        self.wait = (self.wait * 2).min(BACK_OFF_MAX);
        None
    }
}
