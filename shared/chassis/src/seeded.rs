//! Owns the bugs that a run under fire must find, one of them switched on by `CHAOS_BUG`. Without
//! the feature `chaos` there are none.

/// What a shell like this one can get wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A repeat is decided again, by a service that remembers nothing of the subject.
    NoInboxNoIdempotence,
    /// Each attempt of a call is a new request to the other side.
    FreshKey,
    /// A record counts as handled when it is read.
    AckFirst,
    /// An event counts as delivered when it is said: the state is there, its event may never be.
    DualWrite,
    /// A call without a definite answer counts as refused.
    UnknownRefused,
}

#[cfg(feature = "chaos")]
pub(crate) fn has(bug: Bug) -> bool {
    use std::sync::LazyLock;

    static BUG: LazyLock<Option<Bug>> = LazyLock::new(|| {
        let name = std::env::var("CHAOS_BUG").ok().filter(|name| !name.is_empty())?;
        let bug = match name.as_str() {
            "no_inbox_no_idempotence" => Bug::NoInboxNoIdempotence,
            "fresh_key" => Bug::FreshKey,
            "ack_first" => Bug::AckFirst,
            "dual_write" => Bug::DualWrite,
            "unknown_refused" => Bug::UnknownRefused,
            _ => panic!("CHAOS_BUG={name} is no bug that is known here"),
        };
        tracing::warn!(?bug, "this process is broken on purpose");
        Some(bug)
    });
    *BUG == Some(bug)
}

#[cfg(not(feature = "chaos"))]
pub(crate) const fn has(_: Bug) -> bool {
    false
}
