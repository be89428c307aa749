//! Owns what sets one mode apart from another: its programs, its environment, and how many of its
//! sagas may be in flight. Refuses to know how anything is measured.

use crate::load::Load;
use crate::record::{Broker, Mode};

const WARM_UP_SECONDS: u32 = 15;
/// Programs that are the product's own in every mode.
const SHARED: [&str; 2] = ["switchback", "providers"];
/// The program that is each service of an opponent, by the name under which it is started.
const OPPONENT: &str = "opponent";

impl Mode {
    /// Name of its folder of programs.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Textbook => "textbook",
            Self::Tuned => "tuned",
            Self::ProductBatch1 => "product-batch-1",
            Self::Product => "product",
        }
    }

    /// Each program that its stack runs, and the one that was built for it.
    pub fn programs(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let is_product = matches!(self, Self::ProductBatch1 | Self::Product);
        let of_service = move |service| (service, if is_product { service } else { OPPONENT });
        SHARED.into_iter().map(|own| (own, own)).chain(e2e_tests::SERVICES.map(of_service))
    }

    /// What every process of its stack is told.
    pub fn environment(self, broker: Broker) -> Vec<(&'static str, String)> {
        let broker = match broker {
            Broker::Kafka => "kafka",
            Broker::Memory => "memory",
        };
        let own = match self {
            Self::Textbook => Some(("OPPONENT", "textbook")),
            Self::Tuned => Some(("OPPONENT", "tuned")),
            Self::ProductBatch1 => Some(("BATCH_MAX", "1")),
            Self::Product => None,
        };
        let all = [("BROKER", broker)].into_iter().chain(own);
        all.map(|(name, value)| (name, value.to_owned())).collect()
    }

    /// Before the first window, for as long in every mode: Kafka's Java compiles what it has run often,
    /// which takes a good part of a core until it is done.
    pub const fn warm_up(self) -> Load {
        Load::Seconds { seconds: WARM_UP_SECONDS, in_flight: self.in_flight() }
    }

    /// Sagas that are placed and not finished while it is saturated: enough that more would bring
    /// no more of them to their end, and few enough that those are soon over when it stops.
    pub const fn in_flight(self) -> u32 {
        match self {
            Self::Textbook => 100,
            Self::Tuned => 200,
            Self::ProductBatch1 => 200,
            Self::Product => 4_000,
        }
    }
}
