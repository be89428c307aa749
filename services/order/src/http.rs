//! Owns the routes of the order service. Refuses to decide: handlers post to a lane and wait, or
//! read.

use api::{Answer, Caller, Code, Command, Path, Problem};
use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::http::header::{LOCATION, RETRY_AFTER};
use axum::routing::{get, post};
use chassis::{App, Asked};
use contracts::Reason;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::Order;
use crate::domain::{Input, Rejection, State, Status};
use crate::effects::Effects;
use crate::placing::PlaceOrder;
use crate::store::{self, Told};

pub fn routes() -> Router<App<Order>> {
    Router::new()
        .route("/v1/orders", post(place))
        .route("/v1/orders/{order_id}", get(show))
        .route("/v1/orders/{order_id}/timeline", get(timeline))
        .route("/v1/orders/{order_id}/cancel", post(cancel))
}

async fn place(Shared(app): Shared<App<Order>>, request: Command) -> Result<Answer, Problem> {
    let place = request.json::<PlaceOrder>()?.check(request.caller.as_str())?;
    app.create(Uuid::now_v7(), Input::Place(place), &request, placed).await
}

pub fn placed(state: Result<&State, &Rejection>, asked: &Asked<'_>) -> Result<Answer, Problem> {
    state.map_err(|why| problem(*why))?;
    let Effects { inventory, payment, shipping } = Effects::PENDING;
    let url = status_url(asked.subject);
    let body = json!({
        "order_id": asked.subject,
        "status": "pending",
        "effects": {"inventory": inventory, "payment": payment, "shipping": shipping},
        "status_url": url,
        "trace_id": asked.trace.trace_id(),
    });
    let answer = Answer::json(StatusCode::ACCEPTED, &body)?;
    Ok(answer.header(&LOCATION, url).header(&RETRY_AFTER, "1"))
}

async fn cancel(
    Shared(app): Shared<App<Order>>,
    Path(order_id): Path<Uuid>,
    request: Command,
) -> Result<Answer, Problem> {
    request.no_body()?;
    let input = Input::Cancel { caller: request.caller.as_str().to_owned() };
    app.change(order_id, input, Some(&request), cancelling).await
}

/// 202 while it is open, 200 with the truth when it is over.
fn cancelling(state: Result<&State, &Rejection>, asked: &Asked<'_>) -> Result<Answer, Problem> {
    let State::Known(_, status) = state.map_err(|why| problem(*why))? else {
        return Err(Code::NotFound.into());
    };
    let code = match status {
        Status::Pending | Status::Cancelling(_) => StatusCode::ACCEPTED,
        Status::Confirmed { .. } | Status::Cancelled(_) => StatusCode::OK,
    };
    let url = status_url(asked.subject);
    let mut body = summary(asked.subject, status);
    // Asked now, and over already: this cancel too came too late.
    if let Status::Confirmed { .. } = status {
        body["cancel"] = "too_late".into();
    }
    body["status_url"] = url.clone().into();
    body["trace_id"] = asked.trace.trace_id().into();
    Ok(Answer::json(code, &body)?.header(&LOCATION, url))
}

async fn show(
    Shared(app): Shared<App<Order>>,
    Path(order_id): Path<Uuid>,
) -> Result<Answer, Problem> {
    let caller = Caller::default();
    let found = store::find(app.reads(), caller.as_str(), order_id)
        .await
        .map_err(|error| unavailable(&error))?;
    let Some(shown) = found else { return Err(Code::NotFound.into()) };
    let told = store::timeline(app.reads(), order_id).await.map_err(|error| unavailable(&error))?;
    let effects = Effects::of(&shown.status, told.iter().map(|told| told.kind.as_str()));
    let mut body = summary(order_id, &shown.status);
    body["effects"] = json!({
        "inventory": {"status": effects.inventory},
        "payment": {"status": effects.payment},
        "shipping": {"status": effects.shipping},
    });
    body["customer_id"] = shown.order.customer_id.as_str().into();
    body["lines"] = json!(shown.order.lines);
    body["total"] = json!(shown.order.total);
    body["created_at"] = json!(shown.created_at);
    body["updated_at"] = json!(shown.updated_at);
    body["timeline_url"] = format!("{}/timeline", status_url(order_id)).into();
    Answer::json(StatusCode::OK, &body)
}

async fn timeline(
    Shared(app): Shared<App<Order>>,
    Path(order_id): Path<Uuid>,
) -> Result<Answer, Problem> {
    let caller = Caller::default();
    let found = store::find(app.reads(), caller.as_str(), order_id)
        .await
        .map_err(|error| unavailable(&error))?;
    if found.is_none() {
        return Err(Code::NotFound.into());
    }
    let told = store::timeline(app.reads(), order_id).await.map_err(|error| unavailable(&error))?;
    let items: Vec<Value> = in_causal_order(told).iter().map(item).collect();
    Answer::json(StatusCode::OK, &json!({"order_id": order_id, "items": items}))
}

/// What happened because of something comes after it; otherwise time counts.
fn in_causal_order(mut told: Vec<Told>) -> Vec<Told> {
    told.sort_by_key(|told| (told.at, told.service.clone(), told.version));
    let mut ordered: Vec<Told> = Vec::with_capacity(told.len());
    while !told.is_empty() {
        let waits = |one: &Told| {
            told.iter().any(|other| {
                Some(other.event_id) == one.cause
                    || (other.service == one.service && other.version < one.version)
            })
        };
        // A cause that names itself through others cannot be: then time alone counts.
        let next = told.iter().position(|one| !waits(one)).unwrap_or_default();
        ordered.push(told.remove(next));
    }
    ordered
}

fn item(told: &Told) -> Value {
    let mut item = json!({
        "at": told.at,
        "service": told.service,
        "version": told.version,
        "type": told.kind,
        "cause": told.cause,
        "event_id": told.event_id,
    });
    // Of a body only the reason is shown: the rest may be personal data.
    let body: Value = serde_json::from_slice(&told.body).unwrap_or_default();
    if let Some(reason) = body.get("reason") {
        item["reason"] = reason.clone();
    }
    item
}

/// Status, reason and what became of a cancel.
fn summary(order_id: Uuid, status: &Status) -> Value {
    let (word, reason, cancel): (_, Option<&Reason>, _) = match status {
        Status::Pending => ("pending", None, None),
        Status::Cancelling(reason) => ("cancelling", Some(reason), None),
        Status::Confirmed { too_late } => ("confirmed", None, too_late.then_some("too_late")),
        Status::Cancelled(reason) => ("cancelled", Some(reason), None),
    };
    let mut body = json!({"order_id": order_id, "status": word, "reason": reason});
    if let Some(cancel) = cancel {
        body["cancel"] = cancel.into();
    }
    body
}

fn status_url(order_id: Uuid) -> String {
    format!("/v1/orders/{order_id}")
}

fn problem(why: Rejection) -> Problem {
    match why {
        Rejection::NotFound => Code::NotFound.into(),
        Rejection::Empty | Rejection::NotPayable => Code::ValidationFailed.into(),
    }
}

/// A read that failed says nothing about the order.
fn unavailable(error: &::store::Error) -> Problem {
    tracing::warn!(%error, "a read failed");
    Code::Unavailable.into()
}
