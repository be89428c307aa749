//! A whole service on the shell, small enough to be read at once: lamps that a wall switch turns
//! on, and that the power company connects to its grid.
//!
//! Hears `BulbFitted`, `SwitchPressed` and `DimmerTurned` of the wall. Says `Fitted`, `Lit`,
//! `Dimmed` and `Cut`. It has more mistakes than one, to see what the shell makes of them.

mod domain;
mod events;
mod grid;
mod http;
mod store;

use std::convert::Infallible;

use calls::{Destination, Wanted};
use chassis::Service;
use clap::Parser;
use domain::{Call, Input, State};
use events::{Heard, Said};
use saga::{Decision, Participant, Settled};
use uuid::Uuid;

#[derive(Parser)]
struct Config {
    #[clap(flatten)]
    chassis: chassis::Config,
    #[clap(flatten)]
    grid: grid::Config,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    let lamp = Lamp { grid: grid::destination(&config.grid)? };
    chassis::run(lamp, config.chassis, http::routes()).await
}

/// The service and its way to the power company.
struct Lamp {
    grid: Destination,
}

impl Participant for Lamp {
    const NAME: &'static str = "lamp";
    type Heard = Heard;
    type State = State;
    type Input = Input;
    type Event = Said;
    type Call = Call;
    type Rejection = Infallible;

    fn route(heard: &Heard) -> Option<Input> {
        Some(domain::route(heard))
    }

    fn decide(state: &State, input: &Input) -> Decision<State, Said, Call, Infallible> {
        domain::decide(state, input)
    }
}

impl Service for Lamp {
    fn wanted(lamp_id: Uuid, call: &Call) -> Wanted {
        grid::wanted(lamp_id, call)
    }

    fn answered(step: &str, settled: &Settled) -> Option<Input> {
        domain::answered(step, settled)
    }

    fn destinations(&self) -> Vec<Destination> {
        vec![self.grid.clone()]
    }

    /// A mistake left in on purpose: nobody thought of full light.
    fn observe(_: &State, input: &Input, _: &State) {
        if let Input::Turn { level } = input {
            let light = ["dark", "dim", "soft", "clear", "bright"][usize::from(*level) / 20];
            metrics::counter!("lamp_turns_total", "light" => light).increment(1);
        }
    }
}
