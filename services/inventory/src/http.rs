//! Owns the routes of the inventory service. Refuses to decide: handlers post to a lane and wait, or
//! read.

use std::convert::Infallible;

use api::{Answer, Code, FieldCode, FieldError, Path, Problem, Strict};
use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::routing::get;
use chassis::{App, Asked};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use crate::Inventory;
use crate::domain::{Input, State};
use crate::store;

const SKU_CHARS_MAX: usize = 64;

pub fn routes() -> Router<App<Inventory>> {
    Router::new().route("/v1/stock/{sku}", get(show).put(count))
}

/// The body of `PUT /v1/stock/{sku}`: from now on so many units are available.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Count {
    available: u32,
}

async fn count(
    Shared(app): Shared<App<Inventory>>,
    Path(sku): Path<String>,
    Strict(count): Strict<Count>,
) -> Result<Answer, Problem> {
    let well_formed = (1..=SKU_CHARS_MAX).contains(&sku.len())
        && sku.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !well_formed {
        return Err(Problem::invalid([FieldError::new("/sku", FieldCode::Invalid)]));
    }
    let input = Input::Count { sku, available: count.available };
    app.change(Uuid::now_v7(), input, None, counted).await
}

pub fn counted(state: Result<&State, &Infallible>, asked: &Asked<'_>) -> Result<Answer, Problem> {
    let state = state.unwrap_or_else(|never| match *never {});
    // A change concerns one SKU, so that is all there is.
    let Some((sku, available)) = state.stock.first_key_value() else {
        return Err(Code::Internal.into());
    };
    let body = json!({"sku": sku, "available": available, "change_id": asked.subject});
    Answer::json(StatusCode::OK, &body)
}

async fn show(
    Shared(app): Shared<App<Inventory>>,
    Path(sku): Path<String>,
) -> Result<Answer, Problem> {
    match store::available(app.reads(), &sku).await {
        Ok(Some(available)) => {
            Answer::json(StatusCode::OK, &json!({"sku": sku, "available": available}))
        }
        Ok(None) => Err(Code::NotFound.into()),
        Err(error) => {
            tracing::warn!(%error, "a read failed");
            Err(Code::Unavailable.into())
        }
    }
}
