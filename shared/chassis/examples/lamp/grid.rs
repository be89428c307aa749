//! Owns how the power company is asked, and what its answers look like. Refuses to decide what is
//! asked, and when.

use calls::{Destination, Policy, Refusals, Request, Url, Wanted};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::domain::Call;

const NAME: &str = "grid";
const REFUSALS: Refusals = &[(402, "bill_unpaid")];

#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Where the power company is asked.
    #[arg(long, env = "GRID_URL", default_value = "http://127.0.0.1:8085/grid")]
    grid_url: Url,
    /// How often it is asked about one lamp at most.
    #[arg(long, env = "GRID_ATTEMPTS_MAX", default_value_t = 60)]
    grid_attempts_max: u32,
}

pub fn destination(config: &Config) -> anyhow::Result<Destination> {
    let policy = Policy { attempts_max: config.grid_attempts_max, ..Policy::default() };
    Ok(Destination::try_new(NAME, config.grid_url.clone(), policy, REFUSALS, understand)?)
}

/// A call as the power company wants to be asked. A mistake left in on purpose: nobody thought of a
/// label of blanks.
pub fn wanted(lamp_id: Uuid, call: &Call) -> Wanted {
    let Call::Connect { label } = call;
    let room = label.split_whitespace().next().expect("a label has a word in it");
    Wanted {
        step: Call::CONNECT,
        destination: NAME,
        path: "/v1/connections",
        body: json!({"lamp_id": lamp_id, "label": label, "room": room}).to_string().into_bytes(),
        compensation: false,
    }
}

/// The answer must name our lamp.
fn understand(request: &Request, reply: &Value) -> Option<String> {
    let asked: Value = serde_json::from_slice(&request.body).ok()?;
    let ours = reply.get("lamp_id")? == asked.get("lamp_id")?;
    ours.then(|| reply.get("reference")?.as_str().map(str::to_owned)).flatten()
}
