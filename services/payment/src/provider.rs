//! Owns how the payment provider is asked, and what its answers look like. Refuses to decide what
//! is asked, and when.

use calls::{Destination, Policy, Refusals, Request, Unusable, Url, Wanted};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::Payment;
use crate::domain::Call;

const NAME: &str = "payment-provider";
const CAPTURES: &str = "/v1/captures";
const REFUNDS: &str = "/v1/refunds";
const REFUSALS: Refusals = &[(402, "card_declined"), (422, "refund_exceeds_capture")];

#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Where the payment provider is asked.
    #[arg(long, env = "PROVIDER_URL", default_value = "http://127.0.0.1:8085/payment")]
    pub provider_url: Url,
}

impl Payment {
    pub fn try_new(config: Config) -> Result<Self, Unusable> {
        let policy = Policy::default();
        let provider =
            Destination::try_new(NAME, config.provider_url, policy, REFUSALS, understand)?;
        Ok(Self { provider })
    }
}

/// A call as the provider wants to be asked.
pub fn wanted(order_id: Uuid, call: &Call) -> Wanted {
    let (path, money, name, what) = match call {
        Call::Capture(total, method) => (CAPTURES, *total, "payment_method", &method.0),
        Call::Refund(paid) => (REFUNDS, paid.amount, "capture_reference", &paid.provider_ref),
    };
    let body = json!({
        "order_id": order_id, name: what,
        "amount_minor": money.amount_minor, "currency": money.currency,
    });
    Wanted {
        step: call.step(),
        destination: NAME,
        path,
        body: body.to_string().into_bytes(),
        compensation: call.is_compensation(),
    }
}

/// The answer must name our order, our amount and what we asked for.
fn understand(request: &Request, reply: &Value) -> Option<String> {
    let operation = match request.path.as_str() {
        CAPTURES => "capture",
        REFUNDS => "refund",
        _ => return None,
    };
    let asked: Value = serde_json::from_slice(&request.body).ok()?;
    let same = ["order_id", "amount_minor", "currency"]
        .iter()
        .all(|name| asked.get(name).is_some_and(|value| reply.get(name) == Some(value)));
    let ours = same && reply.get("operation")? == operation;
    ours.then(|| reply.get("reference")?.as_str().map(str::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use contracts::{Money, PaymentMethod};

    use super::*;
    use crate::domain::Receipt;

    fn money() -> Money {
        Money::new(900, "EUR".parse().expect("a currency"))
    }

    fn request(call: &Call) -> Request {
        let wanted = wanted(Uuid::from_u128(7), call);
        Request {
            path: wanted.path.to_owned(),
            idempotency_key: "k".to_owned(),
            body: wanted.body,
            trace: saga::Trace::default(),
            timeout: Duration::from_secs(3),
        }
    }

    fn capture() -> Call {
        Call::Capture(money(), PaymentMethod("pm_card_ok".to_owned()))
    }

    fn refund() -> Call {
        Call::Refund(Receipt { amount: money(), provider_ref: "cap_1".to_owned() })
    }

    fn reply(operation: &str) -> Value {
        json!({
            "reference": "ref_1", "order_id": Uuid::from_u128(7), "operation": operation,
            "amount_minor": 900, "currency": "EUR"
        })
    }

    #[test]
    fn a_capture_names_the_amount_and_the_token() {
        let body: Value = serde_json::from_slice(&request(&capture()).body).expect("JSON");
        let expected = json!({
            "order_id": Uuid::from_u128(7), "amount_minor": 900, "currency": "EUR",
            "payment_method": "pm_card_ok"
        });
        assert_eq!(body, expected);
        assert!(!wanted(Uuid::from_u128(7), &capture()).compensation);
    }

    #[test]
    fn a_refund_names_its_capture_and_is_a_compensation() {
        let body: Value = serde_json::from_slice(&request(&refund()).body).expect("JSON");
        let expected = json!({
            "order_id": Uuid::from_u128(7), "capture_reference": "cap_1", "amount_minor": 900,
            "currency": "EUR"
        });
        assert_eq!(body, expected);
        assert!(wanted(Uuid::from_u128(7), &refund()).compensation);
    }

    #[test]
    fn only_an_answer_to_this_very_request_is_understood() {
        for (call, operation) in [(capture(), "capture"), (refund(), "refund")] {
            let request = request(&call);
            let good = reply(operation);
            assert_eq!(understand(&request, &good), Some("ref_1".to_owned()));
            for (name, value) in [
                ("reference", json!(1)),
                ("order_id", json!(Uuid::from_u128(8))),
                ("amount_minor", json!(901)),
                ("amount_minor", json!("900")),
                ("currency", json!("CHF")),
                ("operation", json!("book")),
            ] {
                let mut other = good.clone();
                other[name] = value;
                assert_eq!(understand(&request, &other), None, "{other}");
                other.as_object_mut().expect("an object").remove(name);
                assert_eq!(understand(&request, &other), None, "{other}");
            }
        }
        assert_eq!(understand(&request(&capture()), &reply("refund")), None);
        assert_eq!(understand(&request(&refund()), &reply("capture")), None);
    }
}
