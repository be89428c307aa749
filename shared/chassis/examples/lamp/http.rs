//! Owns the routes of the lamp service. Refuses to decide: a handler posts to a lane and waits.

use std::convert::Infallible;

use api::{Answer, Command, Problem};
use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::routing::post;
use chassis::{App, Asked};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use crate::Lamp;
use crate::domain::{Input, State};

pub fn routes() -> Router<App<Lamp>> {
    Router::new().route("/v1/lamps", post(fit))
}

/// The body of `POST /v1/lamps`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fit {
    label: String,
}

async fn fit(Shared(app): Shared<App<Lamp>>, command: Command) -> Result<Answer, Problem> {
    let Fit { label } = command.json()?;
    app.create(Uuid::now_v7(), Input::Fit { label }, &command, fitted).await
}

/// A mistake left in on purpose: nobody thought of an empty label.
fn fitted(state: Result<&State, &Infallible>, asked: &Asked<'_>) -> Result<Answer, Problem> {
    let lit = matches!(state, Ok(State::Lit { .. }));
    let initial = match state {
        Ok(State::Dark { label }) => label.chars().next().expect("a label has a first letter"),
        _ => '?',
    };
    let body = json!({"lamp_id": asked.subject, "initial": initial, "lit": lit});
    Answer::json(StatusCode::ACCEPTED, &body)
}
