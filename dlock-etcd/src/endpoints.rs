//! The nodes of the cluster: which of them is asked first, and that they are of one cluster.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use dlock_core::{DatastoreError, ErrorKind};
use dlock_net::Endpoint;

use crate::error::Problem;

/// The nodes that the URL names.
#[derive(Debug)]
pub(crate) struct Endpoints {
    all: Vec<Endpoint>,
    /// The node that answered last.
    first: AtomicUsize,
    /// The cluster that was reached first.
    cluster: OnceLock<String>,
}

impl Endpoints {
    pub(crate) fn new(all: Vec<Endpoint>) -> Self {
        Endpoints {
            all,
            first: AtomicUsize::new(0),
            cluster: OnceLock::new(),
        }
    }

    pub(crate) fn all(&self) -> &[Endpoint] {
        &self.all
    }

    /// The nodes with their numbers, that which answered last first.
    pub(crate) fn in_turn(&self) -> impl Iterator<Item = (usize, &Endpoint)> {
        let first = self.first.load(Ordering::Relaxed);
        (0..self.all.len()).map(move |step| {
            let number = (first + step) % self.all.len();
            (number, &self.all[number])
        })
    }

    /// This node answers: the next connection leads to it too.
    pub(crate) fn answered(&self, number: usize) {
        self.first.store(number, Ordering::Relaxed);
    }

    /// This node does not answer, or has no leader: the next connection leads to another one.
    pub(crate) fn failed(&self, number: usize) {
        let next = (number + 1) % self.all.len();
        // Another call may have changed it already, for the same reason.
        let _ = self
            .first
            .compare_exchange(number, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Refuses a node of another cluster than that which was reached first: it knows nothing of the
    /// locks of the first one.
    pub(crate) fn check_cluster(&self, peer: &str, cluster: &str) -> Result<(), DatastoreError> {
        let known = self.cluster.get_or_init(|| cluster.to_owned());
        if known == cluster {
            return Ok(());
        }
        let peer = peer.to_owned();
        let problem = Problem::OtherCluster { peer };
        Err(DatastoreError::not_executed(
            ErrorKind::Unsupported,
            problem,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(endpoints: &Endpoints) -> Vec<usize> {
        endpoints.in_turn().map(|(number, _)| number).collect()
    }

    #[test]
    fn the_node_that_answers_is_asked_first_and_one_that_fails_last() {
        let endpoints = Endpoints::new(Endpoint::parse_list("a,b,c", Some(1)).unwrap());
        assert_eq!(order(&endpoints), [0, 1, 2]);
        endpoints.answered(1);
        assert_eq!(order(&endpoints), [1, 2, 0]);
        endpoints.failed(0);
        assert_eq!(order(&endpoints), [1, 2, 0], "it was not the first");
        endpoints.failed(1);
        assert_eq!(order(&endpoints), [2, 0, 1]);
    }

    #[test]
    fn a_node_of_another_cluster_is_refused() {
        let endpoints = Endpoints::new(Endpoint::parse_list("a,b", Some(1)).unwrap());
        endpoints.check_cluster("a:1", "17").unwrap();
        endpoints.check_cluster("b:1", "17").unwrap();
        let error = endpoints.check_cluster("b:1", "18").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("another cluster"), "{error}");
    }
}
