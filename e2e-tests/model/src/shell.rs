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
    pub(crate) fn deliver(&self, world: &mut World, order: usize, letter: Letter) {
        let train = world.train(order);
        train.handled.add(letter);
        if self.parts.shell == Shell::FrozenByALetter && train.aside.is_some() {
            return;
        }
        let Some(input) = heard(train, letter) else { return };
        if cancels_for_good(train, &input) {
            train.must_come_back = true;
        }
        self.apply(world, order, input);
    }

    /// One decision is one transaction: the state, what is said, and which calls are wanted.
    pub(crate) fn apply(&self, world: &mut World, order: usize, input: Input) {
        let World { trains, stock, .. } = world;
        let train = Arc::make_mut(&mut trains[order]);
        let before = train.said.lengths();
        let unexpected = &mut train.unexpected;
        match input {
            Input::Order(input) => {
                let decision = (self.parts.order)(&train.order, &input);
                settle(decision, &mut train.order, &mut train.said.order, unexpected);
            }
            Input::Inventory(input) => {
                let step = train.inventory.clone();
                let mut state = inventory::domain::State { step, stock: stock.clone() };
                let decision = (self.parts.inventory)(&state, &input);
                settle(decision, &mut state, &mut train.said.inventory, unexpected);
                inventory::domain::State { step: train.inventory, stock: *stock } = state;
            }
            Input::Payment(input) => {
                let decision = (self.parts.payment)(&train.payment, &input);
                let said = &mut train.said.payment;
                for call in settle(decision, &mut train.payment, said, unexpected) {
                    want(train, call.step(), call.is_compensation());
                }
            }
            Input::Shipping(input) => {
                let decision = (self.parts.shipping)(&train.shipping, &input);
                let said = &mut train.said.shipping;
                for call in settle(decision, &mut train.shipping, said, unexpected) {
                    want(train, call.step(), call.is_compensation());
                }
            }
        }
        post(train, before);
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
        let train = world.train(order);
        let errand = &mut train.errands[step as usize];
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
                Next::LookUp if answered => heard = Heard::Found(errand.look_up(key)),
                Next::LookUp => heard = Heard::Found(unknown_look_up()),
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
            train.unexpected = true;
        }
    }
}

fn settle<S, E, C, R>(
    decision: Decision<S, E, C, R>,
    slot: &mut S,
    said: &mut Vec<E>,
    unexpected: &mut bool,
) -> Vec<C> {
    match decision {
        Decision::Become { state, events, calls } => {
            *slot = state;
            said.extend(events);
            calls
        }
        Decision::Unchanged | Decision::Rejected(_) => Vec::new(),
        Decision::Unexpected(_) => {
            *unexpected = true;
            Vec::new()
        }
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

fn unknown_look_up() -> LookUp {
    LookUp::Unknown { code: String::new(), retry_after_ms: None }
}
