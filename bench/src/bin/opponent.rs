//! One service of an opponent: the file's own name says which one (`order`, `inventory`, `payment`,
//! `shipping`), `OPPONENT` how it works.

use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use axum::Router;
use bench::opponent::{self, Options};
use clap::Parser as _;
use inventory::Inventory;
use order::Order;
use payment::Payment;
use shipping::Shipping;

/// Nothing in a measurement takes longer than an order may take.
const DEADLINE: Duration = Duration::from_mins(15);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let own = std::env::args_os().next().unwrap_or_default();
    let options = Options::parse();
    let provider_url = options.provider_url.clone();
    match Path::new(&own).file_name().and_then(|name| name.to_str()).unwrap_or_default() {
        "order" => {
            opponent::run(Order { deadline: DEADLINE }, options, opponent::order_routes()).await
        }
        "inventory" => opponent::run(Inventory, options, opponent::inventory_routes()).await,
        "payment" => {
            let payment = Payment::try_new(payment::ProviderConfig { provider_url })?;
            opponent::run(payment, options, Router::new()).await
        }
        "shipping" => {
            let shipping = Shipping::try_new(shipping::ProviderConfig { provider_url })?;
            opponent::run(shipping, options, Router::new()).await
        }
        other => bail!("this program is started under the name of a service, not as {other}"),
    }
}
