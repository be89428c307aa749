//! Owns orders at the terminal: place, show, watch, cancel. Refuses to decide anything: it says
//! what the order service says.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;
use testkit::wait;
use uuid::Uuid;

use crate::client::{Client, Line, NewOrder, Order, ShipTo, Timeline, read};
use crate::railway::{duration, railway};

/// Orders from the terminal.
#[derive(Debug, Args)]
pub struct Options {
    /// Where the order service listens.
    #[arg(long, env = "ORDER_URL", default_value = "http://127.0.0.1:8081", global = true)]
    url: String,
    /// How to print what there is.
    #[arg(short, long, value_enum, default_value_t = Output::Table, global = true)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// The service's own answer.
    Json,
    /// The order's id alone.
    Id,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Place an order.
    Place(Box<Place>),
    /// Show an order as it is now.
    Show { order_id: Uuid },
    /// Follow an order to its end.
    Watch {
        order_id: Uuid,
        /// Give up after so long.
        #[arg(long, default_value_t = 900)]
        timeout_seconds: u64,
    },
    /// Ask for an order to be cancelled.
    Cancel {
        order_id: Uuid,
        /// The same key again is the same request again; a fresh one by default.
        #[arg(long)]
        idempotency_key: Option<String>,
    },
}

#[derive(Debug, Args)]
struct Place {
    #[arg(long, default_value = "TEA-1")]
    sku: String,
    #[arg(long, default_value_t = 1)]
    quantity: u32,
    #[arg(long, default_value_t = 450)]
    unit_price_minor: i64,
    #[arg(long, default_value = "EUR")]
    currency: String,
    #[arg(long, default_value = "cus_1")]
    customer_id: String,
    /// A token of the payment provider: `pm_card_ok`, `pm_card_declined`, `pm_answer_lost`, `pm_slow`.
    #[arg(long, default_value = "pm_card_ok")]
    payment_method: String,
    #[arg(long, default_value = "Ada Example")]
    name: String,
    #[arg(long, default_value = "Station Road 1")]
    street: String,
    #[arg(long, default_value = "Basel")]
    city: String,
    /// The carrier refuses 00000, and is away twice for 99999.
    #[arg(long, default_value = "4051")]
    postcode: String,
    #[arg(long, default_value = "CH")]
    country: String,
    /// The same key again is the same order again; a fresh one by default.
    #[arg(long)]
    idempotency_key: Option<String>,
}

impl Place {
    fn order(self) -> NewOrder {
        let line = Line {
            sku: self.sku,
            quantity: self.quantity,
            unit_price_minor: self.unit_price_minor,
        };
        let ship_to = ShipTo {
            name: self.name,
            street: self.street,
            city: self.city,
            postcode: self.postcode,
            country: self.country,
        };
        NewOrder {
            customer_id: self.customer_id,
            currency: self.currency,
            lines: vec![line],
            payment_method: self.payment_method,
            ship_to,
        }
    }
}

/// `switchback orders …`.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let client = Client::try_new(&options.url)?;
    match options.command {
        Command::Place(mut place) => {
            let key = key(place.idempotency_key.take());
            print_order(options.output, &client.place(&place.order(), &key).await?)
        }
        Command::Show { order_id } => show(&client, options.output, order_id).await,
        Command::Watch { order_id, timeout_seconds } => {
            let at_most = Duration::from_secs(timeout_seconds);
            watch(&client, options.output, order_id, at_most).await?;
            show(&client, options.output, order_id).await
        }
        Command::Cancel { order_id, idempotency_key } => {
            let answer = client.cancel(order_id, &key(idempotency_key)).await?;
            print_order(options.output, &answer)
        }
    }
}

fn key(given: Option<String>) -> String {
    given.unwrap_or_else(|| Uuid::new_v4().to_string())
}

async fn show(client: &Client, output: Output, id: Uuid) -> anyhow::Result<()> {
    print_order(output, &client.order(id).await?)?;
    if output == Output::Table {
        print!("\n{}", railway(&client.timeline(id).await?));
    }
    Ok(())
}

/// Prints each event as soon as it is known, until the order's end is among them.
async fn watch(client: &Client, output: Output, id: Uuid, at_most: Duration) -> anyhow::Result<()> {
    let mut printed = 0;
    let watched =
        wait::until(at_most, "the order to end", async || match client.timeline(id).await {
            Ok(timeline) => {
                if output == Output::Table {
                    print_events(&timeline, printed);
                }
                printed = printed.max(timeline.items.len());
                let ended = |event: &&str| timeline.at(event).is_some();
                ["OrderConfirmed", "OrderCancelled"].iter().any(ended).then_some(Ok(()))
            }
            Err(error) => Some(Err(error)),
        });
    watched.await?
}

/// A late event may come to stand before one that was printed already; the picture at the end is
/// right all the same.
fn print_events(timeline: &Timeline, printed: usize) {
    let Some(begun) = timeline.begun() else { return };
    for said in timeline.items.iter().skip(printed) {
        let reason = said.reason.as_ref().map(|reason| format!("  {}", reason.code));
        let after = duration(said.at - begun);
        println!("{after:>9}  {:<10} {}{}", said.service, said.name(), reason.unwrap_or_default());
    }
}

fn print_order(output: Output, answer: &Value) -> anyhow::Result<()> {
    let order: Order = read(answer.clone())?;
    match output {
        Output::Id => println!("{}", order.order_id),
        Output::Json => println!("{}", serde_json::to_string_pretty(answer)?),
        Output::Table => println!("{}", table(answer, &order)),
    }
    Ok(())
}

fn table(answer: &Value, order: &Order) -> String {
    let mut rows = vec![("order", order.order_id.to_string()), ("status", text(&answer["status"]))];
    if let Some(reason) = &order.reason {
        rows.push(("reason", format!("{} ({})", reason.code, reason.service)));
    }
    for service in ["inventory", "payment", "shipping"] {
        // A word when it was just placed, an object afterwards, nothing in the answer to a cancel.
        if let Some(effect) = answer["effects"].get(service) {
            rows.push((service, text(effect.get("status").unwrap_or(effect))));
        }
    }
    for name in ["cancel", "trace_id"] {
        if let Some(value) = answer.get(name) {
            rows.push((name, text(value)));
        }
    }
    let rows: Vec<_> = rows.iter().map(|(name, value)| format!("{name:<10} {value}")).collect();
    rows.join("\n")
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
