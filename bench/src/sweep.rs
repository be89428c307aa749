//! Owns how a mode fares with more and fewer sagas in flight, so that nobody need believe that each
//! was given as many as suit it. Refuses to keep what it measures: it is told and not compared.

use crate::load::Load;
use crate::record::{Mode, What};
use crate::results::say;
use crate::stage::{Ground, on_stage};

const SECONDS: u32 = 10;

/// One window for each number of sagas in flight, on one stack.
pub async fn run(mode: Mode, in_flight: &[u32], ground: Ground) -> anyhow::Result<()> {
    on_stage(&ground, mode, mode.warm_up(), async |stage| {
        for in_flight in in_flight.iter().copied() {
            let load = Load::Seconds { seconds: SECONDS, in_flight };
            say(&stage.measure(1, What::Loaded { in_flight }, load).await?);
        }
        Ok(())
    })
    .await
}
