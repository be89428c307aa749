//! Owns `switchback trace`: an order's way through all processes, as Jaeger has it. Refuses to ask
//! the services: what they have not told Jaeger is not there.

pub mod tree;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use testkit::jaeger::Query;
use testkit::otlp::Span;
use uuid::Uuid;

use tree::tree;

/// Every trace that is about an order has a span of this service that says so.
const WITNESS: &str = "order";

/// An order's way through all processes.
#[derive(Debug, Args)]
pub struct Options {
    order_id: Uuid,
    /// Where Jaeger answers.
    #[arg(long, env = "JAEGER_URL", default_value = "http://127.0.0.1:8095")]
    jaeger_url: String,
    /// How to print what there is.
    #[arg(short, long, value_enum, default_value_t = Output::Tree)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Tree,
    /// The spans.
    Json,
}

/// `switchback trace …`.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let Options { order_id, jaeger_url, output } = options;
    let query = Query::try_new(&jaeger_url)?;
    let asking = || format!("asking Jaeger at {jaeger_url}");
    let mut traces: Vec<Vec<Span>> = Vec::new();
    for trace_id in query.find(WITNESS, order_id).await.with_context(asking)? {
        traces.push(query.trace(&trace_id).await.with_context(asking)?);
    }
    traces.retain(|spans| !spans.is_empty());
    ensure!(
        !traces.is_empty(),
        "Jaeger at {jaeger_url} knows no trace of order {order_id}: was it placed while spans went \
         there, and not more than a second ago?"
    );
    if output == Output::Json {
        println!("{}", serde_json::to_string_pretty(&traces.concat())?);
        return Ok(());
    }
    for spans in &traces {
        let page = spans.first().map(|span| query.page(&span.trace_id)).transpose()?;
        println!("{}{}\n", tree(spans), page.map(|page| page.to_string()).unwrap_or_default());
    }
    Ok(())
}
