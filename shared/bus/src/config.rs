//! Owns the client settings that everything else relies on. Refuses to offer them one by one.

use rdkafka::ClientConfig;

/// How to reach the broker, and what differs between brokers.
#[derive(Debug, Clone)]
pub struct Config {
    pub brokers: String,
    /// `<service>-<instance>`.
    pub client_id: String,
    /// Whether the client's id stands for one member, however often the process is started: see the
    /// README for what that gives and costs. Nobody else may have the same id then.
    pub static_membership: bool,
    /// 100 to 500 on a broker that wakes a waiting fetch, 20 on one that sleeps it out.
    pub fetch_wait_ms: u32,
    /// After so long without a heartbeat a member's partitions move.
    pub session_timeout_ms: u32,
    /// A member that does not poll for so long is taken for stuck, and its partitions move.
    pub max_poll_interval_ms: u32,
    /// So many records wait for the broker in the client; further ones wait in the outbox.
    pub producer_queue_max: u32,
}

impl Config {
    fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", &self.client_id)
            .set("socket.nagle.disable", "true")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            // A topic that was refused, or made anew, is asked for again within this time.
            .set("topic.metadata.refresh.interval.ms", "10000")
            .set("log_level", "4");
        client
    }

    pub(crate) fn consumer(&self, group: &str) -> ClientConfig {
        let mut client = self.client();
        client
            .set("group.id", group)
            // Offsets are stored by hand, after the commit; committing what is stored is automatic.
            .set("enable.auto.offset.store", "false")
            .set("enable.auto.commit", "true")
            .set("auto.commit.interval.ms", "1000")
            .set("auto.offset.reset", "earliest")
            .set("partition.assignment.strategy", "range")
            .set("session.timeout.ms", self.session_timeout_ms.to_string())
            .set("max.poll.interval.ms", self.max_poll_interval_ms.to_string())
            .set("heartbeat.interval.ms", (self.session_timeout_ms / 6).to_string())
            .set("fetch.wait.max.ms", self.fetch_wait_ms.to_string())
            .set("fetch.min.bytes", "1")
            .set("fetch.queue.backoff.ms", "1")
            .set("queued.max.messages.kbytes", "8192")
            .set("statistics.interval.ms", "1000");
        if self.static_membership {
            client.set("group.instance.id", &self.client_id);
        }
        client
    }

    pub(crate) fn producer(&self) -> ClientConfig {
        let mut client = self.client();
        client
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "0")
            // Below the age at which the dispatcher sends again what a living process wrote.
            .set("message.timeout.ms", "30000")
            .set("queue.buffering.max.messages", self.producer_queue_max.to_string());
        client
    }
}
