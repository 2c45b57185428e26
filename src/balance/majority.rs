//! How much of what is counted is one client's doing.
//!
//! Where requests of a client keep to one upstream, its answers there say as much about what the client asks for as
//! about the upstream. So no client's errors count for more than those of all others together. Boyer and Moore's
//! majority vote (1981) tells the excess in the memory of one client, whatever their number.

/// A vote that is under way.
#[derive(Default, Debug)]
pub(super) struct Majority {
    leader: Option<u64>,
    excess: u64,
}

impl Majority {
    /// One more of the client of this hash.
    pub(super) fn count(&mut self, client: u64) {
        if self.excess == 0 {
            self.leader = Some(client);
        }
        if self.leader == Some(client) {
            self.excess += 1;
        } else {
            self.excess -= 1;
        }
    }

    /// By how many, at least, one client has more than all others together; and begins anew.
    pub(super) fn take_excess(&mut self) -> u64 {
        std::mem::take(self).excess
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excess(clients: &[u8]) -> u64 {
        let mut votes = Majority::default();
        for client in clients {
            votes.count(u64::from(*client));
        }
        votes.take_excess()
    }

    #[test]
    fn what_is_left_without_the_excess_is_at_most_half_of_one_client() {
        assert_eq!(excess(b""), 0);
        assert_eq!(excess(b"aaaa"), 4);
        assert_eq!(excess(b"aaab"), 2);
        assert_eq!(excess(b"abcaaa"), 2);
        assert_eq!(excess(b"baacab"), 0);
        assert_eq!(excess(b"abab"), 0);
    }

    #[test]
    fn each_vote_begins_anew() {
        let mut votes = Majority::default();
        votes.count(1);
        assert_eq!(votes.take_excess(), 1);
        votes.count(2);
        assert_eq!(votes.take_excess(), 1);
    }
}
