//! Owns the loop of a lane: what is there becomes one batch, and what a batch promised is done
//! after its commit. Refuses to wait for company: there is no timer before a batch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, histogram};
use store::Error;
use telemetry::names;
use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;

use crate::batch::{self, Batch};
use crate::crash::crash_point;
use crate::fate::{BackOff, caught};
use crate::job::{Delivery, Job, Source, Work};
use crate::outgoing::Outgoing;
use crate::service::Service;
use crate::shell::Shell;
use crate::{aside, outside};

/// How long acknowledged outbox ids wait for a batch to go with.
const IDLE_FLUSH: Duration = Duration::from_millis(50);

pub(crate) struct Lane<S: Service> {
    pub shell: Arc<Shell<S>>,
    pub queue: Receiver<Work<S>>,
    pub outgoing: Outgoing,
}

impl<S: Service> Lane<S> {
    /// Runs until the process drains and nothing is left.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let draining = self.shell.draining.clone();
        let batch_max = self.shell.batch_max;
        let mut works = Vec::with_capacity(batch_max);
        let mut flush_at = Instant::now();
        loop {
            tokio::select! {
                biased;
                taken = self.queue.recv_many(&mut works, batch_max) => {
                    if taken == 0 {
                        return Ok(());
                    }
                    self.outgoing.note_reports();
                    self.handle(std::mem::take(&mut works)).await;
                    self.outgoing.give_up(&self.shell).await;
                }
                () = self.outgoing.reported() => {}
                () = tokio::time::sleep_until(flush_at), if !self.outgoing.is_settled() => {
                    self.outgoing.flush(&self.shell).await;
                }
                () = draining.cancelled() => {
                    self.outgoing.end(&self.shell).await?;
                    return Ok(());
                }
            }
            flush_at = Instant::now() + IDLE_FLUSH;
        }
    }

    async fn handle(&mut self, works: Vec<Work<S>>) {
        let (mut jobs, mut unreadable) = (Vec::with_capacity(works.len()), Vec::new());
        for work in works {
            match work {
                Work::Decide(job) => jobs.push(job),
                Work::SetAside(record) => unreadable.push(record),
            }
        }
        aside::unreadable(&self.shell, unreadable).await;
        if !jobs.is_empty() {
            self.settle(jobs).await;
        }
    }

    /// Brings a batch to its end, whatever it takes: run again, wait, or halve until a poisonous
    /// input stands alone.
    async fn settle(&mut self, mut jobs: Vec<Job<S>>) {
        let mut back_off = BackOff::default();
        let mut halves = Vec::new();
        loop {
            match self.attempt(&jobs).await {
                Ok(batch) => self.after_commit(jobs, batch).await,
                Err(error) => {
                    let Some(why) = back_off.endure(&self.shell, error).await else { continue };
                    if jobs.len() > 1 {
                        halves.push(jobs.split_off(jobs.len() / 2));
                        continue;
                    }
                    for job in jobs {
                        aside::poisonous(&self.shell, job, &why).await;
                    }
                }
            }
            match halves.pop() {
                Some(half) => jobs = half,
                None => return,
            }
        }
    }

    async fn attempt(&mut self, jobs: &[Job<S>]) -> Result<Batch<S>, Error> {
        let started = Instant::now();
        let (shell, acked) = (&*self.shell, self.outgoing.acked());
        let links = jobs.iter().map(|job| &job.origin.trace);
        let _span = telemetry::spans::commit(S::NAME, jobs.len(), links);
        let batch = shell
            .db
            .with_tx(async |tx| caught(batch::run::<S>(tx, shell, jobs, acked)).await)
            .await?;
        histogram!(names::COMMIT_SECONDS).record(started.elapsed());
        #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
        histogram!(names::BATCH_SIZE).record(jobs.len() as f64);
        counter!(names::LANE_COMMITS).increment(1);
        self.outgoing.acked_are_gone();
        Ok(batch)
    }

    /// Send, call, answer, and let the offsets go, in this order.
    async fn after_commit(&mut self, jobs: Vec<Job<S>>, batch: Batch<S>) {
        crash_point!("lane.committed.before_produce");
        let Batch { commit, permits, replies, stuck, changes, duplicates } = batch;
        self.outgoing.hand_over(&self.shell, &commit.said);
        for (index, permit) in permits {
            outside::start(&self.shell, &commit.wanted[index], permit);
        }
        for (index, was, now) in &changes {
            let observing = || S::observe(was, &jobs[*index].input, now);
            if catch_unwind(AssertUnwindSafe(observing)).is_err() {
                tracing::error!(subject = %jobs[*index].subject, "a change is not counted");
            }
        }
        counter!(names::INBOX_DUPLICATES, "cause" => "inbox").increment(duplicates);
        for dead in &commit.dead {
            aside::note(&self.shell, dead);
        }
        for (index, code) in stuck {
            if let Source::Answer { step, .. } = &jobs[index].source {
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
    }
}
