//! Owns the deaths of a run, as the launcher tells of them. Refuses to accept one that nobody
//! brought about.

use std::collections::BTreeMap;

use crate::check::Violation;

pub const NOBODY_ENDS: &str = "nobody ends unless he is made to";
const KILLED: &str = "signal 9";
/// Killed, it may die again while what is left of its last life is in its way.
const POSTGRES: &str = "postgres";

/// Deaths beyond those kills of each process.
pub fn unplanned(said: &str, kills: &BTreeMap<String, usize>) -> Vec<Violation> {
    let mut killed: BTreeMap<&str, usize> = BTreeMap::new();
    let mut unplanned = Vec::new();
    for line in said.lines() {
        let Some((process, how)) = death(line) else { continue };
        let before = killed.entry(process).or_default();
        let is_planned = if how == KILLED {
            *before += 1;
            kills.get(process).is_some_and(|planned| *before <= *planned)
        } else {
            process == POSTGRES && *before > 0
        };
        if !is_planned {
            let detail = line.to_owned();
            unplanned.push(Violation { statement: NOBODY_ENDS, subject: None, detail });
        }
    }
    unplanned
}

/// Whose, and what it died of.
fn death(line: &str) -> Option<(&str, &str)> {
    let (process, rest) = line.split_once(" died (")?;
    let (how, _) = rest.split_once(')')?;
    Some((process, how))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_that_nobody_brought_about_is_found() {
        let kills = BTreeMap::from([("payment-2".to_owned(), 1), ("postgres".to_owned(), 1)]);
        let lines = [
            ("ready", false),
            ("payment-2 died (signal 9), started again as pid 7", false),
            ("payment-2 died (signal 9), started again as pid 8", true),
            ("payment-2 died (exit code 1), started again as pid 9", true),
            ("payment died (signal 9), started again as pid 10", true),
            ("order died (exit code 0), started again as pid 11", true),
            ("postgres died (exit code 1), started again as pid 12", true),
            ("postgres died (signal 9), started again as pid 13", false),
            ("postgres died (exit code 1), started again as pid 14", false),
            ("postgres died (signal 9), started again as pid 15", true),
        ];
        let said = lines.map(|(line, _)| line).join("\n");
        let found = unplanned(&said, &kills);
        let found: Vec<_> = found.iter().map(|violation| violation.detail.as_str()).collect();
        let wanted = lines.into_iter().filter(|(_, unplanned)| *unplanned).map(|(line, _)| line);
        assert_eq!(found, wanted.collect::<Vec<_>>());
    }
}
