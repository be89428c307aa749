//! Owns letting a broker lose what it has. Refuses to choose which records: all of a topic's go.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Deletes every record that is on a topic now, by the admin API, which the in-memory broker has not.
pub async fn forget(bootstrap: &str, topic: &str, partitions: i32) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    let mut ends = TopicPartitionList::new();
    for partition in 0..partitions {
        ends.add_partition_offset(topic, partition, Offset::End)?;
    }
    let options = AdminOptions::new().request_timeout(Some(ANSWER_MAX));
    let answers = admin.delete_records(&ends, &options).await?;
    for answer in answers.elements() {
        answer.error()?;
    }
    Ok(())
}
