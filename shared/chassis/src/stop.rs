//! Owns the orderly end of a service: in which order its parts end, and by when. Refuses to wait for
//! anybody without a bound: what is not done in time is done by the next process.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use axum::response::Response;
use bus::Consumer;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::service::Service;
use crate::shell::Shell;

/// From the signal to the end of the process, whatever holds up the steps below, whose bounds and
/// that of the last spans sum up to half a second less.
const END_WITHIN: Duration = Duration::from_millis(17_500);
/// Not ready, and still at work: so long has whoever sends requests here to notice.
const NOTICE: Duration = Duration::from_secs(1);
const INTAKE_WITHIN: Duration = Duration::from_secs(3);
const LANES_WITHIN: Duration = Duration::from_secs(3);
const DISPATCHER_WITHIN: Duration = Duration::from_secs(2);
const CUT_OFF_WITHIN: Duration = Duration::from_secs(1);
const GROUPS_WITHIN: Duration = Duration::from_secs(2);
/// Answers that are on their way. A client that says nothing, or half of what it has to say, has no
/// longer.
const HTTP_WITHIN: Duration = Duration::from_secs(1);
const DATABASE_WITHIN: Duration = Duration::from_secs(1);

pub(crate) type Tasks = JoinSet<(&'static str, anyhow::Result<()>)>;

/// The tasks of a service by when they end.
#[derive(Default)]
pub(crate) struct Parts {
    /// What brings work in.
    pub intake: Tasks,
    pub lanes: Tasks,
    pub dispatcher: Tasks,
    pub http: Tasks,
    /// They end with the process.
    pub lasting: Tasks,
}

/// Ends the process in time even if a task never gives its thread back, or a client library its
/// call.
pub(crate) fn end_in_time() {
    let spawned = std::thread::Builder::new().name("deadline".to_owned()).spawn(|| {
        std::thread::sleep(END_WITHIN);
        tracing::error!(within = ?END_WITHIN, "the end took too long, the rest is cut off");
        std::process::exit(1);
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "nobody watches over the end");
    }
}

/// Lets those who send requests here know, before the first one is refused.
pub(crate) async fn give_notice<S: Service>(shell: &Shell<S>) {
    shell.retiring.cancel();
    sleep(NOTICE).await;
}

/// Ends every part after what it works for: intake, lanes, the way to the broker, the places in the
/// groups, HTTP, the database.
pub(crate) async fn end<S: Service>(shell: &Shell<S>, mut parts: Parts, consumers: Consumers) {
    shell.retiring.cancel();
    shell.closing.cancel();
    within(INTAKE_WITHIN, "intake", async {
        all(&mut parts.intake).await;
        for exit in &shell.exits {
            exit.close().await;
        }
    })
    .await;
    parts.intake.abort_all();
    shell.draining.cancel();
    within(LANES_WITHIN, "the lanes", all(&mut parts.lanes)).await;
    // Whoever still waits for an answer hears now that there is none.
    parts.lanes.abort_all();
    shell.drained.cancel();
    within(DISPATCHER_WITHIN, "the dispatcher", all(&mut parts.dispatcher)).await;
    within(CUT_OFF_WITHIN, "what was cut off", async {
        parts.intake.shutdown().await;
        parts.lanes.shutdown().await;
    })
    .await;
    within(GROUPS_WITHIN, "the consumers", leave(consumers)).await;
    shell.answered.cancel();
    within(HTTP_WITHIN, "HTTP", all(&mut parts.http)).await;
    drop(parts);
    within(DATABASE_WITHIN, "the database", shell.db.close()).await;
}

/// Whoever drops the last of them leaves the groups.
pub(crate) type Consumers = Vec<Arc<Consumer>>;

async fn all(tasks: &mut Tasks) {
    while tasks.join_next().await.is_some() {}
}

async fn within(bound: Duration, what: &str, step: impl Future<Output = ()>) {
    if timeout(bound, step).await.is_err() {
        tracing::warn!(what, ?bound, "left unfinished to the next process");
    }
}

/// Gives the partitions back, so that peers need not wait for the session to end. The client does so
/// when it is dropped and can block for ever in it: it gets a thread that nobody joins.
async fn leave(consumers: Consumers) {
    let (left, leaving) = oneshot::channel();
    let spawned = std::thread::Builder::new().name("leave".to_owned()).spawn(move || {
        drop(consumers);
        // Nobody waits any more if the bound has passed.
        let _ = left.send(());
    });
    if spawned.is_ok() {
        // Without a word the thread is gone, and what it held with it.
        let _ = leaving.await;
    }
}

/// Asks clients not to come again on the same connection once the process retires.
pub(crate) async fn send_away(
    State(retiring): State<CancellationToken>,
    mut response: Response,
) -> Response {
    if retiring.is_cancelled() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
