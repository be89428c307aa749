//! Takes orders in, owns their fate as the customer sees it, and tells their story.

use std::time::Duration;

use clap::Parser;
use order::{Order, http};

/// The order service: takes orders in and owns their fate as the customer sees it.
#[derive(Parser)]
struct Config {
    #[clap(flatten)]
    chassis: chassis::Config,
    /// An order that is still on its way after so many seconds is cancelled.
    #[clap(long, env = "ORDER_DEADLINE_SECONDS", default_value_t = 900)]
    deadline_seconds: u32,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    let deadline = Duration::from_secs(config.deadline_seconds.into());
    chassis::run(Order { deadline }, config.chassis, http::routes()).await
}
