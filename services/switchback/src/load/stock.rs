//! Owns that there is enough to sell: the stock is counted before the load begins. Refuses to count
//! less than any load can want.

use anyhow::ensure;
use futures::future::try_join_all;
use hyper::body::Bytes;

use super::connection::{Connection, Target};
use super::orders::sku;

const UNITS: u32 = 1_000_000_000;
const CONNECTIONS: usize = 16;

pub(super) async fn count(inventory: &Target, skus: u64) -> anyhow::Result<()> {
    let body = Bytes::from(format!("{{\"available\":{UNITS}}}"));
    let counting = (0..CONNECTIONS).map(async |first| {
        let mut connection = Connection::to(inventory.clone());
        for number in (0..skus).skip(first).step_by(CONNECTIONS) {
            let path = format!("/v1/stock/{}", sku(number));
            let answer = connection.put(&path, body.clone()).await?;
            let words = String::from_utf8_lossy(&answer.body);
            ensure!(answer.status.is_success(), "{}: {words}", answer.status);
        }
        anyhow::Ok(())
    });
    try_join_all(counting).await.map(drop)
}
