//! Owns every name of a metric and of a span attribute, so that a new release of the semantic
//! conventions changes one file. Refuses labels that hold an id: a metric has few series.
//!
//! Attributes follow the OpenTelemetry semantic conventions 1.42.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub const DB_SYSTEM: &str = "db.system.name";
pub const ERROR_TYPE: &str = "error.type";
pub const HTTP_METHOD: &str = "http.request.method";
pub const HTTP_ROUTE: &str = "http.route";
pub const HTTP_STATUS: &str = "http.response.status_code";
pub const MESSAGING_DESTINATION: &str = "messaging.destination.name";
pub const MESSAGING_GROUP: &str = "messaging.consumer.group.name";
pub const MESSAGING_ID: &str = "messaging.message.id";
pub const MESSAGING_KEY: &str = "messaging.kafka.message.key";
pub const MESSAGING_OFFSET: &str = "messaging.kafka.offset";
pub const MESSAGING_OPERATION: &str = "messaging.operation.name";
pub const MESSAGING_OPERATION_TYPE: &str = "messaging.operation.type";
pub const MESSAGING_PARTITION: &str = "messaging.destination.partition.id";
pub const MESSAGING_SYSTEM: &str = "messaging.system";

pub const SAGA_COMPENSATION: &str = "saga.compensation";
pub const SAGA_DUPLICATE: &str = "saga.duplicate";
/// What was said: `PaymentCaptured`.
pub const SAGA_EVENT: &str = "saga.event";
pub const SAGA_ID: &str = "saga.id";
pub const SAGA_SERVICE: &str = "saga.service";

pub const BATCH_INPUTS: &str = "switchback.batch.size";
pub const CALL_ATTEMPT: &str = "switchback.call.attempt";
pub const CALL_OUTCOME: &str = "switchback.call.outcome";

/// Transactions of the lanes.
pub const LANE_COMMITS: &str = "switchback_lane_commits_total";
/// Inputs that wait in the lanes for the next batch.
pub const LANE_WAITING: &str = "switchback_lane_waiting";
/// Inputs of one lane transaction.
pub const BATCH_SIZE: &str = "switchback_batch_size";
/// From BEGIN to the answer of COMMIT.
pub const COMMIT_SECONDS: &str = "switchback_commit_seconds";
/// Batches that were run again: a conflict, a deadlock, a short count.
pub const BATCH_RERUNS: &str = "switchback_batch_reruns_total";
/// Events that the dispatcher had to send, because their writer could not.
pub const DISPATCHED: &str = "switchback_dispatched_total";
/// Events that their lane could not get out, and left to the dispatcher.
pub const EVENTS_GIVEN_UP: &str = "switchback_events_given_up_total";
/// Outbox ids without their event, each time they are met: more than none is an alarm.
pub const OUTBOX_MISSING: &str = "switchback_outbox_missing_events_total";
/// `{code}`: records that the broker did not take, by its own word.
pub const PRODUCE_FAILURES: &str = "switchback_produce_failures_total";
/// Clients that had to be replaced.
pub const PRODUCER_DEATHS: &str = "switchback_producer_deaths_total";
pub const OUTBOX_ROWS: &str = "switchback_outbox_rows";
pub const OUTBOX_OLDEST_SECONDS: &str = "switchback_outbox_oldest_seconds";
/// Rows for which no partition was made: more than none is an alarm.
pub const STRAY_ROWS: &str = "switchback_stray_rows";
/// `{consumer}`: clients whose place in their group was lost to their own name, and taken back.
pub const CONSUMER_DEATHS: &str = "switchback_consumer_deaths_total";
/// `{consumer}`
pub const CONSUMER_LAG: &str = "switchback_consumer_lag";
/// `{consumer}`: 1 while nothing is read because what was read is not taken.
pub const CONSUMER_PAUSED: &str = "switchback_consumer_paused";
/// `{consumer}`: more than none is an alarm, so much poison do they bring.
pub const PARTITIONS_HELD: &str = "switchback_partitions_held";
/// `{consumer, code}`: what kept it from reading, in the broker's words or the client's.
/// `NotImplemented` is an alarm: a record is packed in a way that nobody here can unpack.
pub const CONSUME_ERRORS: &str = "switchback_consume_errors_total";
/// `{cause}`
pub const INBOX_DUPLICATES: &str = "switchback_inbox_duplicates_total";
/// `{type}`
pub const EVENTS_SKIPPED: &str = "switchback_events_skipped_total";
/// `{destination, attempt="first|again", outcome}`
pub const CALL_ATTEMPTS: &str = "switchback_call_attempts_total";
/// `{consumer, code}`: open now.
pub const DEAD_LETTERS: &str = "switchback_dead_letters";
/// `{consumer, code}`: ever.
pub const DEAD_LETTERS_TOTAL: &str = "switchback_dead_letters_total";
/// `{service, reason, phase="started|finished"}`, counted by the service that throws the switch.
pub const COMPENSATIONS: &str = "switchback_compensations_total";
/// `{outcome, reason}`
pub const ORDERS_FINISHED: &str = "switchback_orders_finished_total";

/// Tells the recorder what each metric means. All are counted after the commit.
pub(crate) fn describe() {
    describe_counter!(LANE_COMMITS, Unit::Count, "Transactions of the lanes that committed");
    describe_histogram!(BATCH_SIZE, Unit::Count, "Inputs of one lane transaction");
    describe_histogram!(COMMIT_SECONDS, Unit::Seconds, "Duration of one lane transaction");
    describe_counter!(BATCH_RERUNS, Unit::Count, "Batches that were run again");
    describe_counter!(DISPATCHED, Unit::Count, "Events that the dispatcher had to send");
    describe_counter!(EVENTS_GIVEN_UP, Unit::Count, "Events that a lane could not get out");
    describe_counter!(OUTBOX_MISSING, Unit::Count, "Outbox ids that were met without their event");
    describe_counter!(PRODUCE_FAILURES, Unit::Count, "Records that the broker did not take");
    describe_counter!(PRODUCER_DEATHS, Unit::Count, "Producers that had to be replaced");
    describe_gauge!(OUTBOX_ROWS, Unit::Count, "Events that the broker has not acknowledged");
    describe_gauge!(OUTBOX_OLDEST_SECONDS, Unit::Seconds, "Age of the oldest of them");
    describe_gauge!(STRAY_ROWS, Unit::Count, "Rows for which no partition was made");
    describe_counter!(CONSUMER_DEATHS, Unit::Count, "Consumers that had to be replaced");
    describe_gauge!(CONSUMER_LAG, Unit::Count, "Records behind the end of the topics");
    describe_gauge!(LANE_WAITING, Unit::Count, "Inputs that wait in the lanes");
    describe_gauge!(CONSUMER_PAUSED, Unit::Count, "Whether the reading is paused");
    describe_counter!(CONSUME_ERRORS, Unit::Count, "What kept a consumer from reading");
    describe_gauge!(PARTITIONS_HELD, Unit::Count, "Partitions held for their poison");
    describe_counter!(INBOX_DUPLICATES, Unit::Count, "Events that had been handled before");
    describe_counter!(EVENTS_SKIPPED, Unit::Count, "Events of a type unknown here");
    describe_counter!(CALL_ATTEMPTS, Unit::Count, "Attempts of outside calls");
    describe_gauge!(DEAD_LETTERS, Unit::Count, "Dead letters that are open now");
    describe_counter!(DEAD_LETTERS_TOTAL, Unit::Count, "Dead letters ever written");
    describe_counter!(COMPENSATIONS, Unit::Count, "Sagas turned round, and those that arrived");
    describe_counter!(ORDERS_FINISHED, Unit::Count, "Orders that were confirmed or cancelled");
}
