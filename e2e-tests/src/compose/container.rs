//! Owns what the engine tells of a container, and whether that is how it has to be. Refuses to ask.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::Context;
use serde::Deserialize;

const SERVICE: &str = "com.docker.compose.service";
/// What the engine says of a process that was ended by SIGKILL.
const KILLED: i64 = 128 + 9;
/// Its image writes the server's settings when it starts.
const WRITES_INTO_ITSELF: &str = "kafka";

/// `docker inspect`, as far as it is asked about.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Container {
    /// How often the engine has started it again by itself.
    pub restart_count: u32,
    state: State,
    config: Config,
    host_config: HostConfig,
    network_settings: NetworkSettings,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    running: bool,
    exit_code: i64,
    health: Option<Health>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Health {
    status: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    user: String,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    privileged: bool,
    readonly_rootfs: bool,
    cap_drop: Option<Vec<String>>,
    cap_add: Option<Vec<String>>,
    security_opt: Option<Vec<String>>,
    /// Bytes; zero is without a limit.
    memory: i64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    /// By the port inside; nothing for one that is not published.
    ports: BTreeMap<String, Option<Vec<Published>>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Published {
    host_ip: String,
}

impl Container {
    pub fn service(&self) -> &str {
        self.config.labels.get(SERVICE).map_or("", String::as_str)
    }

    pub fn is_running(&self) -> bool {
        self.state.running
    }

    pub fn is_healthy(&self) -> bool {
        let health = self.state.health.as_ref();
        self.state.running && health.is_some_and(|health| health.status == "healthy")
    }

    pub fn was_killed(&self) -> bool {
        !self.state.running && self.state.exit_code == KILLED
    }

    /// It did what it had to do once, and ended.
    pub fn is_done(&self) -> bool {
        !self.state.running && self.state.exit_code == 0
    }

    /// What it may do and should not be able to.
    pub fn liberties(&self) -> Vec<String> {
        let host = &self.host_config;
        let has = |list: &Option<Vec<String>>, wanted: &str| {
            list.iter().flatten().any(|found| found.starts_with(wanted))
        };
        let user = self.config.user.split(':').next().unwrap_or_default();
        let published = self.network_settings.ports.values().flatten().flatten();
        let far = published.filter(|port| port.host_ip != "127.0.0.1").count();
        let wrong = [
            (["", "0", "root"].contains(&user), "runs as root"),
            (host.privileged, "is privileged"),
            (!has(&host.cap_drop, "ALL"), "has capabilities"),
            (host.cap_add.iter().flatten().count() > 0, "was given capabilities"),
            (!has(&host.security_opt, "no-new-privileges"), "may gain privileges"),
            (host.memory <= 0, "may take all memory"),
            (!host.readonly_rootfs && self.service() != WRITES_INTO_ITSELF, "can change its files"),
            (far > 0, "can be reached from other machines"),
        ];
        let wrong = wrong.into_iter().filter(|(is_so, _)| *is_so);
        wrong.map(|(_, what)| format!("{} {what}", self.service())).collect()
    }
}

/// What a container uses, as `docker stats` tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    pub container: String,
    pub mb: f64,
}

impl FromStr for Memory {
    type Err = anyhow::Error;

    /// Reads `switchback-order-1 12.5MiB / 128MiB`.
    fn from_str(line: &str) -> anyhow::Result<Self> {
        let told = || format!("{line:?} tells no memory");
        let mut words = line.split_whitespace();
        let (container, used) = words.next().zip(words.next()).with_context(told)?;
        let (unit, mb) = [
            ("GiB", 1024.0 * 1024.0 * 1024.0),
            ("MiB", 1024.0 * 1024.0),
            ("KiB", 1024.0),
            ("B", 1.0),
        ]
        .map(|(unit, bytes)| (unit, bytes / 1_000_000.0))
        .into_iter()
        .find(|(unit, _)| used.ends_with(unit))
        .with_context(told)?;
        let number: f64 = used.trim_end_matches(unit).parse().with_context(told)?;
        Ok(Self { container: container.to_owned(), mb: number * mb })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn container(change: impl FnOnce(&mut Value)) -> Container {
        let mut told = json!({
            "RestartCount": 0,
            "State": { "Running": true, "ExitCode": 0, "Health": { "Status": "healthy" } },
            "Config": { "User": "10001:10001", "Labels": { SERVICE: "order" } },
            "HostConfig": {
                "Privileged": false,
                "ReadonlyRootfs": true,
                "CapDrop": ["ALL"],
                "CapAdd": null,
                "SecurityOpt": ["no-new-privileges:true"],
                "Memory": 128,
            },
            "NetworkSettings": {
                "Ports": { "8080/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "8081" }], "1/tcp": null },
            },
        });
        change(&mut told);
        serde_json::from_value(told).expect("the engine's words")
    }

    #[test]
    fn every_liberty_of_a_container_is_found() {
        assert_eq!(container(|_| {}).liberties(), Vec::<String>::new());
        for (place, value, wrong) in [
            ("/Config/User", json!("0:0"), "order runs as root"),
            ("/Config/User", json!(""), "order runs as root"),
            ("/HostConfig/Privileged", json!(true), "order is privileged"),
            ("/HostConfig/CapDrop", json!(null), "order has capabilities"),
            ("/HostConfig/CapAdd", json!(["CHOWN"]), "order was given capabilities"),
            ("/HostConfig/SecurityOpt", json!(null), "order may gain privileges"),
            ("/HostConfig/Memory", json!(0), "order may take all memory"),
            ("/HostConfig/ReadonlyRootfs", json!(false), "order can change its files"),
            (
                "/NetworkSettings/Ports/8080~1tcp/0/HostIp",
                json!("0.0.0.0"),
                "order can be reached from other machines",
            ),
        ] {
            let changed = container(|told| {
                *told.pointer_mut(place).expect("a place in it") = value;
            });
            assert_eq!(changed.liberties(), [wrong]);
        }
    }

    #[test]
    fn a_killed_container_is_neither_healthy_nor_done() {
        let killed = container(|told| {
            told["State"]["Running"] = json!(false);
            told["State"]["ExitCode"] = json!(137);
        });
        assert!(killed.was_killed() && !killed.is_healthy() && !killed.is_done());
        let healthy = container(|_| {});
        assert!(healthy.is_healthy() && !healthy.was_killed() && !healthy.is_done());
    }

    #[test]
    fn memory_is_read_in_every_unit_of_the_engine() {
        for (line, mb) in [
            ("a-1 512B / 1GiB", 0.000_512),
            ("a-1 1000KiB / 1GiB", 1.024),
            ("a-1 12.5MiB / 128MiB", 13.107_2),
            ("a-1 1GiB / 2GiB", 1_073.741_824),
        ] {
            let read: Memory = line.parse().expect(line);
            assert!((read.mb - mb).abs() < 1e-9, "{line}: {read:?}");
        }
        assert!("a-1 -- / --".parse::<Memory>().is_err());
    }
}
