//! Owns the words for what goes wrong. Refuses to know when, and how it is done.

use serde::{Deserialize, Serialize};

use crate::link::{To, Weather};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// A process ends as by a power cut, and is started again.
    Kill {
        process: String,
    },
    /// A process stands still and goes on, perhaps after others have taken over.
    Stop {
        process: String,
    },
    Postgres {
        harm: Harm,
    },
    /// Nobody reaches the broker.
    Broker {
        weather: Weather,
    },
    Link {
        process: String,
        to: To,
        weather: Weather,
    },
    /// It strikes this share of the requests.
    Provider {
        provider: Provider,
        mode: Mode,
        share: f64,
    },
    /// Some of the records since the last time are produced again, byte for byte.
    Repeat,
    /// Records that nobody of ours would write.
    BadRecords,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Harm {
    /// All processes of the server, as by a power cut.
    GroupKill,
    /// One backend, for which the server ends all others.
    BackendKill,
    /// Every connection that services have.
    TerminateAll,
    /// All processes of the server stand still.
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    Payment,
    Carrier,
}

impl Provider {
    pub const ALL: [Self; 2] = [Self::Payment, Self::Carrier];

    pub fn name(self) -> &'static str {
        match self {
            Self::Payment => "payment",
            Self::Carrier => "carrier",
        }
    }
}

/// What a provider can be told to do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    Down,
    Slow,
    Errors,
    LoseAnswers,
    Late,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Slow => "slow",
            Self::Errors => "errors",
            Self::LoseAnswers => "lose_answers",
            Self::Late => "late",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Kill,
    Stop,
    Postgres,
    Broker,
    Link,
    Provider,
    Repeat,
    BadRecords,
}

impl Class {
    pub const ALL: [Self; 8] = [
        Self::Kill,
        Self::Stop,
        Self::Postgres,
        Self::Broker,
        Self::Link,
        Self::Provider,
        Self::Repeat,
        Self::BadRecords,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "process killed",
            Self::Stop => "process stopped",
            Self::Postgres => "postgres",
            Self::Broker => "broker cut off",
            Self::Link => "link",
            Self::Provider => "provider",
            Self::Repeat => "records repeated",
            Self::BadRecords => "bad records",
        }
    }

    /// The mean time from one to the next.
    pub fn gap_seconds(self) -> u64 {
        match self {
            Self::Kill => 6,
            Self::Stop => 15,
            Self::Postgres => 25,
            Self::Broker => 40,
            Self::Link => 4,
            Self::Provider => 30,
            Self::Repeat => 8,
            Self::BadRecords => 20,
        }
    }
}

impl Harm {
    fn name(self) -> &'static str {
        match self {
            Self::GroupKill => "postgres killed",
            Self::BackendKill => "a backend killed",
            Self::TerminateAll => "all connections ended",
            Self::Stop => "postgres stopped",
        }
    }
}

fn name_of(weather: Weather) -> &'static str {
    match weather {
        Weather::Pass => "fair weather",
        Weather::Delay(_) => "a delay",
        Weather::BlackHole => "a black hole",
        Weather::Reset => "a reset",
        Weather::CutAfter(_) => "a cut in the middle",
        Weather::DropReplies => "dropped replies",
    }
}

/// What is to be seen of faults that come in kinds.
pub const KINDS: [&str; 9] = [
    "postgres killed",
    "a backend killed",
    "all connections ended",
    "postgres stopped",
    "a delay",
    "a black hole",
    "a reset",
    "a cut in the middle",
    "dropped replies",
];

impl Fault {
    /// One of [`KINDS`], if this comes in kinds.
    pub fn kind(&self) -> Option<&'static str> {
        match self {
            Self::Postgres { harm } => Some(harm.name()),
            Self::Link { weather, .. } => Some(name_of(*weather)),
            _ => None,
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Self::Kill { .. } => Class::Kill,
            Self::Stop { .. } => Class::Stop,
            Self::Postgres { .. } => Class::Postgres,
            Self::Broker { .. } => Class::Broker,
            Self::Link { .. } => Class::Link,
            Self::Provider { .. } => Class::Provider,
            Self::Repeat => Class::Repeat,
            Self::BadRecords => Class::BadRecords,
        }
    }
}
