//! The name of a lease that the threads of a store keep.

/// Names a lease that is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

impl Ticket {
    /// The ticket after this one.
    pub fn next(self) -> Self {
        Ticket(self.0 + 1)
    }
}
