//! Owns a chaos run: customers and a nemesis on one stack, rounds of storm and rest, and what the
//! checker says of it. Refuses to be green when a fault left no evidence.
//!
//! A round begins calm, then everything on the schedule breaks while customers go on; it ends when
//! all is whole again and nothing moves any more. The whole stack is looked at again and again, in
//! the storm with the statements that always hold, and after it with all of them.

pub mod bugs;
pub mod customer;
pub mod deaths;
pub mod fault;
pub mod forger;
pub mod load;
mod looks;
pub mod nemesis;
pub mod quiet;
pub mod report;
pub mod schedule;
pub mod struck;
pub mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::check::corruptions::{self, CORRUPTIONS};
use crate::check::{self, Known, Violation, World, rules};
use crate::stack::Stack;
use deaths::NOBODY_ENDS;
use forger::Forger;
use load::{Load, PROMISED, Told};
use looks::Looks;
use nemesis::Nemesis;
use quiet::{QUIET_MAX, Rest};
use report::{Report, Sagas};
use schedule::{Planned, Schedule};
use struck::Struck;
use watch::Watch;

/// Who was served within this before the end of a storm was served in it.
const SERVED_MAX: Duration = Duration::from_secs(15);
/// So many contradictions of a statement are told in words; the others are counted.
const TOLD_MAX: usize = 3;
const PLENTY_UNITS: u32 = 1_000_000;

const QUIET_IN_TIME: &str = "nothing moves any more within a minute of the heal";
const ONE_KEY: &str = "requests with one key are answered with one order";
const OWN_STATEMENTS: [&str; 4] = [QUIET_IN_TIME, ONE_KEY, PROMISED, NOBODY_ENDS];

/// How to run.
#[derive(Debug, Clone)]
pub struct Settings {
    pub orders_per_second: u32,
    /// Of what was built, for the report.
    pub commit: String,
    /// The one that the services were told to have.
    pub bug: Option<String>,
}

/// Runs a schedule on a stack with two instances of each service and links.
pub async fn run(
    stack: &Stack,
    schedule: &Schedule,
    settings: &Settings,
) -> anyhow::Result<Report> {
    let bootstrap = stack.bootstrap();
    let forger = Forger::at(&bootstrap, schedule.head.seed);
    let mut run = Run {
        stack,
        settings,
        nemesis: Nemesis::of(stack, forger)?,
        load: Load::over(&stack.client),
        watch: Watch::default(),
        dice: StdRng::seed_from_u64(schedule.head.seed),
        struck: Vec::new(),
        found: BTreeMap::new(),
        heal_to_quiet: Vec::new(),
        looks: 0,
        load_ran_on: true,
        came_to_a_stand: true,
    };
    stack.client.set_stock(customer::PLENTY, PLENTY_UNITS).await?;
    stack.client.set_stock(customer::SCARCE, customer::SCARCE_UNITS).await?;
    let rounds = schedule.head.rounds;
    for round in 0..rounds {
        let faults: Vec<Planned> =
            schedule.faults.iter().filter(|planned| planned.round == round).cloned().collect();
        println!("round {} of {rounds}: {} faults", round + 1, faults.len());
        let healed = run.storm(&faults, schedule.head.round()).await?;
        if !run.rest(healed).await {
            break;
        }
    }
    run.report(schedule).await
}

struct Run<'a> {
    stack: &'a Stack,
    settings: &'a Settings,
    nemesis: Nemesis<'a>,
    load: Load,
    watch: Watch,
    dice: StdRng,
    struck: Vec<Struck>,
    /// By statement, whatever it is about once.
    found: BTreeMap<&'static str, BTreeMap<String, Violation>>,
    heal_to_quiet: Vec<Duration>,
    looks: usize,
    load_ran_on: bool,
    came_to_a_stand: bool,
}

impl Run<'_> {
    /// Says when all was whole again.
    async fn storm(&mut self, faults: &[Planned], lasts: Duration) -> anyhow::Result<Instant> {
        let begun = Instant::now();
        let (over, stop) = oneshot::channel();
        let (load, nemesis, stack) = (&self.load, &self.nemesis, self.stack);
        let per_second = self.settings.orders_per_second;
        let customers = load.run(&mut self.dice, per_second, stop);
        let end = async {
            sleep_until(begun + lasts).await;
            nemesis.over().await;
            let served = load.told().last_ok.is_some_and(|at| at.elapsed() <= SERVED_MAX);
            drop(over);
            (nemesis.heal().await, Instant::now(), served)
        };
        let storm = async { tokio::join!(nemesis.strike(faults, begun), end, customers) };
        let mut looks = Looks::default();
        let (struck, (whole, healed, served), ()) = tokio::select! {
            ended = storm => ended,
            error = looks.go_on(stack) => return Err(error),
            never = self.watch.run(stack) => match never {},
        };
        for fault in struck.iter().filter(|struck| struck.evidence.is_err()) {
            println!("  no evidence: {:?}: {:?}", fault.planned, fault.evidence);
        }
        self.struck.extend(struck);
        self.load_ran_on &= served;
        self.looks += looks.count;
        self.enter(looks.found);
        whole?;
        Ok(healed)
    }

    /// Whether all came to rest.
    async fn rest(&mut self, healed: Instant) -> bool {
        let due = self.nemesis.forger().forged().injected.dead_letters.len();
        let rest = quiet::reached(self.stack, healed, due).await;
        self.watch.look(self.stack).await;
        let (is_quiet, too_late) = match rest {
            Rest::Quiet(took) => {
                println!("  quiet {:.1} s after the heal", took.as_secs_f64());
                self.heal_to_quiet.push(took);
                (true, (took > QUIET_MAX).then(|| format!("it took {took:?}")))
            }
            Rest::Stuck(why) => (false, Some(why)),
            Rest::Moving(why) => {
                self.came_to_a_stand = false;
                (false, Some(why))
            }
        };
        let late = too_late.map(|detail| of_the_run(QUIET_IN_TIME, detail));
        self.enter(late);
        is_quiet
    }

    fn enter(&mut self, violations: impl IntoIterator<Item = Violation>) {
        for violation in violations {
            let of_statement = self.found.entry(violation.statement).or_default();
            if of_statement.is_empty() {
                println!("  {violation}");
            }
            let subject = violation.subject.map(|subject| subject.to_string());
            let about = subject.unwrap_or_else(|| violation.detail.clone());
            of_statement.insert(about, violation);
        }
    }

    async fn report(mut self, schedule: &Schedule) -> anyhow::Result<Report> {
        let customers = self.load.told();
        let twins = customers.twins.iter();
        self.enter(twins.map(|(key, orders)| of_the_run(ONE_KEY, format!("{key}: {orders:?}"))));
        self.enter(customers.strange.iter().map(|it| of_the_run(PROMISED, it.clone())));
        let deaths = deaths::unplanned(&self.stack.said(), &self.nemesis.kills());
        self.enter(deaths);
        let known = self.known(&customers);
        let world = World::read_in_full(self.stack).await.context("reading the whole stack")?;
        self.looks += 1;
        self.enter(check::always(&world));
        self.enter(check::quiet(&world, &known));
        let missed = self.found.is_empty().then(|| corruptions::not_found(&world, &known));
        let bad_records = self.nemesis.forger().forged().bad;
        let statements = check::statements().chain(OWN_STATEMENTS);
        let counted = |name| (name, self.found.get(name).map_or(0, BTreeMap::len));
        let told = |of: &BTreeMap<_, Violation>| {
            of.values().take(TOLD_MAX).map(Violation::to_string).collect::<Vec<_>>()
        };
        Ok(Report {
            head: schedule.head,
            commit: self.settings.commit.clone(),
            bug: self.settings.bug.clone(),
            broker: if Stack::is_on_kafka() {
                "Apache Kafka: a member that comes back within its session keeps its partitions"
            } else {
                "in memory: a mock cluster, where a group waits for a dead member's session"
            },
            orders_per_second: self.settings.orders_per_second,
            operations: customers.operations,
            same_again: customers.same_again,
            hung_up: customers.hung_up,
            cancels_taken: customers.cancelled.len(),
            sagas: sagas(&world),
            violations: statements.map(counted).collect(),
            told: self.found.values().flat_map(told).collect(),
            duplicates_delivered: duplicates(&world),
            duplicates_discarded: self.total(watch::DUPLICATES_DISCARDED),
            dispatched: self.total(watch::DISPATCHED),
            reruns: self.total(watch::RERUNS),
            provider_answers_from_a_key: self.answers_from_a_key().await?,
            bad_records,
            dead_letters_expected: known.dead_letters.len(),
            dead_letters_found: world.dead_letters.len(),
            heal_to_quiet_ms: self.heal_to_quiet.iter().map(Duration::as_millis).collect(),
            corruptions: CORRUPTIONS.len(),
            corruptions_found: missed.map(|missed| CORRUPTIONS.len() - missed.len()),
            looks: self.looks,
            load_ran_on: self.load_ran_on,
            came_to_a_stand: self.came_to_a_stand,
            faults: self.struck,
        })
    }

    fn known(&self, told: &Told) -> Known {
        let forged = self.nemesis.forger().forged();
        Known {
            acknowledged: told.acknowledged.clone(),
            unknown: told.unknown.clone(),
            cancelled: told.cancelled.clone(),
            dead_letters: forged.injected.dead_letters.clone(),
            injected_event_ids: forged.injected.event_ids.clone(),
            republished: false,
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a counter is whole and small, and Prometheus writes it as a float"
    )]
    fn total(&self, name: &str) -> u64 {
        self.watch.total(name) as u64
    }

    async fn answers_from_a_key(&self) -> anyhow::Result<u64> {
        let mut all = 0;
        for provider in fault::Provider::ALL {
            all += self.stack.client.provider_counts(provider.name()).await?.repeated;
        }
        Ok(all)
    }
}

fn of_the_run(statement: &'static str, detail: String) -> Violation {
    Violation { statement, subject: None, detail }
}

fn sagas(world: &World) -> Sagas {
    let count =
        |ends: &[i16]| world.orders.values().filter(|row| ends.contains(&row.status)).count();
    Sagas {
        started: world.orders.len(),
        confirmed: count(&[rules::CONFIRMED, rules::CONFIRMED_TOO_LATE]),
        cancelled: count(&[rules::CANCELLED]),
    }
}

/// True records that are on their topic once more than needed.
fn duplicates(world: &World) -> usize {
    let records = world.outside.iter().flat_map(|outside| &outside.records);
    let true_ones: Vec<_> = records.filter(|it| !it.injected).filter_map(|it| it.id).collect();
    true_ones.len() - true_ones.iter().collect::<BTreeSet<_>>().len()
}
