//! Topics are made by whoever runs the system, and never changed by the way.

use std::time::Duration;

use bus::topics::{self, Difference, Found, Shape};
use tokio::time::timeout;

use crate::TOPIC;
use crate::brokers::{Broker, Habit, SHAPE};

const OTHER: &str = "bell.events.v1";
/// Kafka answers in far less.
const NO_ANSWER: Duration = Duration::from_secs(3);

#[tokio::test]
async fn what_is_missing_is_made_and_what_is_there_is_left_as_it_is_and_told_of()
-> anyhow::Result<()> {
    let (broker, config) = Broker::bare()?;
    if !broker.nature().has(Habit::HasAnAdminApi) {
        // Whoever runs it makes its topics.
        let asked = topics::ensure(&config.brokers, &[TOPIC], &SHAPE);
        assert!(timeout(NO_ANSWER, asked).await.is_err(), "somebody has answered");
        return Ok(());
    }
    let ensure = async |names: &[&str], shape: Shape| {
        let found = topics::ensure(&config.brokers, names, &shape).await?;
        anyhow::Ok(found.into_iter().map(|(_, found)| found).collect::<Vec<_>>())
    };
    assert_eq!(ensure(&[TOPIC], SHAPE).await?, [Found::Made]);
    assert_eq!(ensure(&[TOPIC, OTHER], SHAPE).await?, [Found::AsWanted, Found::Made]);

    let other = Shape { partitions: 6, retention: Duration::from_hours(1), ..SHAPE };
    let differences = |found: Vec<Found>| match found.into_iter().next() {
        Some(Found::Otherwise(differences)) => {
            differences.iter().map(Difference::to_string).collect::<Vec<_>>()
        }
        found => vec![format!("{found:?}")],
    };
    assert_eq!(
        differences(ensure(&[TOPIC], other).await?),
        ["partitions is 4, not 6", "retention.ms is 604800000, not 3600000"]
    );
    assert_eq!(ensure(&[TOPIC, OTHER], SHAPE).await?, [Found::AsWanted, Found::AsWanted]);
    Ok(())
}
