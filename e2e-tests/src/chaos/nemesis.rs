//! Owns doing what the schedule says, and the evidence that it struck. Refuses to choose, and to
//! take a fault's word for it: what bit is seen in pids, counters and the server's own answers.

use std::cell::{Ref, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::PgPool;
use testkit::wait;
use tokio::sync::{RwLock, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::fault::{Fault, Harm, Mode, Provider};
use super::forger::Forger;
use super::schedule::Planned;
use super::struck::{Back, Struck};
use crate::link::{Counts, Link, Links, Weather};
use crate::stack::Stack;
use crate::wire;

/// What has not bitten in its time goes on until it does, but no longer than this.
pub const EXTRA: Duration = Duration::from_secs(6);
const STARTED_MAX: Duration = Duration::from_secs(15);
const READY_MAX: Duration = Duration::from_secs(20);
const SERVER_BACK_MAX: Duration = Duration::from_secs(30);
const ANSWER_MAX: Duration = Duration::from_millis(500);
const READY: &str = "ready\n";
/// Long enough for every connection to see it.
const THROWN_OUT: Duration = Duration::from_millis(300);
const WAITS_FOR_ITS_GROUP: &str = "not ready: broker\n";
const POSTGRES: &str = "postgres";
/// Longer than any fault lasts, so that the nemesis heals it.
const PROVIDER_TTL_SECONDS: u64 = 60;

/// Who breaks things in one stack.
pub struct Nemesis<'a> {
    stack: &'a Stack,
    links: &'a Links,
    forger: Forger<'a>,
    /// Records are forged while the broker is there, so that each is on its topic once.
    broker: RwLock<()>,
    /// Faults of this round that are not over yet.
    left: watch::Sender<usize>,
    /// By process.
    kills: RefCell<BTreeMap<String, usize>>,
}

impl<'a> Nemesis<'a> {
    pub fn of(stack: &'a Stack, forger: Forger<'a>) -> anyhow::Result<Self> {
        let links = stack.links.as_ref().context("a nemesis needs links")?;
        let (left, _) = watch::channel(0);
        let (broker, kills) = (RwLock::default(), RefCell::default());
        Ok(Self { stack, links, forger, broker, left, kills })
    }

    pub fn forger(&self) -> &Forger<'a> {
        &self.forger
    }

    /// How often which process was killed.
    pub fn kills(&self) -> Ref<'_, BTreeMap<String, usize>> {
        self.kills.borrow()
    }

    /// Every fault of a round at its time, counted from `begun`; back when the last one is over and
    /// what it killed is ready again.
    pub async fn strike(&self, faults: &[Planned], begun: Instant) -> Vec<Struck> {
        self.left.send_replace(faults.len());
        join_all(faults.iter().map(async |planned| {
            sleep_until(begun + Duration::from_millis(planned.at_ms)).await;
            let from = Instant::now();
            let evidence = self.one(planned).await;
            let until_ms = begun.elapsed().as_millis();
            self.left.send_modify(|left| *left -= 1);
            let back = match (&planned.fault, &evidence) {
                (Fault::Kill { process }, Ok(_)) => Some(self.back(process, from).await),
                _ => None,
            };
            Struck {
                planned: planned.clone(),
                evidence: evidence.map_err(|error| format!("{error:#}")),
                from_ms: (from - begun).as_millis(),
                until_ms,
                back,
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
                let bitten = storm(self.links.broker_link(), *weather, lasts).await;
                self.throw_out().await;
                bitten
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

    /// Whoever was held back from the broker comes anew. What a member of a group has asked for on a
    /// line that it has left would reach the broker behind what it asks for now, and there the
    /// in-memory one takes its own life.
    async fn throw_out(&self) {
        let link = self.links.broker_link();
        link.set(Weather::Reset);
        sleep_until(Instant::now() + THROWN_OUT).await;
        link.set(Weather::Pass);
    }

    async fn kill(&self, process: &str) -> anyhow::Result<String> {
        let what = format!("{process} to run");
        let before = wait::until(STARTED_MAX, &what, async || self.stack.pid(process).ok()).await?;
        kill_process(before, Signal::KILL)?;
        self.killed(process);
        let what = format!("{process} to be started again");
        let after = wait::until(STARTED_MAX, &what, async || {
            self.stack.pid(process).ok().filter(|pid| *pid != before)
        });
        Ok(format!("pid {before} became {}", after.await?))
    }

    fn killed(&self, process: &str) {
        *self.kills.borrow_mut().entry(process.to_owned()).or_default() += 1;
    }

    async fn back(&self, process: &str, from: Instant) -> Back {
        let ready_ms = self.says(process, &[READY, WAITS_FOR_ITS_GROUP], from).await;
        Back { ready_ms, moving_ms: self.says(process, &[READY], from).await }
    }

    /// How long it took until a process says one of these. Who never does counts for what he took.
    async fn says(&self, process: &str, any_of: &[&str], from: Instant) -> u128 {
        let said = wait::until(READY_MAX, "it to be ready", async || {
            let asked = timeout(ANSWER_MAX, self.stack.client.readiness(process)).await;
            any_of.contains(&asked.ok()?.ok()?.body.as_str()).then_some(())
        });
        let _ = said.await;
        from.elapsed().as_millis()
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
        wait::until(ANSWER_MAX, "it to go on", async || (!stands_still(pid)).then_some(())).await?;
        Ok(format!("pid {pid} stood still, and no longer"))
    }

    async fn harm(&self, harm: Harm, lasts: Duration) -> anyhow::Result<String> {
        let tables = &self.stack.tables;
        match harm {
            Harm::GroupKill => {
                let before = self.stack.postgres_pid()?;
                self.stack.kill_postgres()?;
                self.killed(POSTGRES);
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
