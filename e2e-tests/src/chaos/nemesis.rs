//! Owns doing what the schedule says, and the evidence that it struck. Refuses to choose, and to
//! take a fault's word for it: what bit is seen in pids, counters and the server's own answers.

use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use sqlx::PgPool;
use testkit::wait;
use tokio::sync::{RwLock, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::fault::{Class, Fault, Harm, Mode, Provider};
use super::forger::Forger;
use super::schedule::Planned;
use crate::instance_of;
use crate::link::{Counts, Link, Links, Weather};
use crate::stack::Stack;
use crate::wire;

/// What has not bitten in its time goes on until it does, but no longer than this.
const EXTRA: Duration = Duration::from_secs(6);
const STARTED_MAX: Duration = Duration::from_secs(15);
/// A group that lost a member, or Postgres, is itself again after this at the latest.
const LINGERS_MS: u128 = 5_000;
const READY_MAX: Duration = Duration::from_secs(20);
const SERVER_BACK_MAX: Duration = Duration::from_secs(30);
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// Longer than any fault lasts, so that the nemesis heals it.
const PROVIDER_TTL_SECONDS: u64 = 60;

/// What became of a planned fault.
#[derive(Debug, Clone, Serialize)]
pub struct Struck {
    #[serde(flatten)]
    pub planned: Planned,
    /// What shows that it struck, or why nothing does.
    pub evidence: Result<String, String>,
    /// Since the round began.
    pub from_ms: u128,
    pub until_ms: u128,
    /// From a kill to a next life that was ready.
    pub ready_ms: Option<u128>,
}

impl Struck {
    pub fn class(&self) -> Class {
        self.planned.fault.class()
    }

    /// Whether it may have kept a process from being ready at some time of the same round. A process
    /// is ready when it has its partitions, and for these it waits for its peer.
    fn troubles(&self, process: &str, from_ms: u128, until_ms: u128) -> bool {
        let concerned = match &self.planned.fault {
            Fault::Postgres { .. } | Fault::Broker { .. } => true,
            Fault::Kill { process: own }
            | Fault::Stop { process: own }
            | Fault::Link { process: own, .. } => instance_of(own).0 == instance_of(process).0,
            Fault::Provider { .. } | Fault::Repeat | Fault::BadRecords => false,
        };
        concerned && self.from_ms <= until_ms && self.until_ms + LINGERS_MS >= from_ms
    }
}

/// How long killed processes took to be ready where nothing else stood in their way.
pub fn ready_ms(struck: &[Struck]) -> Vec<u128> {
    let undisturbed = |kill: &Struck, process: &str, ready_ms| {
        let others = struck
            .iter()
            .filter(|it| it.planned.round == kill.planned.round && it.planned != kill.planned);
        let (from_ms, until_ms) = (kill.from_ms, kill.from_ms + ready_ms);
        others.filter(|it| it.troubles(process, from_ms, until_ms)).count() == 0
    };
    let of_kill = |kill: &Struck| match &kill.planned.fault {
        Fault::Kill { process } => kill.ready_ms.filter(|ms| undisturbed(kill, process, *ms)),
        _ => None,
    };
    struck.iter().filter_map(of_kill).collect()
}

/// Who breaks things in one stack.
pub struct Nemesis<'a> {
    stack: &'a Stack,
    links: &'a Links,
    forger: Forger<'a>,
    /// Records are forged while the broker is there, so that each is on its topic once.
    broker: RwLock<()>,
    /// Faults of this round that are not over yet.
    left: watch::Sender<usize>,
}

impl<'a> Nemesis<'a> {
    pub fn of(stack: &'a Stack, forger: Forger<'a>) -> anyhow::Result<Self> {
        let links = stack.links.as_ref().context("a nemesis needs links")?;
        let (left, _) = watch::channel(0);
        Ok(Self { stack, links, forger, broker: RwLock::default(), left })
    }

    pub fn forger(&self) -> &Forger<'a> {
        &self.forger
    }

    /// Every fault of a round at its time, counted from `begun`; back when the last one is over and
    /// what it killed is ready again.
    pub async fn strike(&self, faults: &[Planned], begun: Instant) -> Vec<Struck> {
        self.left.send_replace(faults.len());
        join_all(faults.iter().map(async |planned| {
            sleep_until(begun + Duration::from_millis(planned.at_ms)).await;
            let from_ms = begun.elapsed().as_millis();
            let evidence = self.one(planned).await;
            let until_ms = begun.elapsed().as_millis();
            self.left.send_modify(|left| *left -= 1);
            let ready_ms = match (&planned.fault, &evidence) {
                (Fault::Kill { process }, Ok(_)) => self.ready(process).await,
                _ => None,
            };
            Struck {
                planned: planned.clone(),
                evidence: evidence.map_err(|error| format!("{error:#}")),
                from_ms,
                until_ms,
                ready_ms: ready_ms.map(|ready| until_ms - from_ms + ready.as_millis()),
            }
        }))
        .await
    }

    /// Returns when the last fault of the round is over.
    pub async fn over(&self) {
        // The sender lives as long as this does.
        let _ = self.left.subscribe().wait_for(|left| *left == 0).await;
    }

    /// Whatever may still be broken is whole again.
    pub async fn heal(&self) -> anyhow::Result<()> {
        self.links.heal();
        for provider in Provider::ALL {
            self.stack.client.heal_provider(provider.name()).await?;
        }
        Ok(())
    }

    async fn one(&self, planned: &Planned) -> anyhow::Result<String> {
        let lasts = Duration::from_millis(planned.lasts_ms);
        match &planned.fault {
            Fault::Kill { process } => self.kill(process).await,
            Fault::Stop { process } => self.stop(process, lasts).await,
            Fault::Postgres { harm } => self.harm(*harm, lasts).await,
            Fault::Broker { weather } => {
                let _none_forged = self.broker.write().await;
                storm(self.links.broker_link(), *weather, lasts).await
            }
            Fault::Link { process, to, weather } => {
                storm(self.links.link(process, *to)?, *weather, lasts).await
            }
            Fault::Provider { provider, mode, share } => {
                self.provider(*provider, *mode, *share, lasts).await
            }
            Fault::Repeat => {
                let _broker = self.broker.read().await;
                self.forger.repeat().await
            }
            Fault::BadRecords => {
                let _broker = self.broker.read().await;
                self.forger.inject().await
            }
        }
    }

    async fn kill(&self, process: &str) -> anyhow::Result<String> {
        let what = format!("{process} to run");
        let before = wait::until(STARTED_MAX, &what, async || self.stack.pid(process).ok()).await?;
        kill_process(before, Signal::KILL)?;
        let what = format!("{process} to be started again");
        let after = wait::until(STARTED_MAX, &what, async || {
            self.stack.pid(process).ok().filter(|pid| *pid != before)
        });
        Ok(format!("pid {before} became {}", after.await?))
    }

    /// How long the life that has just begun takes, if it lives that long.
    async fn ready(&self, process: &str) -> Option<Duration> {
        let (begun, life) = (Instant::now(), self.stack.pid(process).ok()?);
        let ready = wait::until(READY_MAX, "it to be ready", async || {
            let asked = self.stack.client.is_ready(process);
            timeout(ANSWER_MAX, asked).await.is_ok_and(|ready| ready).then_some(())
        });
        ready.await.ok()?;
        (self.stack.pid(process).ok()? == life).then(|| begun.elapsed())
    }

    async fn stop(&self, process: &str, lasts: Duration) -> anyhow::Result<String> {
        let what = format!("{process} to run");
        let pid = wait::until(STARTED_MAX, &what, async || self.stack.pid(process).ok()).await?;
        let halted = self.stack.halt(process)?;
        let end = Instant::now() + lasts;
        wait::until(ANSWER_MAX, "it to stand still", async || stands_still(pid).then_some(()))
            .await?;
        sleep_until(end).await;
        drop(halted);
        Ok(format!("pid {pid} stood still"))
    }

    async fn harm(&self, harm: Harm, lasts: Duration) -> anyhow::Result<String> {
        let tables = &self.stack.tables;
        match harm {
            Harm::GroupKill => {
                let before = self.stack.postgres_pid()?;
                self.stack.kill_postgres()?;
                let after = wait::until(SERVER_BACK_MAX, "Postgres to be back", async || {
                    asked(tables, "select 1").await?;
                    self.stack.postgres_pid().ok().filter(|pid| *pid != before)
                });
                Ok(format!("postmaster {before} became {}", after.await?))
            }
            Harm::BackendKill => {
                let before = first(tables, CHECKPOINTER).await?;
                let backend = first(tables, A_BACKEND).await?;
                let pid = Pid::from_raw(backend).context("a backend has a pid")?;
                kill_process(pid, Signal::KILL)?;
                let after = wait::until(SERVER_BACK_MAX, "the server to recover", async || {
                    asked(tables, CHECKPOINTER).await.filter(|pid| *pid != before)
                });
                let after = after.await?;
                Ok(format!("backend {backend} killed, checkpointer {before} became {after}"))
            }
            Harm::TerminateAll => {
                let ended = first(tables, TERMINATE).await?;
                ensure!(ended > 0, "no service had a connection");
                Ok(format!("{ended} connections terminated"))
            }
            Harm::Stop => {
                let halted = self.stack.halt_postgres()?;
                let end = Instant::now() + lasts;
                let silent = timeout(ANSWER_MAX, asked(tables, "select 1")).await.is_err();
                sleep_until(end).await;
                drop(halted);
                ensure!(silent, "Postgres answered while it stood still");
                Ok("no answer".to_owned())
            }
        }
    }

    async fn provider(
        &self,
        provider: Provider,
        mode: Mode,
        share: f64,
        lasts: Duration,
    ) -> anyhow::Result<String> {
        let (client, name) = (&self.stack.client, provider.name());
        let before = client.provider_counts(name).await?.struck;
        let fault = wire::Fault { mode: mode.name(), share, ttl_seconds: PROVIDER_TTL_SECONDS };
        let end = Instant::now() + lasts;
        client.break_provider(name, fault).await?;
        sleep_until(end).await;
        let struck = wait::until(EXTRA, "a request that it strikes", async || {
            let struck = client.provider_counts(name).await.ok()?.struck;
            (struck > before).then_some(struck - before)
        });
        let struck = struck.await;
        client.heal_provider(name).await?;
        Ok(format!("{} requests", struck?))
    }
}

/// The weather on a link for a while, and then a little longer if nobody has noticed.
async fn storm(link: &Link, weather: Weather, lasts: Duration) -> anyhow::Result<String> {
    let (before, end) = (link.count(), Instant::now() + lasts);
    link.set(weather);
    sleep_until(end).await;
    let bitten = wait::until(EXTRA, "somebody to be caught by it", async || {
        bite(weather, before, link.count())
    });
    let bitten = bitten.await;
    link.set(Weather::Pass);
    bitten
}

fn bite(weather: Weather, before: Counts, after: Counts) -> Option<String> {
    let (count, what) = match weather {
        Weather::Pass => return None,
        Weather::Delay(_) | Weather::BlackHole => (after.held - before.held, "pieces held"),
        Weather::Reset | Weather::CutAfter(_) => (after.cut - before.cut, "connections cut"),
        Weather::DropReplies => (after.replies_dropped - before.replies_dropped, "replies dropped"),
    };
    (count > 0).then(|| format!("{count} {what}"))
}

fn stands_still(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| stat.contains(") T "))
}

const CHECKPOINTER: &str = "select pid from pg_stat_activity where backend_type = 'checkpointer'";
const A_BACKEND: &str = "
select pid from pg_stat_activity
 where backend_type = 'client backend' and usename like '%\\_app' order by pid limit 1";
const TERMINATE: &str = "
select count(*) filter (where pg_terminate_backend(pid))::int from pg_stat_activity
 where usename like '%\\_app'";

/// Its one number, however long a server that was just harmed needs for it.
async fn first(tables: &PgPool, sql: &'static str) -> anyhow::Result<i32> {
    wait::until(SERVER_BACK_MAX, "Postgres to answer", async || asked(tables, sql).await).await
}

async fn asked(tables: &PgPool, sql: &'static str) -> Option<i32> {
    sqlx::query_scalar(sql).fetch_one(tables).await.ok()
}
