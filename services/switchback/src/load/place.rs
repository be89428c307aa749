//! Owns how an order is placed: under one key, again and again, until the service has said what it
//! thinks of it. Refuses to take silence for a refusal.

use std::time::Duration;

use anyhow::Context as _;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use serde::Deserialize;
use tokio::time::sleep;
use uuid::Uuid;

use super::connection::{Answer, Connection};

const TRIES_MAX: u32 = 30;
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What became of an order that was placed.
#[derive(Debug)]
pub(super) enum Fate {
    Accepted(Uuid),
    /// The same order again would be refused again.
    Refused(String),
    /// It may have been taken or not.
    Unanswered(String),
}

#[derive(Deserialize)]
struct Accepted {
    order_id: Uuid,
}

/// Places an order; `again` hears of each try after the first.
pub(super) async fn place(
    connection: &mut Connection,
    order: Bytes,
    mut again: impl FnMut(),
) -> anyhow::Result<Fate> {
    let key = HeaderValue::from_str(&Uuid::new_v4().to_string())?;
    let mut pause = PAUSE_FIRST;
    let mut tries = 1;
    loop {
        let words = match connection.post("/v1/orders", &key, order.clone()).await {
            Ok(answer) if answer.status == StatusCode::ACCEPTED => {
                let accepted: Accepted = serde_json::from_slice(&answer.body)
                    .context("the order service gave an answer of another shape")?;
                return Ok(Fate::Accepted(accepted.order_id));
            }
            Ok(answer) if is_busy(answer.status) => words(&answer),
            Ok(answer) => return Ok(Fate::Refused(words(&answer))),
            Err(error) => format!("{:#}", anyhow::Error::from(error)),
        };
        if tries == TRIES_MAX {
            return Ok(Fate::Unanswered(format!("{words}, asked {TRIES_MAX} times")));
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
        tries += 1;
        again();
    }
}

fn is_busy(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

fn words(answer: &Answer) -> String {
    format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body))
}
