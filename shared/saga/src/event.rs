//! Owns how an event becomes bytes and comes back. Refuses to know any event by name.

use crate::EventType;

/// What a producer says. One type per producer, usually an enum.
pub trait Event: Clone + Send + Sync + Sized + 'static {
    /// The producer's name: its topic is `<producer>.events.v1`.
    const PRODUCER: &'static str;

    /// The event's name and version on the wire.
    fn event_type(&self) -> EventType;

    /// The JSON body, final bytes.
    fn body(&self) -> Vec<u8>;

    /// `Ok(None)`: a type that this code does not know, to be counted and skipped.
    fn decode(kind: &EventType, body: &[u8]) -> Result<Option<Self>, Undecodable>;

    /// Whether events of this type ask somebody to undo what was done.
    fn is_compensation(_kind: &EventType) -> bool {
        false
    }
}

/// The events of all producers that one service subscribes to.
pub trait Heard: Clone + Send + Sync + Sized + 'static {
    /// The producers it hears, by name.
    const PRODUCERS: &'static [&'static str];

    /// `Ok(None)`: a type that this code does not know, to be counted and skipped.
    fn decode(kind: &EventType, body: &[u8]) -> Result<Option<Self>, Undecodable>;

    /// Whether events of this type ask to undo what was done.
    fn is_compensation(kind: &EventType) -> bool;
}

/// A known event that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    #[error("version {0} of this event is not supported here")]
    Version(u16),
    #[error("the body does not decode: {0}")]
    Body(String),
}

/// Writes a service's `Heard`: an enum with one variant per producer, and its [`Heard`] impl.
///
/// ```ignore
/// saga::heard! {
///     /// What payment subscribes to.
///     pub enum Heard { Order(order::Event), Inventory(inventory::Event) }
/// }
/// ```
#[macro_export]
macro_rules! heard {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($variant:ident($event:ty)),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        $vis enum $name { $($variant($event)),+ }

        impl $crate::Heard for $name {
            const PRODUCERS: &'static [&'static str] =
                &[$(<$event as $crate::Event>::PRODUCER),+];

            fn decode(
                kind: &$crate::EventType,
                body: &[u8],
            ) -> Result<Option<Self>, $crate::Undecodable> {
                $(if kind.producer == <$event as $crate::Event>::PRODUCER {
                    return Ok(<$event as $crate::Event>::decode(kind, body)?.map(Self::$variant));
                })+
                Ok(None)
            }

            fn is_compensation(kind: &$crate::EventType) -> bool {
                $(if kind.producer == <$event as $crate::Event>::PRODUCER {
                    return <$event as $crate::Event>::is_compensation(kind);
                })+
                false
            }
        }
    };
}
