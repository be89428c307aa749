//! Owns a load on a running stack: how much of it, whether it went through, and the figures at the
//! end. Refuses to know a service from inside, and to cost much: it shares the machine with what it
//! measures.

mod connection;
mod counter;
mod follow;
mod orders;
mod paced;
mod place;
mod progress;
mod saturated;
mod stock;
mod tally;

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::{ArgGroup, Args};

use connection::{Connection, Target};
use counter::Counter;
use follow::{Amount, Load};
use orders::{Orders, Sample};
use tally::{Figures, Tally};

use crate::local;

/// So many requests at the same time fill every lane of the order service.
const CONNECTIONS_MAX: usize = 500;

/// Place many orders on a running stack, and say as JSON how they fared.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("amount").args(["orders", "seconds"]).required(true))]
#[command(group = ArgGroup::new("pace").args(["in_flight", "rate"]).required(true))]
pub struct Options {
    /// Place so many orders.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    orders: Option<u64>,
    /// Place orders for so long.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// As fast as it goes, with so many orders that have not ended.
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u32).range(1..))]
    in_flight: Option<u32>,
    /// So many a second, however long each takes.
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// So many of them a second are looked at until they end: one in R over this.
    #[arg(long, value_name = "W", default_value_t = 20, conflicts_with = "in_flight")]
    watch_per_second: u32,
    /// Give up when no order was accepted for so many seconds and some have not ended.
    #[arg(long, value_name = "S", default_value_t = 120)]
    at_most: u64,
    #[command(flatten)]
    kind: Orders,
    /// Do not count the stock first.
    #[arg(long)]
    no_stock: bool,
    /// Where the local stack's ports begin.
    #[arg(long, default_value_t = local::PORT_BASE, conflicts_with_all = ["order_url", "inventory_url"])]
    port_base: u16,
    /// Where the order service listens; several times for several processes.
    #[arg(long, value_name = "URL", requires = "inventory_url")]
    order_url: Vec<String>,
    /// Where the inventory service listens.
    #[arg(long, value_name = "URL", requires = "order_url")]
    inventory_url: Option<String>,
}

/// No service listens where the load was sent.
#[derive(Debug, thiserror::Error)]
#[error("nobody answers at {0}")]
pub struct NobodyThere(String);

/// `switchback load`: the figures on stdout, and an error when an order has not ended.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    let local =
        |offset: u16| format!("http://127.0.0.1:{}", options.port_base.saturating_add(offset));
    let inventory = options.inventory_url.clone().unwrap_or_else(|| local(2));
    let orders = if options.order_url.is_empty() { &[local(1)][..] } else { &options.order_url };
    let targets = orders.iter().map(|url| Target::parse(url)).collect::<Result<Vec<_>, _>>()?;
    let inventory = Target::parse(&inventory)?;
    for target in targets.iter().chain([&inventory]) {
        let mut connection = Connection::to(target.clone());
        connection.open().await.map_err(|_| NobodyThere(target.to_string()))?;
    }
    if !options.no_stock {
        stock::count(&inventory, options.kind.skus).await.context("counting the stock")?;
    }
    let (figures, complaint) = figures(options, targets).await?;
    println!("{}", serde_json::to_string(&figures)?);
    let Figures { refused, unanswered, unfinished, .. } = figures;
    ensure!(
        refused + unanswered + unfinished == 0,
        "{refused} orders were refused, {unanswered} not answered and {unfinished} have not ended{}",
        complaint.map(|words| format!("; {words}")).unwrap_or_default()
    );
    Ok(())
}

async fn figures(
    options: &Options,
    targets: Vec<Target>,
) -> anyhow::Result<(Figures, Option<String>)> {
    let mut counter =
        Counter::start(&targets).await.context("asking how many orders have ended")?;
    let load = Load {
        targets,
        orders: &options.kind,
        amount: options.amount(),
        at_most: Duration::from_secs(options.at_most),
        begun: Instant::now(),
        tally: RefCell::new(Tally::new()),
        ended: Cell::new(0),
    };
    let (kind, last_end) = match (options.rate, options.in_flight) {
        (Some(rate), _) => {
            let sample = Sample::new(rate.into(), options.watch_per_second.into());
            ("paced", paced::run(&load, rate, sample, &mut counter).await?)
        }
        (None, in_flight) => {
            let in_flight = usize::try_from(in_flight.unwrap_or(1))?;
            ("saturated", saturated::run(&load, in_flight, &mut counter).await?)
        }
    };
    let mut tally = load.tally.into_inner();
    let complaint = tally.complaint.take();
    Ok((tally.figures(kind, counter.ended, last_end), complaint))
}

impl Options {
    fn amount(&self) -> Amount {
        let seconds = self.seconds.unwrap_or_default();
        match (self.orders, self.rate) {
            (Some(orders), _) => Amount::Orders(orders),
            (None, Some(rate)) => Amount::Orders(seconds * u64::from(rate)),
            (None, None) => Amount::Time(Duration::from_secs(seconds)),
        }
    }
}
