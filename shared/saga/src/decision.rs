//! Owns the answer of a participant to one input. Refuses to know who asks or how it is stored.

/// What a participant does with an input.
///
/// `S` is its state, `E` what it says, `C` what it wants from outside, `R` why it refuses a command.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Decision<S, E, C, R> {
    /// Nothing to do: a repeat, or news that no longer matters. Idempotence is this value.
    Unchanged,
    /// The next state, what is said about it, and which outside calls it wants, all or nothing.
    Become { state: S, events: Vec<E>, calls: Vec<C> },
    /// A command that cannot be carried out. Facts are never rejected.
    Rejected(R),
    /// What cannot be. Nothing changes; the input is set aside for a person to look at.
    Unexpected(&'static str),
}

impl<S, E, C, R> Decision<S, E, C, R> {
    /// The state becomes `state`, in silence so far.
    pub fn turn_to(state: S) -> Self {
        Self::Become { state, events: Vec::new(), calls: Vec::new() }
    }

    /// Also says `event`. Only a change of state can say something: on any other decision this is
    /// the decision itself.
    pub fn say(mut self, event: E) -> Self {
        if let Self::Become { events, .. } = &mut self {
            events.push(event);
        }
        self
    }

    /// Also wants `call` from outside, after the commit.
    pub fn call(mut self, call: C) -> Self {
        if let Self::Become { calls, .. } = &mut self {
            calls.push(call);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::Decision;

    #[test]
    fn only_a_change_says_or_wants_something() {
        let change: Decision<u8, &str, &str, ()> =
            Decision::turn_to(1).say("first").say("second").call("capture");
        let Decision::Become { state: 1, events, calls } = change else { panic!("no change") };
        assert_eq!((events, calls), (vec!["first", "second"], vec!["capture"]));

        let still: Decision<u8, &str, &str, ()> = Decision::Unchanged;
        assert_eq!(still.say("x").call("y"), Decision::Unchanged);
    }
}
