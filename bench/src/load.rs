//! Owns the load generator as a process of its own, so that what it costs is counted apart, and its
//! result. Refuses to place an order itself.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, ensure};
use serde::Deserialize;
use tokio::process::Command;

use crate::record::Percentiles;

/// Of the orders, in percent, so many are refused by the carrier.
pub const FAILING_PERCENT: u32 = 10;
/// Sold in all loads but the one on a single SKU.
pub const SKUS: u32 = 1_000;

/// How much of it, and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    Orders {
        orders: u64,
        in_flight: u32,
    },
    Seconds {
        seconds: u32,
        in_flight: u32,
    },
    /// An open loop: each order at its time.
    Paced {
        rate: u32,
        seconds: u32,
    },
}

/// What became of the orders.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Loaded {
    pub accepted: u64,
    pub refused: u64,
    pub unanswered: u64,
    /// Of those that were paced, how many were sent long after their time.
    pub late: u64,
    pub confirmed: u64,
    pub cancelled: u64,
    pub unfinished: u64,
    /// From the first 202 to the last order that ended.
    pub seconds: f64,
    pub sagas_per_second: f64,
    pub accepted_ms: Option<Percentiles>,
    /// Of those that were watched and confirmed.
    pub confirmed_ms: Option<Watched>,
}

/// Like [`Percentiles`], with the number of orders behind them.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Watched {
    pub watched: u64,
    p50: f64,
    p95: f64,
    p99: f64,
    max: f64,
}

impl Watched {
    pub const fn percentiles(&self) -> Percentiles {
        let Self { p50, p95, p99, max, .. } = *self;
        Percentiles { p50, p95, p99, max }
    }
}

impl Load {
    fn arguments(self) -> Vec<String> {
        let arguments = match self {
            Self::Orders { orders, in_flight } => {
                [("--orders", orders), ("--in-flight", in_flight.into())]
            }
            Self::Seconds { seconds, in_flight } => {
                [("--seconds", seconds.into()), ("--in-flight", in_flight.into())]
            }
            Self::Paced { rate, seconds } => {
                [("--rate", rate.into()), ("--seconds", seconds.into())]
            }
        };
        arguments
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value.to_string()])
            .collect()
    }

    /// Sagas that may be in flight at a time, where that is bounded.
    pub const fn in_flight(self) -> Option<u32> {
        match self {
            Self::Orders { in_flight, .. } | Self::Seconds { in_flight, .. } => Some(in_flight),
            Self::Paced { .. } => None,
        }
    }

    /// Runs it to the end on the stack at these ports. Fails unless every order ended.
    pub async fn run(
        self,
        programs: &Path,
        port_base: u16,
        skus: u32,
        counts_stock: bool,
    ) -> anyhow::Result<Loaded> {
        let mut command = Command::new("setpriv");
        // It never outlives this thread.
        command.args(["--pdeathsig", "KILL", "--"]).arg(programs.join("switchback")).arg("load");
        command.args(self.arguments());
        command.args(["--port-base", &port_base.to_string(), "--skus", &skus.to_string()]);
        command.args(["--failing", &FAILING_PERCENT.to_string()]);
        if !counts_stock {
            command.arg("--no-stock");
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        let done = command.output().await.context("setpriv (util-linux) starts the load")?;
        let words = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "the load ended with {}: {words}", done.status);
        let said = String::from_utf8_lossy(&done.stdout);
        serde_json::from_str(&said).with_context(|| format!("the load said {said}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_says_how_its_orders_fared_and_what_is_missing_in_it_is_an_error() {
        let said = r#"{"load":"paced","orders":3,"accepted":3,"refused":0,"unanswered":0,
            "retried":0,"late":1,"confirmed":2,"cancelled":1,"unfinished":0,"seconds":0.5,
            "sagas_per_second":6.0,"accepted_ms":{"p50":1.0,"p95":2.0,"p99":3.0,"max":4.0},
            "finished_ms":null,
            "confirmed_ms":{"watched":2,"p50":5.0,"p95":6.0,"p99":7.0,"max":8.0}}"#;
        let loaded: Loaded = serde_json::from_str(said).expect("what a load says");
        assert_eq!((loaded.accepted, loaded.late, loaded.cancelled), (3, 1, 1));
        let watched = loaded.confirmed_ms.expect("two orders were watched");
        assert_eq!(watched.watched, 2);
        assert_eq!(watched.percentiles(), Percentiles { p50: 5.0, p95: 6.0, p99: 7.0, max: 8.0 });
        let cut = said.replace("\"unfinished\":0,", "");
        assert!(serde_json::from_str::<Loaded>(&cut).is_err());
    }

    #[test]
    fn only_an_open_loop_has_no_bound_on_what_is_in_flight() {
        let paced = Load::Paced { rate: 20, seconds: 60 };
        assert_eq!(paced.arguments(), ["--rate", "20", "--seconds", "60"]);
        assert_eq!(paced.in_flight(), None);
        let bounded = Load::Seconds { seconds: 10, in_flight: 64 };
        assert_eq!(bounded.arguments(), ["--seconds", "10", "--in-flight", "64"]);
        assert_eq!(bounded.in_flight(), Some(64));
    }
}
