//! Books the parcel of an order once, or never.

use axum::Router;
use clap::Parser;
use shipping::{ProviderConfig, Shipping};

/// The shipping service: books the parcel of an order once, or never.
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
    let shipping = Shipping::try_new(config.provider)?;
    chassis::run(shipping, config.chassis, Router::new()).await
}
