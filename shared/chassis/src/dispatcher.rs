//! Owns what was committed and has not reached the broker: the sure way out. One per service, by a
//! lock in the database. Refuses to follow ids: what is due is told by state.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bus::{Handed, Producer, Report};
use chrono::{DateTime, Utc};
use metrics::counter;
use saga::Envelope;
use store::{DeadLetter, Error, Said};
use telemetry::names;
use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

use crate::aside;
use crate::config;
use crate::crash::crash_point;
use crate::job::{Job, Source, Work};
use crate::outgoing::sending;
use crate::service::Service;
use crate::shell::Shell;

const PASS_EVERY: Duration = Duration::from_millis(500);
/// Between passes that got nothing out.
const PASS_EVERY_MAX: Duration = Duration::from_secs(2);
const CLOCK_EVERY: Duration = Duration::from_secs(1);
/// The server has its own bound on a statement: past that nobody is there to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(12);
/// A living process has its reports before that: a record's time in the client's queue is 30 s.
const AGE_OF_THE_LIVING: Duration = Duration::from_secs(35);
/// How long the end of the process waits for the reports of the last pass.
const LAST_REPORTS: Duration = Duration::from_secs(1);
const PASS_EVENTS_MAX: usize = 1_000;

/// Takes the lock when it is free and does its work until the process ends.
pub(crate) async fn run<S: Service>(shell: Arc<Shell<S>>) -> anyhow::Result<()> {
    let mut acked = Vec::new();
    loop {
        match store::Dispatch::try_lock(&shell.db).await {
            Ok(Some(outbox)) => {
                let mut dispatcher = Dispatcher {
                    shell: Arc::clone(&shell),
                    outbox,
                    acked,
                    alone: None,
                    mark: None,
                    clock_at: Instant::now(),
                };
                let Err(error) = dispatcher.work().await else { return Ok(()) };
                // The lock may be gone with its connection: begin anew.
                tracing::warn!(%error, "the dispatcher waits");
                acked = dispatcher.acked;
            }
            // Whoever has the lock sends them again, and may have to: the broker can forget.
            Ok(None) => acked.clear(),
            Err(error) => tracing::warn!(%error, "the dispatcher waits"),
        }
        tokio::select! {
            () = shell.drained.cancelled() => return Ok(()),
            () = tokio::time::sleep(PASS_EVERY) => {}
        }
    }
}

struct Dispatcher<S: Service> {
    shell: Arc<Shell<S>>,
    outbox: store::Dispatch,
    /// What the broker has and the outbox still names.
    acked: Vec<Uuid>,
    /// For records that must share no request, once there are any.
    alone: Option<Producer>,
    /// Up to where the clock has been asked.
    mark: Option<DateTime<Utc>>,
    clock_at: Instant,
}

/// What a pass came to.
#[derive(Default)]
struct Passed {
    due: usize,
    out: usize,
}

/// What became of records that were sent together.
#[derive(Default)]
struct Sent {
    acked: usize,
    /// With the codes of their refusals.
    refused: HashMap<Uuid, &'static str>,
    /// Nothing is taken now, so there may be more than what was sent.
    cut_short: bool,
}

impl<S: Service> Dispatcher<S> {
    async fn work(&mut self) -> Result<(), Error> {
        // What an earlier connection could not delete.
        self.delete_acked().await?;
        let mut pause = PASS_EVERY;
        loop {
            let Passed { due, out } = self.pass().await?;
            self.ask_the_clock().await;
            if due == PASS_EVENTS_MAX && out > 0 && !self.shell.drained.is_cancelled() {
                continue;
            }
            let in_vain = due > 0 && out == 0;
            pause = if in_vain { (2 * pause).min(PASS_EVERY_MAX) } else { PASS_EVERY };
            tokio::select! {
                () = self.shell.drained.cancelled() => return self.pass().await.map(drop),
                () = self.shell.outbox_filled.notified(), if !in_vain => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Sends what is due and waits for every report, so that no pass meets its own records.
    async fn pass(&mut self) -> Result<Passed, Error> {
        let age = match self.shell.dispatch {
            config::Dispatch::Direct => AGE_OF_THE_LIVING,
            config::Dispatch::Outbox => Duration::ZERO,
        };
        let ids = self.outbox.due(age).await?;
        let Some(last) = ids.last().copied() else { return Ok(Passed::default()) };
        let events = self.outbox.events(&ids).await?;
        if events.len() < ids.len() {
            let missing = ids.len() - events.len();
            tracing::error!(missing, "outbox ids without their events");
            counter!(names::OUTBOX_MISSING).increment(missing as u64);
        }
        let producer = self.shell.producer.clone();
        let Sent { acked, refused, cut_short } = self.send(&producer, &events).await;
        self.delete_acked().await?;
        let mut out = acked;
        for said in events.iter().filter(|said| refused.contains_key(&said.envelope.id)) {
            out += usize::from(self.send_alone(said).await?);
        }
        if out == ids.len() {
            self.outbox.mark(last);
        } else if ids.len() == PASS_EVENTS_MAX && !cut_short {
            self.outbox.pass_by(last);
        }
        Ok(Passed { due: ids.len(), out })
    }

    /// Hands events over in their order and waits until each has its report: all do within the
    /// client's own timeout.
    async fn send(&mut self, producer: &Producer, events: &[Said]) -> Sent {
        let (reports_to, mut reports) = mpsc::unbounded_channel();
        let taken = events.iter().take_while(|said| {
            let _span = sending::<S>(producer.topic(), &said.envelope);
            producer.send(&said.envelope, &said.body, &reports_to) == Handed::Taken
        });
        let mut open = taken.count();
        let mut sent = Sent { cut_short: open < events.len(), ..Sent::default() };
        crash_point!("dispatcher.produced.before_ack");
        let shell = Arc::clone(&self.shell);
        let ending = async {
            shell.drained.cancelled().await;
            tokio::time::sleep(LAST_REPORTS).await;
        };
        let too_late = tokio::time::sleep(AGE_OF_THE_LIVING);
        tokio::pin!(ending, too_late);
        while open > 0 {
            tokio::select! {
                biased;
                Some(report) = reports.recv() => {
                    open -= 1;
                    match report {
                        Report::Acked(id) => {
                            crash_point!("dispatcher.acked.before_delete");
                            self.acked.push(id);
                            sent.acked += 1;
                        }
                        Report::Refused(id, code) => drop(sent.refused.insert(id, code)),
                        Report::Failed(_) => {}
                    }
                }
                () = &mut ending => break,
                () = &mut too_late => break,
                () = tokio::time::sleep_until(self.clock_at) => self.bide().await,
            }
        }
        sent
    }

    /// While the broker makes itself waited for, the rest of the work goes on, and be it nothing: a
    /// connection that is silent is taken for dead, and the lock goes with it.
    async fn bide(&mut self) {
        if let Err(error) = self.delete_acked().await {
            tracing::warn!(%error, "the lock may be lost, the reports are awaited");
        }
        self.ask_the_clock().await;
    }

    async fn delete_acked(&mut self) -> Result<(), Error> {
        self.outbox.delete(&self.acked).await?;
        counter!(names::DISPATCHED).increment(self.acked.len() as u64);
        self.acked.clear();
        Ok(())
    }

    /// Sends an event again that was refused in company, through a client that nobody else uses:
    /// what is refused then is refused for ever. Gives whether it has left the outbox.
    async fn send_alone(&mut self, said: &Said) -> Result<bool, Error> {
        let alone = match self.alone.clone() {
            Some(alone) => alone,
            None => match self.shell.producer.another() {
                Ok(producer) => self.alone.insert(producer).clone(),
                Err(error) => {
                    tracing::error!(%error, "an event that is refused stays in the outbox");
                    return Ok(false);
                }
            },
        };
        let Sent { acked, refused, .. } = self.send(&alone, std::slice::from_ref(said)).await;
        self.delete_acked().await?;
        let id = said.envelope.id;
        let Some(code) = refused.get(&id) else { return Ok(acked == 1) };
        let letter = letter(said, code);
        if self.outbox.set_aside(id, &letter).await? {
            tracing::error!(code, event = %id, "an event that the broker refuses is set aside");
            aside::note(&self.shell, &letter);
        }
        Ok(true)
    }

    /// Asks once a second what has become due by the clock, until nothing new is taken in.
    async fn ask_the_clock(&mut self) {
        let now = Instant::now();
        if now < self.clock_at {
            return;
        }
        self.clock_at = now + CLOCK_EVERY;
        if self.shell.closing.is_cancelled() {
            return;
        }
        let due = S::due(self.outbox.connection(), self.mark);
        match tokio::time::timeout(ANSWER_WITHIN, due).await {
            Ok(Ok(due)) => self.post(due),
            Ok(Err(error)) => tracing::warn!(%error, "the clock is asked later"),
            Err(_) => tracing::warn!("nobody says what the clock brings"),
        }
    }

    fn post(&mut self, due: crate::service::Due<S::Input>) {
        for (subject, input, trace) in due.inputs {
            let span = telemetry::spans::clock(S::NAME, subject, &trace.unwrap_or_default());
            let trace = telemetry::spans::context(&span);
            let origin = store::Origin { cause: None, trace };
            let job = Job { subject, input, source: Source::Clock, origin, span };
            if self.shell.lanes.of_subject(subject).try_send(Work::Decide(job)).is_err() {
                // The lane is full, or closed at the end: the mark stays, and the clock is asked
                // from there again.
                return;
            }
        }
        self.mark = due.mark.or(self.mark);
    }
}

/// The record as it would have been.
fn letter(Said { envelope, body }: &Said, code: &str) -> DeadLetter {
    DeadLetter {
        origin: "outbox",
        consumer: None,
        record: None,
        subject: Some(envelope.subject),
        code: code.to_owned(),
        headers: serde_json::to_vec(&Envelope::headers(envelope)).unwrap_or_default(),
        body: body.clone(),
        // In company and alone.
        attempts: 2,
    }
}
