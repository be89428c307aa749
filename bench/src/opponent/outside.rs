//! Owns outside calls: made after the commit that wants them, and again under the same key until the
//! answer is definite. Refuses to take silence for an answer.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use calls::Request;
use chassis::Service;
use saga::{Outcome, Settled};
use tokio::time::{MissedTickBehavior, interval};

use super::store::{self as rows, Call};
use super::transaction::{Source, Work};
use super::{Kind, Shell};

const DUE_EVERY: Duration = Duration::from_secs(1);

/// Takes up what was left without an answer, here or by a process that died.
pub async fn take_up<S: Service>(shell: Arc<Shell<S>>) -> anyhow::Result<()> {
    let mut ticks = interval(DUE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match rows::due_calls(&shell.pool).await {
            Ok(calls) => shell.call(calls).await?,
            Err(error) => tracing::warn!(%error, "due calls wait"),
        }
    }
}

impl<S: Service> Shell<S> {
    /// Makes calls: one after another before anything else is done, or many at a time while whoever
    /// wants them goes on.
    pub async fn call(self: &Arc<Self>, calls: Vec<Call>) -> anyhow::Result<()> {
        match self.kind {
            Kind::Textbook => self.call_all(calls).await,
            Kind::Tuned => {
                for call in calls {
                    let slot = Arc::clone(&self.calls).acquire_owned().await?;
                    let shell = Arc::clone(self);
                    tokio::spawn(async move {
                        if let Err(error) = shell.call_all(vec![call]).await {
                            tracing::error!(%error, "a call waits for its next attempt");
                        }
                        drop(slot);
                    });
                }
                Ok(())
            }
        }
    }

    /// Also what their answers want.
    async fn call_all(&self, mut calls: Vec<Call>) -> anyhow::Result<()> {
        while let Some(call) = calls.pop() {
            calls.extend(self.attempt(call).await?);
        }
        Ok(())
    }

    async fn attempt(&self, call: Call) -> anyhow::Result<Vec<Call>> {
        let named = self.destinations.iter().find(|known| known.name() == call.destination);
        let destination = named.context("nobody knows where to call")?;
        let origin = call.origin();
        let request = Request {
            path: call.path,
            idempotency_key: call.idempotency_key,
            body: call.body,
            trace: origin.trace.clone(),
            timeout: Duration::from_millis(destination.policy().timeout_ms),
        };
        let settled = match destination.send(&request).await {
            Outcome::Done { reference } => Settled::Done { reference },
            Outcome::Refused { code } => Settled::Refused { code },
            Outcome::Unknown { code, .. } => {
                tracing::warn!(code, step = call.step, "a call has no definite answer");
                return Ok(Vec::new());
            }
        };
        let input = S::answered(&call.step, &settled).context("an answer that cannot be")?;
        let source = Source::Answer { step: call.step };
        let done = self.handle(&Work { subject: call.subject, input, source, origin }).await?;
        Ok(done.calls)
    }
}
