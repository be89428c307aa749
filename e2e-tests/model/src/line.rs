//! Owns what can happen next on the line. Refuses to judge it.

use std::sync::Arc;

use contracts::{Line as OrderLine, PaymentMethod, ShipTo};
use inventory::domain::Units;
use order::domain::Place;
use stateright::{Model, Property};

use crate::parts::{Parts, Shell};
use crate::post::Input;
use crate::rules;
use crate::train::{EVENTS_MAX, Letter, Slot, Step, Train};

/// The line, and how much may go wrong on it.
#[derive(Clone)]
pub struct Line {
    pub parts: Parts,
    pub orders: usize,
    /// Each order wants one unit of each of these.
    pub skus: &'static [&'static str],
    /// How many units of each there may be at the start.
    pub stock: &'static [i64],
    pub attempts_max: u32,
    pub sends: &'static [Sent],
    /// The deadline may pass, beside the customer's own cancel.
    pub deadline: bool,
    pub keys_are_forgotten: bool,
    pub letters_are_set_aside: bool,
}

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    Applied,
    AppliedAnswerLost,
    Refused,
    RefusedAnswerLost,
    /// Refused before anybody looked at the key: nothing is recorded.
    RefusedUnread,
    NeverArrived,
    /// The caller gives up; it lands some time after.
    LandsLate,
}

impl Sent {
    pub const ALL: &'static [Self] = &[
        Self::Applied,
        Self::AppliedAnswerLost,
        Self::Refused,
        Self::RefusedAnswerLost,
        Self::RefusedUnread,
        Self::NeverArrived,
        Self::LandsLate,
    ];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Place(usize),
    Cancel(usize),
    Expire(usize),
    Deliver(usize, Letter),
    /// Only in a faulty shell: the letter is taken for handled.
    Lose(usize, Letter),
    /// Only in a faulty shell: the letter is handled, and what follows from it is not said.
    HandleMutely(usize, Letter),
    SetAside(usize, Letter),
    Replay(usize),
    /// One attempt: does a look-up have an answer, and what becomes of the request?
    Attempt(usize, Step, bool, Sent),
    Land(usize, Step),
    Forget(usize, Step),
}

/// All orders, and the stock that they share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub trains: Vec<Arc<Train>>,
    pub stock: Arc<Units>,
    /// Of each SKU.
    pub units_at_first: i64,
}

impl Model for Line {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let world = |&units: &i64| World {
            trains: vec![Arc::default(); self.orders],
            stock: Arc::new(self.skus.iter().map(|sku| ((*sku).to_owned(), units)).collect()),
            units_at_first: units,
        };
        self.stock.iter().map(world).collect()
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for (order, train) in world.trains.iter().enumerate() {
            if train.order == order::domain::State::Absent {
                actions.push(Action::Place(order));
                // Orders are alike, so they leave in turn.
                return;
            }
            self.moves(order, train, actions);
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Place(order) => {
                self.apply(
                    &mut world,
                    order,
                    Input::Order(order::domain::Input::Place(self.wish())),
                );
            }
            Action::Cancel(order) => {
                let caller = String::new();
                let cancel = order::domain::Input::Cancel { caller };
                self.apply(&mut world, order, Input::Order(cancel));
            }
            Action::Expire(order) => {
                self.apply(&mut world, order, Input::Order(order::domain::Input::Expire));
            }
            Action::Deliver(order, letter) => {
                if !self.deliver(&mut world, order, letter) {
                    return None;
                }
            }
            Action::Lose(order, letter) => world.train(order).handled.add(letter),
            Action::HandleMutely(order, letter) => {
                let before = world.trains[order].clone();
                self.deliver(&mut world, order, letter);
                let train = world.train(order);
                train.said = Arc::clone(&before.said);
                train.sent = before.sent;
            }
            Action::SetAside(order, letter) => world.train(order).aside = Some(letter),
            Action::Replay(order) => {
                if let Some(letter) = world.train(order).aside.take() {
                    world.train(order).replayed = true;
                    self.deliver(&mut world, order, letter);
                }
            }
            Action::Attempt(order, step, answered, sent) => {
                self.attempt(&mut world, order, step, answered, sent);
            }
            Action::Land(order, step) => {
                let errand = &mut world.train(order).errands[step as usize];
                if let Some(key) = errand.late.take() {
                    errand.arrive(key, true);
                }
            }
            Action::Forget(order, step) => {
                world.train(order).errands[step as usize].forgotten = true;
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        rules::all(self)
    }

    fn within_boundary(&self, world: &World) -> bool {
        let fits = |train: &Arc<Train>| train.said.lengths().iter().all(|n| *n <= EVENTS_MAX);
        world.trains.iter().all(fits)
    }
}

impl World {
    pub(crate) fn train(&mut self, order: usize) -> &mut Train {
        Arc::make_mut(&mut self.trains[order])
    }
}

impl Line {
    /// One order of two lines, and everything that may happen to it.
    pub const fn one_order(parts: Parts) -> Self {
        Self {
            parts,
            orders: 1,
            skus: &["a", "b"],
            stock: &[1, 0],
            attempts_max: 3,
            sends: Sent::ALL,
            deadline: true,
            keys_are_forgotten: true,
            letters_are_set_aside: true,
        }
    }

    /// Two orders that want the same last unit, and less going wrong with each.
    pub const fn two_orders(parts: Parts) -> Self {
        Self {
            orders: 2,
            skus: &["a"],
            stock: &[1],
            attempts_max: 2,
            sends: &[Sent::Applied, Sent::AppliedAnswerLost, Sent::Refused, Sent::LandsLate],
            deadline: false,
            keys_are_forgotten: false,
            letters_are_set_aside: false,
            ..Self::one_order(parts)
        }
    }

    fn moves(&self, order: usize, train: &Train, actions: &mut Vec<Action>) {
        use order::domain::{State, Status};
        if matches!(&train.order, State::Known(_, Status::Pending)) {
            actions.push(Action::Cancel(order));
            if self.deadline {
                actions.push(Action::Expire(order));
            }
        }
        let unhandled = train.sent.without(train.handled);
        let handy = if self.parts.inbox { unhandled } else { train.sent };
        for letter in handy.iter().filter(|letter| train.aside != Some(*letter)) {
            actions.push(Action::Deliver(order, letter));
        }
        for letter in unhandled.iter().filter(|letter| train.aside != Some(*letter)) {
            match self.parts.shell {
                Shell::OffsetFirst => actions.push(Action::Lose(order, letter)),
                Shell::StateWithoutEvents => actions.push(Action::HandleMutely(order, letter)),
                Shell::Sound | Shell::FrozenByALetter => {}
            }
            if self.letters_are_set_aside && train.aside.is_none() && !train.replayed {
                actions.push(Action::SetAside(order, letter));
            }
        }
        if train.aside.is_some() {
            actions.push(Action::Replay(order));
        }
        for step in Step::ALL {
            self.errand_moves(order, train, step, actions);
        }
    }

    fn errand_moves(&self, order: usize, train: &Train, step: Step, actions: &mut Vec<Action>) {
        let errand = train.errand(step);
        if let Slot::Open(call) = errand.slot {
            if call.in_doubt {
                actions.push(Action::Attempt(order, step, false, Sent::NeverArrived));
            }
            // One attempt on its way at a time is enough to come late.
            let sends = self.sends.iter();
            let sends = sends.filter(|sent| errand.late.is_none() || **sent != Sent::LandsLate);
            actions.extend(sends.map(|sent| Action::Attempt(order, step, true, *sent)));
            if self.keys_are_forgotten
                && call.in_doubt
                && !errand.forgotten
                && errand.late.is_none()
            {
                actions.push(Action::Forget(order, step));
            }
        }
        if errand.late.is_some() {
            actions.push(Action::Land(order, step));
        }
    }

    /// The order that is placed: a unit of everything, for nothing, to nowhere.
    fn wish(&self) -> Place {
        let line =
            |sku: &&str| OrderLine { sku: (*sku).to_owned(), quantity: 1, unit_price_minor: 1 };
        Place {
            caller: String::new(),
            customer_id: String::new(),
            currency: "EUR".parse().expect("three capitals"),
            lines: self.skus.iter().map(line).collect(),
            payment_method: PaymentMethod(String::new()),
            ship_to: ShipTo {
                name: String::new(),
                street: String::new(),
                city: String::new(),
                postcode: String::new(),
                country: String::new(),
            },
        }
    }
}
