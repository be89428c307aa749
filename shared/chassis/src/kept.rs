//! Owns for how long a service keeps what it need not keep for ever. Refuses a window in which an
//! event could come back and count as new.

use std::time::Duration;

use anyhow::ensure;
use clap::{Args, value_parser};

/// An answer is promised for a time, and forgotten only so much later.
const KEYS_GRACE_HOURS: u32 = 1;

/// Settings of every service, in the units in which people think of them.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Kept {
    /// How long the broker keeps a record. It drops whole segments: count its `segment.ms` in.
    #[clap(long, env = "TOPIC_RETENTION_HOURS", default_value_t = 168, value_parser = hours())]
    pub topic_retention_hours: u32,
    /// How far back events may be published again when the broker has lost them.
    #[clap(long, env = "REPUBLISH_SPAN_HOURS", default_value_t = 168, value_parser = hours())]
    pub republish_span_hours: u32,
    /// How long it is known which events were handled. Older ones are set aside.
    #[clap(long, env = "INBOX_WINDOW_DAYS", default_value_t = 21, value_parser = days())]
    pub inbox_window_days: u32,
    /// How long the service's own events stay in its database.
    #[clap(long, env = "EVENTS_RETENTION_DAYS", default_value_t = 30, value_parser = days())]
    pub events_retention_days: u32,
    /// How long a request with a known idempotency key gets its first answer.
    #[clap(long, env = "KEYS_KEPT_HOURS", default_value_t = 24, value_parser = hours())]
    pub keys_kept_hours: u32,
    /// How long a dead letter is kept after it was replayed, superseded or discarded.
    #[clap(long, env = "DEAD_LETTERS_KEPT_DAYS", default_value_t = 30, value_parser = days())]
    pub dead_letters_kept_days: u32,
}

fn days() -> clap::builder::RangedI64ValueParser<u32> {
    value_parser!(u32).range(1..=366)
}

fn hours() -> clap::builder::RangedI64ValueParser<u32> {
    value_parser!(u32).range(1..=366 * 24)
}

impl Kept {
    /// Whether all that may come back is still known, and all that may be asked for still there.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let (window, events) = (self.inbox_window_days * 24, self.events_retention_days * 24);
        let (retention, span) = (self.topic_retention_hours, self.republish_span_hours);
        let sum = retention + span;
        ensure!(
            window > sum,
            "INBOX_WINDOW_DAYS is too short: {window} h are remembered, and an event can come back \
             after {span} h (REPUBLISH_SPAN_HOURS) + {retention} h (TOPIC_RETENTION_HOURS) = {sum} \
             h: at least {} days are needed",
            sum / 24 + 1,
        );
        ensure!(
            events > span,
            "EVENTS_RETENTION_DAYS is too short: events are kept for {events} h, and may be \
             published again after {span} h (REPUBLISH_SPAN_HOURS): at least {} days are needed",
            span / 24 + 1,
        );
        Ok(())
    }

    pub(crate) fn inbox_window(&self) -> Duration {
        Duration::from_hours(u64::from(self.inbox_window_days) * 24)
    }

    pub(crate) fn events(&self) -> Duration {
        Duration::from_hours(u64::from(self.events_retention_days) * 24)
    }

    pub(crate) fn keys(&self) -> Duration {
        Duration::from_hours((self.keys_kept_hours + KEYS_GRACE_HOURS).into())
    }

    pub(crate) fn dead_letters(&self) -> Duration {
        Duration::from_hours(u64::from(self.dead_letters_kept_days) * 24)
    }
}

#[cfg(test)]
mod tests {
    use super::Kept;

    fn kept(inbox_window_days: u32, events_retention_days: u32) -> Kept {
        Kept {
            topic_retention_hours: 170,
            republish_span_hours: 100,
            inbox_window_days,
            events_retention_days,
            keys_kept_hours: 24,
            dead_letters_kept_days: 30,
        }
    }

    #[test]
    fn a_window_is_long_enough_when_it_covers_the_republish_span_and_the_retention_after_it() {
        assert!(kept(12, 30).check().is_ok());
        let refusal = kept(11, 30).check().expect_err("264 h are fewer than 270").to_string();
        assert!(refusal.contains("100 h (REPUBLISH_SPAN_HOURS) + 170 h"), "{refusal}");
        assert!(refusal.contains("= 270 h: at least 12 days"), "{refusal}");
    }

    #[test]
    fn events_are_kept_for_as_long_as_they_may_be_published_again() {
        assert!(kept(12, 5).check().is_ok());
        let refusal = kept(12, 4).check().expect_err("96 h are fewer than 100").to_string();
        assert!(refusal.contains("at least 5 days"), "{refusal}");
    }
}
