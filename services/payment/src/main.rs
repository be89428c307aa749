//! Captures the money of an order once, and gives it back when the train is turned round.

use axum::Router;
use clap::Parser;
use payment::{Payment, ProviderConfig};

/// The payment service: takes the money of an order once, and gives it back when it must.
#[derive(Parser)]
struct Config {
    #[clap(flatten)]
    chassis: chassis::Config,
    #[clap(flatten)]
    provider: ProviderConfig,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    let payment = Payment::try_new(config.provider)?;
    chassis::run(payment, config.chassis, Router::new()).await
}
