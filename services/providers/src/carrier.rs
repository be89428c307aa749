//! Owns the carrier's route and its test postcodes. Refuses to keep an address.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Deserialize;

use crate::books::{Destination, Entry, Operation, Refusal, Wanted};
use crate::ledger::Ledger;
use crate::wire::{Key, Problem, fingerprint, read};

/// An address that nobody can deliver to.
const POSTCODE_REJECTED: &str = "00000";
/// A depot that is busy at first.
const POSTCODE_BUSY: &str = "99999";
const BUSY_ANSWERS: u8 = 2;

#[derive(Deserialize)]
struct Booking {
    order_id: String,
    ship_to: ShipTo,
}

#[derive(Deserialize)]
struct ShipTo {
    name: String,
    street: String,
    city: String,
    postcode: String,
    country: String,
}

pub(crate) fn routes(ledger: Ledger) -> Router {
    Router::new().route("/v1/bookings", post(book)).with_state(ledger)
}

async fn book(
    State(ledger): State<Ledger>,
    Key(idempotency_key): Key,
    body: Bytes,
) -> Result<Response, Problem> {
    let Booking { order_id, ship_to } = read(&body)?;
    let ShipTo { name, street, city, postcode, country } = &ship_to;
    if [&order_id, name, street, city, postcode, country].iter().any(|text| text.is_empty()) {
        return Err(Problem::invalid("an order_id and a whole address"));
    }
    let entry = Entry {
        destination: Destination::Carrier,
        operation: Operation::Book,
        order_id,
        idempotency_key,
        fingerprint: fingerprint(&body),
        amount_minor: None,
        currency: None,
        capture_reference: None,
    };
    let refusal = (postcode == POSTCODE_REJECTED).then_some(Refusal::AddressRejected);
    let stumbles = if postcode == POSTCODE_BUSY { BUSY_ANSWERS } else { 0 };
    Ok(ledger.judge(Wanted { entry, refusal, stumbles }).await?.into_response())
}
