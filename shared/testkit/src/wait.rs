//! Owns waiting for something that another process or task does. Refuses to wait without a bound:
//! this is the only place that may sleep on behalf of a test.

use std::time::{Duration, Instant};

use anyhow::bail;

const PAUSE_FIRST_MS: u64 = 2;
const PAUSE_MAX_MS: u64 = 50;

/// Asks `probe` again and again until it has something, or says what it waited for in vain.
///
/// ```
/// # use std::time::Duration;
/// # async fn ready() -> bool { true }
/// # tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
/// testkit::wait::until(Duration::from_secs(5), "the server to be ready", async || {
///     ready().await.then_some(())
/// })
/// .await
/// # }).expect("it is ready at once");
/// ```
pub async fn until<T>(
    at_most: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let mut pauses = Pauses::until(at_most);
    loop {
        if let Some(found) = probe().await {
            return Ok(found);
        }
        let Some(pause) = pauses.next() else { bail!("waited {at_most:?} in vain for {what}") };
        tokio::time::sleep(pause).await;
    }
}

/// The same for code that has no runtime.
pub fn until_blocking<T>(
    at_most: Duration,
    what: &str,
    mut probe: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let mut pauses = Pauses::until(at_most);
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        let Some(pause) = pauses.next() else { bail!("waited {at_most:?} in vain for {what}") };
        std::thread::sleep(pause);
    }
}

/// Short pauses first, so that what is quick is seen at once; none once the time is over.
struct Pauses {
    end: Instant,
    pause_ms: u64,
}

impl Pauses {
    fn until(at_most: Duration) -> Self {
        Self { end: Instant::now() + at_most, pause_ms: PAUSE_FIRST_MS }
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let left = self.end.checked_duration_since(Instant::now())?;
        let pause = Duration::from_millis(self.pause_ms).min(left);
        self.pause_ms = (self.pause_ms * 2).min(PAUSE_MAX_MS);
        (!left.is_zero()).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_ends_with_what_the_probe_found() {
        let mut asked = 0;
        let found = until(Duration::from_secs(5), "the third question", async || {
            asked += 1;
            (asked == 3).then_some(asked)
        });
        assert_eq!(found.await.expect("the third question is asked"), 3);
    }

    #[tokio::test]
    async fn a_wait_in_vain_ends_in_time_and_says_what_for() {
        let begun = Instant::now();
        let vain = until::<()>(Duration::from_millis(30), "a miracle", async || None).await;
        assert_eq!(vain.expect_err("nothing").to_string(), "waited 30ms in vain for a miracle");
        assert!(begun.elapsed() < Duration::from_secs(5));
        let vain = until_blocking::<()>(Duration::from_millis(30), "a miracle", || None);
        assert!(vain.is_err());
    }
}
