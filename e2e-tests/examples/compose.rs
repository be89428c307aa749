//! The stack of compose.yaml, really run: how soon it is healthy and what it takes, whether orders
//! fare in it as they do elsewhere, what its parts may do, and what is left when a container is
//! killed under load. It takes everything away again; with `KEEP=1` it lets it run.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use e2e_tests::compose::container::Container;
use e2e_tests::compose::{Project, roles};
use e2e_tests::crowd::{self, Crowd};
use e2e_tests::figures::{Figures, told};
use e2e_tests::saga;
use e2e_tests::scenario::orders;
use e2e_tests::stack::Stack;
use e2e_tests::trace::{self, Told};
use e2e_tests::wire::{Fault, NewOrder};
use futures::future::try_join;
use testkit::jaeger::Query;
use testkit::wait;
use tokio::signal::unix::{SignalKind, signal};

const HEALTHY_SECONDS_MAX: f64 = 60.0;
const CONTAINERS_MAX: f64 = 10.0;
const MEMORY_MB_MAX: f64 = 2_000.0;
/// What is killed; nobody else ends of that.
const KILLED: [&str; 3] = ["payment", "postgres", "kafka"];
const IN_FLIGHT: usize = 100;
/// Some orders of a crowd are turned round at once.
const OPEN_MIN: i64 = 20;
const SLOW_SECONDS: u64 = 60;
const NOTICED_MAX: Duration = Duration::from_secs(15);
const COUNTED_MAX: Duration = Duration::from_mins(1);
const TRACED_MAX: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match judged().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\n{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whatever becomes of the run, nothing of it is left.
async fn judged() -> anyhow::Result<()> {
    let project = Project::of_its_own()?;
    let (mut figures, mut terminated) = (Figures::default(), signal(SignalKind::terminate())?);
    let mut done = tokio::select! {
        done = run(&project, &mut figures) => done,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
        _ = terminated.recv() => Err(anyhow!("terminated")),
    };
    if done.is_err() {
        let logs = match project.keep_logs().await {
            Ok(logs) => format!("logs are kept in {}", logs.display()),
            Err(error) => format!("no logs are kept: {error:#}"),
        };
        done = done.context(logs);
    }
    if std::env::var_os("KEEP").is_some() {
        println!("it goes on running: docker compose --project-name {} ps", Project::NAME);
        return done;
    }
    let took = project.down().await?;
    told("down, s", took.as_secs_f64());
    let left = project.left().await?;
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    done?;
    figures.are_within_their_bounds()
}

async fn run(project: &Project, figures: &mut Figures) -> anyhow::Result<()> {
    let took = project.up().await.context("is the image there? `docker compose build`")?;
    figures.held("all healthy after, s", took.as_secs_f64(), HEALTHY_SECONDS_MAX);
    containers(project, figures).await?;
    let stack = project.stack().await?;

    let tables = roles::are_kept_apart(project, &stack).await?;
    println!("each role is kept to its own schema: {tables} tables asked about");
    orders::all(&stack).await.context("orders over HTTP")?;
    println!("every scenario ended as told");
    one_trace(project, &stack).await.context("a trace in Jaeger")?;

    let crowd = Crowd::of(&stack).await?;
    for service in KILLED {
        let before = restarts(project, service).await?;
        killed(project, &stack, &crowd, service)
            .await
            .with_context(|| format!("docker kill {service}"))?;
        let ended = f64::from(restarts(project, service).await?.saturating_sub(before));
        figures.held(&format!("{service} killed: others that ended"), ended, 0.0);
    }
    memory(project, figures).await
}

/// They are few, healthy, and have no more power than they need.
async fn containers(project: &Project, figures: &mut Figures) -> anyhow::Result<()> {
    let containers = project.containers().await?;
    let count = u32::try_from(containers.len())?;
    figures.held("containers, one-shot ones included", f64::from(count), CONTAINERS_MAX);
    for container in &containers {
        let is_well = container.is_healthy() || container.is_done();
        ensure!(is_well, "{} is not healthy: {container:?}", container.service());
    }
    let liberties: Vec<_> = containers.iter().flat_map(Container::liberties).collect();
    ensure!(liberties.is_empty(), "{}", liberties.join("\n"));
    Ok(())
}

/// One that was switched back, found by its saga.
async fn one_trace(project: &Project, stack: &Stack) -> anyhow::Result<()> {
    stack.client.set_stock(crowd::SKU, 1).await?;
    let order = NewOrder::of(crowd::SKU, 1).sent_to("00000");
    let placed = stack.client.place(&order).await?;
    let saga = saga::judge(stack, placed.order_id).await?;
    let events = saga.events.iter().collect();
    let told = Told { order_id: placed.order_id, events, lost: BTreeSet::new() };
    let jaeger = Query::try_new(&project.jaeger())?;
    let mut wrong = Vec::new();
    let whole = wait::until(TRACED_MAX, "a whole trace", async || {
        let found = jaeger.find("order", placed.order_id).await.ok()?;
        let spans = jaeger.trace(found.first()?).await.ok()?;
        wrong = trace::violations(&spans, &told);
        wrong.is_empty().then_some(spans)
    });
    let spans = whole.await.with_context(|| wrong.join("\n"))?;
    println!("a trace of {} spans over the four services, the way back in it", spans.len());
    Ok(())
}

/// A container dies while orders are on their way and more come in; it is started again.
async fn killed(
    project: &Project,
    stack: &Stack,
    crowd: &Crowd,
    service: &str,
) -> anyhow::Result<()> {
    stack.ready().await?;
    for provider in ["payment", "carrier"] {
        stack.client.break_provider(provider, Fault::of_all("slow", SLOW_SECONDS)).await?;
    }
    let orders = crowd.rush(stack, IN_FLIGHT).await?;
    let asked_again = crowd
        .during(stack, async || {
            let begun = Instant::now();
            project.kill(service).await?;
            wait::until(NOTICED_MAX, "somebody to miss it", async || {
                (!stack.client.is_ready("payment").await).then_some(())
            })
            .await?;
            // What is open as soon as anybody can tell was open at the kill.
            let open = wait::until(COUNTED_MAX, "open orders to be counted", async || {
                crowd.open(stack, &orders).await.ok()
            });
            let (open, ()) = try_join(open, project.start(service)).await?;
            for provider in ["payment", "carrier"] {
                stack.client.heal_provider(provider).await?;
            }
            stack.ready().await?;
            told(&format!("{service} killed: orders under way"), f64::from(i32::try_from(open)?));
            told(&format!("{service} killed: all ready after, s"), begun.elapsed().as_secs_f64());
            ensure!(open >= OPEN_MIN, "only {open} orders were under way: the run is void");
            Ok(())
        })
        .await?;
    println!("{service} killed: {asked_again} requests had to be made again");
    crowd.judge(stack).await
}

/// How often the engine has started a container again by itself. Who is killed is started by hand.
async fn restarts(project: &Project, killed: &str) -> anyhow::Result<u32> {
    let containers = project.containers().await?;
    let others = containers.iter().filter(|container| container.service() != killed);
    Ok(others.map(|container| container.restart_count).sum())
}

/// After all that was asked of it.
async fn memory(project: &Project, figures: &mut Figures) -> anyhow::Result<()> {
    let mut used = project.memory().await?;
    ensure!(!used.is_empty(), "the engine tells no memory");
    used.sort_by(|a, b| b.mb.total_cmp(&a.mb));
    for of_one in &used {
        told(&format!("{}, MB", of_one.container), of_one.mb);
    }
    figures.held("memory, MB", used.iter().map(|of_one| of_one.mb).sum(), MEMORY_MB_MAX);
    Ok(())
}
