//! What waits for a worker, in the order in which it came, but nobody behind a client that has its share.
//!
//! A client with its share of workers may have thousands of jobs here. Each of them is passed over once:
//! it is put aside, and waits there until its client has less than its share, or until nobody else waits.
//! So a job costs the same however many wait.

use std::collections::VecDeque;
use std::net::IpAddr;

/// Something to serve.
#[derive(Debug)]
pub(super) struct QueuedJob<T> {
    pub(super) what: T,
    pub(super) client: IpAddr,
    /// When it came.
    pub(super) since: u64,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Queue<T> {
    jobs: VecDeque<QueuedJob<T>>,
    /// What was passed over, by client; none of them is empty. They are older than `jobs` of the same
    /// client. Only a few clients can have their share at once, so there are only a few.
    aside: Vec<VecDeque<QueuedJob<T>>>,
    length: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            jobs: VecDeque::new(),
            aside: Vec::new(),
            length: 0,
        }
    }
}

impl<T> Queue<T> {
    /// Adds a job to the end.
    pub(super) fn push(&mut self, job: QueuedJob<T>) {
        self.length += 1;
        self.jobs.push_back(job);
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// When the one came that has waited longest.
    pub(super) fn oldest(&self) -> Option<u64> {
        let fronts = self.aside.iter().filter_map(VecDeque::front);
        fronts.chain(self.jobs.front()).map(|job| job.since).min()
    }

    /// For so long nobody could be served: until `now` it does not count as waiting.
    pub(super) fn excuse(&mut self, now: u64, time: u64) {
        let aside = self.aside.iter_mut().flatten();
        for job in aside.chain(&mut self.jobs) {
            job.since = job.since.saturating_add(time).min(now);
        }
    }

    /// The one that has waited longest.
    pub(super) fn pop(&mut self) -> Option<QueuedJob<T>> {
        let since = |line: &VecDeque<QueuedJob<T>>| line.front().map_or(u64::MAX, |job| job.since);
        let lines = self.aside.iter().enumerate();
        let aside = lines.min_by_key(|(_, line)| since(line));
        match aside.map(|(index, line)| (index, since(line))) {
            Some((index, at)) if at <= since(&self.jobs) => self.pop_aside(index),
            _ => {
                let job = self.jobs.pop_front()?;
                self.length -= 1;
                Some(job)
            }
        }
    }

    /// The one of a client that `may` have another worker which has waited longest; if all have their
    /// share, the one that has waited longest.
    pub(super) fn pop_fairly(&mut self, may: impl Fn(IpAddr) -> bool) -> Option<QueuedJob<T>> {
        let of = |line: &VecDeque<QueuedJob<T>>| line.front().map(|job| job.client);
        let free = self
            .aside
            .iter()
            .position(|line| of(line).is_some_and(&may));
        if let Some(index) = free {
            // Passed over before, so older than whatever was not.
            return self.pop_aside(index);
        }
        while let Some(job) = self.jobs.pop_front() {
            if may(job.client) {
                self.length -= 1;
                return Some(job);
            }
            match self
                .aside
                .iter_mut()
                .find(|line| of(line) == Some(job.client))
            {
                Some(line) => line.push_back(job),
                None => self.aside.push(VecDeque::from([job])),
            }
        }
        self.pop()
    }

    fn pop_aside(&mut self, index: usize) -> Option<QueuedJob<T>> {
        let line = self.aside.get_mut(index)?;
        let job = line.pop_front()?;
        if line.is_empty() {
            self.aside.swap_remove(index);
        }
        self.length -= 1;
        Some(job)
    }

    /// Whether jobs of anybody else than `client` wait. Looks at the whole queue at worst.
    pub(super) fn has_others_than(&self, client: IpAddr) -> bool {
        let fronts = self.aside.iter().filter_map(VecDeque::front);
        let mut all = fronts.chain(&self.jobs);
        all.any(|job| job.client != client)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// A queue of one job of each of these clients, in this order; each is its number.
    fn queue(clients: &[u8]) -> Queue<usize> {
        let mut queue = Queue::default();
        for (number, client) in clients.iter().enumerate() {
            queue.push(QueuedJob {
                what: number,
                client: ip(*client),
                since: number as u64,
            });
        }
        queue
    }

    fn pop(queue: &mut Queue<usize>, full: &[u8]) -> Option<usize> {
        let job = queue.pop_fairly(|client| !full.iter().any(|full| ip(*full) == client));
        job.map(|job| job.what)
    }

    #[test]
    fn while_nobody_has_its_share_jobs_are_served_as_they_came() {
        let mut queue = queue(&[1, 2, 1]);
        let served: Vec<_> = (0..4).map(|_| pop(&mut queue, &[])).collect();
        assert_eq!(served, [Some(0), Some(1), Some(2), None]);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn what_was_passed_over_is_first_once_its_client_may_have_more() {
        let mut queue = queue(&[1, 1, 2, 1, 3]);
        assert_eq!(pop(&mut queue, &[1]), Some(2));
        assert_eq!(queue.oldest(), Some(0));
        assert_eq!(pop(&mut queue, &[]), Some(0));
        assert_eq!(pop(&mut queue, &[1]), Some(4));
        assert_eq!(queue.len(), 2);
        assert_eq!(pop(&mut queue, &[]), Some(1));
        assert_eq!(pop(&mut queue, &[]), Some(3));
    }

    #[test]
    fn when_all_have_their_share_the_one_that_waited_longest_is_served() {
        let mut queue = queue(&[1, 2, 1, 2]);
        let served: Vec<_> = (0..4).map(|_| pop(&mut queue, &[1, 2])).collect();
        assert_eq!(served, [Some(0), Some(1), Some(2), Some(3)]);
    }

    #[test]
    fn the_oldest_is_found_wherever_it_is() {
        let mut queue = queue(&[1, 2, 3, 1]);
        assert_eq!(pop(&mut queue, &[1, 2]), Some(2));
        let popped: Vec<_> = std::iter::from_fn(|| queue.pop())
            .map(|job| job.what)
            .collect();
        assert_eq!(popped, [0, 1, 3]);
        assert_eq!((queue.len(), queue.oldest()), (0, None));
    }

    #[test]
    fn a_flood_of_one_client_is_passed_over_once() {
        const FLOOD: usize = 10_000;
        let mut queue = queue(&[1; FLOOD]);
        let looks = Cell::new(0);
        for number in 0..FLOOD {
            queue.push(QueuedJob {
                what: FLOOD + number,
                client: ip(2),
                since: 0,
            });
            let job = queue.pop_fairly(|client| {
                looks.set(looks.get() + 1);
                client != ip(1)
            });
            assert_eq!(job.unwrap().what, FLOOD + number);
        }
        assert!(looks.get() <= 4 * FLOOD, "{} looks", looks.get());
        assert!(queue.has_others_than(ip(2)) && !queue.has_others_than(ip(1)));
    }
}
