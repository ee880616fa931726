//! What endangers the locks in a store: how it is set up, what it is short of.

/// How bad a [`Finding`] is. The worse one is the greater one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// It can do harm together with something else, or could not be checked.
    Warning,
    /// It can give a lock to two holders, or keeps locks from being acquired.
    Danger,
}

impl Severity {
    /// The word for it: `warning` or `danger`.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Warning => "warning",
            Severity::Danger => "danger",
        }
    }
}

/// Something in a store that endangers its locks, see
/// [`Inspect::findings`](crate::Inspect::findings).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was found, and where: `maxmemory-policy of 10.0.0.7:6379 is allkeys-lru`.
    pub what: String,
    /// What it can do to a lock.
    pub why: String,
    /// What to do about it.
    pub remedy: String,
}

impl Finding {
    /// A finding of [`Severity::Danger`].
    pub fn danger(
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Finding {
            severity: Severity::Danger,
            what: what.into(),
            why: why.into(),
            remedy: remedy.into(),
        }
    }

    /// A finding of [`Severity::Warning`].
    pub fn warning(
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Finding {
            severity: Severity::Warning,
            ..Self::danger(what, why, remedy)
        }
    }
}
