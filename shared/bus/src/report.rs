//! Owns what became of a record, in the broker's words. Refuses to take a refusal for final unless
//! it is on a closed list.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::ProducerContext;
use tokio::sync::mpsc::UnboundedSender;
use uuid::Uuid;

/// An outage fails thousands of records at once: one line in so long stands for all of them.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// What became of a record that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The broker has it.
    Acked(Uuid),
    /// It does not, or nobody knows: the outbox row stays and is sent again.
    Failed(Uuid),
    /// It never will: by a code of ours. A request carries several records and is refused as a
    /// whole, so this is certain only of a record that was sent alone.
    Refused(Uuid, &'static str),
}

impl Report {
    pub const fn id(&self) -> Uuid {
        match self {
            Self::Acked(id) | Self::Failed(id) | Self::Refused(id, _) => *id,
        }
    }
}

/// Whether, and as what, a broker will refuse the same record for ever. Whatever is not listed may
/// be another matter tomorrow: a permission, a setting, a broker that comes back.
pub(crate) const fn refusal(error: &KafkaError) -> Option<&'static str> {
    let KafkaError::MessageProduction(code) = error else { return None };
    match code {
        RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::MessageBatchTooLarge => {
            Some("TOO_LARGE")
        }
        RDKafkaErrorCode::InvalidRecord => Some("INVALID_RECORD"),
        _ => None,
    }
}

/// Whom to tell about a record.
pub(crate) struct Delivery {
    pub id: Uuid,
    pub reports: UnboundedSender<Report>,
}

impl Delivery {
    pub fn tell(&self, report: Report) {
        // Whoever asked may be gone by now; the outbox still has the id.
        drop(self.reports.send(report));
    }
}

/// Hears what became of each record.
#[derive(Default)]
pub(crate) struct Deliveries {
    logged_at: Mutex<Option<Instant>>,
    /// Since when records have run out of their time, and the broker has taken none.
    in_vain_since: Mutex<Option<Instant>>,
}

impl Deliveries {
    /// How long every record that was heard of has run out of its time.
    pub fn in_vain_for(&self) -> Duration {
        let since = self.in_vain_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.map(|since| since.elapsed()).unwrap_or_default()
    }

    fn note(&self, result: &DeliveryResult<'_>) {
        let mut since = self.in_vain_since.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(_) => *since = None,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut), _)) => {
                since.get_or_insert_with(Instant::now);
            }
            Err(_) => {}
        }
    }

    /// Counts a failure, and tells of it now and then.
    pub fn failed(&self, error: &KafkaError, event: Uuid) {
        let code = error.rdkafka_error_code().map(|code| format!("{code:?}")).unwrap_or_default();
        metrics::counter!("switchback_produce_failures_total", "code" => code).increment(1);
        let mut logged_at = self.logged_at.lock().unwrap_or_else(PoisonError::into_inner);
        if logged_at.is_some_and(|at| at.elapsed() < LOG_EVERY) {
            return;
        }
        *logged_at = Some(Instant::now());
        if is_forbidden(error) {
            tracing::error!(%error, %event, "the broker lets this service say nothing");
        } else {
            tracing::warn!(%error, %event, "not delivered, and perhaps others");
        }
    }
}

const fn is_forbidden(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{ClusterAuthorizationFailed, TopicAuthorizationFailed};
    matches!(
        error,
        KafkaError::MessageProduction(TopicAuthorizationFailed | ClusterAuthorizationFailed)
    )
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Delivery>;

    fn delivery(&self, result: &DeliveryResult<'_>, delivery: Box<Delivery>) {
        let id = delivery.id;
        self.note(result);
        delivery.tell(match result {
            Ok(message) if message.offset() >= 0 => Report::Acked(id),
            Ok(_) => Report::Failed(id),
            Err((error, _)) => {
                self.failed(error, id);
                refusal(error).map_or(Report::Failed(id), |code| Report::Refused(id, code))
            }
        });
    }
}
