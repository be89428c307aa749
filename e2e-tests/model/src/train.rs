//! Owns everything that is known of one order: in the services, on its way, and out at the
//! providers. Refuses to move it.

use std::sync::Arc;

use calls::CallState;
use contracts::{inventory as stock, order as orders, payment as money, shipping as parcels};
use saga::LookUp;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    Order,
    Inventory,
    Payment,
    Shipping,
}

impl Service {
    pub const ALL: [Self; 4] = [Self::Order, Self::Inventory, Self::Payment, Self::Shipping];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Capture,
    Refund,
    Book,
}

impl Step {
    pub const ALL: [Self; 3] = [Self::Capture, Self::Refund, Self::Book];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Refund => "refund",
            Self::Book => "book",
        }
    }
}

/// One event on its way to one of its consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Letter {
    pub from: Service,
    /// Which of its producer's events on this order, from 0.
    pub nth: usize,
    pub to: Service,
}

/// How many events one producer may say about one order here. Three is what a sound one says.
pub const EVENTS_MAX: usize = 4;

/// A set of letters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Letters(u64);

impl Letters {
    const fn bit(letter: Letter) -> u64 {
        1 << ((letter.from as usize * EVENTS_MAX + letter.nth) * 4 + letter.to as usize)
    }

    pub const fn holds(self, letter: Letter) -> bool {
        self.0 & Self::bit(letter) != 0
    }

    pub const fn add(&mut self, letter: Letter) {
        self.0 |= Self::bit(letter);
    }

    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Letter> {
        (0..64_usize).filter(move |bit| self.0 & (1 << bit) != 0).map(|bit| Letter {
            from: Service::ALL[bit / (4 * EVENTS_MAX)],
            nth: bit / 4 % EVENTS_MAX,
            to: Service::ALL[bit % 4],
        })
    }
}

/// What every producer has said, in its own order. There is no order between producers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Said {
    pub order: Vec<orders::Event>,
    pub inventory: Vec<stock::Event>,
    pub payment: Vec<money::Event>,
    pub shipping: Vec<parcels::Event>,
}

impl Said {
    /// How many events each producer has said.
    pub const fn lengths(&self) -> [usize; 4] {
        [self.order.len(), self.inventory.len(), self.payment.len(), self.shipping.len()]
    }
}

/// One outside call, and what its provider knows of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Errand {
    pub slot: Slot,
    /// The provider's ledger: the key of each effect.
    pub ledger: Vec<u32>,
    /// Refusals recorded under their key.
    pub refused: Vec<u32>,
    /// An attempt whose caller gave up on it, still on its way.
    pub late: Option<u32>,
    /// The provider has forgotten its keys: one that comes again is new to it.
    pub forgotten: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Slot {
    #[default]
    NeverWanted,
    Open(CallState),
    Stuck,
    Settled,
}

impl Errand {
    /// What is found under the key. The books outlive the keys.
    pub fn look_up(&self, key: u32) -> LookUp {
        if self.ledger.contains(&key) {
            LookUp::Done { reference: String::new() }
        } else if self.refused.contains(&key) {
            LookUp::Refused { code: REFUSAL.to_owned() }
        } else {
            LookUp::Nothing
        }
    }

    /// A request under this key reaches the provider, which is of a mind to do it or not.
    pub fn arrive(&mut self, key: u32, willing: bool) -> LookUp {
        let known = self.look_up(key);
        if known == LookUp::Nothing || self.forgotten {
            (if willing { &mut self.ledger } else { &mut self.refused }).push(key);
            return if willing {
                LookUp::Done { reference: String::new() }
            } else {
                LookUp::Refused { code: REFUSAL.to_owned() }
            };
        }
        known
    }
}

/// What a provider refuses with.
pub const REFUSAL: &str = "no";

/// One order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Train {
    pub order: order::domain::State,
    pub inventory: inventory::domain::Step,
    pub payment: payment::domain::State,
    pub shipping: shipping::domain::State,
    pub said: Arc<Said>,
    /// To whom anything said matters.
    pub sent: Letters,
    pub handled: Letters,
    /// The one letter that a consumer has set aside.
    pub aside: Option<Letter>,
    /// A letter set aside was taken up again.
    pub replayed: bool,
    pub errands: [Errand; 3],
    /// A cancel was heard where the train must not pass any more.
    pub must_come_back: bool,
    /// A service met what cannot be.
    pub unexpected: bool,
}

impl Train {
    pub const fn errand(&self, step: Step) -> &Errand {
        &self.errands[step as usize]
    }

    pub const fn effects(&self, step: Step) -> usize {
        self.errand(step).ledger.len()
    }

    pub(crate) fn saying(&mut self) -> &mut Said {
        Arc::make_mut(&mut self.said)
    }

    /// Nothing more can happen by itself, but for what somebody has set aside.
    pub fn is_quiet(&self) -> bool {
        let waiting = self.sent.without(self.handled);
        waiting.iter().all(|letter| self.aside == Some(letter))
            && !self.errands.iter().any(|errand| matches!(errand.slot, Slot::Open(_)))
            && self.errands.iter().all(|errand| errand.late.is_none())
    }

    /// A person sees it: a call that nobody makes any more, or an event set aside.
    pub fn is_stuck(&self) -> bool {
        self.aside.is_some() || self.errands.iter().any(|errand| errand.slot == Slot::Stuck)
    }
}
