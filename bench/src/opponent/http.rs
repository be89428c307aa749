//! Owns what an opponent answers over HTTP: the same requests, bodies and answers as the service
//! that it stands for, as far as the load asks for them. Refuses everything else.

use std::sync::Arc;

use anyhow::Context as _;
use api::{Answer, Code, Command, Path, Problem, Strict};
use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::routing::{get, post, put};
use chassis::{Respond, Service};
use inventory::Inventory;
use order::Order;
use order::placing::PlaceOrder;
use serde::Deserialize;
use serde_json::json;
use store::Origin;
use tracing::Span;
use uuid::Uuid;

use super::Shell;
use super::store as rows;
use super::transaction::{Source, Work};

pub fn order_routes() -> Router<Arc<Shell<Order>>> {
    Router::new().route("/v1/orders", post(place)).route("/v1/orders/{order_id}", get(show))
}

pub fn inventory_routes() -> Router<Arc<Shell<Inventory>>> {
    Router::new().route("/v1/stock/{sku}", put(count))
}

/// The service's own routes and those that every service has.
pub fn router<S: Service>(shell: Arc<Shell<S>>, own: Router<Arc<Shell<S>>>) -> Router {
    own.layer(axum::middleware::from_fn(telemetry::http::trace))
        .route("/readyz", get(ready::<S>))
        .route("/metrics", get(async |Shared(shell): App<S>| shell.telemetry.render()))
        .with_state(shell)
}

type App<S> = Shared<Arc<Shell<S>>>;

async fn place(Shared(shell): App<Order>, request: Command) -> Result<Answer, Problem> {
    let place = request.json::<PlaceOrder>()?.check(request.caller.as_str())?;
    let input = order::domain::Input::Place(place);
    shell.request(Uuid::now_v7(), input, Some(request), order::http::placed).await
}

async fn show(Shared(shell): App<Order>, Path(order_id): Path<Uuid>) -> Result<Answer, Problem> {
    match rows::order_status(&shell.pool, order_id).await {
        Ok(Some(status)) => {
            Answer::json(StatusCode::OK, &json!({"order_id": order_id, "status": status}))
        }
        Ok(None) => Err(Code::NotFound.into()),
        Err(error) => {
            tracing::warn!(%error, "a read failed");
            Err(Code::Unavailable.into())
        }
    }
}

/// The body of `PUT /v1/stock/{sku}`.
#[derive(Deserialize)]
struct Count {
    available: u32,
}

async fn count(
    Shared(shell): App<Inventory>,
    Path(sku): Path<String>,
    Strict(Count { available }): Strict<Count>,
) -> Result<Answer, Problem> {
    let input = inventory::domain::Input::Count { sku, available };
    shell.request(Uuid::now_v7(), input, None, inventory::http::counted).await
}

impl<S: Service> Shell<S> {
    /// Handles a request to its end, also for a client that hangs up.
    async fn request(
        self: Arc<Self>,
        subject: Uuid,
        input: S::Input,
        keyed: Option<Command>,
        respond: Respond<S>,
    ) -> Result<Answer, Problem> {
        let origin = Origin { cause: None, trace: telemetry::spans::context(&Span::current()) };
        let work = Work { subject, input, source: Source::Request { keyed, respond }, origin };
        let handled = tokio::spawn(async move {
            let _slot = self.requests.acquire().await?;
            self.handle(&work).await?.reply.context("a request has a reply")
        });
        match handled.await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => {
                tracing::error!(%error, "a request failed");
                Err(Code::Internal.into())
            }
            Err(_) => Err(Code::Internal.into()),
        }
    }
}

async fn ready<S: Service>(Shared(shell): App<S>) -> StatusCode {
    let listens = shell.consumers.iter().all(|consumer| consumer.is_ready());
    if listens && rows::is_reachable(&shell.pool).await {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}
