//! Owns figures that are printed as they are found, and what was over its bound. Refuses to measure
//! anything.

use anyhow::ensure;

/// What is held against a bound is printed at once, and remembered to the end if it is over it.
#[derive(Debug, Default)]
pub struct Figures {
    exceeded: Vec<String>,
}

impl Figures {
    pub fn held(&mut self, what: &str, found: f64, max: f64) {
        println!("{what:<44} {found:>9.3}  (at most {max})");
        if found > max {
            self.exceeded.push(what.to_owned());
        }
    }

    /// Fails with everything that was over its bound.
    pub fn are_within_their_bounds(&self) -> anyhow::Result<()> {
        ensure!(self.exceeded.is_empty(), "over its bound: {}", self.exceeded.join(", "));
        Ok(())
    }
}

/// Prints what has no bound.
pub fn told(what: &str, found: f64) {
    println!("{what:<44} {found:>9.3}");
}
