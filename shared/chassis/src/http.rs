//! Owns the way from a handler to a lane and back, and the routes that every service has. Refuses
//! to let a handler hold a connection: a client that hangs up cancels nothing.

use std::sync::{Arc, Weak};
use std::time::Duration;

use api::{Answer, Code, Problem};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bus::Consumer;
use metrics::gauge;
use saga::Trace;
use sqlx::PgPool;
use store::{Key, Origin};
use telemetry::{Telemetry, names};
use tokio::sync::oneshot;
use tracing::Span;
use uuid::Uuid;

use crate::config::LANE_QUEUE_MAX;
use crate::job::{Command, Job, Keyed, Source, Work};
use crate::service::Service;
use crate::shell::Shell;

/// A client waits no longer for a lane that waits for its database.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Longer than the above, and than the server lets a statement take.
const REQUEST_WITHIN: Duration = Duration::from_secs(12);
/// Whoever asks whether this process is ready has no more patience.
const PROBE_WITHIN: Duration = Duration::from_secs(1);

/// No request is taken into a lane where so many inputs wait: the rest of the room is for events and
/// for answers from outside, which end what was begun.
const WAITING_MAX: usize = LANE_QUEUE_MAX / 2;

/// What a command's answer may name beside the state.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub subject: Uuid,
    pub trace: &'a Trace,
}

/// Makes the answer to a command from what became of it: the state after it, or why it was
/// rejected. It runs inside the transaction, so that an answer is stored with the change; a problem
/// is stored nowhere.
pub type Respond<S> = fn(
    Result<&<S as saga::Participant>::State, &<S as saga::Participant>::Rejection>,
    &Asked<'_>,
) -> Result<Answer, Problem>;

/// What a service's handlers work with.
pub struct App<S: Service> {
    pub(crate) shell: Arc<Shell<S>>,
    /// Whoever keeps one alive stays in its group.
    pub(crate) consumers: Arc<[Weak<Consumer>]>,
    pub(crate) telemetry: Arc<Telemetry>,
}

impl<S: Service> Clone for App<S> {
    fn clone(&self) -> Self {
        Self {
            shell: Arc::clone(&self.shell),
            consumers: Arc::clone(&self.consumers),
            telemetry: Arc::clone(&self.telemetry),
        }
    }
}

impl<S: Service> App<S> {
    /// For queries. What changes something goes through [`App::create`] or [`App::change`].
    pub fn reads(&self) -> &PgPool {
        self.shell.db.autocommit()
    }

    /// A keyed request that creates `subject`: twins of its key meet in one lane, the first runs
    /// and the others get its answer.
    pub async fn create(
        &self,
        subject: Uuid,
        input: S::Input,
        request: &api::Command,
        respond: Respond<S>,
    ) -> Result<Answer, Problem> {
        self.run(subject, input, Some(request), true, respond).await
    }

    /// A request that changes `subject`, in the lane where everything about it meets.
    pub async fn change(
        &self,
        subject: Uuid,
        input: S::Input,
        request: Option<&api::Command>,
        respond: Respond<S>,
    ) -> Result<Answer, Problem> {
        self.run(subject, input, request, false, respond).await
    }

    async fn run(
        &self,
        subject: Uuid,
        input: S::Input,
        request: Option<&api::Command>,
        by_key: bool,
        respond: Respond<S>,
    ) -> Result<Answer, Problem> {
        if self.shell.closing.is_cancelled() {
            return Err(Code::Unavailable.into());
        }
        let keyed = request.map(|request| Keyed {
            key: Key {
                caller: request.caller.as_str().to_owned(),
                method: request.method.to_string(),
                route: request.route.clone(),
                key: request.key.as_str().to_owned(),
            },
            fingerprint: request.fingerprint.as_bytes().to_vec(),
        });
        let lane = match &keyed {
            Some(keyed) if by_key => self.shell.lanes.of_key(&keyed.key),
            _ => self.shell.lanes.of_subject(subject),
        };
        // Nothing queues without bound: a crowded lane says so at once.
        if lane.max_capacity() - lane.capacity() >= WAITING_MAX {
            return Err(Code::Unavailable.into());
        }
        let (reply, answer) = oneshot::channel();
        let span = Span::current();
        telemetry::spans::about(&span, subject);
        let trace = telemetry::spans::context(&span);
        let job = Job {
            subject,
            input,
            source: Source::Command(Command { keyed, respond, reply }),
            origin: Origin { cause: None, trace },
            span,
        };
        let taken = lane.try_send(Work::Decide(job));
        taken.map_err(|_| Problem::new(Code::Unavailable))?;
        match tokio::time::timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(answer)) => answer,
            // It may still be done: the same key asks again.
            Ok(Err(_)) | Err(_) => Err(Code::Unavailable.into()),
        }
    }
}

/// The service's routes and those that every service has.
pub(crate) fn router<S: Service>(app: App<S>, own: Router<App<S>>) -> Router {
    let all = own
        .layer(axum::middleware::from_fn(bounded))
        .layer(axum::middleware::from_fn(telemetry::http::trace))
        .route("/livez", get(async || StatusCode::NO_CONTENT))
        .route("/readyz", get(ready::<S>))
        .route("/metrics", get(metrics::<S>))
        .fallback(async || Problem::new(Code::NotFound))
        .method_not_allowed_fallback(async || Problem::new(Code::MethodNotAllowed));
    #[cfg(feature = "chaos")]
    let all = all.route("/chaos/crash/{point}/{nth}", axum::routing::put(crash));
    all.with_state(app)
}

/// A handler that reads from a database which says nothing gives its connection back.
async fn bounded(request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(REQUEST_WITHIN, next.run(request)).await;
    answer.unwrap_or_else(|_| Problem::new(Code::Unavailable).into_response())
}

async fn ready<S: Service>(State(app): State<App<S>>) -> (StatusCode, String) {
    let reachable = tokio::time::timeout(PROBE_WITHIN, app.shell.db.is_reachable());
    let poison = app.shell.poison.alarming();
    let poisoned = format!("poison in {}", poison.join(" and "));
    let parts = [
        (&*poisoned, poison.is_empty()),
        ("intake", !app.shell.retiring.is_cancelled()),
        ("lanes", !app.shell.health.is_waiting()),
        (
            "broker",
            app.consumers.iter().filter_map(Weak::upgrade).all(|consumer| consumer.is_ready()),
        ),
        ("producer", app.shell.producer.is_ready()),
        ("database", reachable.await.unwrap_or(false)),
    ];
    let missing: Vec<_> = parts.iter().filter(|(_, fine)| !fine).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join(", ")))
    }
}

async fn metrics<S: Service>(State(app): State<App<S>>) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    gauge!(names::LANE_WAITING).set(app.shell.lanes.waiting() as f64);
    app.telemetry.render()
}

#[cfg(feature = "chaos")]
async fn crash(
    axum::extract::Path((point, nth)): axum::extract::Path<(String, u32)>,
) -> StatusCode {
    if crate::crash::arm(&point, nth) { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::extract::Request;
    use axum::http::{StatusCode, header};
    use axum::middleware::from_fn;
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::bounded;

    #[tokio::test]
    async fn a_handler_that_never_has_its_rows_is_given_up_and_the_client_told_to_come_again() {
        let silent = get(async || std::future::pending::<StatusCode>().await);
        let routes = Router::new().route("/", silent).layer(from_fn(bounded));
        let answer = routes.oneshot(Request::new(Body::empty())).await.expect("it cannot fail");
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers().contains_key(header::RETRY_AFTER));
    }
}
