//! Owns the stack that a measurement is made on, fresh and in one mode, and one measured window on
//! it. Refuses to choose what is measured, and to give a figure of a stack that broke a promise.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e_tests::stack::{Options, Stack, programs, with_stack};
use sqlx::postgres::PgConnectOptions;
use testkit::wait;

use crate::invariants::{self, Left};
use crate::limits;
use crate::load::{FAILING_PERCENT, Load, Loaded, SKUS};
use crate::meter::batches::Batches;
use crate::meter::cpu::{Reading, Used};
use crate::meter::memory::Watch;
use crate::meter::wal::{Mark, Wal};
use crate::record::{Broker, Measurement, Mode, What};

/// Sagas by which the share of those that fail may be off, because every tenth one is meant to.
const SHARE_SLACK: u64 = 10;
/// One order in so many may be sent after its time.
const LATE_ONE_IN: u64 = 50;
/// Of each that the floor is made of.
const FLOOR_TIMES: usize = 100;
const RAW: Duration = Duration::from_secs(5);
/// After the last order of a window has ended, for what is told of it.
const CALM_MAX: Duration = Duration::from_mins(2);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Where the stacks of a run stand.
#[derive(Debug, Clone, Copy)]
pub struct Ground {
    pub broker: Broker,
    pub port_base: u16,
    /// A window in which a larger share of the machine went to others counts for nothing.
    pub outside_cpu_max: f64,
}

/// A running stack that is warm.
pub struct Stage<'a> {
    pub stack: &'a Stack,
    pub mode: Mode,
    pub launcher: u32,
    programs: &'a Path,
    outside_cpu_max: f64,
    wal: Wal,
    /// Orders that were placed and accepted so far.
    accepted: u64,
    /// Whether all of them were looked at since.
    is_judged: bool,
}

/// Runs `body` on a fresh stack that `warm_up` has run on, so that connections, plans and Kafka's
/// Java are warm; holds it to the invariants afterwards, and ends it whatever becomes
/// of it. A failure keeps the logs and says where they are.
pub async fn on_stage<T>(
    ground: &Ground,
    mode: Mode,
    warm_up: Load,
    body: impl AsyncFnOnce(&mut Stage<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let programs = folder_of(mode)?;
    let options = Options {
        environment: mode.environment(ground.broker),
        durable: true,
        instances: 1,
        port_base: Some(ground.port_base),
        programs: Some(programs.clone()),
        ..Options::default()
    };
    let mut given = None;
    with_stack(&options, async |stack| {
        let mut stage = Stage {
            stack,
            mode,
            launcher: stack.launcher_pid()?,
            programs: &programs,
            outside_cpu_max: ground.outside_cpu_max,
            wal: Wal::open(&stack.tables.connect_options()).await?,
            accepted: 0,
            is_judged: false,
        };
        stage.load(warm_up, SKUS, true).await.context("warming up")?;
        given = Some(body(&mut stage).await?);
        stage.holds().await
    })
    .await?;
    given.context("a body that ended well has given something")
}

/// Makes each mode's folder of programs anew, once for a run. They are hard links, because a
/// program's name is what it is told by, and because a build in the middle of a run replaces a
/// program and leaves its links alone.
pub fn link_programs() -> anyhow::Result<()> {
    Mode::ALL.into_iter().try_for_each(link_programs_of)
}

fn folder_of(mode: Mode) -> anyhow::Result<PathBuf> {
    Ok(programs()?.join("bench-programs").join(mode.folder()))
}

fn link_programs_of(mode: Mode) -> anyhow::Result<()> {
    let (built, folder) = (programs()?, folder_of(mode)?);
    fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
    for (name, program) in mode.programs() {
        let link = folder.join(name);
        match fs::remove_file(&link) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        fs::hard_link(built.join(program), &link)
            .with_context(|| format!("{program} is missing: type `cargo build --workspace`"))?;
    }
    Ok(())
}

/// Where everybody's accounts stand at one moment.
struct Accounts {
    cpu: Reading,
    log: Mark,
}

impl Stage<'_> {
    /// Places orders until all of them have ended.
    pub async fn load(
        &mut self,
        load: Load,
        skus: u32,
        counts_stock: bool,
    ) -> anyhow::Result<Loaded> {
        let port_base = self.stack.port_base();
        let loaded = load.run(self.programs, port_base, skus, counts_stock).await?;
        self.accepted += loaded.accepted;
        self.is_judged = false;
        Ok(loaded)
    }

    /// A window with so much load: what it brought, and what it cost until nothing moved any more.
    pub async fn measure(
        &mut self,
        round: u32,
        what: What,
        load: Load,
    ) -> anyhow::Result<Measurement> {
        let port_base = self.stack.port_base();
        let skus = if what == What::Hot { 1 } else { SKUS };
        self.calm().await?;
        self.checkpoint().await?;
        let batches = Batches::read(port_base).await?;
        let memory = Watch::start(self.launcher)?;
        let before = self.accounts().await?;
        let loaded = self.load(load, skus, false).await?;
        let after = self.calm().await?;
        let memory = memory.stop()?;
        let used = Used::between(&before.cpu, &after.cpu)?;
        let log = self.wal.between(&before.log, &after.log).await?;

        let sagas = loaded.confirmed + loaded.cancelled;
        let refused = loaded.cancelled * 100 / u64::from(FAILING_PERCENT);
        ensure!(sagas > 0 && refused.abs_diff(sagas) <= SHARE_SLACK, "the load brought {loaded:?}");
        let per_saga = |sum: u64| per(sum, sagas);
        Ok(Measurement {
            dropped: self.is_disturbed(used.outside).or_else(|| is_late(&loaded)),
            sagas: Some(sagas),
            cancelled: Some(loaded.cancelled),
            in_flight: load.in_flight(),
            seconds: Some(loaded.seconds),
            sagas_per_second: Some(loaded.sagas_per_second),
            cpu_ms_per_saga: used.ms_per_saga(sagas),
            wal_bytes_per_saga: Some(per_saga(log.bytes)),
            wal_fpi_bytes_per_saga: Some(per_saga(log.image_bytes)),
            commits_per_saga: Some(per_saga(log.commits)),
            mean_batch: Batches::read(port_base).await?.mean_since(&batches),
            peak_pss_mb: memory.peak_mb(),
            accepted_ms: loaded.accepted_ms,
            finished_ms: loaded.confirmed_ms.map(|watched| watched.percentiles()),
            watched: loaded.confirmed_ms.map(|watched| watched.watched),
            load_average: Some(load_average()?),
            outside_cpu: Some(used.outside),
            ..Measurement::new(round, self.mode, what)
        })
    }

    /// None is under way while something is measured.
    async fn checkpoint(&self) -> anyhow::Result<()> {
        sqlx::query("checkpoint").execute(&self.stack.tables).await?;
        Ok(())
    }

    pub fn is_disturbed(&self, outside: f64) -> Option<String> {
        let at_most = self.outside_cpu_max;
        (outside > at_most)
            .then(|| format!("{outside:.2} of the machine went to others, at most {at_most}"))
    }

    async fn accounts(&mut self) -> anyhow::Result<Accounts> {
        Ok(Accounts { log: self.wal.mark().await?, cpu: Reading::take(self.launcher)? })
    }

    /// The accounts as they stood when nothing moved any more. Whether that is so is asked at last
    /// and at length, which is in nobody's account.
    async fn calm(&mut self) -> anyhow::Result<Accounts> {
        let stack = self.stack;
        wait::until(CALM_MAX, "everything to be told", async || {
            let mut log = self.wal.mark().await.ok()?;
            wait::until(CALM_MAX, "the log to stand still", async || {
                tokio::time::sleep(LOOK_EVERY).await;
                let before = std::mem::replace(&mut log, self.wal.mark().await.ok()?);
                let left = Left::read(&stack.tables).await.ok()?;
                (before == log && left == Left::NOTHING).then_some(())
            })
            .await
            .ok()?;
            let accounts = self.accounts().await.ok()?;
            let all_is_told = invariants::all_is_told(&stack.tables).await.ok()?;
            all_is_told.then_some(accounts)
        })
        .await
    }

    /// Fails unless every order that was accepted has come to an end as it must be. It is asked at
    /// the end at the latest, and before anybody leaves traces of no order.
    pub async fn holds(&mut self) -> anyhow::Result<()> {
        if !self.is_judged {
            self.calm().await?;
            let held = invariants::hold(self.stack, self.accepted).await;
            held.context("a promise was broken")?;
            self.is_judged = true;
        }
        Ok(())
    }

    /// What the same server, broker and provider do without a service.
    pub async fn limits(&mut self, round: u32, broker: Broker) -> anyhow::Result<[Measurement; 2]> {
        self.holds().await?;
        self.checkpoint().await?;
        let superuser: &PgConnectOptions = &self.stack.tables.connect_options();
        let provider = format!("http://127.0.0.1:{}/payment", self.stack.port_base() + 5);
        let bootstrap = &self.stack.bootstrap();
        let below = limits::floor::Ground { superuser, broker, bootstrap, provider: &provider };
        let before = Reading::take(self.launcher)?;
        let floor = limits::floor::floor(&below, FLOOR_TIMES).await?;
        let between = Reading::take(self.launcher)?;
        let raw = limits::raw::bound(superuser, RAW).await?;
        let after = Reading::take(self.launcher)?;
        let empty = |what, before, after| {
            let outside = Used::between(before, after)?.outside;
            anyhow::Ok(Measurement {
                dropped: self.is_disturbed(outside),
                outside_cpu: Some(outside),
                ..Measurement::new(round, self.mode, what)
            })
        };
        Ok([
            Measurement { floor: Some(floor), ..empty(What::Floor, &before, &between)? },
            Measurement { raw: Some(raw), ..empty(What::Raw, &between, &after)? },
        ])
    }
}

/// An open loop that falls behind is none.
pub fn is_late(loaded: &Loaded) -> Option<String> {
    let Loaded { late, accepted, .. } = loaded;
    (late * LATE_ONE_IN > *accepted).then(|| format!("{late} of {accepted} orders left late"))
}

#[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^52 of anything")]
fn per(sum: u64, sagas: u64) -> f64 {
    sum as f64 / sagas as f64
}

/// Of the last minute.
fn load_average() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().context("/proc/loadavg")?.parse()?)
}
