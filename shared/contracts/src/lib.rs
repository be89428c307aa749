#![doc = include_str!("../README.md")]

pub mod inventory;
pub mod order;
pub mod payment;
pub mod shipping;

mod money;
mod reason;
mod values;

#[cfg(test)]
mod schemas;

pub use money::{Currency, Line, Money, NotACurrency};
pub use reason::{Because, NotAReason, Reason};
pub use values::{PaymentMethod, ShipTo};

/// Writes a producer's `Event`: one variant per event with its body and its name on the wire. All
/// of them are version 1; those after `undoing` ask the service behind to undo its work.
macro_rules! events {
    (
        $producer:literal { $($variant:ident($body:ty) = $name:literal),+ $(,)? }
        undoing { $($undo:ident($undo_body:ty) = $undo_name:literal),* $(,)? }
    ) => {
        #[doc = concat!("What ", $producer, " says.")]
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub enum Event { $($variant($body),)+ $($undo($undo_body),)* }

        impl saga::Event for Event {
            const PRODUCER: &'static str = $producer;

            fn event_type(&self) -> saga::EventType {
                let name = match self {
                    $(Self::$variant(_) => $name,)+
                    $(Self::$undo(_) => $undo_name,)*
                };
                saga::EventType::new($producer, name, 1)
            }

            fn body(&self) -> Vec<u8> {
                match self {
                    $(Self::$variant(body) => $crate::written(body),)+
                    $(Self::$undo(body) => $crate::written(body),)*
                }
            }

            fn decode(
                kind: &saga::EventType,
                body: &[u8],
            ) -> Result<Option<Self>, saga::Undecodable> {
                if kind.producer != $producer {
                    return Ok(None);
                }
                match kind.name.as_ref() {
                    $($name => $crate::read(kind, body).map(Self::$variant).map(Some),)+
                    $($undo_name => $crate::read(kind, body).map(Self::$undo).map(Some),)*
                    _ => Ok(None),
                }
            }

            fn is_compensation(kind: &saga::EventType) -> bool {
                let undoing: &[&str] = &[$($undo_name),*];
                kind.producer == $producer && undoing.contains(&kind.name.as_ref())
            }
        }

        /// The schema of every body, by the name of its event.
        #[cfg(test)]
        pub(crate) fn schemas() -> Vec<(&'static str, serde_json::Value)> {
            vec![
                $(($name, $crate::schemas::of::<$body>($name)),)+
                $(($undo_name, $crate::schemas::of::<$undo_body>($undo_name)),)*
            ]
        }
    };
}
use events;

fn written<T: serde::Serialize>(body: &T) -> Vec<u8> {
    serde_json::to_vec(body).expect("bodies hold strings and integers only")
}

fn read<T: serde::de::DeserializeOwned>(
    kind: &saga::EventType,
    body: &[u8],
) -> Result<T, saga::Undecodable> {
    if kind.version != 1 {
        return Err(saga::Undecodable::Version(kind.version));
    }
    serde_json::from_slice(body).map_err(|why| {
        // Only the place: serde's own words quote the value, which may be personal data.
        let place = format!("line {} column {}", why.line(), why.column());
        saga::Undecodable::Body(place)
    })
}
