//! Owns what was committed and has not reached the broker: the sure way out. One per service, by a
//! lock in the database. Refuses to follow ids: what is due is told by state.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bus::{Handed, Report};
use chrono::{DateTime, Utc};
use metrics::counter;
use store::Error;
use telemetry::names;
use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

use crate::config;
use crate::crash::crash_point;
use crate::job::{Job, Source, Work};
use crate::service::Service;
use crate::shell::Shell;

const PASS_EVERY: Duration = Duration::from_millis(500);
const CLOCK_EVERY: Duration = Duration::from_secs(1);
/// A living process has its reports before that: a record's time in the client's queue is 30 s.
const AGE_OF_THE_LIVING: Duration = Duration::from_secs(35);
const PASS_EVENTS_MAX: usize = 1_000;

/// Takes the lock when it is free and does its work until the process closes.
pub(crate) async fn run<S: Service>(shell: Arc<Shell<S>>) -> anyhow::Result<()> {
    loop {
        match store::Dispatch::try_lock(&shell.db).await {
            Ok(Some(outbox)) => {
                let mut dispatcher = Dispatcher { shell: Arc::clone(&shell), outbox, mark: None };
                match dispatcher.work().await {
                    Ok(()) => return Ok(()),
                    Err(Stop::Database(error)) => tracing::warn!(%error, "the dispatcher waits"),
                    Err(Stop::Broker(error)) => return Err(error.into()),
                }
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the dispatcher waits"),
        }
        tokio::select! {
            () = shell.closing.cancelled() => return Ok(()),
            () = tokio::time::sleep(PASS_EVERY) => {}
        }
    }
}

struct Dispatcher<S: Service> {
    shell: Arc<Shell<S>>,
    outbox: store::Dispatch,
    /// Up to where the clock has been asked.
    mark: Option<DateTime<Utc>>,
}

enum Stop {
    /// The lock may be gone with its connection: begin anew.
    Database(Error),
    Broker(bus::Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Database(error)
    }
}

impl<S: Service> Dispatcher<S> {
    async fn work(&mut self) -> Result<(), Stop> {
        let mut clock_at = Instant::now();
        loop {
            let sent = self.pass().await?;
            if clock_at <= Instant::now() {
                if let Err(error) = self.ask_the_clock().await {
                    tracing::warn!(%error, "the clock is asked later");
                }
                clock_at = Instant::now() + CLOCK_EVERY;
            }
            if sent == PASS_EVENTS_MAX {
                continue;
            }
            tokio::select! {
                () = self.shell.closing.cancelled() => return Ok(()),
                () = self.shell.outbox_filled.notified() => {}
                () = tokio::time::sleep(PASS_EVERY) => {}
            }
        }
    }

    /// Sends what is due and waits for every report, so that no pass meets its own records.
    async fn pass(&mut self) -> Result<usize, Stop> {
        let age = match self.shell.dispatch {
            config::Dispatch::Direct => AGE_OF_THE_LIVING,
            config::Dispatch::Outbox => Duration::ZERO,
        };
        let ids = self.outbox.due(age).await?;
        let Some(last) = ids.last().copied() else { return Ok(0) };
        let events = self.outbox.events(&ids).await?;
        if events.len() < ids.len() {
            let missing = ids.len() - events.len();
            tracing::error!(missing, "outbox ids without their events");
        }
        let (reports_to, mut reports) = mpsc::unbounded_channel();
        let mut open = HashSet::new();
        for said in &events {
            let _span = telemetry::spans::send(self.shell.producer.topic(), &said.envelope);
            let handed = self.shell.producer.send(&said.envelope, &said.body, &reports_to);
            match handed.map_err(Stop::Broker)? {
                Handed::Taken => drop(open.insert(said.envelope.id)),
                Handed::Refused => {}
                Handed::Full => break,
            }
        }
        crash_point!("dispatcher.produced.before_ack");
        let acked = await_reports(open, &mut reports).await;
        crash_point!("dispatcher.acked.before_delete");
        self.outbox.delete(&acked).await?;
        counter!(names::DISPATCHED).increment(acked.len() as u64);
        if acked.len() == ids.len() {
            self.outbox.mark(last);
        }
        Ok(acked.len())
    }

    async fn ask_the_clock(&mut self) -> Result<(), Error> {
        let due = S::due(self.outbox.connection(), self.mark).await?;
        self.mark = due.mark.or(self.mark);
        for (subject, input, trace) in due.inputs {
            let span = telemetry::spans::clock(S::NAME, subject, &trace.unwrap_or_default());
            let trace = telemetry::spans::context(&span);
            let origin = store::Origin { cause: None, trace };
            let job = Job { subject, input, source: Source::Clock, origin, span };
            // A closed lane: the process ends, and the next one asks the clock from the start.
            drop(self.shell.lanes.of_subject(subject).send(Work::Decide(job)).await);
        }
        Ok(())
    }
}

/// The ids that the broker has. Every record gets its report within the client's own timeout.
async fn await_reports(
    mut open: HashSet<Uuid>,
    reports: &mut mpsc::UnboundedReceiver<Report>,
) -> Vec<Uuid> {
    let mut acked = Vec::with_capacity(open.len());
    let deadline = Instant::now() + AGE_OF_THE_LIVING;
    while !open.is_empty() {
        let Ok(Some(report)) = tokio::time::timeout_at(deadline, reports.recv()).await else {
            break;
        };
        open.remove(&report.id());
        if let Report::Acked(id) = report {
            acked.push(id);
        }
    }
    acked
}
