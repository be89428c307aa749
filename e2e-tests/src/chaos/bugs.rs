//! Owns which statements each seeded bug must make untrue. Refuses to count anything that a slow
//! machine could do as well.

/// A bug that the services can be told to have.
#[derive(Debug)]
pub struct Bug {
    pub name: &'static str,
    /// One of these is untrue, whenever it is looked at.
    any_time: &'static [&'static str],
    /// Or one of these, once nothing moves: what is late would contradict them, too.
    at_rest: &'static [&'static str],
}

pub const BUGS: [Bug; 5] = [
    Bug {
        name: "no_inbox_no_idempotence",
        any_time: &["a cause has one decision", "a state has said what led to it"],
        at_rest: &[],
    },
    Bug {
        name: "fresh_key",
        any_time: &["a step has one key for ever", "an order is charged once at most"],
        at_rest: &[],
    },
    Bug {
        name: "ack_first",
        any_time: &[],
        at_rest: &["every event is handled or set aside by all who hear it"],
    },
    Bug { name: "dual_write", any_time: &[], at_rest: &["what was said is in its topic"] },
    Bug {
        name: "unknown_refused",
        any_time: &["every effect was wanted"],
        at_rest: &["money and parcels are what the end says"],
    },
];

impl Bug {
    pub fn named(name: &str) -> Option<&'static Self> {
        BUGS.iter().find(|bug| bug.name == name)
    }

    /// Whether what a run contradicted shows it.
    pub fn is_shown(&self, is_contradicted: impl Fn(&str) -> bool, came_to_rest: bool) -> bool {
        let at_rest = if came_to_rest { self.at_rest } else { &[] };
        self.any_time.iter().chain(at_rest).any(|statement| is_contradicted(statement))
    }

    /// What shows it.
    pub fn statements(&self) -> impl Iterator<Item = &'static str> {
        self.any_time.iter().chain(self.at_rest).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check;

    #[test]
    fn every_bug_is_shown_by_statements_of_the_checker() {
        for bug in BUGS {
            assert!(bug.statements().next().is_some(), "{}", bug.name);
            for statement in bug.statements() {
                assert!(check::statements().any(|known| known == statement), "{statement}");
                assert!(bug.is_shown(|it| it == statement, true), "{statement}");
            }
            assert!(!bug.is_shown(|it| bug.at_rest.contains(&it), false), "{}", bug.name);
        }
    }
}
