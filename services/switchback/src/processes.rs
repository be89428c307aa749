//! Owns which processes a stack has: their names, their ports, and what a person sets for one of
//! them. Refuses to start them.

use std::str::FromStr;

use anyhow::{Context, ensure};

/// The participants, in the order of their ports after the base.
pub const SERVICES: [&str; 4] = ["order", "inventory", "payment", "shipping"];
pub const PROVIDERS: &str = "providers";
pub const PROVIDERS_PORT: u16 = 5;
/// From the first instance's port to the second one's.
const INSTANCE_PORTS: u16 = 20;

/// One process of a service, or the providers: `payment`, and `payment-2` for a second instance.
#[derive(Debug, Clone)]
pub struct Process {
    pub name: String,
    pub service: &'static str,
    pub instance: u16,
    /// Counted from the stack's base.
    pub port: u16,
}

impl Process {
    /// The providers, of which there is one, then the services, first instances first.
    pub fn all(instances: u16) -> Vec<Self> {
        let providers = Self {
            name: PROVIDERS.to_owned(),
            service: PROVIDERS,
            instance: 1,
            port: PROVIDERS_PORT,
        };
        let services = (1..=instances).flat_map(|instance| {
            SERVICES.into_iter().zip(1..).map(move |(service, port)| Self {
                name: match instance {
                    1 => service.to_owned(),
                    more => format!("{service}-{more}"),
                },
                service,
                instance,
                port: port + (instance - 1) * INSTANCE_PORTS,
            })
        });
        [providers].into_iter().chain(services).collect()
    }
}

/// `PROCESS:NAME=VALUE`: a variable in the environment of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub process: String,
    pub name: String,
    pub value: String,
}

impl FromStr for Setting {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let parts = text.split_once(':').and_then(|(process, rest)| {
            let (name, value) = rest.split_once('=')?;
            Some((process, name, value))
        });
        let (process, name, value) = parts.context("it must look like PROCESS:NAME=VALUE")?;
        ensure!(!process.is_empty(), "the process is missing before the colon");
        ensure!(!name.is_empty(), "the variable's name is missing before the equals sign");
        ensure!(!text.contains('\0'), "an environment holds no NUL");
        Ok(Self { process: process.to_owned(), name: name.to_owned(), value: value.to_owned() })
    }
}

/// Fails for a setting whose process is not there: it would be told to nobody.
pub fn ensure_known(settings: &[Setting], processes: &[Process]) -> anyhow::Result<()> {
    for Setting { process, name, .. } in settings {
        let names: Vec<&str> = processes.iter().map(|known| known.name.as_str()).collect();
        ensure!(
            names.contains(&process.as_str()),
            "--set {process}:{name}=…: there is no process {process}; there are {}",
            names.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_instance_has_a_name_and_a_port_of_its_own() {
        let names = |instances| -> Vec<(String, u16)> {
            let all = Process::all(instances).into_iter();
            all.map(|process| (process.name, process.port)).collect()
        };
        let expected = |known: &[(&str, u16)]| -> Vec<(String, u16)> {
            known.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect()
        };
        let one =
            [("providers", 5), ("order", 1), ("inventory", 2), ("payment", 3), ("shipping", 4)];
        let second = [("order-2", 21), ("inventory-2", 22), ("payment-2", 23), ("shipping-2", 24)];
        assert_eq!(names(1), expected(&one));
        assert_eq!(names(2), expected(&[&one[..], &second[..]].concat()));
    }

    #[test]
    fn a_settings_value_may_hold_anything_and_its_process_and_name_must_be_there() {
        let read = |text: &str| text.parse::<Setting>();
        let url = read("order:DATABASE_URL=postgres://a@b:1/c?d=e").expect("it is well formed");
        assert_eq!((url.process.as_str(), url.name.as_str()), ("order", "DATABASE_URL"));
        assert_eq!(url.value, "postgres://a@b:1/c?d=e");
        assert_eq!(read("order:EMPTY=").expect("a value may be empty").value, "");
        for wrong in ["", "order", "order:NAME", "NAME=order:x", ":NAME=x", "order:=x", "o:N=\0"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_setting_for_nobody_is_refused_with_the_names_that_there_are() {
        let wanted = [Setting::from_str("payment-2:LANES=1").expect("it is well formed")];
        ensure_known(&wanted, &Process::all(2)).expect("there are two of each");
        let error = ensure_known(&wanted, &Process::all(1)).expect_err("there is one of each");
        let error = error.to_string();
        assert!(error.starts_with("--set payment-2:LANES=…: there is no process payment-2"));
        assert!(error.ends_with("there are providers, order, inventory, payment, shipping"));
    }
}
