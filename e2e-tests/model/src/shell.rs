//! Owns what one transaction and one attempt do to an order, as the production shell does it.
//! Refuses to choose which comes next.

use std::sync::Arc;

use calls::{CallState, Heard, Next, Policy};
use saga::{Decision, LookUp, Outcome, Settled};

use crate::line::{Line, Sent, World};
use crate::parts::Shell;
use crate::post::{Input, cancels_for_good, heard, post};
use crate::train::{Errand, Letter, REFUSAL, Slot, Step, Train};

/// The age at which a provider has forgotten its keys. Before, a call is no age at all.
const KEY_LIFE_MS: u64 = 1;

impl Line {
    /// Whether the letter, handled or not, changed anything.
    pub(crate) fn deliver(&self, world: &mut World, order: usize, letter: Letter) -> bool {
        let train = &world.trains[order];
        let first = !train.handled.holds(letter);
        if first {
            world.train(order).handled.add(letter);
        }
        let train = &world.trains[order];
        if self.parts.shell == Shell::FrozenByALetter && train.aside.is_some() {
            return first;
        }
        let Some(input) = heard(train, letter) else { return first };
        if cancels_for_good(train, &input) {
            world.train(order).must_come_back = true;
        }
        self.apply(world, order, input) || first
    }

    /// One decision is one transaction: the state, what is said, and which calls are wanted.
    /// Whether it changed anything.
    pub(crate) fn apply(&self, world: &mut World, order: usize, input: Input) -> bool {
        let train = &world.trains[order];
        let before = train.said.lengths();
        match input {
            Input::Order(input) => match (self.parts.order)(&train.order, &input) {
                Decision::Become { state, events, .. } => {
                    let train = world.train(order);
                    train.order = state;
                    train.saying().order.extend(events);
                }
                other => return world.leave(order, &other),
            },
            Input::Inventory(input) => {
                let step = train.inventory.clone();
                let stock = (*world.stock).clone();
                let state = inventory::domain::State { step, stock };
                match (self.parts.inventory)(&state, &input) {
                    Decision::Become { state, events, .. } => {
                        world.stock = Arc::new(state.stock);
                        let train = world.train(order);
                        train.inventory = state.step;
                        train.saying().inventory.extend(events);
                    }
                    other => return world.leave(order, &other),
                }
            }
            Input::Payment(input) => match (self.parts.payment)(&train.payment, &input) {
                Decision::Become { state, events, calls } => {
                    let train = world.train(order);
                    train.payment = state;
                    train.saying().payment.extend(events);
                    for call in calls {
                        want(train, call.step(), call.is_compensation());
                    }
                }
                other => return world.leave(order, &other),
            },
            Input::Shipping(input) => match (self.parts.shipping)(&train.shipping, &input) {
                Decision::Become { state, events, calls } => {
                    let train = world.train(order);
                    train.shipping = state;
                    train.saying().shipping.extend(events);
                    for call in calls {
                        want(train, call.step(), call.is_compensation());
                    }
                }
                other => return world.leave(order, &other),
            },
        }
        post(world.train(order), before);
        true
    }

    /// One attempt, as the shell makes it: counted, then as many questions as it takes.
    pub(crate) fn attempt(
        &self,
        world: &mut World,
        order: usize,
        step: Step,
        answered: bool,
        sent: Sent,
    ) {
        let errand = &mut world.train(order).errands[step as usize];
        let Slot::Open(mut call) = errand.slot else { return };
        let policy = Policy {
            attempts_max: self.attempts_max,
            key_life_ms: KEY_LIFE_MS,
            ..Policy::default()
        };
        call.attempts += 1;
        call.age_ms = if errand.forgotten { KEY_LIFE_MS } else { 0 };
        let key = (self.parts.key)(&call);
        let mut heard = Heard::Due;
        let settled = loop {
            match (self.parts.next)(&policy, &call, heard) {
                Next::Send => heard = Heard::Answer(send(errand, key, sent)),
                Next::LookUp => heard = Heard::Found(look_up(errand, key, answered)),
                Next::Confirm { code } => {
                    heard = Heard::Confirmed { code, found: look_up(errand, key, answered) };
                }
                Next::Settle(settled) => break settled,
                Next::Wait { in_doubt, .. } => {
                    call.in_doubt |= in_doubt;
                    call.age_ms = 0;
                    errand.slot = Slot::Open(call);
                    return;
                }
                Next::Stuck { .. } => {
                    errand.slot = Slot::Stuck;
                    return;
                }
            }
        };
        errand.slot = Slot::Settled;
        if let Some(input) = meaning(step, &settled) {
            self.apply(world, order, input);
        } else {
            world.train(order).unexpected = true;
        }
    }
}

impl World {
    /// A decision that changes nothing, but for the alarm when it was of what cannot be.
    fn leave<S, E, C, R>(&mut self, order: usize, decision: &Decision<S, E, C, R>) -> bool {
        let unexpected = matches!(decision, Decision::Unexpected(_));
        if unexpected {
            self.train(order).unexpected = true;
        }
        unexpected
    }
}

fn want(train: &mut Train, step: &str, compensation: bool) {
    for known in Step::ALL.into_iter().filter(|known| known.name() == step) {
        let call = CallState { attempts: 0, in_doubt: false, age_ms: 0, compensation };
        train.errands[known as usize].slot = Slot::Open(call);
    }
}

fn meaning(step: Step, settled: &Settled) -> Option<Input> {
    match step {
        Step::Capture | Step::Refund => {
            payment::domain::answered(step.name(), settled).map(Input::Payment)
        }
        Step::Book => shipping::domain::answered(step.name(), settled).map(Input::Shipping),
    }
}

fn send(errand: &mut Errand, key: u32, sent: Sent) -> Outcome {
    let answer = |found| match found {
        LookUp::Done { reference } => Outcome::Done { reference },
        LookUp::Refused { code } => Outcome::Refused { code },
        LookUp::Nothing | LookUp::Unknown { .. } => lost(),
    };
    match sent {
        Sent::Applied => answer(errand.arrive(key, true)),
        Sent::Refused => answer(errand.arrive(key, false)),
        Sent::AppliedAnswerLost => {
            errand.arrive(key, true);
            lost()
        }
        Sent::RefusedAnswerLost => {
            errand.arrive(key, false);
            lost()
        }
        Sent::RefusedUnread => Outcome::Refused { code: REFUSAL.to_owned() },
        Sent::NeverArrived => lost(),
        Sent::LandsLate => {
            errand.late = Some(key);
            lost()
        }
    }
}

fn lost() -> Outcome {
    Outcome::Unknown { code: String::new(), retry_after_ms: None }
}

fn look_up(errand: &Errand, key: u32, answered: bool) -> LookUp {
    if answered {
        errand.look_up(key)
    } else {
        LookUp::Unknown { code: String::new(), retry_after_ms: None }
    }
}
