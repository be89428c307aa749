//! Two third parties in one process, a payment provider and a carrier, with faults on demand.
//! Owns what was really charged, refunded and booked. Refuses to share a line of code with those
//! who call: its ledger is the witness against them.
//!
//! Both are honest: a key is answered once and then repeated for ever, a refusal is recorded like an
//! effect, and nothing is answered before it is on the disk.
//!
//! | route | what |
//! |---|---|
//! | `POST /payment/v1/captures`, `POST /payment/v1/refunds` | charge, give back |
//! | `POST /carrier/v1/bookings` | book a parcel |
//! | `GET /payment/v1/operations/{key}`, `GET /carrier/v1/operations/{key}` | what is recorded |
//! | `GET /v1/ledger?order_id=…` or `?after=<seq>` | every effect, in the order of its commit |
//! | `PUT`, `DELETE /v1/faults/{payment\|carrier}` | break it for a while, heal it |
//! | `GET /v1/counts/{payment\|carrier}` | how many requests met a fault, how many answers were there before |
//! | `GET /livez`, `GET /readyz` | it runs |

mod books;
mod carrier;
mod connections;
mod faults;
mod ledger;
mod payment;
mod wire;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::get;
use serde::{Deserialize, Serialize};

pub use connections::serve;
pub use ledger::Ledger;

use books::{Books, Destination};
use faults::{Switch, Switches, disturb};
use wire::{BODY_BYTES_MAX, Problem, found, json};

/// Every route of both providers, over one ledger.
pub fn router(ledger: &Ledger) -> Router {
    let switches = Switches::default();
    let provider = |own_routes: Router, destination, switch: &Switch| {
        let operations = get(operation).with_state((ledger.clone(), destination));
        own_routes
            .route("/v1/operations/{key}", operations)
            .layer(from_fn_with_state(switch.clone(), disturb))
    };
    let payment = payment::routes(ledger.clone());
    let carrier = carrier::routes(ledger.clone());
    Router::new()
        .nest("/payment", provider(payment, Destination::Payment, &switches.payment))
        .nest("/carrier", provider(carrier, Destination::Carrier, &switches.carrier))
        .route("/v1/ledger", get(rows).with_state(ledger.clone()))
        .route("/v1/counts/{name}", get(counts).with_state((ledger.clone(), switches.clone())))
        .merge(faults::routes(switches))
        .route("/livez", get(async || "ok"))
        .route("/readyz", get(async || "ok"))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

/// What is recorded under a key.
async fn operation(
    State((ledger, destination)): State<(Ledger, Destination)>,
    Path(key): Path<String>,
) -> Result<Response, Problem> {
    let record = ledger.read(move |books| books.look_up(destination, &key)).await?;
    Ok(found(record.as_ref()))
}

#[derive(Serialize)]
struct Counts {
    struck: u64,
    repeated: u64,
}

/// What a destination has been through since the process began.
async fn counts(
    State((ledger, switches)): State<(Ledger, Switches)>,
    Path(destination): Path<Destination>,
) -> Result<Response, Problem> {
    let repeated = ledger.read(move |books| books.repeated(destination)).await?;
    Ok(json(200, &Counts { struck: switches.of(destination).struck(), repeated }))
}

#[derive(Deserialize)]
struct Which {
    order_id: Option<String>,
    #[serde(default)]
    after: u64,
}

async fn rows(
    State(ledger): State<Ledger>,
    Query(which): Query<Which>,
) -> Result<Response, Problem> {
    let look = move |books: &mut Books| books.rows(which.order_id.as_deref(), which.after);
    let rows = ledger.read(look).await?;
    Ok(json(200, &rows))
}
