//! Owns what a client may ask for: the request's shape and its bounds. Refuses to know what becomes
//! of it.

use api::{FieldCode, FieldError, Problem};
use contracts::{Currency, Line, PaymentMethod, ShipTo};
use serde::Deserialize;

use crate::domain::Place;

const LINES_MAX: usize = 100;
const QUANTITY_MAX: u32 = 1_000_000;
const PRICE_MINOR_MAX: i64 = 1_000_000_000_000;
const NAME_CHARS_MAX: usize = 64;
const ADDRESS_CHARS_MAX: usize = 200;

/// The body of `POST /v1/orders`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceOrder {
    customer_id: String,
    currency: String,
    lines: Vec<OrderLine>,
    payment_method: String,
    ship_to: Address,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderLine {
    sku: String,
    quantity: u32,
    unit_price_minor: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Address {
    name: String,
    street: String,
    city: String,
    postcode: String,
    country: String,
}

impl PlaceOrder {
    /// The command, or every field that is wrong.
    pub fn check(self, caller: &str) -> Result<Place, Problem> {
        let mut faults = Faults::default();
        faults.name("/customer_id", &self.customer_id);
        faults.name("/payment_method", &self.payment_method);
        faults.lines(&self.lines);
        faults.address(&self.ship_to);
        let currency = self.currency.parse::<Currency>();
        if currency.is_err() {
            faults.add("/currency", FieldCode::Invalid);
        }
        match (currency, faults.0.is_empty()) {
            (Ok(currency), true) => Ok(Place {
                caller: caller.to_owned(),
                customer_id: self.customer_id,
                currency,
                lines: self.lines.into_iter().map(OrderLine::into).collect(),
                payment_method: PaymentMethod(self.payment_method),
                ship_to: self.ship_to.into(),
            }),
            _ => Err(Problem::invalid(faults.0)),
        }
    }
}

impl From<OrderLine> for Line {
    fn from(line: OrderLine) -> Self {
        let OrderLine { sku, quantity, unit_price_minor } = line;
        Self { sku, quantity, unit_price_minor }
    }
}

impl From<Address> for ShipTo {
    fn from(address: Address) -> Self {
        let Address { name, street, city, postcode, country } = address;
        Self { name, street, city, postcode, country }
    }
}

#[derive(Default)]
struct Faults(Vec<FieldError>);

impl Faults {
    fn add(&mut self, pointer: &str, code: FieldCode) {
        self.0.push(FieldError::new(pointer, code));
    }

    /// An identifier: visible ASCII, nothing that needs escaping anywhere.
    fn name(&mut self, pointer: &str, text: &str) {
        self.text(pointer, text, NAME_CHARS_MAX);
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            self.add(pointer, FieldCode::Invalid);
        }
    }

    fn text(&mut self, pointer: &str, text: &str, chars_max: usize) {
        if text.trim().is_empty() {
            self.add(pointer, FieldCode::Empty);
        } else if text.chars().count() > chars_max {
            self.add(pointer, FieldCode::TooLong);
        } else if text.chars().any(char::is_control) {
            self.add(pointer, FieldCode::Invalid);
        }
    }

    fn lines(&mut self, lines: &[OrderLine]) {
        match lines.len() {
            0 => self.add("/lines", FieldCode::Empty),
            1..=LINES_MAX => {}
            _ => return self.add("/lines", FieldCode::TooMany),
        }
        let mut total = 0_i64;
        for (index, line) in lines.iter().enumerate() {
            self.name(&format!("/lines/{index}/sku"), &line.sku);
            if !(1..=QUANTITY_MAX).contains(&line.quantity) {
                self.add(&format!("/lines/{index}/quantity"), FieldCode::OutOfRange);
            }
            if !(0..=PRICE_MINOR_MAX).contains(&line.unit_price_minor) {
                self.add(&format!("/lines/{index}/unit_price_minor"), FieldCode::OutOfRange);
            }
            let price = line.unit_price_minor.saturating_mul(line.quantity.into());
            total = total.saturating_add(price);
        }
        // Nothing to pay is nothing that a payment provider would take.
        if self.0.is_empty() && !(1..=PRICE_MINOR_MAX).contains(&total) {
            self.add("/lines", FieldCode::OutOfRange);
        }
    }

    fn address(&mut self, to: &Address) {
        for (name, text) in [
            ("name", &to.name),
            ("street", &to.street),
            ("city", &to.city),
            ("postcode", &to.postcode),
        ] {
            self.text(&format!("/ship_to/{name}"), text, ADDRESS_CHARS_MAX);
        }
        if to.country.len() != 2 || !to.country.bytes().all(|b| b.is_ascii_uppercase()) {
            self.add("/ship_to/country", FieldCode::Invalid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(change: impl FnOnce(&mut serde_json::Value)) -> Result<Place, Vec<FieldError>> {
        let mut body = serde_json::json!({
            "customer_id": "cus_1", "currency": "EUR",
            "lines": [{"sku": "TEA-1", "quantity": 2, "unit_price_minor": 450}],
            "payment_method": "pm_card_ok",
            "ship_to": {"name": "Ada", "street": "Rheingasse 1", "city": "Basel",
                        "postcode": "4051", "country": "CH"},
        });
        change(&mut body);
        let request: PlaceOrder = serde_json::from_value(body).expect("of the right shape");
        request.check("default").map_err(|problem| problem.errors().to_vec())
    }

    #[test]
    fn a_good_request_becomes_a_command() {
        let place = request(|_| {}).expect("nothing is wrong");
        assert_eq!((place.lines.len(), place.currency.as_str()), (1, "EUR"));
    }

    #[test]
    fn every_wrong_field_is_named() {
        for (pointer, value, code) in [
            ("/customer_id", "".into(), FieldCode::Empty),
            ("/customer_id", "c".repeat(65).into(), FieldCode::TooLong),
            ("/customer_id", "two words".into(), FieldCode::Invalid),
            ("/currency", "eur".into(), FieldCode::Invalid),
            ("/payment_method", "pm/../x".into(), FieldCode::Invalid),
            ("/lines", serde_json::json!([]), FieldCode::Empty),
            ("/lines/0/sku", "".into(), FieldCode::Empty),
            ("/lines/0/quantity", 0.into(), FieldCode::OutOfRange),
            ("/lines/0/unit_price_minor", (-1).into(), FieldCode::OutOfRange),
            ("/lines/0/unit_price_minor", i64::MAX.into(), FieldCode::OutOfRange),
            ("/ship_to/name", " ".into(), FieldCode::Empty),
            ("/ship_to/city", "a\u{7}b".into(), FieldCode::Invalid),
            ("/ship_to/country", "Switzerland".into(), FieldCode::Invalid),
        ] {
            let errors = request(|body| *body.pointer_mut(pointer).expect("is there") = value)
                .expect_err("it is wrong");
            assert_eq!(errors, [FieldError::new(pointer, code)]);
        }
    }

    #[test]
    fn an_order_of_nothing_to_pay_or_of_too_much_is_refused() {
        for (quantity, price) in [(1, 0), (1_000_000, 1_000_000_000_000_i64)] {
            let errors = request(|body| {
                body["lines"][0]["quantity"] = quantity.into();
                body["lines"][0]["unit_price_minor"] = price.into();
            })
            .expect_err("it is wrong");
            assert_eq!(errors, [FieldError::new("/lines", FieldCode::OutOfRange)]);
        }
    }
}
