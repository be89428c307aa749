//! Owns the story: six trains, one after another, and whether each ended as told. Refuses to fake
//! any of it: real services, real orders, a real `kill -9`.

mod place;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use testkit::wait;
use uuid::Uuid;

use crate::client::{Client, Line, NewOrder, Order, Reason, ShipTo, Status, Timeline, read};
use crate::local;
use crate::railway::{duration, railway};
pub use place::NotRunning;
use place::Place;

const SKU: &str = "TEA-1";
const STOCK: u32 = 1_000;
const TRAIN_MAX: Duration = Duration::from_mins(1);

/// What only a stack of this program's own can be told.
const OF_ITS_OWN: [&str; 7] =
    ["durable", "instances", "port_base", "log_dir", "settings", "broker_advertised", "traces"];

/// Settings of the demo.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// End after the story; fails if any order ended otherwise than told.
    #[arg(long)]
    pub once: bool,
    /// Tell it on the stack that `make up` has started, and leave that running.
    #[arg(long, conflicts_with_all = OF_ITS_OWN)]
    pub compose: bool,
    #[command(flatten)]
    pub local: local::Options,
}

/// One order of the story.
struct Train {
    title: &'static str,
    payment_method: &'static str,
    postcode: &'static str,
    meanwhile: Meanwhile,
    /// The reason's code when it is turned round; nothing when it arrives.
    turned_by: Option<&'static str>,
    captures: usize,
    refunds: usize,
}

/// What happens while the provider has the money and has not answered yet.
#[derive(PartialEq)]
enum Meanwhile {
    Nothing,
    Cancel,
    KillPayment,
}

const PLAIN: Train = Train {
    title: "",
    payment_method: "pm_card_ok",
    postcode: "4051",
    meanwhile: Meanwhile::Nothing,
    turned_by: None,
    captures: 1,
    refunds: 0,
};

const STORY: [Train; 6] = [
    Train { title: "A train arrives", ..PLAIN },
    Train {
        title: "Turned round at payment: the card is declined",
        payment_method: "pm_card_declined",
        turned_by: Some("card_declined"),
        captures: 0,
        ..PLAIN
    },
    Train {
        title: "Turned round at shipping: the carrier refuses the address",
        postcode: "00000",
        turned_by: Some("address_rejected"),
        refunds: 1,
        ..PLAIN
    },
    Train {
        title: "The payment provider's answer is lost: looked up, and charged once",
        payment_method: "pm_answer_lost",
        ..PLAIN
    },
    Train {
        title: "Cancelled under way, while the provider has the money and is slow to answer",
        payment_method: "pm_slow",
        meanwhile: Meanwhile::Cancel,
        turned_by: Some("customer"),
        refunds: 1,
        ..PLAIN
    },
    Train {
        title: "kill -9 payment, while the provider has the money and is slow to answer",
        payment_method: "pm_slow",
        meanwhile: Meanwhile::KillPayment,
        ..PLAIN
    },
];

/// `switchback demo`.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    if options.compose {
        println!("{}\n", Place::Compose.describe().await?);
        return tell(&Place::Compose, options.once).await;
    }
    let begun = Instant::now();
    let told = local::with_stack(&options.local, async |stack| {
        let place = Place::Local(stack);
        println!("{}", place.describe().await?);
        println!("ready after {:.1} s\n", begun.elapsed().as_secs_f32());
        tell(&place, options.once).await?;
        if !options.once {
            std::future::pending::<()>().await;
        }
        Ok(())
    });
    let ended = told.await?;
    ensure!(ended.is_some() || !options.once, "stopped before the end of the story");
    Ok(())
}

async fn tell(place: &Place<'_>, is_all: bool) -> anyhow::Result<()> {
    let order = place.url("order").await?;
    let teller = Teller {
        place,
        jaeger: place.jaeger().await?,
        order: Client::try_new(&order)?,
        providers: Client::try_new(&place.url("providers").await?)?,
    };
    let inventory = Client::try_new(&place.url("inventory").await?)?;
    inventory.set_stock(SKU, STOCK).await.context("counting the stock")?;
    let mut otherwise = Vec::new();
    for (number, train) in (1..).zip(&STORY) {
        println!("{number}. {}", train.title);
        if let Err(error) = teller.run(train).await {
            println!("  ✗ not as told: {error:#}\n");
            otherwise.push(train.title);
        }
    }
    ensure!(otherwise.is_empty(), "ended otherwise than told: {}", otherwise.join("; "));
    println!("All {} orders ended as told.", STORY.len());
    if !is_all {
        println!("{}", invitation(&order, place.end()));
    }
    Ok(())
}

struct Teller<'a> {
    place: &'a Place<'a>,
    jaeger: Option<String>,
    order: Client,
    providers: Client,
}

impl Teller<'_> {
    async fn run(&self, train: &Train) -> anyhow::Result<()> {
        let wanted = new_order(train.payment_method, train.postcode);
        let placed = self.order.place(&wanted, &Uuid::new_v4().to_string()).await?;
        let trace_id = placed["trace_id"].as_str().unwrap_or_default().to_owned();
        let id = read::<Order>(placed)?.order_id;
        self.disturb(train, id).await?;
        let order = self.ended(id).await?;
        let timeline = self.told(id).await?;
        print!("{}", railway(&timeline));
        self.judge(train, &order).await?;
        println!("  {}", outcome(train, &order, &timeline));
        if let Some(jaeger) = &self.jaeger {
            println!("  {jaeger}/trace/{trace_id}, or: switchback trace {id}");
        }
        println!();
        Ok(())
    }

    async fn disturb(&self, train: &Train, id: Uuid) -> anyhow::Result<()> {
        if train.meanwhile == Meanwhile::Nothing {
            return Ok(());
        }
        wait::until(TRAIN_MAX, "the provider to take the money", async || {
            (self.count("capture", id).await.ok()? > 0).then_some(())
        })
        .await?;
        if train.meanwhile == Meanwhile::KillPayment {
            return self.place.kill_payment().await;
        }
        self.order.cancel(id, &Uuid::new_v4().to_string()).await.map(drop)
    }

    async fn ended(&self, id: Uuid) -> anyhow::Result<Order> {
        wait::until(TRAIN_MAX, "the order to end", async || {
            let order: Order = read(self.order.order(id).await.ok()?).ok()?;
            order.status.is_final().then_some(order)
        })
        .await
    }

    /// The read model follows the order at its own pace.
    async fn told(&self, id: Uuid) -> anyhow::Result<Timeline> {
        wait::until(TRAIN_MAX, "the timeline to be complete", async || {
            let timeline = self.order.timeline(id).await.ok()?;
            let ended = ["OrderConfirmed", "OrderCancelled"].map(|event| timeline.at(event));
            ended.iter().any(Option::is_some).then_some(timeline)
        })
        .await
    }

    async fn judge(&self, train: &Train, order: &Order) -> anyhow::Result<()> {
        let wanted = if train.turned_by.is_some() { Status::Cancelled } else { Status::Confirmed };
        ensure!(order.status == wanted, "it is {:?}", order.status);
        let code = order.reason.as_ref().map(|reason| reason.code.as_str());
        ensure!(code == train.turned_by, "its reason is {code:?}");
        let captures = self.count("capture", order.order_id).await?;
        let refunds = self.count("refund", order.order_id).await?;
        let counted = (captures, refunds) == (train.captures, train.refunds);
        ensure!(counted, "the ledger shows {captures} captures and {refunds} refunds");
        Ok(())
    }

    async fn count(&self, operation: &str, id: Uuid) -> anyhow::Result<usize> {
        let ledger = self.providers.ledger(id).await?;
        Ok(ledger.iter().filter(|entry| entry.operation == operation).count())
    }
}

fn new_order(payment_method: &str, postcode: &str) -> NewOrder {
    NewOrder {
        customer_id: "cus_1".to_owned(),
        currency: "EUR".to_owned(),
        lines: vec![Line { sku: SKU.to_owned(), quantity: 2, unit_price_minor: 450 }],
        payment_method: payment_method.to_owned(),
        ship_to: ShipTo {
            name: "Ada Example".to_owned(),
            street: "Station Road 1".to_owned(),
            city: "Basel".to_owned(),
            postcode: postcode.to_owned(),
            country: "CH".to_owned(),
        },
    }
}

fn outcome(train: &Train, order: &Order, timeline: &Timeline) -> String {
    let took = timeline.begun().zip(timeline.ended()).map(|(begun, ended)| duration(ended - begun));
    let took = took.unwrap_or_default();
    let ledger = match (train.captures, train.refunds) {
        (0, _) => "the provider's ledger: nothing was charged",
        (_, 0) => "the provider's ledger: charged once",
        _ => "the provider's ledger: charged once, refunded once",
    };
    match &order.reason {
        None => format!("arrived in {took}; {ledger}"),
        Some(Reason { code, service }) => {
            format!("turned round by {service} ({code}), back in {took}; {ledger}")
        }
    }
}

fn invitation(url: &str, end: &str) -> String {
    let order = new_order("pm_card_ok", "4051");
    let body = serde_json::to_string(&order).unwrap_or_default();
    format!(
        "\nTry one yourself (pm_card_declined, pm_answer_lost, pm_slow; postcodes 00000, 99999):\n\
         \n  curl -si {url}/v1/orders -H 'Idempotency-Key: mine-1' \\\n    \
         -H 'Content-Type: application/json' \\\n    -d '{body}'\n\
         \n  curl -s {url}/v1/orders/<order_id>/timeline\n\
         \n{end} and leaves nothing behind."
    )
}
