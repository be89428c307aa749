//! Owns reading the topics from their beginnings, apart from every consumer group. Refuses to trust
//! a record: what cannot be read of it is absent.

use std::collections::BTreeMap;
use std::str::FromStr;

use testkit::records::{self, Record};

use super::world::Spoken;
use crate::SERVICES;
use crate::whole::INJECTED;

pub(super) async fn read(bootstrap: &str) -> anyhow::Result<Vec<Spoken>> {
    let mut spoken = Vec::new();
    for service in SERVICES {
        let records = records::read(bootstrap, &format!("{service}.events.v1")).await?;
        spoken.extend(records.into_iter().map(|record| of(service, record)));
    }
    Ok(spoken)
}

fn of(service: &str, record: Record) -> Spoken {
    let headers: BTreeMap<&str, &str> = (record.headers.iter())
        .filter_map(|(name, value)| Some((&**name, std::str::from_utf8(value.as_deref()?).ok()?)))
        .collect();
    Spoken {
        service: service.to_owned(),
        id: parsed(&headers, "ce_id"),
        subject: parsed(&headers, "ce_subject"),
        version: parsed(&headers, "ce_version"),
        kind: headers.get("ce_type").copied().unwrap_or_default().to_owned(),
        cause: parsed(&headers, "ce_causationid"),
        injected: headers.contains_key(INJECTED),
        key: record.key,
        body: record.body,
    }
}

fn parsed<T: FromStr>(headers: &BTreeMap<&str, &str>, name: &str) -> Option<T> {
    headers.get(name)?.parse().ok()
}
