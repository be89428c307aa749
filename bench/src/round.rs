//! Owns how a run goes: rounds in which every mode has its turn, each on a fresh stack, in an order
//! that rotates. Refuses to compare: both sides of a ratio come from one round's lines.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::backlog;
use crate::load::Load;
use crate::meter::disk;
use crate::record::{Fsync, Header, Measurement, Mode, What};
use crate::results::{Results, say};
use crate::stage::{Ground, Stage, on_stage};

/// How often a window is measured again in which the machine was not ours alone.
const AGAIN_MAX: u32 = 1;
const PROBE: Duration = Duration::from_secs(2);
const SATURATED_SECONDS: u32 = 10;
const HOT_SECONDS: u32 = 5;
const LOADED_SECONDS: u32 = 5;
/// Cost against concurrency: so many sagas in flight, beside as many as saturate.
const LOADED: [u32; 3] = [64, 250, 1_000];

/// How long a run takes.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub rounds: u32,
    pub quick: bool,
    /// Of these alone, all of them unless told.
    pub modes: &'static [Mode],
    /// No round begins that would not be over by then.
    pub at_most: Duration,
}

impl Plan {
    pub const fn full() -> Self {
        let at_most = Duration::from_mins(40);
        Self { rounds: 5, quick: false, modes: &Mode::ALL, at_most }
    }

    pub const fn quick() -> Self {
        Self { rounds: 2, quick: true, at_most: Duration::from_mins(10), ..Self::full() }
    }

    const fn paced_seconds(&self) -> u32 {
        if self.quick { 30 } else { 45 }
    }

    const fn backlogs(&self) -> u32 {
        if self.quick { 0 } else { 2 }
    }

    /// All that is measured on a stack in this mode, in this order: what modes are compared by comes
    /// first in each of them, right after the same warm-up.
    fn windows(&self, mode: Mode) -> Vec<(What, Load)> {
        let paced =
            |rate| (What::Paced { rate }, Load::Paced { rate, seconds: self.paced_seconds() });
        let bounded = |what, seconds, in_flight| (what, Load::Seconds { seconds, in_flight });
        let saturated = bounded(What::Saturated, SATURATED_SECONDS, mode.in_flight());
        match mode {
            Mode::Textbook => vec![saturated, paced(20)],
            Mode::Tuned | Mode::ProductBatch1 => vec![saturated],
            Mode::Product => {
                let hot = bounded(What::Hot, HOT_SECONDS, mode.in_flight());
                let mut windows = vec![saturated, paced(20), paced(100), hot];
                let loaded = LOADED.into_iter().filter(|_| !self.quick);
                windows.extend(loaded.map(|in_flight| {
                    bounded(What::Loaded { in_flight }, LOADED_SECONDS, in_flight)
                }));
                windows
            }
        }
    }
}

/// A run under way.
struct Run<'a> {
    plan: Plan,
    ground: Ground,
    results: &'a mut Results,
    begun: Instant,
    longest_round: Duration,
    /// Stacks that broke a promise, or were never measured to the end.
    failures: Vec<String>,
}

/// Measures everything, and fails in the end if a stack broke a promise on the way.
pub async fn run(plan: Plan, ground: Ground, results: &mut Results) -> anyhow::Result<()> {
    let begun = Instant::now();
    let longest_round = Duration::ZERO;
    let mut run = Run { plan, ground, results, begun, longest_round, failures: Vec::new() };
    println!("{} rounds and {} backlogs", plan.rounds, plan.backlogs());
    for round in 1..=plan.rounds {
        if !run.has_time_for(run.longest_round) {
            println!("there is no time for another round");
            break;
        }
        let round_begun = Instant::now();
        run.round(round).await?;
        run.longest_round = run.longest_round.max(round_begun.elapsed());
    }
    for round in 1..=plan.backlogs() {
        if !run.has_time_for(backlog::TAKES) {
            println!("there is no time for another backlog");
            break;
        }
        run.on(round, Mode::Product, What::Backlog, async |stage| {
            Ok(vec![backlog::measure(stage, round).await?])
        })
        .await?;
    }
    ensure!(run.failures.is_empty(), "without figures: {}", run.failures.join("; "));
    Ok(())
}

impl Run<'_> {
    fn has_time_for(&self, so_long: Duration) -> bool {
        let left = self.plan.at_most.saturating_sub(self.begun.elapsed());
        println!("{} min left", left.as_secs().div_ceil(60));
        left >= so_long
    }

    async fn round(&mut self, round: u32) -> anyhow::Result<()> {
        let modes = self.plan.modes;
        let first = round as usize % modes.len();
        let plan = self.plan;
        let (front, back) = modes.split_at(first);
        for mode in back.iter().chain(front).copied() {
            let fsync = disk::fsync(&std::env::temp_dir(), PROBE)?;
            let broker = self.ground.broker;
            self.on(round, mode, What::Saturated, async |stage| {
                let mut measured = windows(stage, plan, round, fsync).await?;
                if mode == Mode::Product {
                    let limits = stage.limits(round, broker).await?;
                    limits.iter().for_each(say);
                    measured.extend(limits);
                }
                Ok(measured)
            })
            .await?;
        }
        Ok(())
    }

    /// On a fresh stack. Its figures count only once it has kept its promises to the end.
    async fn on(
        &mut self,
        round: u32,
        mode: Mode,
        what: What,
        body: impl AsyncFnOnce(&mut Stage<'_>) -> anyhow::Result<Vec<Measurement>>,
    ) -> anyhow::Result<()> {
        let Self { ground, plan, results, .. } = self;
        let measured = on_stage(ground, mode, mode.warm_up(), async |stage| {
            results.begin(Header::of(&stage.stack.tables, ground.broker, plan.quick)).await?;
            body(stage).await
        });
        match measured.await {
            Ok(measurements) => measurements.iter().try_for_each(|it| self.results.write(it)),
            Err(error) => {
                let failure = format!("{}: {error:#}", mode.name());
                println!("  without figures: {failure}");
                let void = Measurement {
                    dropped: Some(failure.clone()),
                    ..Measurement::new(round, mode, what)
                };
                self.failures.push(failure);
                // Nothing is begun when not even a server has told how durable it is.
                if self.results.is_begun() { self.results.write(&void) } else { Ok(()) }
            }
        }
    }
}

async fn windows(
    stage: &mut Stage<'_>,
    plan: Plan,
    round: u32,
    fsync: Fsync,
) -> anyhow::Result<Vec<Measurement>> {
    let mut measured = Vec::new();
    for (what, load) in plan.windows(stage.mode) {
        for _ in 0..=AGAIN_MAX {
            let measurement = stage.measure(round, what, load).await?;
            let measurement = Measurement { fsync_ms: Some(fsync), ..measurement };
            say(&measurement);
            let is_kept = measurement.dropped.is_none();
            measured.push(measurement);
            if is_kept {
                break;
            }
        }
    }
    Ok(measured)
}
