//! Owns whether the lanes of this process can work. Refuses to ask anybody: they say so.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many tasks wait for infrastructure now.
#[derive(Debug, Default)]
pub(crate) struct Health {
    waiting: AtomicUsize,
}

impl Health {
    /// Counts one task as waiting until the guard is dropped.
    pub fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(self)
    }

    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

pub(crate) struct Waiting<'a>(&'a Health);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
