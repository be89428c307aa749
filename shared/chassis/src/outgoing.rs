//! Owns what a lane has said until the broker has it: the fast way out. Refuses to wait for the
//! broker, and to try twice: what does not get out here is the dispatcher's.

use std::time::Duration;

use bus::{Handed, Report};
use metrics::counter;
use saga::{Envelope, Event as _};
use store::Said;
use telemetry::names;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tracing::Span;
use uuid::Uuid;

use crate::config::Dispatch;
use crate::crash::crash_point;
use crate::seeded::{self, Bug};
use crate::service::Service;
use crate::shell::Shell;

/// How long a lane that ends waits for the reports of what it has sent.
const LAST_FLUSH: Duration = Duration::from_secs(2);

pub(crate) struct Outgoing {
    reports: UnboundedReceiver<Report>,
    reports_to: UnboundedSender<Report>,
    /// What the broker has and the outbox still names.
    acked: Vec<Uuid>,
    /// What did not get out, and is still under the name of this process in the outbox.
    stayed: Vec<Uuid>,
}

impl Outgoing {
    pub fn new() -> Self {
        let (reports_to, reports) = mpsc::unbounded_channel();
        Self { reports, reports_to, acked: Vec::new(), stayed: Vec::new() }
    }

    /// Hands what was committed to the producer, in its order.
    pub fn hand_over<S: Service>(&mut self, shell: &Shell<S>, said: &[Said]) {
        if said.is_empty() {
            return;
        }
        if seeded::has(Bug::DualWrite) {
            self.acked.extend(ids(said));
        }
        if shell.dispatch == Dispatch::Outbox {
            shell.outbox_filled.notify_one();
            return;
        }
        let taken = said.iter().take_while(|said| {
            let _span = sending::<S>(shell.producer.topic(), &said.envelope);
            let handed = shell.producer.send(&said.envelope, &said.body, &self.reports_to);
            handed == Handed::Taken
        });
        let taken = taken.count();
        self.stayed.extend(ids(&said[taken..]));
        crash_point!("lane.produced.before_ack");
    }

    /// Waits for a report. Cancel-safe.
    pub async fn reported(&mut self) {
        // It holds a sender of its own, so the channel is never closed.
        if let Some(report) = self.reports.recv().await {
            self.note(&report);
            self.note_reports();
        }
    }

    /// Takes in the reports that are there.
    pub fn note_reports(&mut self) {
        while let Ok(report) = self.reports.try_recv() {
            self.note(&report);
        }
    }

    fn note(&mut self, report: &Report) {
        match report {
            Report::Acked(id) => {
                crash_point!("lane.acked.before_delete");
                self.acked.push(*id);
            }
            Report::Failed(id) | Report::Refused(id, _) => self.stayed.push(*id),
        }
    }

    /// For the next batch to take out of the outbox.
    pub fn acked(&self) -> &[Uuid] {
        &self.acked
    }

    pub fn acked_are_gone(&mut self) {
        self.acked.clear();
    }

    /// Whether there is nothing to tell the outbox.
    pub fn is_settled(&self) -> bool {
        self.acked.is_empty() && self.stayed.is_empty()
    }

    /// Tells the outbox without a batch.
    pub async fn flush<S: Service>(&mut self, shell: &Shell<S>) {
        if !self.acked.is_empty() {
            match store::delete_acked(shell.db.autocommit(), &self.acked).await {
                Ok(()) => self.acked.clear(),
                Err(error) => tracing::warn!(%error, "acknowledged events stay in the outbox"),
            }
        }
        self.give_up(shell).await;
    }

    /// Leaves to the dispatcher what did not get out.
    pub async fn give_up<S: Service>(&mut self, shell: &Shell<S>) {
        if self.stayed.is_empty() {
            return;
        }
        match store::give_up(shell.db.autocommit(), &self.stayed).await {
            Ok(()) => {
                counter!(names::EVENTS_GIVEN_UP).increment(self.stayed.len() as u64);
                self.stayed.clear();
            }
            Err(error) => tracing::warn!(%error, "the dispatcher waits for the events' age"),
        }
    }

    /// The last of this lane is on its way to the broker.
    pub async fn end<S: Service>(&mut self, shell: &Shell<S>) -> anyhow::Result<()> {
        let producer = shell.producer.clone();
        tokio::task::spawn_blocking(move || producer.flush(LAST_FLUSH)).await?;
        self.note_reports();
        self.flush(shell).await;
        Ok(())
    }
}

/// The span of an event on its way out.
pub(crate) fn sending<S: Service>(topic: &str, envelope: &Envelope) -> Span {
    telemetry::spans::send(topic, envelope, S::Event::is_compensation(&envelope.kind))
}

fn ids(said: &[Said]) -> impl Iterator<Item = Uuid> {
    said.iter().map(|said| said.envelope.id)
}
