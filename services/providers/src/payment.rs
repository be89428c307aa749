//! Owns the payment provider's routes and its test tokens. Refuses to keep books of its own.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Deserialize;

use crate::books::{Destination, Entry, Operation, Refusal, Verdict, Wanted};
use crate::faults::SLOW_MS;
use crate::ledger::Ledger;
use crate::wire::{Cut, Key, Problem, fingerprint, read};

/// What a `payment_method` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Fine,
    Declined,
    /// Charged, and then the connection is cut; asked again, it answers.
    AnswerLost,
    /// Charged, and answered 2 s later.
    Slow,
}

impl Token {
    fn of(payment_method: &str) -> Result<Self, Problem> {
        match payment_method {
            "pm_card_ok" => Ok(Self::Fine),
            "pm_card_declined" => Ok(Self::Declined),
            "pm_answer_lost" => Ok(Self::AnswerLost),
            "pm_slow" => Ok(Self::Slow),
            // No refusal: whoever sends us such a token has a bug, and no customer to tell.
            _ => Err(Problem::new(422, "unknown_payment_method", "no such test token")),
        }
    }
}

#[derive(Deserialize)]
struct Capture {
    order_id: String,
    amount_minor: i64,
    currency: String,
    payment_method: String,
}

#[derive(Deserialize)]
struct Refund {
    order_id: String,
    capture_reference: String,
    amount_minor: i64,
    currency: String,
}

pub(crate) fn routes(ledger: Ledger) -> Router {
    Router::new()
        .route("/v1/captures", post(capture))
        .route("/v1/refunds", post(refund))
        .with_state(ledger)
}

async fn capture(
    State(ledger): State<Ledger>,
    Key(idempotency_key): Key,
    body: Bytes,
) -> Result<Response, Problem> {
    let asked: Capture = read(&body)?;
    let token = Token::of(&asked.payment_method)?;
    check(&asked.order_id, asked.amount_minor, &asked.currency)?;
    let entry = Entry {
        destination: Destination::Payment,
        operation: Operation::Capture,
        order_id: asked.order_id,
        idempotency_key,
        fingerprint: fingerprint(&body),
        amount_minor: Some(asked.amount_minor),
        currency: Some(asked.currency),
        capture_reference: None,
    };
    let refusal = (token == Token::Declined).then_some(Refusal::CardDeclined);
    let verdict = ledger.judge(Wanted { entry, refusal, stumbles: 0 }).await?;
    match (token, &verdict) {
        (Token::AnswerLost, Verdict::Recorded { first: true, .. }) => {
            return Ok(Cut.into_response());
        }
        (Token::Slow, _) => tokio::time::sleep(Duration::from_millis(SLOW_MS)).await,
        _ => {}
    }
    Ok(verdict.into_response())
}

async fn refund(
    State(ledger): State<Ledger>,
    Key(idempotency_key): Key,
    body: Bytes,
) -> Result<Response, Problem> {
    let asked: Refund = read(&body)?;
    check(&asked.order_id, asked.amount_minor, &asked.currency)?;
    let entry = Entry {
        destination: Destination::Payment,
        operation: Operation::Refund,
        order_id: asked.order_id,
        idempotency_key,
        fingerprint: fingerprint(&body),
        amount_minor: Some(asked.amount_minor),
        currency: Some(asked.currency),
        capture_reference: Some(asked.capture_reference),
    };
    Ok(ledger.judge(Wanted { entry, refusal: None, stumbles: 0 }).await?.into_response())
}

fn check(order_id: &str, amount_minor: i64, currency: &str) -> Result<(), Problem> {
    if order_id.is_empty() {
        return Err(Problem::invalid("order_id: empty"));
    }
    if amount_minor <= 0 {
        return Err(Problem::invalid("amount_minor: 1 or more"));
    }
    if currency.len() != 3 || !currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Err(Problem::invalid("currency: three capital letters"));
    }
    Ok(())
}
