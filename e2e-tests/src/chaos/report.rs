//! Owns what is published of a run: the figures, the verdict, a table for a person. Refuses to call
//! a run green that has shown too little.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::bugs::Bug;
use super::fault::{Class, KINDS};
use super::load::Operations;
use super::schedule::Head;
use super::struck::{Struck, Until, undisturbed};

const EVIDENCE_PERCENT_MIN: usize = 95;
const OK_PERCENT_MIN: u64 = 30;
/// In a round.
const LOOKS_MIN: u64 = 3;
/// In so long a run each kind of fault has its turn.
const KINDS_SECONDS_MIN: u64 = 180;

/// Everything about a run.
#[derive(Debug, Serialize)]
pub struct Report {
    #[serde(flatten)]
    pub head: Head,
    pub commit: String,
    pub bug: Option<String>,
    pub broker: &'static str,
    pub orders_per_second: u32,
    pub operations: Operations,
    /// Customers who asked the same again, who hung up, and who cancelled while they could.
    pub same_again: u64,
    pub hung_up: u64,
    pub cancels_taken: usize,
    pub sagas: Sagas,
    /// By statement, with those that nothing contradicts.
    pub violations: BTreeMap<&'static str, usize>,
    /// Some of them in words.
    pub told: Vec<String>,
    pub faults: Vec<Struck>,
    pub duplicates_delivered: usize,
    pub duplicates_discarded: u64,
    /// Events that the dispatcher had to publish.
    pub dispatched: u64,
    /// Batches that ran again.
    pub reruns: u64,
    pub provider_answers_from_a_key: u64,
    pub bad_records: usize,
    pub dead_letters_expected: usize,
    pub dead_letters_found: usize,
    pub heal_to_quiet_ms: Vec<u128>,
    pub corruptions: usize,
    /// None where the stack was corrupted already.
    pub corruptions_found: Option<usize>,
    /// In the storm and after it.
    pub looks: usize,
    /// There were answers to customers until the last fault was over.
    pub load_ran_on: bool,
    /// When it was looked at in full, nothing moved any more, whether all was done or not.
    pub came_to_a_stand: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sagas {
    pub started: usize,
    pub confirmed: usize,
    pub cancelled: usize,
}

/// What a run says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Green,
    /// A statement was contradicted; in a run with a seeded bug, one that shows this bug.
    Red,
    /// Nothing was, but too little was shown.
    Void,
}

impl Report {
    pub fn verdict(&self) -> Verdict {
        let is_red = match &self.bug {
            Some(bug) => self.finds(bug),
            None => self.violations.values().any(|count| *count > 0),
        };
        if is_red {
            Verdict::Red
        } else if self.void_because().is_empty() {
            Verdict::Green
        } else {
            Verdict::Void
        }
    }

    fn finds(&self, bug: &str) -> bool {
        let is_contradicted =
            |statement: &str| self.violations.get(statement).is_some_and(|count| *count > 0);
        Bug::named(bug).is_some_and(|bug| bug.is_shown(is_contradicted, self.came_to_a_stand))
    }

    /// What the run failed to show.
    pub fn void_because(&self) -> Vec<String> {
        let mut why = Vec::new();
        let mut unless = |shown: bool, what: String| {
            if !shown {
                why.push(what);
            }
        };
        if let Some(bug) = &self.bug {
            unless(self.finds(bug), format!("nothing that {bug} makes untrue was found untrue"));
        }
        let (all, shown) = (self.faults.len(), self.shown(None));
        unless(
            shown * 100 >= all * EVIDENCE_PERCENT_MIN,
            format!("only {shown} of {all} faults have evidence"),
        );
        for class in Class::ALL {
            let (minimum, shown) = (self.head.minimum(class), self.shown(Some(class)));
            let name = class.name();
            unless(shown >= minimum, format!("{name}: {shown} shown, {minimum} wanted"));
        }
        let is_shown = |kind: &&str| {
            let mut of_kind = self.of(None).filter(|it| it.planned.fault.kind() == Some(*kind));
            of_kind.any(|struck| struck.evidence.is_ok())
        };
        let unshown: Vec<_> = KINDS.into_iter().filter(|kind| !is_shown(kind)).collect();
        // One may have had a single turn, and missed.
        let is_shown = unshown.len() <= 1 || self.head.seconds < KINDS_SECONDS_MIN;
        unless(is_shown, format!("not shown: {}", unshown.join(", ")));
        let Operations { ok, fail, info } = self.operations;
        let all = ok + fail + info;
        unless(ok * 100 >= all * OK_PERCENT_MIN && ok > 0, format!("{ok} of {all} requests ok"));
        unless(self.same_again > 0, "no customer asked again and heard the same".to_owned());
        unless(self.hung_up > 0, "no customer hung up".to_owned());
        unless(self.cancels_taken > 0, "no customer cancelled in time".to_owned());
        unless(self.duplicates_delivered > 0, "no duplicate was delivered".to_owned());
        unless(self.duplicates_discarded > 0, "no duplicate was discarded".to_owned());
        unless(self.dispatched > 0, "the dispatcher had nothing to publish".to_owned());
        let wanted = LOOKS_MIN * self.head.rounds;
        unless(self.looks as u64 >= wanted, format!("{} of {wanted} looks", self.looks));
        let repeated = self.provider_answers_from_a_key;
        unless(repeated > 0, "no provider answered from a key".to_owned());
        unless(self.load_ran_on, "no customer was served when the faults stopped".to_owned());
        let (found, planted) = (self.corruptions_found.unwrap_or(0), self.corruptions);
        unless(
            found == planted && planted > 0,
            format!("the checker found {found} of {planted} planted corruptions"),
        );
        why
    }

    fn shown(&self, class: Option<Class>) -> usize {
        self.of(class).filter(|struck| struck.evidence.is_ok()).count()
    }

    fn of(&self, class: Option<Class>) -> impl Iterator<Item = &Struck> {
        self.faults.iter().filter(move |struck| class.is_none_or(|class| struck.class() == class))
    }

    /// For a person, with the verdict in the last line.
    pub fn table(&self) -> String {
        let mut table = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(table, "{name:<40} {value}");
        };
        let Head { seed, seconds, rounds } = self.head;
        line("seed, seconds, rounds", format!("{seed}, {seconds}, {rounds}"));
        line("commit", self.commit.clone());
        if let Some(bug) = &self.bug {
            line("seeded bug", bug.clone());
        }
        line("broker", self.broker.to_owned());
        let Operations { ok, fail, info } = self.operations;
        line("requests ok / fail / info", format!("{ok} / {fail} / {info}"));
        let Sagas { started, confirmed, cancelled } = self.sagas;
        line(
            "sagas started / confirmed / cancelled",
            format!("{started} / {confirmed} / {cancelled}"),
        );
        line("asked again / hung up / cancelled", {
            format!("{} / {} / {}", self.same_again, self.hung_up, self.cancels_taken)
        });
        line("duplicates delivered / discarded", {
            format!("{} / {}", self.duplicates_delivered, self.duplicates_discarded)
        });
        line("events the dispatcher had to publish", self.dispatched.to_string());
        line("batches that ran again", self.reruns.to_string());
        line("provider answers from a key", self.provider_answers_from_a_key.to_string());
        line("bad records, dead letters due / found", {
            let (due, found) = (self.dead_letters_expected, self.dead_letters_found);
            format!("{}, {due} / {found}", self.bad_records)
        });
        line("heal to quiet, p50 / max", seconds_of(&self.heal_to_quiet_ms));
        let back = |until| seconds_of(&undisturbed(&self.faults, until));
        line("killed process ready, p50 / max", back(Until::Ready));
        line("with partitions (at the broker's pace)", back(Until::Moving));
        line("looks at the whole stack", self.looks.to_string());
        line("planted corruptions found", {
            let found = self.corruptions_found.map(|found| format!("{found} of "));
            format!("{}{}", found.unwrap_or_else(|| "not tried, of ".to_owned()), self.corruptions)
        });
        line("", String::new());
        line("faults", "planned / with evidence / minimum".to_owned());
        for class in Class::ALL {
            let (planned, shown) = (self.of(Some(class)).count(), self.shown(Some(class)));
            let minimum = self.head.minimum(class);
            line(&format!("  {}", class.name()), format!("{planned} / {shown} / {minimum}"));
        }
        line("", String::new());
        line("statements", "violations".to_owned());
        for (statement, count) in &self.violations {
            line(&format!("  {statement}"), count.to_string());
        }
        for told in &self.told {
            line(&format!("! {told}"), String::new());
        }
        table + "\n" + &self.last_words()
    }

    fn last_words(&self) -> String {
        let (faults, sagas) = (self.shown(None), self.sagas.started);
        let statements = self.violations.len();
        let run = format!("{faults} faults, {sagas} sagas, seed {}", self.head.seed);
        match self.verdict() {
            Verdict::Green => {
                format!("chaos: GREEN: 0 violations of {statements} statements, {run}")
            }
            Verdict::Red => {
                let violations: usize = self.violations.values().sum();
                format!("chaos: RED: {violations} violations of {statements} statements, {run}")
            }
            Verdict::Void => format!("chaos: VOID: {}; {run}", self.void_because().join("; ")),
        }
    }
}

/// The median and the largest of some times, and how many there are.
fn seconds_of(times_ms: &[u128]) -> String {
    let mut sorted = times_ms.to_vec();
    sorted.sort_unstable();
    let seconds = |ms: &u128| format!("{}.{:03} s", ms / 1_000, ms % 1_000);
    let (median, largest) = (sorted.get(sorted.len() / 2), sorted.last());
    let [median, largest] =
        [median, largest].map(|time| time.map_or_else(|| "none".to_owned(), seconds));
    format!("{median} / {largest} of {}", sorted.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::schedule::{Planned, Schedule};

    fn struck(planned: &Planned) -> Struck {
        let planned = planned.clone();
        let from_ms = u128::from(planned.at_ms);
        let evidence = Ok("seen".to_owned());
        Struck { evidence, from_ms, until_ms: from_ms + 10, back: None, planned }
    }

    fn green() -> Report {
        let schedule = Schedule::draw(1, 60).expect("long enough");
        Report {
            head: schedule.head,
            commit: "none".to_owned(),
            bug: None,
            broker: "none",
            orders_per_second: 10,
            operations: Operations { ok: 30, fail: 35, info: 35 },
            same_again: 1,
            hung_up: 1,
            cancels_taken: 1,
            sagas: Sagas { started: 30, confirmed: 20, cancelled: 10 },
            violations: BTreeMap::from([("water is wet", 0), ("fire is hot", 0)]),
            told: Vec::new(),
            faults: schedule.faults.iter().map(struck).collect(),
            duplicates_delivered: 1,
            duplicates_discarded: 1,
            dispatched: 1,
            reruns: 0,
            provider_answers_from_a_key: 1,
            bad_records: 8,
            dead_letters_expected: 25,
            dead_letters_found: 25,
            heal_to_quiet_ms: vec![3_000, 1_250, 2_000],
            corruptions: 12,
            corruptions_found: Some(12),
            looks: 3,
            load_ran_on: true,
            came_to_a_stand: true,
        }
    }

    #[test]
    fn a_run_that_shows_all_and_contradicts_nothing_is_green() {
        let report = green();
        assert_eq!((report.verdict(), report.void_because()), (Verdict::Green, Vec::new()));
        let table = report.table();
        assert!(table.contains("2.000 s / 3.000 s of 3"), "{table}");
        let last = table.lines().last().unwrap_or_default();
        assert!(last.starts_with("chaos: GREEN: 0 violations of 2 statements"), "{last}");
    }

    #[test]
    fn a_violation_is_red_even_in_a_run_that_shows_too_little() {
        let report = Report {
            violations: BTreeMap::from([("water is wet", 2)]),
            load_ran_on: false,
            ..green()
        };
        assert_eq!(report.verdict(), Verdict::Red);
        assert!(report.table().lines().last().is_some_and(|last| last.contains("RED: 2")));
    }

    /// What a report says it lacks, and a way to lack it.
    type Lack = (&'static str, fn(&mut Report));

    #[test]
    fn a_run_that_shows_too_little_is_void_and_says_what_it_lacks() {
        let without: [Lack; 15] = [
            ("faults have evidence", |it| {
                let unseen = it.faults.len() / 20 + 1;
                for struck in it.faults.iter_mut().take(unseen) {
                    struck.evidence = Err("nothing".to_owned());
                }
            }),
            ("broker cut off: 0 shown, 1 wanted", |it| {
                it.faults.retain(|struck| struck.class() != Class::Broker);
            }),
            ("29 of 100 requests ok", |it| {
                it.operations = Operations { ok: 29, fail: 71, info: 0 };
            }),
            ("0 of 0 requests ok", |it| it.operations = Operations::default()),
            ("no customer asked again", |it| it.same_again = 0),
            ("no customer hung up", |it| it.hung_up = 0),
            ("no customer cancelled", |it| it.cancels_taken = 0),
            ("no duplicate was delivered", |it| it.duplicates_delivered = 0),
            ("no duplicate was discarded", |it| it.duplicates_discarded = 0),
            ("the dispatcher had nothing", |it| it.dispatched = 0),
            ("2 of 3 looks", |it| it.looks = 2),
            ("not shown: a black hole, a reset", |it| {
                let schedule = Schedule::draw(1, 180).expect("long enough");
                (it.head, it.looks) = (schedule.head, 9);
                it.faults = schedule.faults.iter().map(struck).collect();
                let unshown = [Some("a black hole"), Some("a reset")];
                it.faults.retain(|struck| !unshown.contains(&struck.planned.fault.kind()));
            }),
            ("no provider answered from a key", |it| it.provider_answers_from_a_key = 0),
            ("no customer was served", |it| it.load_ran_on = false),
            ("found 11 of 12 planted", |it| it.corruptions_found = Some(11)),
        ];
        for (lack, change) in without {
            let mut report = green();
            change(&mut report);
            let why = report.void_because().join("; ");
            assert!(report.verdict() == Verdict::Void && why.contains(lack), "{lack}: {why}");
        }
    }

    #[test]
    fn a_seeded_bug_is_found_only_by_what_shows_it() {
        let unheard = "every event is handled or set aside by all who hear it";
        let slow = "nothing moves any more within a minute of the heal";
        let found = |violated: &'static str, came_to_a_stand| {
            let bug = Some("ack_first".to_owned());
            let violations = BTreeMap::from([(violated, 3)]);
            Report { bug, violations, came_to_a_stand, ..green() }.verdict()
        };
        assert_eq!(found(unheard, true), Verdict::Red);
        assert_eq!(found(unheard, false), Verdict::Void, "it may only be late");
        assert_eq!(found(slow, true), Verdict::Void);
        let none = Report { bug: Some("ack_first".to_owned()), ..green() };
        assert_eq!(none.verdict(), Verdict::Void);
    }
}
