//! Owns how long somebody who ran into an error waits, and what a panic counts as. Refuses to judge
//! an error: it carries its fate.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use metrics::counter;
use store::Error;
use telemetry::names;

use crate::service::Service;
use crate::shell::Shell;

/// So many reruns at once are an accident; more are treated as an outage.
const RERUNS_MAX: u32 = 20;
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

/// The code, and the cause, of what made a service's own code panic.
pub(crate) const PANIC: &str = "PANIC";

/// The code under which poison is kept.
pub(crate) fn code(why: &str) -> &'static str {
    if why == PANIC { PANIC } else { "POISON" }
}

/// A panic in a service's own code is the fault of one input: it is found like any other poison,
/// and ends no process.
pub(crate) async fn caught<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.unwrap_or_else(|_| Err(Error::Poison(PANIC.to_owned())))
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
    /// poisonous. The process is not ready meanwhile.
    pub async fn endure<S: Service>(&mut self, shell: &Shell<S>, error: Error) -> Option<String> {
        // What was committed under the old number is due at once to the dispatcher.
        if matches!(error, Error::CommitLost(_)) {
            shell.boot.renew();
        }
        let _waiting = shell.health.wait();
        self.sit_out(error).await
    }

    /// The same for work that no decision depends on: nobody else hears of it.
    pub async fn sit_out(&mut self, error: Error) -> Option<String> {
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
            Error::CommitLost(why) => tracing::warn!(why, "a commit's reply is lost"),
            Error::Wait(why) => tracing::warn!(why, wait = ?self.wait, "waiting"),
        }
        tokio::time::sleep(self.wait).await;
        self.wait = (self.wait * 2).min(BACK_OFF_MAX);
        None
    }
}
