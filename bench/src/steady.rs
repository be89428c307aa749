//! Owns the figures that hardly depend on the machine, held against their bounds: what a saga writes
//! and what it asks of Postgres. Refuses to know how fast anything is.

use e2e_tests::figures::{Figures, told};

use crate::load::Load;
use crate::record::{Mode, What};
use crate::stage::{Ground, on_stage};

const WARM_UP: Load = Load::Orders { orders: 400, in_flight: 50 };
const LOAD: Load = Load::Orders { orders: 3_000, in_flight: 500 };
/// An order wrote 12,100 to 13,400 bytes in every way in which it was measured: batches of one and of
/// hundreds, a machine at rest and one with three times as much to do as it has cores.
const WAL_BYTES_MAX: f64 = 14_500.0;
/// One of twelve commits is enough to show that batches form: a service that commits each input by
/// itself makes more than twelve. Half of one was measured.
const COMMITS_MAX: f64 = 1.0;
/// The same, in Postgres' time: 0.5 to 1.1 ms were measured, and 16 with batches of one.
const POSTGRES_MS_MAX: f64 = 2.5;

/// Fails with what was over its bound.
pub async fn run(ground: Ground) -> anyhow::Result<()> {
    // Neither of these figures is another one because somebody else uses the machine, too.
    let ground = Ground { outside_cpu_max: 1.0, ..ground };
    let measure =
        async |stage: &mut crate::stage::Stage<'_>| stage.measure(1, What::Saturated, LOAD).await;
    let measured = on_stage(&ground, Mode::Product, WARM_UP, measure).await?;
    let mut figures = Figures::default();
    let held = |figure: Option<f64>| figure.unwrap_or(f64::INFINITY);
    let postgres_ms = measured.cpu_ms_per_saga.get("postgres").copied();
    figures.held("WAL, bytes per saga", held(measured.wal_bytes_per_saga), WAL_BYTES_MAX);
    figures.held("commits per saga", held(measured.commits_per_saga), COMMITS_MAX);
    figures.held("CPU of Postgres, ms per saga", held(postgres_ms), POSTGRES_MS_MAX);
    for (service, batch) in &measured.mean_batch {
        told(&format!("inputs per commit of {service}"), *batch);
    }
    told("sagas per second", held(measured.sagas_per_second));
    figures.are_within_their_bounds()
}
