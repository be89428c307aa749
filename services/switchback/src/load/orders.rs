//! Owns what is ordered: the nth order, whether the carrier refuses it, and whether it is watched to
//! its end. Refuses chance: two loads of the same size are the same load.

use clap::Args;
use hyper::body::Bytes;

use crate::client::{Line, NewOrder, ShipTo};

/// The carrier refuses this one.
const POSTCODE_REFUSED: &str = "00000";
const POSTCODE: &str = "4051";

/// What the orders are like.
#[derive(Debug, Clone, Args)]
pub(super) struct Orders {
    /// So many articles are ordered in turn. One makes every order want the same row.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(super) skus: u64,
    /// So many in a hundred are refused by the carrier and go all the way back, evenly spread.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=100))]
    failing: u64,
}

impl Orders {
    /// The body of the nth order.
    pub(super) fn nth(&self, n: u64) -> serde_json::Result<Bytes> {
        let postcode = if self.is_refused(n) { POSTCODE_REFUSED } else { POSTCODE };
        let order = NewOrder {
            customer_id: format!("cus_{n}"),
            currency: "EUR".to_owned(),
            lines: vec![Line { sku: sku(n % self.skus), quantity: 1, unit_price_minor: 450 }],
            payment_method: "pm_card_ok".to_owned(),
            ship_to: ShipTo {
                name: "Ada Example".to_owned(),
                street: "Station Road 1".to_owned(),
                city: "Basel".to_owned(),
                postcode: postcode.to_owned(),
                country: "CH".to_owned(),
            },
        };
        serde_json::to_vec(&order).map(Bytes::from)
    }

    /// Whether the nth order completes another hundredth.
    const fn is_refused(&self, n: u64) -> bool {
        (n + 1) * self.failing / 100 > n * self.failing / 100
    }
}

pub(super) fn sku(number: u64) -> String {
    format!("LOAD-{number}")
}

/// Which orders are watched when only so many a second may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    one_in: Option<u64>,
}

impl Sample {
    pub(super) const fn new(rate: u64, per_second_max: u64) -> Self {
        Self {
            one_in: if per_second_max == 0 { None } else { Some(rate.div_ceil(per_second_max)) },
        }
    }

    /// One of each so many, each time the one after: a sample that took every tenth would hold none
    /// of the orders that fail, or nothing else.
    pub(super) fn holds(self, n: u64) -> bool {
        self.one_in.is_some_and(|one_in| n % one_in == (n / one_in) % one_in)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(failing: u64, among: u64) -> Vec<u64> {
        let orders = Orders { skus: 7, failing };
        (0..among).filter(|n| orders.is_refused(*n)).collect()
    }

    #[test]
    fn as_many_orders_fail_as_were_asked_for_and_they_are_evenly_spread() {
        assert_eq!(refused(10, 40), [9, 19, 29, 39]);
        assert_eq!(refused(3, 100), [33, 66, 99]);
        assert_eq!(refused(0, 1_000), [] as [u64; 0]);
        assert_eq!(refused(100, 5), [0, 1, 2, 3, 4]);
        for failing in 0..=100 {
            assert_eq!(refused(failing, 1_000).len() as u64, failing * 10);
        }
    }

    #[test]
    fn an_order_names_its_article_its_customer_and_where_it_goes() -> anyhow::Result<()> {
        let orders = Orders { skus: 7, failing: 10 };
        let body: serde_json::Value = serde_json::from_slice(&orders.nth(8)?)?;
        assert_eq!(body["lines"][0]["sku"], "LOAD-1");
        assert_eq!(body["customer_id"], "cus_8");
        assert_eq!(body["ship_to"]["postcode"], "4051");
        let body: serde_json::Value = serde_json::from_slice(&orders.nth(9)?)?;
        assert_eq!(body["ship_to"]["postcode"], "00000");
        Ok(())
    }

    #[test]
    fn no_more_are_watched_than_allowed_and_as_many_of_them_fail_as_of_all() {
        let orders = Orders { skus: 1, failing: 10 };
        for (rate, per_second_max, watched) in
            [(20, 20, 20), (100, 20, 20), (40, 20, 20), (30, 20, 15)]
        {
            let sample = Sample::new(rate, per_second_max);
            let in_100_s: Vec<u64> = (0..rate * 100).filter(|n| sample.holds(*n)).collect();
            assert_eq!(in_100_s.len() as u64, watched * 100, "at {rate}/s");
            let failing = in_100_s.iter().filter(|n| orders.is_refused(**n)).count() as u64;
            assert_eq!(failing, watched * 10, "at {rate}/s");
        }
        assert!(!(0..100).any(|n| Sample::new(20, 0).holds(n)));
    }
}
