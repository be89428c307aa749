//! Owns the events on the wire: what the wall says and what the lamp says. Refuses to know what
//! they mean to whom.

use saga::{EventType, Undecodable};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Writes a producer's events: an enum whose variants are their names on the wire.
macro_rules! events {
    (
        $(#[$meta:meta])*
        $name:ident of $producer:literal { $($variant:ident { $($field:ident: $type:ty),* }),+ }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name { $($variant { $($field: $type),* }),+ }

        impl saga::Event for $name {
            const PRODUCER: &'static str = $producer;

            fn event_type(&self) -> EventType {
                let name = match self {
                    $(Self::$variant { .. } => stringify!($variant)),+
                };
                EventType::new($producer, name, 1)
            }

            fn body(&self) -> Vec<u8> {
                serde_json::to_vec(self).expect("texts and numbers always have a JSON form")
            }

            fn decode(kind: &EventType, body: &[u8]) -> Result<Option<Self>, Undecodable> {
                let known = [$(stringify!($variant)),+].contains(&&*kind.name);
                let event: Self = if known { read(kind, body)? } else { return Ok(None) };
                let ours = event.event_type().name == kind.name;
                let other = || Undecodable::Body("the body is another event's".to_owned());
                ours.then_some(Some(event)).ok_or_else(other)
            }
        }
    };
}

events! {
    /// What the wall says. It has seen a lamp lit before it turns its dimmer.
    Wall of "wall" {
        BulbFitted { label: String },
        SwitchPressed {},
        DimmerTurned { level: u8 }
    }
}

events! {
    /// What the lamp says.
    Said of "lamp" {
        Fitted { label: String },
        Lit { meter: String },
        Dimmed { level: u8, ohms: u16 },
        Cut { code: String }
    }
}

saga::heard! {
    /// What the lamp subscribes to, and nothing else.
    pub enum Heard { Wall(Wall) }
}

fn read<T: DeserializeOwned>(kind: &EventType, body: &[u8]) -> Result<T, Undecodable> {
    if kind.version != 1 {
        return Err(Undecodable::Version(kind.version));
    }
    serde_json::from_slice(body).map_err(|error| Undecodable::Body(error.to_string()))
}
