//! Owns when a lamp is lit. Refuses to know how the grid is asked.

use std::convert::Infallible;

use saga::{Decision, Settled};

use crate::events::{Heard, Said, Wall};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Absent,
    /// The switch was faster than the bulb: events come in any order.
    Awaited,
    Dark {
        label: String,
    },
    /// The power company is asked.
    Connecting {
        label: String,
    },
    Lit {
        label: String,
        level: u8,
    },
    Cut {
        label: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    Fit { label: String },
    Press,
    Turn { level: u8 },
    Connected { meter: String },
    Refused { code: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Connect { label: String },
}

impl Call {
    pub const CONNECT: &str = "connect";
}

/// As much as a lamp has room for.
const LABEL_BYTES_MAX: usize = 40;

/// A mistake left in on purpose: nobody thought of a label that is not all ASCII.
pub fn route(heard: &Heard) -> Input {
    match heard {
        Heard::Wall(Wall::BulbFitted { label }) => {
            Input::Fit { label: label[..label.len().min(LABEL_BYTES_MAX)].to_owned() }
        }
        Heard::Wall(Wall::SwitchPressed {}) => Input::Press,
        Heard::Wall(Wall::DimmerTurned { level }) => Input::Turn { level: *level },
    }
}

/// What the definite answer to a step means.
pub fn answered(step: &str, settled: &Settled) -> Option<Input> {
    match (step, settled) {
        (Call::CONNECT, Settled::Done { reference }) => {
            Some(Input::Connected { meter: reference.clone() })
        }
        (Call::CONNECT, Settled::Refused { code }) => Some(Input::Refused { code: code.clone() }),
        _ => None,
    }
}

pub fn decide(state: &State, input: &Input) -> Decision<State, Said, Call, Infallible> {
    use Decision::{Unchanged, Unexpected};
    use Input as In;
    use State::*;
    match (state, input) {
        (Absent, In::Fit { label }) => {
            Decision::turn_to(Dark { label: label.clone() }).say(fitted(label))
        }
        (Awaited, In::Fit { label }) => connect(label).say(fitted(label)),
        (Absent, In::Press) => Decision::turn_to(Awaited),
        (Dark { label }, In::Press) => connect(label),
        (Connecting { label }, In::Connected { meter }) => {
            Decision::turn_to(Lit { label: label.clone(), level: 100 })
                .say(Said::Lit { meter: meter.clone() })
        }
        (Connecting { label }, In::Refused { code }) => {
            Decision::turn_to(Cut { label: label.clone() }).say(Said::Cut { code: code.clone() })
        }
        (Lit { label, level: was }, In::Turn { level }) if level != was => dim(label, *level),

        // Repeats.
        (Awaited | Connecting { .. } | Lit { .. } | Cut { .. }, In::Press) => Unchanged,
        (Dark { .. } | Connecting { .. } | Lit { .. } | Cut { .. }, In::Fit { .. }) => Unchanged,
        (Lit { .. }, In::Turn { .. } | In::Connected { .. }) => Unchanged,
        (Cut { .. }, In::Refused { .. }) => Unchanged,

        (Absent | Awaited | Dark { .. } | Connecting { .. } | Cut { .. }, In::Turn { .. }) => {
            Unexpected("a dimmer turned on a lamp that was never lit")
        }
        (Absent | Awaited | Dark { .. }, In::Connected { .. } | In::Refused { .. }) => {
            Unexpected("an answer to a question never asked")
        }
        (Lit { .. }, In::Refused { .. }) | (Cut { .. }, In::Connected { .. }) => {
            Unexpected("two answers to one question")
        }
    }
}

fn fitted(label: &str) -> Said {
    Said::Fitted { label: label.to_owned() }
}

fn connect(label: &str) -> Decision<State, Said, Call, Infallible> {
    Decision::turn_to(State::Connecting { label: label.to_owned() })
        .call(Call::Connect { label: label.to_owned() })
}

/// Two mistakes left in on purpose. Nobody thought of a dimmer at zero: the shell sets aside the
/// input that panics, and nothing else. And above full light this waits for ever, which is an error
/// that no shell can mend: it can only end in time when it is asked to.
fn dim(label: &str, level: u8) -> Decision<State, Said, Call, Infallible> {
    if level > 100 {
        loop {
            std::thread::park();
        }
    }
    let ohms = 10_000 / u16::from(level);
    Decision::turn_to(State::Lit { label: label.to_owned(), level })
        .say(Said::Dimmed { level, ohms })
}
