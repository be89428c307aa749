//! Owns the attempts of outside calls: counted before they are sent, and asked again until the
//! outcome is definite. Refuses to judge: the policy says what comes next.

use std::sync::Arc;
use std::time::Duration;

use calls::{CallState, Destination, Heard, Next, Request};
use metrics::counter;
use saga::{LookUp, Outcome, Settled};
use store::{Attempt, DeadLetter, DueCall, Origin, Wanted};
use telemetry::names;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::Span;
use uuid::Uuid;

use crate::batch::GRACE_MS;
use crate::crash::crash_point;
use crate::fate::BackOff;
use crate::job::{Job, Source, Work};
use crate::seeded::{self, Bug};
use crate::service::Service;
use crate::shell::Shell;

/// Calls in flight to one destination at a time: those of a whole batch, so that each starts right
/// after its commit. A call that finds no slot costs an update of its row in another transaction.
pub const CALLS_MAX: usize = 512;
const DUE_EVERY: Duration = Duration::from_millis(250);

/// The way out to one destination, and the slots it has.
pub(crate) struct Exit {
    pub destination: Destination,
    pub permits: Arc<Semaphore>,
    /// An attempt is over.
    freed: Notify,
}

impl Exit {
    pub fn new(destination: Destination) -> Self {
        Self { destination, permits: Arc::new(Semaphore::new(CALLS_MAX)), freed: Notify::new() }
    }

    /// Returns when every attempt under way has brought its answer, and lets none begin after.
    pub async fn close(&self) {
        let all = u32::try_from(CALLS_MAX).unwrap_or(u32::MAX);
        if let Ok(all) = self.permits.acquire_many(all).await {
            all.forget();
        }
    }
}

/// Makes the first attempt of a call that was counted with its intent.
pub(crate) fn start<S: Service>(
    shell: &Arc<Shell<S>>,
    wanted: &Wanted,
    permit: OwnedSemaphorePermit,
) {
    let Some(exit) = shell.exit(&wanted.destination) else { return };
    let call = DueCall {
        subject: wanted.subject,
        step: wanted.step.clone(),
        path: wanted.path.clone(),
        idempotency_key: wanted.idempotency_key.clone(),
        body: wanted.body.clone(),
        origin: wanted.origin.clone(),
        attempts: 1,
        in_doubt: false,
        age_ms: 0,
        life_ms: wanted.life_ms.map(|ms| u64::from(ms.unsigned_abs())),
    };
    tokio::spawn(attempt(Arc::clone(shell), Arc::clone(exit), call, permit));
}

/// Takes what is due for one destination, a permit each, until the process closes.
pub(crate) async fn run<S: Service>(shell: Arc<Shell<S>>, exit: Arc<Exit>) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(DUE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut crowded = false;
    loop {
        tokio::select! {
            () = shell.closing.cancelled() => return Ok(()),
            () = exit.freed.notified(), if crowded => {}
            _ = ticks.tick() => {}
        }
        match take_due(&shell, &exit).await {
            Ok(all) => crowded = !all,
            Err(error) => {
                tracing::warn!(%error, destination = exit.destination.name(), "due calls wait");
            }
        }
    }
}

/// `false`: there may be more than there were slots.
async fn take_due<S: Service>(
    shell: &Arc<Shell<S>>,
    exit: &Arc<Exit>,
) -> Result<bool, store::Error> {
    let slots = exit.permits.available_permits().min(store::DUE_CALLS_MAX);
    if slots == 0 {
        return Ok(false);
    }
    let attempt_ms = exit.destination.policy().attempt_ms_max() + GRACE_MS;
    let calls = store::due_calls(
        &shell.db,
        exit.destination.name(),
        shell.boot.number(),
        slots,
        Duration::from_millis(attempt_ms),
    )
    .await?;
    let all = calls.len() < slots;
    for call in calls {
        let (shell, exit) = (Arc::clone(shell), Arc::clone(exit));
        tokio::spawn(async move {
            // A lane may have been faster: then this one starts as soon as somebody is done.
            if let Ok(permit) = Arc::clone(&exit.permits).acquire_owned().await {
                attempt(shell, exit, call, permit).await;
            }
        });
    }
    Ok(all)
}

/// One attempt: asked until the policy says how it ends, and ended so.
async fn attempt<S: Service>(
    shell: Arc<Shell<S>>,
    exit: Arc<Exit>,
    call: DueCall,
    permit: OwnedSemaphorePermit,
) {
    let name = exit.destination.name();
    let boot = shell.boot.number();
    let at = (call.subject, call.step.as_str());
    let (attempts, trace) = (call.attempts, &call.origin.trace);
    let undoes = call.life_ms.is_none();
    let span = telemetry::spans::call(name, &call.step, attempts, call.subject, trace, undoes);
    match ask(&exit.destination, &call, &span).await {
        End::Settled { settled, in_doubt } => {
            if let Settled::Refused { code } = &settled {
                telemetry::spans::failed(&span, code);
            }
            // What is done is done, and what was looked up is recorded: only a plain refusal depends
            // on who else has asked.
            let only = matches!(settled, Settled::Refused { .. }) && !in_doubt;
            answer(&shell, &call, &settled, only.then_some(attempts), span).await;
        }
        End::Open(noted) => {
            let code = &noted.error_code;
            telemetry::spans::failed(&span, code);
            tracing::warn!(
                parent: &span, destination = name, step = call.step, attempts, code,
                "a call has no definite answer"
            );
            if let Err(error) = store::note_attempt(&shell.db, at, attempts, boot, &noted).await {
                // Nobody noted it: due again after its timeout, and in doubt.
                tracing::warn!(%error, subject = %call.subject, "an attempt is not noted");
            }
        }
        End::Stuck { code, in_doubt } => {
            telemetry::spans::failed(&span, &code);
            stick(&shell, at, in_doubt, &code, false).await;
        }
    }
    drop(permit);
    exit.freed.notify_one();
}

/// How an attempt ends.
enum End {
    Settled { settled: Settled, in_doubt: bool },
    Open(Attempt),
    Stuck { code: String, in_doubt: bool },
}

/// As many questions as it takes to know what comes next.
async fn ask(destination: &Destination, call: &DueCall, span: &Span) -> End {
    let policy = destination.policy();
    let request = Request {
        path: call.path.clone(),
        idempotency_key: if seeded::has(Bug::FreshKey) {
            Uuid::new_v4().to_string()
        } else {
            call.idempotency_key.clone()
        },
        body: call.body.clone(),
        trace: telemetry::spans::context(span),
        timeout: Duration::from_millis(policy.timeout_ms),
    };
    let started = Instant::now();
    let mut heard = Heard::Due;
    // Told at the end: a span keeps all that it is told, and whoever reads it wants one of each.
    let (mut method, mut word) = (None, "");
    let end = loop {
        let elapsed = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let state = CallState {
            attempts: call.attempts,
            in_doubt: call.in_doubt,
            age_ms: call.age_ms.saturating_add(elapsed),
            compensation: call.life_ms.is_none(),
        };
        heard = match calls::next(policy, &state, heard) {
            Next::Send => {
                crash_point!("call.counted.before_send");
                let outcome = match destination.send(&request).await {
                    Outcome::Unknown { code, .. } if seeded::has(Bug::UnknownRefused) => {
                        Outcome::Refused { code }
                    }
                    outcome => outcome,
                };
                crash_point!("call.sent.before_answer");
                count_attempt(destination.name(), call.attempts, &outcome);
                (method, word) = (Some("POST"), outcome_word(&outcome));
                Heard::Answer(outcome)
            }
            Next::LookUp => {
                let found = destination.look_up(&request).await;
                (method, word) = (Some("GET"), found_word(&found));
                Heard::Found(found)
            }
            Next::Confirm { code } => {
                let found = destination.look_up(&request).await;
                word = found_word(&found);
                Heard::Confirmed { code, found }
            }
            Next::Settle(settled) => break End::Settled { settled, in_doubt: call.in_doubt },
            Next::Wait { at_least_ms, at_most_ms, in_doubt, code: error_code } => {
                let wait = Duration::from_millis(rand::random_range(at_least_ms..=at_most_ms));
                break End::Open(Attempt { in_doubt, error_code, wait });
            }
            Next::Stuck { code, in_doubt } => break End::Stuck { code, in_doubt },
        };
    };
    if let Some(method) = method {
        telemetry::spans::asked(span, method, word);
    }
    end
}

/// The definite outcome goes where everything about the subject meets.
async fn answer<S: Service>(
    shell: &Arc<Shell<S>>,
    call: &DueCall,
    settled: &Settled,
    only: Option<u32>,
    span: Span,
) {
    let Some(input) = S::answered(&call.step, settled) else {
        return stick(shell, (call.subject, &call.step), false, "UNEXPECTED", true).await;
    };
    let origin = Origin { cause: call.origin.cause, trace: telemetry::spans::context(&span) };
    let job = Job {
        subject: call.subject,
        input,
        source: Source::Answer { step: call.step.clone(), only },
        origin,
        span,
    };
    // A closed lane: the process ends, and the call is taken up again by the next one.
    drop(shell.lanes.of_subject(call.subject).send(Work::Decide(job)).await);
}

/// Sets a call aside with its dead letter, however long that takes: a call that nobody can settle
/// must be seen. `whatever`: also if its row is gone.
pub(crate) async fn stick<S: Service>(
    shell: &Shell<S>,
    call: (Uuid, &str),
    in_doubt: bool,
    code: &str,
    whatever: bool,
) {
    let (subject, step) = call;
    tracing::error!(%subject, step, code, "a call is stuck");
    let letter = DeadLetter {
        origin: "call",
        consumer: None,
        record: None,
        subject: Some(subject),
        code: code.to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
        attempts: 0,
    };
    let mut back_off = BackOff::default();
    while let Err(error) = store::stick(&shell.db, call, in_doubt, &letter, whatever).await {
        if let Some(why) = back_off.endure(shell, error).await {
            tracing::error!(why, "a call's dead letter cannot be written");
            return;
        }
    }
    counter!(names::DEAD_LETTERS_TOTAL, "consumer" => "call", "code" => code.to_owned())
        .increment(1);
}

fn count_attempt(destination: &'static str, attempts: u32, outcome: &Outcome) {
    let attempt = if attempts == 1 { "first" } else { "again" };
    counter!(
        names::CALL_ATTEMPTS,
        "destination" => destination, "attempt" => attempt, "outcome" => outcome_word(outcome)
    )
    .increment(1);
}

const fn outcome_word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done { .. } => "done",
        Outcome::Refused { .. } => "refused",
        Outcome::Unknown { .. } => "unknown",
    }
}

const fn found_word(found: &LookUp) -> &'static str {
    match found {
        LookUp::Done { .. } => "done",
        LookUp::Refused { .. } => "refused",
        LookUp::Nothing => "nothing",
        LookUp::Unknown { .. } => "unknown",
    }
}
