//! Owns which processes of a run go by which name. Refuses to read what they use.

use std::collections::{BTreeMap, BTreeSet};

use testkit::processes::Table;

/// What the launcher itself goes by; what runs below it has names of its own.
pub(super) const LAUNCHER: &str = "switchback";
/// What the bench has started beside the launcher.
pub(super) const LOAD: &str = "load";

/// The first processes of each name; what they have started belongs to them.
pub(super) type Firsts = BTreeMap<String, BTreeSet<u32>>;

/// Of everything right below the launcher.
pub(super) fn of_stack(table: &Table, launcher: u32) -> Firsts {
    let mut firsts = Firsts::new();
    for (pid, process) in table.children(launcher) {
        let name = match &*process.name {
            // Of all that a launcher starts only the broker is a program for Java.
            "java" => "kafka",
            own => own,
        };
        firsts.entry(name.to_owned()).or_default().insert(pid);
    }
    firsts
}

/// Of everything else right below this process.
pub(super) fn of_load(table: &Table, launcher: u32, own: u32) -> BTreeSet<u32> {
    table.children(own).map(|(pid, _)| pid).filter(|pid| *pid != launcher).collect()
}
