//! Owns looking at a stack in the middle of its troubles. Refuses to take a look that an outage cut
//! short for one.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

use crate::check::{self, Violation, World};
use crate::stack::Stack;

/// From the end of one look to the next, at least.
const PAUSE: Duration = Duration::from_secs(3);
/// A look may take a fifth of the time.
const SHARE: u32 = 4;

#[derive(Default)]
pub struct Looks {
    pub count: usize,
    pub found: Vec<Violation>,
}

impl Looks {
    /// Until the checker itself fails.
    pub async fn go_on(&mut self, stack: &Stack) -> anyhow::Error {
        loop {
            let begun = Instant::now();
            if let Ok(world) = World::read(stack).await {
                match spawn_blocking(move || check::always(&world)).await {
                    Ok(found) => {
                        self.count += 1;
                        self.found.extend(found);
                    }
                    Err(error) => return anyhow::Error::new(error).context("the checker fails"),
                }
            }
            sleep_until(Instant::now() + PAUSE.max(begun.elapsed() * SHARE)).await;
        }
    }
}
