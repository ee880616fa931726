//! A grant that too few replicas have acknowledged is taken back.

use dlock_core::{Claim, DatastoreError, ErrorKind};

use crate::operations::{Answer, Call, Keys};
use crate::replicas::TooFewReplicas;

/// What takes a grant back that too few replicas have acknowledged; `None` for any other answer.
pub(crate) fn unacknowledged<'a>(
    claim: &'a Claim,
    answer: &Result<(Answer, bool), DatastoreError>,
) -> Option<(TooFew, Call<'a>)> {
    match answer {
        Ok((Answer::Unacknowledged(error, Some(fence)), in_doubt)) => {
            let few = TooFew {
                error: *error,
                in_doubt: *in_doubt,
            };
            Some((few, Call::TakeBack(claim, *fence, Keys::All)))
        }
        _ => None,
    }
}

/// A grant that too few replicas have acknowledged.
pub(crate) struct TooFew {
    error: TooFewReplicas,
    /// Whether an earlier copy of the claim may have been granted as well.
    in_doubt: bool,
}

impl TooFew {
    /// The answer to the claim, once the grant was taken back or may have been.
    pub(crate) fn after(
        &self,
        taken_back: &Result<(Answer, bool), DatastoreError>,
    ) -> Result<(Answer, bool), DatastoreError> {
        // Where the lock is not held under that token, nothing is to be taken back.
        let is_undone = matches!(taken_back, Ok((Answer::Released(_), _))) && !self.in_doubt;
        let error = DatastoreError::not_executed(ErrorKind::Refused, self.error);
        Err(error.with_execution(!is_undone))
    }
}
