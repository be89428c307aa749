//! Holds the stock of every order, or of none of its lines, and gives it back once.

use clap::Parser;
use inventory::{Inventory, http};

/// The inventory service: holds every line of an order, or none.
#[derive(Parser)]
struct Config {
    #[clap(flatten)]
    chassis: chassis::Config,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    chassis::run(Inventory, Config::parse().chassis, http::routes()).await
}
