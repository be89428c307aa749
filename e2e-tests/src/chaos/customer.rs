//! Owns what one customer wants and how he goes about it: drawn from the seed. Refuses to send
//! anything.

use std::time::Duration;

use rand::Rng;
use rand::distr::weighted::WeightedIndex;
use rand::prelude::Distribution;
use rand::rngs::StdRng;
use uuid::{Builder, Uuid};

use crate::wire::{Line, NewOrder};

/// There is enough of this.
pub const PLENTY: &str = "TEA-1";
/// This runs out.
pub const SCARCE: &str = "MUG-1";
pub const SCARCE_UNITS: u32 = 60;
/// There has never been any.
pub const NONE: &str = "GONE-1";

const TOKENS: [(&str, u32); 4] =
    [("pm_card_ok", 60), ("pm_card_declined", 14), ("pm_answer_lost", 18), ("pm_slow", 8)];
const POSTCODES: [(&str, u32); 3] = [("4051", 76), ("00000", 14), ("99999", 10)];
const SKUS: [(&str, u32); 3] = [(PLENTY, 85), (SCARCE, 10), (NONE, 5)];
const QUANTITY_MAX: u32 = 3;
const TWO_LINES_PERCENT: u32 = 15;
const CANCEL_PERCENT: u32 = 25;
const CANCEL_AFTER_MS_MAX: u64 = 3_000;
const ASKS_AGAIN_PERCENT: u32 = 10;
const HANGS_UP_PERCENT: u32 = 6;
const HANGS_UP_AFTER_MS_MAX: u64 = 25;

/// A customer.
#[derive(Debug, Clone)]
pub struct Customer {
    pub order: NewOrder,
    /// Of the request to place it.
    pub key: String,
    /// Which of the two instances is asked first.
    pub asks_second: bool,
    /// So long after the answer.
    pub cancels_after: Option<Duration>,
    /// The same request again although it was answered.
    pub asks_again: bool,
    /// Cuts the connection so long after the request, and never comes back.
    pub hangs_up_after: Option<Duration>,
}

impl Customer {
    pub fn draw(dice: &mut StdRng) -> Self {
        let mut order = NewOrder::of(one_of(&SKUS, dice), dice.random_range(1..=QUANTITY_MAX))
            .paid_with(one_of(&TOKENS, dice))
            .sent_to(one_of(&POSTCODES, dice));
        if percent(TWO_LINES_PERCENT, dice) {
            let sku = one_of(&SKUS, dice).to_owned();
            order.lines.push(Line { sku, quantity: 1, unit_price_minor: 300 });
        }
        let cancels_after = percent(CANCEL_PERCENT, dice)
            .then(|| Duration::from_millis(dice.random_range(0..CANCEL_AFTER_MS_MAX)));
        let hangs_up_after = percent(HANGS_UP_PERCENT, dice)
            .then(|| Duration::from_millis(dice.random_range(0..HANGS_UP_AFTER_MS_MAX)));
        Self {
            order,
            key: drawn_key(dice),
            asks_second: dice.random_bool(0.5),
            cancels_after,
            asks_again: percent(ASKS_AGAIN_PERCENT, dice),
            hangs_up_after,
        }
    }
}

fn drawn_key(dice: &mut StdRng) -> String {
    let key: Uuid = Builder::from_random_bytes(dice.random()).into_uuid();
    key.to_string()
}

fn percent(percent: u32, dice: &mut StdRng) -> bool {
    dice.random_ratio(percent, 100)
}

fn one_of<'a>(choices: &[(&'a str, u32)], dice: &mut StdRng) -> &'a str {
    let weights = WeightedIndex::new(choices.iter().map(|(_, weight)| *weight));
    let chosen = weights.map_or(0, |weights| weights.sample(dice));
    choices[chosen].0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn among_a_few_hundred_customers_there_are_all_kinds() {
        let mut dice = StdRng::seed_from_u64(1);
        let customers: Vec<_> = (0..400).map(|_| Customer::draw(&mut dice)).collect();
        let all = |of: &dyn Fn(&Customer) -> String| -> BTreeSet<String> {
            customers.iter().map(of).collect()
        };
        assert_eq!(all(&|it| it.order.payment_method.clone()).len(), TOKENS.len());
        assert_eq!(all(&|it| it.order.ship_to.postcode.clone()).len(), POSTCODES.len());
        assert_eq!(all(&|it| it.order.lines[0].sku.clone()).len(), SKUS.len());
        assert_eq!(all(&|it| it.key.clone()).len(), customers.len());
        let cancels = customers.iter().filter(|it| it.cancels_after.is_some()).count();
        assert!((60..140).contains(&cancels), "{cancels} of 400 cancel");
        assert!(customers.iter().any(|it| it.asks_again));
        assert!(customers.iter().any(|it| it.hangs_up_after.is_some()));
    }
}
