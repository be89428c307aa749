//! Owns what is to go wrong, when, and for how long: drawn from a seed, kept as JSON lines, and read
//! back. Refuses to do any of it.

use std::time::Duration;

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::fault::{Class, Fault, Harm, Mode, Provider};
use crate::SERVICES;
use crate::link::{To, Weather};

/// A shorter run meets too little to say anything.
pub const SECONDS_MIN: u64 = 30;
/// In a longer one the in-memory broker would forget its first records, which the checker wants.
const SECONDS_MAX: u64 = 300;
/// A storm, then everything heals and comes to rest; a longer run has more of them.
const ROUND_SECONDS: u64 = 60;
/// At the start of a round nothing is broken yet.
const CALM_MS: u64 = 5_000;
const LINK_MS_MAX: u64 = 8_000;
/// A weather that nobody has met yet stays a little longer.
const LINK_PAUSE_MS: u64 = 7_000;
const LINK_WEATHERS: u8 = 5;
/// Of four events of each order on one topic, a kibibyte each, some of them repeated, so many fill
/// four fifths of what the in-memory broker keeps.
const ORDERS_MAX: u64 = 3_600;
/// Long enough for what was read meanwhile to be committed at the broker, were that allowed.
const DEAF_MS: u64 = 6_500;
/// Faults of one class keep this part of their mean gap between them.
const APART_PERCENT: u64 = 40;

/// A whole run's faults.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    pub head: Head,
    /// By round and time.
    pub faults: Vec<Planned>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub seed: u64,
    pub seconds: u64,
    pub rounds: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    pub round: u64,
    /// Since the round began.
    pub at_ms: u64,
    pub lasts_ms: u64,
    pub fault: Fault,
}

impl Head {
    fn storm_ms(self) -> u64 {
        (self.seconds * 1_000 / self.rounds).saturating_sub(CALM_MS)
    }

    /// From the first order of a round to the end of its last fault.
    pub fn round(self) -> Duration {
        Duration::from_millis(CALM_MS + self.storm_ms())
    }

    /// Refuses more orders than the in-memory broker can keep the records of.
    pub fn ensure_remembered(self, orders_per_second: u32) -> anyhow::Result<()> {
        let orders = u64::from(orders_per_second) * self.seconds;
        ensure!(
            orders <= ORDERS_MAX,
            "{orders} orders: the broker in memory keeps the records of {ORDERS_MAX} for sure"
        );
        Ok(())
    }

    fn storm_seconds(self) -> u64 {
        self.storm_ms() * self.rounds / 1_000
    }

    /// So many faults of a class must have struck, or the run says nothing.
    pub fn minimum(self, class: Class) -> usize {
        let two_thirds = self.storm_seconds() * 2 / (class.gap_seconds() * 3);
        usize::try_from(two_thirds.max(1)).unwrap_or(usize::MAX)
    }
}

impl Schedule {
    pub fn draw(seed: u64, seconds: u64) -> anyhow::Result<Self> {
        ensure!(
            (SECONDS_MIN..=SECONDS_MAX).contains(&seconds),
            "{seconds} seconds: a run takes {SECONDS_MIN} to {SECONDS_MAX}"
        );
        let head = Head { seed, seconds, rounds: (seconds / ROUND_SECONDS).max(1) };
        let mut drawing = Drawing::of(head);
        drawing.broker();
        drawing.postgres();
        drawing.deaf();
        drawing.links();
        drawing.kills();
        drawing.stops();
        drawing.providers();
        drawing.records();
        let mut faults = drawing.faults;
        faults.sort_by_key(|planned| (planned.round, planned.at_ms));
        Ok(Self { head, faults })
    }

    /// The head, then a line for each fault.
    pub fn to_lines(&self) -> anyhow::Result<String> {
        let mut lines = serde_json::to_string(&self.head)? + "\n";
        for planned in &self.faults {
            lines.push_str(&serde_json::to_string(planned)?);
            lines.push('\n');
        }
        Ok(lines)
    }

    pub fn from_lines(text: &str) -> anyhow::Result<Self> {
        let mut lines = text.lines();
        let head = lines.next().context("an empty schedule")?;
        let head: Head = serde_json::from_str(head).context("line 1 is not a schedule's head")?;
        ensure!(head.rounds > 0 && head.storm_ms() > 0, "a schedule without a storm");
        let read = |(line, number): (&str, u32)| {
            serde_json::from_str(line).with_context(|| format!("line {number} is not a fault"))
        };
        let faults: Vec<Planned> = lines.zip(2..).map(read).collect::<anyhow::Result<_>>()?;
        ensure!(faults.iter().all(|planned| planned.round < head.rounds), "a fault after the end");
        Ok(Self { head, faults })
    }
}

/// When, in the time of all storms one after the other.
type Moment = u64;

struct Drawing {
    head: Head,
    dice: StdRng,
    faults: Vec<Planned>,
}

impl Drawing {
    fn of(head: Head) -> Self {
        Self { head, dice: StdRng::seed_from_u64(head.seed), faults: Vec::new() }
    }

    /// As many moments as a class's mean gap has room for, one in each part of the time.
    fn moments(&mut self, class: Class) -> Vec<Moment> {
        let (all_ms, gap_ms) =
            (self.head.storm_ms() * self.head.rounds, class.gap_seconds() * 1_000);
        let count = ((all_ms + gap_ms / 2) / gap_ms).max(1);
        let part_ms = all_ms / count;
        let loose_ms = part_ms * (100 - APART_PERCENT) / 100;
        let moment = |part| part * part_ms + self.dice.random_range(0..=loose_ms);
        (0..count).map(moment).collect()
    }

    /// A fault never outlasts its round.
    fn plan(&mut self, moment: Moment, lasts_ms: u64, fault: Fault) -> Planned {
        let storm_ms = self.head.storm_ms();
        let (round, into_ms) = (moment / storm_ms, moment % storm_ms);
        let into_ms = into_ms.min(storm_ms.saturating_sub(lasts_ms));
        let lasts_ms = lasts_ms.min(storm_ms - into_ms);
        let planned = Planned { round, at_ms: CALM_MS + into_ms, lasts_ms, fault };
        self.faults.push(planned.clone());
        planned
    }

    /// While a fault lasts, when so much of it is over.
    fn kill_within(&mut self, planned: &Planned, percent: u64, process: String) {
        let at_ms = planned.at_ms + planned.lasts_ms * percent / 100;
        let fault = Fault::Kill { process };
        self.faults.push(Planned { round: planned.round, at_ms, lasts_ms: 0, fault });
    }

    fn process(&mut self) -> String {
        let service = self.service();
        self.process_of(service)
    }

    fn service(&mut self) -> &'static str {
        SERVICES.choose(&mut self.dice).copied().unwrap_or(SERVICES[0])
    }

    fn process_of(&mut self, service: &str) -> String {
        let second = self.dice.random_bool(0.5);
        if second { format!("{service}-2") } else { service.to_owned() }
    }

    /// While it is away, processes die with events that it has not got.
    fn broker(&mut self) {
        for (moment, weather) in self
            .moments(Class::Broker)
            .into_iter()
            .zip([Weather::BlackHole, Weather::Reset].into_iter().cycle())
        {
            let lasts_ms = self.dice.random_range(2_000..=10_000);
            let cut = self.plan(moment, lasts_ms, Fault::Broker { weather });
            let entrance = self.process_of("order");
            self.kill_within(&cut, 50, entrance);
            let other = self.process();
            self.kill_within(&cut, 80, other);
        }
    }

    fn postgres(&mut self) {
        let mut harms = [Harm::GroupKill, Harm::BackendKill, Harm::TerminateAll, Harm::Stop];
        harms.shuffle(&mut self.dice);
        for (moment, harm) in
            self.moments(Class::Postgres).into_iter().zip(harms.into_iter().cycle())
        {
            let lasts_ms =
                if harm == Harm::Stop { self.dice.random_range(1_500..=4_000) } else { 0 };
            let harmed = self.plan(moment, lasts_ms, Fault::Postgres { harm });
            if harm == Harm::Stop {
                let process = self.process();
                self.kill_within(&harmed, 70, process);
            }
        }
    }

    /// Once in a round both instances of a service read on and can write nothing, and die so.
    fn deaf(&mut self) {
        for round in 0..self.head.rounds {
            let service = SERVICES[1..].choose(&mut self.dice).copied().unwrap_or(SERVICES[1]);
            let storm_ms = self.head.storm_ms();
            let moment = round * storm_ms + self.dice.random_range(0..storm_ms - DEAF_MS);
            for process in [service.to_owned(), format!("{service}-2")] {
                let (to, weather) = (To::Postgres, Weather::BlackHole);
                let fault = Fault::Link { process: process.clone(), to, weather };
                let broken = self.plan(moment, DEAF_MS, fault);
                self.kill_within(&broken, 85, process);
            }
        }
    }

    /// Every third process that has lost Postgres dies before it finds it again, with whatever it
    /// had heard meanwhile.
    fn links(&mut self) {
        let targets: Vec<(String, To)> = SERVICES
            .iter()
            .flat_map(|service| [(*service).to_owned(), format!("{service}-2")])
            .flat_map(|process| {
                let provider = ["payment", "shipping"].iter().any(|it| process.starts_with(it));
                let provider = provider.then(|| (process.clone(), To::Provider));
                [(process, To::Postgres)].into_iter().chain(provider)
            })
            .collect();
        let mut kinds: Vec<u8> = (0..LINK_WEATHERS).collect();
        kinds.shuffle(&mut self.dice);
        let mut without_postgres = 0;
        for (moment, kind) in self.moments(Class::Link).into_iter().zip(kinds.into_iter().cycle()) {
            let free = targets.iter().filter(|(process, to)| !self.is_broken(process, *to, moment));
            let free: Vec<_> = free.cloned().collect();
            let Some((process, to)) = free.choose(&mut self.dice).cloned() else { continue };
            let (weather, lasts_ms) = self.weather(kind, to);
            let fault = Fault::Link { process: process.clone(), to, weather };
            let broken = self.plan(moment, lasts_ms, fault);
            if to == To::Postgres && matches!(weather, Weather::BlackHole | Weather::Reset) {
                without_postgres += 1;
                if without_postgres % 3 == 1 {
                    self.kill_within(&broken, 80, process);
                }
            }
        }
    }

    /// Whether a link has, or will soon have, some weather already.
    fn is_broken(&self, process: &str, to: To, moment: Moment) -> bool {
        let storm_ms = self.head.storm_ms();
        let (round, into_ms) = (moment / storm_ms, moment % storm_ms);
        // What would outlast its round begins earlier.
        let from_ms = CALM_MS + into_ms.min(storm_ms - LINK_MS_MAX);
        let until_ms = CALM_MS + into_ms + LINK_MS_MAX;
        self.faults.iter().any(|it| {
            let Fault::Link { process: broken, to: leads, .. } = &it.fault else { return false };
            (it.round, broken.as_str(), *leads) == (round, process, to)
                && it.at_ms < until_ms + LINK_PAUSE_MS
                && from_ms < it.at_ms + it.lasts_ms + LINK_PAUSE_MS
        })
    }

    /// A provider is asked less often than Postgres, and in fewer words.
    fn weather(&mut self, kind: u8, to: To) -> (Weather, u64) {
        let (least_ms, most_bytes) = match to {
            To::Postgres => (200, 20_000),
            To::Provider => (2_000, 2_000),
        };
        let weather = match kind {
            0 => Weather::Delay(Duration::from_millis(self.dice.random_range(50..=300))),
            1 => Weather::BlackHole,
            2 => Weather::Reset,
            3 => Weather::CutAfter(self.dice.random_range(200..=most_bytes)),
            _ => Weather::DropReplies,
        };
        (weather, self.dice.random_range(least_ms..=LINK_MS_MAX))
    }

    /// Those that no other fault has brought with it.
    fn kills(&mut self) {
        let mut moments = self.moments(Class::Kill);
        let there = self.faults.iter().filter(|it| it.fault.class() == Class::Kill).count();
        let left = moments.len().saturating_sub(there).max(moments.len() / 2);
        moments.shuffle(&mut self.dice);
        for moment in moments.into_iter().take(left) {
            let process = self.process();
            self.plan(moment, 0, Fault::Kill { process });
        }
    }

    fn stops(&mut self) {
        for moment in self.moments(Class::Stop) {
            let (process, lasts_ms) = (self.process(), self.dice.random_range(1_000..=6_000));
            self.plan(moment, lasts_ms, Fault::Stop { process });
        }
    }

    fn providers(&mut self) {
        let modes = [Mode::LoseAnswers, Mode::Errors, Mode::Late, Mode::Down, Mode::Slow];
        let moments = self.moments(Class::Provider);
        for (moment, mode) in moments.into_iter().zip(modes.into_iter().cycle()) {
            let provider =
                if self.dice.random_bool(0.5) { Provider::Payment } else { Provider::Carrier };
            let share = f64::from(self.dice.random_range(3..=10_u8)) / 10.0;
            let lasts_ms = self.dice.random_range(3_000..=8_000);
            self.plan(moment, lasts_ms, Fault::Provider { provider, mode, share });
        }
    }

    fn records(&mut self) {
        for moment in self.moments(Class::Repeat) {
            self.plan(moment, 0, Fault::Repeat);
        }
        for moment in self.moments(Class::BadRecords) {
            self.plan(moment, 0, Fault::BadRecords);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::chaos::fault::KINDS;
    use crate::chaos::nemesis::EXTRA;

    #[test]
    fn one_seed_is_one_schedule_and_another_is_another() {
        let draw = |seed| Schedule::draw(seed, 180).expect("long enough");
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7).faults, draw(8).faults);
    }

    #[test]
    fn a_schedule_that_was_written_is_read_back() {
        let schedule = Schedule::draw(3, 90).expect("long enough");
        let lines = schedule.to_lines().expect("plain data");
        assert_eq!(lines.lines().count(), schedule.faults.len() + 1);
        assert_eq!(Schedule::from_lines(&lines).expect("what was written"), schedule);
    }

    #[test]
    fn a_line_that_makes_no_sense_is_named() {
        let lines = Schedule::draw(3, 30).and_then(|schedule| schedule.to_lines());
        let lines = lines.expect("plain data").replacen("\"lasts_ms\"", "\"takes_ms\"", 1);
        let refused = Schedule::from_lines(&lines).expect_err("no duration");
        assert_eq!(refused.to_string(), "line 2 is not a fault");
    }

    #[test]
    fn a_run_that_is_too_short_or_too_long_is_refused() {
        assert!(Schedule::draw(1, SECONDS_MIN - 1).is_err());
        assert!(Schedule::draw(1, SECONDS_MAX + 1).is_err());
    }

    #[test]
    fn every_class_strikes_at_least_its_minimum_and_nothing_outlasts_its_round() {
        for (seed, seconds) in (0..50).flat_map(|seed| [30, 60, 90, 180].map(|it| (seed, it))) {
            let schedule = Schedule::draw(seed, seconds).expect("long enough");
            let round_ms = schedule.head.round().as_millis();
            for class in Class::ALL {
                let count = schedule.faults.iter().filter(|it| it.fault.class() == class).count();
                let minimum = schedule.head.minimum(class);
                assert!(count >= minimum, "{seed} {seconds}: {count} of {minimum} {class:?}");
            }
            for planned in &schedule.faults {
                let ends_ms = u128::from(planned.at_ms + planned.lasts_ms);
                assert!(planned.at_ms >= CALM_MS && ends_ms <= round_ms, "{planned:?}");
            }
        }
    }

    #[test]
    fn the_broker_and_postgres_have_one_trouble_at_a_time() {
        for seed in 0..50 {
            let schedule = Schedule::draw(seed, 180).expect("long enough");
            for class in [Class::Broker, Class::Postgres, Class::Provider] {
                let own = schedule.faults.iter().filter(|it| it.fault.class() == class);
                let own: Vec<_> = own.collect();
                let apart = own.windows(2).all(|pair| {
                    pair[0].round < pair[1].round
                        || pair[0].at_ms + pair[0].lasts_ms <= pair[1].at_ms
                });
                assert!(apart, "{seed}: {own:?}");
            }
        }
    }

    #[test]
    fn a_link_has_one_weather_at_a_time_however_long_nobody_meets_it() {
        let extra_ms = u64::try_from(EXTRA.as_millis()).expect("some seconds");
        for (seed, seconds) in (0..50).flat_map(|seed| [30, 60, 90, 180].map(|it| (seed, it))) {
            let schedule = Schedule::draw(seed, seconds).expect("long enough");
            let mut free_at: BTreeMap<(u64, &str, bool), u64> = BTreeMap::new();
            for planned in &schedule.faults {
                let Fault::Link { process, to, .. } = &planned.fault else { continue };
                let link = (planned.round, process.as_str(), *to == To::Postgres);
                let ends_ms = planned.at_ms + planned.lasts_ms + extra_ms;
                let free_at_ms = free_at.insert(link, ends_ms).unwrap_or_default();
                assert!(free_at_ms <= planned.at_ms, "{seed} {seconds}: {planned:?}");
            }
        }
    }

    #[test]
    fn a_longer_run_has_every_kind_of_fault() {
        for seed in 0..50 {
            let schedule = Schedule::draw(seed, 180).expect("long enough");
            let kinds: BTreeSet<_> =
                schedule.faults.iter().filter_map(|it| it.fault.kind()).collect();
            assert_eq!(kinds, KINDS.into_iter().collect(), "{seed}");
        }
    }

    #[test]
    fn more_orders_than_the_broker_can_keep_are_refused() {
        let head = Schedule::draw(1, 180).expect("long enough").head;
        assert!(head.ensure_remembered(10).is_ok() && head.ensure_remembered(20).is_ok());
        assert!(head.ensure_remembered(21).is_err());
    }

    #[test]
    fn a_process_dies_while_the_broker_is_away() {
        for seed in 0..50 {
            let schedule = Schedule::draw(seed, 60).expect("long enough");
            let cut = schedule.faults.iter().find(|it| it.fault.class() == Class::Broker);
            let cut = cut.expect("one at least");
            let within = |it: &&Planned| {
                it.round == cut.round
                    && (cut.at_ms..cut.at_ms + cut.lasts_ms).contains(&it.at_ms)
                    && matches!(&it.fault, Fault::Kill { process } if process.starts_with("order"))
            };
            assert!(schedule.faults.iter().any(|it| within(&it)), "{seed}");
        }
    }
}
