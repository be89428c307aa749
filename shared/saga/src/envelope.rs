//! Owns the envelope of an event: CloudEvents 1.0 in binary mode, as header pairs. Refuses to know
//! a broker: headers come and go as names and bytes.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use uuid::{Uuid, Version};

/// The largest record that is produced or read, key, headers and body together.
pub const RECORD_BYTES_MAX: usize = 256 * 1024;

const NAMESPACE: &str = "switchback";

/// `switchback.lamps.LampLit.v1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventType {
    pub producer: Cow<'static, str>,
    pub name: Cow<'static, str>,
    pub version: u16,
}

impl EventType {
    pub const fn new(producer: &'static str, name: &'static str, version: u16) -> Self {
        Self { producer: Cow::Borrowed(producer), name: Cow::Borrowed(name), version }
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAMESPACE}.{}.{}.v{}", self.producer, self.name, self.version)
    }
}

impl FromStr for EventType {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let bad = || Refused::Envelope("ce_type");
        let mut parts = text.split('.');
        let (Some(NAMESPACE), Some(producer), Some(name), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        let version = version.strip_prefix('v').and_then(|v| v.parse().ok()).ok_or_else(bad)?;
        let is_name = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        if !is_name(producer) || !is_name(name) {
            return Err(bad());
        }
        Ok(Self { producer: producer.to_owned().into(), name: name.to_owned().into(), version })
    }
}

/// Where an event belongs in a distributed trace (W3C Trace Context), as text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    pub traceparent: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tracestate: String,
}

impl Trace {
    /// The 32 hex digits of the trace id, or nothing when there is no valid context.
    pub fn trace_id(&self) -> &str {
        self.traceparent.split('-').nth(1).filter(|id| id.len() == 32).unwrap_or_default()
    }
}

/// Everything about an event but its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Unique for ever; a uuid v7.
    pub id: Uuid,
    pub kind: EventType,
    /// When the producer's database says it was said. Nothing is decided by it.
    pub time: DateTime<Utc>,
    /// What it is about, and the record's key.
    pub subject: Uuid,
    /// The number of this event among its producer's events on this subject: 1, 2, … without a
    /// gap. Notices carry none.
    pub version: Option<u32>,
    /// The event that was handled when this one was said.
    pub cause: Option<Uuid>,
    pub trace: Trace,
}

/// A record whose envelope cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("header {0} is missing, repeated or malformed")]
    Envelope(&'static str),
    #[error("the record's key is not its ce_subject")]
    Key,
    #[error("ce_type belongs to another producer than the topic")]
    ForeignType,
    #[error("the record is larger than {RECORD_BYTES_MAX} bytes")]
    TooLarge,
}

impl Refused {
    /// The code under which a dead letter is kept.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Envelope(_) => "ENVELOPE",
            Self::Key => "KEY_MISMATCH",
            Self::ForeignType => "FOREIGN_TYPE",
            Self::TooLarge => "TOO_LARGE",
        }
    }
}

impl Envelope {
    /// The record's headers, in a fixed order.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("ce_specversion", "1.0".to_owned()),
            ("ce_id", self.id.to_string()),
            ("ce_type", self.kind.to_string()),
            ("ce_source", format!("/{NAMESPACE}/{}", self.kind.producer)),
            ("ce_time", self.time.to_rfc3339_opts(SecondsFormat::Micros, true)),
            ("ce_subject", self.subject.to_string()),
            ("content-type", "application/json".to_owned()),
        ];
        headers.extend(self.version.map(|version| ("ce_version", version.to_string())));
        headers.extend(self.cause.map(|cause| ("ce_causationid", cause.to_string())));
        for (name, value) in
            [("traceparent", &self.trace.traceparent), ("tracestate", &self.trace.tracestate)]
        {
            if !value.is_empty() {
                headers.push((name, value.clone()));
            }
        }
        headers
    }

    /// Reads a record's envelope. `producer` is the one that owns the topic.
    ///
    /// A header of ours that comes twice is refused: never does the first win.
    pub fn parse<'a>(
        headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        key: Option<&[u8]>,
        producer: &str,
    ) -> Result<Self, Refused> {
        let mut found = Fields::default();
        for (name, value) in headers {
            found.take(name, value)?;
        }
        if found.specversion.as_deref() != Some("1.0") {
            return Err(Refused::Envelope("ce_specversion"));
        }
        let id = required::<Uuid>(found.id, "ce_id")?;
        if id.get_version() != Some(Version::SortRand) {
            return Err(Refused::Envelope("ce_id"));
        }
        let subject = required::<Uuid>(found.subject, "ce_subject")?;
        let kind = found.kind.ok_or(Refused::Envelope("ce_type"))?.parse::<EventType>()?;
        if kind.producer != producer {
            return Err(Refused::ForeignType);
        }
        if found.source.is_some_and(|source| source != format!("/{NAMESPACE}/{producer}")) {
            return Err(Refused::Envelope("ce_source"));
        }
        let keyed =
            key.and_then(|key| std::str::from_utf8(key).ok()).and_then(|key| key.parse().ok());
        if keyed != Some(subject) {
            return Err(Refused::Key);
        }
        Ok(Self {
            id,
            kind,
            time: required(found.time, "ce_time")?,
            subject,
            version: optional(found.version, "ce_version")?,
            cause: optional(found.cause, "ce_causationid")?,
            trace: Trace {
                traceparent: found.traceparent.unwrap_or_default(),
                tracestate: found.tracestate.unwrap_or_default(),
            },
        })
    }
}

/// The headers that we read, each at most once.
#[derive(Default)]
struct Fields {
    specversion: Option<String>,
    id: Option<String>,
    kind: Option<String>,
    source: Option<String>,
    time: Option<String>,
    subject: Option<String>,
    version: Option<String>,
    cause: Option<String>,
    traceparent: Option<String>,
    tracestate: Option<String>,
}

impl Fields {
    fn take(&mut self, name: &str, value: &[u8]) -> Result<(), Refused> {
        let (slot, name) = match name {
            "ce_specversion" => (&mut self.specversion, "ce_specversion"),
            "ce_id" => (&mut self.id, "ce_id"),
            "ce_type" => (&mut self.kind, "ce_type"),
            "ce_source" => (&mut self.source, "ce_source"),
            "ce_time" => (&mut self.time, "ce_time"),
            "ce_subject" => (&mut self.subject, "ce_subject"),
            "ce_version" => (&mut self.version, "ce_version"),
            "ce_causationid" => (&mut self.cause, "ce_causationid"),
            // Trace context is advice: a broken one is dropped, and of several the last counts.
            "traceparent" => {
                self.traceparent = String::from_utf8(value.to_vec()).ok();
                return Ok(());
            }
            "tracestate" => {
                self.tracestate = String::from_utf8(value.to_vec()).ok();
                return Ok(());
            }
            _ => return Ok(()),
        };
        let text = std::str::from_utf8(value).map_err(|_| Refused::Envelope(name))?;
        match slot.replace(text.to_owned()) {
            None => Ok(()),
            Some(_) => Err(Refused::Envelope(name)),
        }
    }
}

fn required<T: FromStr>(text: Option<String>, name: &'static str) -> Result<T, Refused> {
    optional(text, name)?.ok_or(Refused::Envelope(name))
}

fn optional<T: FromStr>(text: Option<String>, name: &'static str) -> Result<Option<T>, Refused> {
    text.map(|text| text.parse().map_err(|_| Refused::Envelope(name))).transpose()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn envelope() -> Envelope {
        Envelope {
            id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001),
            kind: EventType::new("lamps", "LampLit", 1),
            time: DateTime::from_timestamp_micros(1_790_000_000_123_456).expect("in range"),
            subject: Uuid::from_u128(7),
            version: Some(3),
            cause: Some(Uuid::from_u128(9)),
            trace: Trace {
                traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
                tracestate: String::new(),
            },
        }
    }

    fn parse(headers: &[(&str, String)], key: &str) -> Result<Envelope, Refused> {
        let pairs = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        Envelope::parse(pairs, Some(key.as_bytes()), "lamps")
    }

    #[test]
    fn what_is_written_is_read_back() {
        let envelope = envelope();
        let key = envelope.subject.to_string();
        assert_eq!(parse(&envelope.headers(), &key), Ok(envelope));
    }

    #[test]
    fn a_header_that_comes_twice_is_refused_never_is_the_first_taken() {
        let envelope = envelope();
        let key = envelope.subject.to_string();
        let ours = envelope.headers().into_iter().filter(|(name, _)| name.starts_with("ce_"));
        for twice in ours {
            let mut headers = envelope.headers();
            headers.push(twice.clone());
            assert_eq!(parse(&headers, &key), Err(Refused::Envelope(twice.0)));
        }
    }

    #[test]
    fn a_missing_or_broken_header_is_named() {
        let envelope = envelope();
        let key = envelope.subject.to_string();
        for name in ["ce_specversion", "ce_id", "ce_type", "ce_time", "ce_subject"] {
            let without: Vec<_> =
                envelope.headers().into_iter().filter(|(other, _)| *other != name).collect();
            assert_eq!(parse(&without, &key), Err(Refused::Envelope(name)));
            let broken: Vec<_> = (envelope.headers().into_iter())
                .map(|(other, value)| (other, if other == name { "?".into() } else { value }))
                .collect();
            assert_eq!(parse(&broken, &key), Err(Refused::Envelope(name)));
        }
    }

    #[test]
    fn a_key_that_is_not_the_subject_is_refused() {
        let envelope = envelope();
        assert_eq!(parse(&envelope.headers(), &Uuid::nil().to_string()), Err(Refused::Key));
        assert_eq!(parse(&envelope.headers(), "\u{fffd}"), Err(Refused::Key));
    }

    #[test]
    fn a_type_of_another_producer_is_refused() {
        let mut envelope = envelope();
        envelope.kind = EventType::new("shutters", "ShutterShut", 1);
        let key = envelope.subject.to_string();
        assert_eq!(parse(&envelope.headers(), &key), Err(Refused::ForeignType));
    }

    #[test]
    fn an_id_that_is_not_a_uuid_v7_is_refused() {
        let mut envelope = envelope();
        envelope.id = Uuid::from_u128(0x0190_0000_0000_4000_8000_0000_0000_0001);
        let key = envelope.subject.to_string();
        assert_eq!(parse(&envelope.headers(), &key), Err(Refused::Envelope("ce_id")));
    }

    #[test]
    fn a_header_that_is_not_text_is_named_and_a_broken_trace_is_dropped() {
        let envelope = envelope();
        let key = envelope.subject.to_string();
        for (name, value) in envelope.headers() {
            let broken = envelope.headers().into_iter().map(|(other, text)| {
                (other, if other == name { vec![0xff, 0xfe] } else { text.into_bytes() })
            });
            let broken: Vec<_> = broken.collect();
            let pairs = broken.iter().map(|(name, value)| (*name, value.as_slice()));
            let read = Envelope::parse(pairs, Some(key.as_bytes()), "lamps");
            match name {
                "traceparent" => assert_eq!(read.map(|read| read.trace), Ok(Trace::default())),
                "content-type" => assert_eq!(read, Ok(envelope.clone())),
                _ => assert_eq!(read, Err(Refused::Envelope(name)), "{value}"),
            }
        }
    }

    #[test]
    fn the_producers_clock_may_say_anything_that_is_a_time() {
        let envelope = envelope();
        let key = envelope.subject.to_string();
        for time in ["1970-01-01T00:00:00Z", "9999-12-31T23:59:59+14:00", "0001-01-01T00:00:00Z"] {
            let headers = envelope.headers().into_iter();
            let headers: Vec<_> = headers
                .map(|(name, value)| (name, if name == "ce_time" { time.into() } else { value }))
                .collect();
            let read = parse(&headers, &key).expect("it is a time");
            assert_eq!(read.id, envelope.id);
        }
    }

    /// A header of ours or of anybody's, with what was written there, something like it, or noise.
    fn header() -> impl Strategy<Value = (String, Vec<u8>)> {
        let ours = envelope().headers().into_iter();
        let ours: Vec<_> =
            ours.map(|(name, value)| (name.to_owned(), value.into_bytes())).collect();
        let written = prop::sample::select(ours);
        prop_oneof![
            8 => written.clone(),
            1 => (written.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(
                |((name, mut value), at, byte)| {
                    let at = at.index(value.len());
                    value[at] = byte;
                    (name, value)
                }
            ),
            1 => (written, prop::collection::vec(any::<u8>(), 0..40))
                .prop_map(|((name, _), noise)| (name, noise)),
            1 => (any::<String>(), prop::collection::vec(any::<u8>(), 0..40)),
        ]
    }

    proptest! {
        #[test]
        fn no_record_makes_the_reader_panic_and_what_it_takes_it_writes_the_same(
            headers in prop::collection::vec(header(), 0..14),
            noise in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
            is_keyed: bool,
        ) {
            let key = envelope().subject.to_string().into_bytes();
            let key = if is_keyed { Some(key) } else { noise };
            let pairs = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
            if let Ok(envelope) = Envelope::parse(pairs, key.as_deref(), "lamps") {
                let headers = envelope.headers();
                prop_assert_eq!(parse(&headers, &envelope.subject.to_string()), Ok(envelope));
            }
        }

        #[test]
        fn any_envelope_comes_back_as_it_was_written(
            random: [u8; 10], millis in 0_u64..1 << 48, subject: u128, cause: Option<u128>,
            micros in -62_135_596_800_000_000_i64..253_402_300_800_000_000, version: Option<u32>,
            name in "[A-Za-z0-9_]{1,20}", number: u16,
        ) {
            let envelope = Envelope {
                id: uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid(),
                kind: EventType { version: number, name: name.into(), producer: "lamps".into() },
                time: DateTime::from_timestamp_micros(micros).expect("a year of four digits"),
                subject: Uuid::from_u128(subject),
                version,
                cause: cause.map(Uuid::from_u128),
                ..envelope()
            };
            let key = envelope.subject.to_string();
            prop_assert_eq!(parse(&envelope.headers(), &key), Ok(envelope));
        }
    }
}
