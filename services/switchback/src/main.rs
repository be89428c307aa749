//! Reads the command line and says how it went: 0 done, 1 failed, 2 wrong usage, 3 nobody there.
//! Refuses to do anything itself.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use switchback::{demo, events, healthcheck, load, local, orders, topics, trace};

const FAILED: u8 = 1;
const NOT_REACHABLE: u8 = 3;

/// Choreographed sagas that stay right when a part of the work fails.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole stack on this machine until Ctrl-C.
    Local(local::Options),
    /// Run the stack and tell a story of six orders on it.
    Demo(demo::Options),
    /// Place, show, watch and cancel orders.
    Orders(orders::Options),
    /// Publish again what the broker has lost.
    Events(events::Options),
    /// Make the topics on a broker of your own.
    Topics(topics::Options),
    /// Show an order's way through all processes, as Jaeger has it.
    Trace(trace::Options),
    /// Put a load on a running stack and measure what becomes of it.
    Load(load::Options),
    /// Ask a service whether it is well: 0 yes, 1 no.
    Healthcheck(healthcheck::Options),
}

/// On one thread: the processes it starts end with the thread that started them.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Local(options) => local::run(&options).await,
        Command::Demo(options) => demo::run(&options).await,
        Command::Orders(options) => orders::run(options).await,
        Command::Events(options) => events::run(options).await,
        Command::Topics(options) => topics::run(options).await,
        Command::Trace(options) => trace::run(options).await,
        Command::Load(options) => load::run(&options).await,
        Command::Healthcheck(options) => healthcheck::run(options).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("switchback: {error:#}");
            ExitCode::from(if is_unreachable(&error) { NOT_REACHABLE } else { FAILED })
        }
    }
}

fn is_unreachable(error: &anyhow::Error) -> bool {
    let no_broker = error.downcast_ref::<bus::Error>();
    if error.is::<events::NobodyThere>()
        || error.is::<topics::NobodyThere>()
        || error.is::<demo::NotRunning>()
        || error.is::<load::NobodyThere>()
        || matches!(no_broker, Some(bus::Error::NoBroker(_)))
    {
        return true;
    }
    let requests = error.chain().filter_map(|cause| cause.downcast_ref::<reqwest::Error>());
    requests.into_iter().any(|error| error.is_connect() || error.is_timeout())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn no_two_arguments_are_in_each_others_way() {
        Cli::command().debug_assert();
    }
}
