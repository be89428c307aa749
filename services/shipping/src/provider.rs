//! Owns how the carrier is asked, and what its answers look like. Refuses to decide what is asked,
//! and when.

use calls::{Destination, Policy, Refusals, Request, Unusable, Url, Wanted};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::Shipping;
use crate::domain::Call;

const NAME: &str = "carrier";
const BOOKINGS: &str = "/v1/bookings";
const REFUSALS: Refusals = &[(422, "address_rejected")];

#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Where the carrier is asked.
    #[arg(long, env = "PROVIDER_URL", default_value = "http://127.0.0.1:8085/carrier")]
    pub provider_url: Url,
}

impl Shipping {
    pub fn try_new(config: Config) -> Result<Self, Unusable> {
        let policy = Policy::default();
        let carrier =
            Destination::try_new(NAME, config.provider_url, policy, REFUSALS, understand)?;
        Ok(Self { carrier })
    }
}

/// A call as the carrier wants to be asked.
pub fn wanted(order_id: Uuid, call: &Call) -> Wanted {
    let Call::Book(ship_to) = call;
    Wanted {
        step: call.step(),
        destination: NAME,
        path: BOOKINGS,
        body: json!({"order_id": order_id, "ship_to": ship_to}).to_string().into_bytes(),
        compensation: call.is_compensation(),
    }
}

/// The answer must name our order and what we asked for.
fn understand(request: &Request, reply: &Value) -> Option<String> {
    let asked: Value = serde_json::from_slice(&request.body).ok()?;
    let ours = reply.get("order_id")? == asked.get("order_id")?
        && reply.get("operation")? == "book"
        && request.path == BOOKINGS;
    ours.then(|| reply.get("reference")?.as_str().map(str::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use contracts::ShipTo;

    use super::*;

    fn booking() -> Request {
        let ship_to = ShipTo {
            name: "Ada".to_owned(),
            street: "Rheingasse 1".to_owned(),
            city: "Basel".to_owned(),
            postcode: "4051".to_owned(),
            country: "CH".to_owned(),
        };
        let wanted = wanted(Uuid::from_u128(7), &Call::Book(ship_to));
        assert!(!wanted.compensation);
        Request {
            path: wanted.path.to_owned(),
            idempotency_key: "k".to_owned(),
            body: wanted.body,
            trace: saga::Trace::default(),
            timeout: Duration::from_secs(3),
        }
    }

    #[test]
    fn a_booking_names_the_order_and_the_whole_address() {
        let body: Value = serde_json::from_slice(&booking().body).expect("JSON");
        let expected = json!({"order_id": Uuid::from_u128(7), "ship_to": {
            "name": "Ada", "street": "Rheingasse 1", "city": "Basel", "postcode": "4051",
            "country": "CH"
        }});
        assert_eq!(body, expected);
    }

    #[test]
    fn only_an_answer_to_this_very_booking_is_understood() {
        let good = json!({
            "reference": "trk_1", "order_id": Uuid::from_u128(7), "operation": "book",
            "amount_minor": null, "currency": null
        });
        assert_eq!(understand(&booking(), &good), Some("trk_1".to_owned()));
        for (name, value) in [
            ("reference", json!(1)),
            ("order_id", json!(Uuid::from_u128(8))),
            ("operation", json!("capture")),
        ] {
            let mut other = good.clone();
            other[name] = value;
            assert_eq!(understand(&booking(), &other), None, "{other}");
            other.as_object_mut().expect("an object").remove(name);
            assert_eq!(understand(&booking(), &other), None, "{other}");
        }
        let elsewhere = Request { path: "/v1/pickups".to_owned(), ..booking() };
        assert_eq!(understand(&elsewhere, &good), None);
    }
}
