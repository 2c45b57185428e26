//! The threads on which probes run, while there is something to probe.
//!
//! A rayon pool of our own, never the global one, and never entered from a probe. It has a thread
//! for each question that can be open, up to a bound, so that what is not answered does not keep other
//! questions waiting: a request waits for the answer to some. A pool that is let go ends its threads when their probes are done.

/// How many questions are asked side by side at most.
pub(super) const MOST_THREADS: usize = 32;

/// A probe needs little; debug builds need more than release builds.
const PROBE_STACK_BYTES: usize = 512 * 1024;

/// The threads for probes, while there are any.
#[derive(Default, Debug)]
pub(super) enum Threads {
    #[default]
    None,
    /// They could not be had; told to people already.
    Refused,
    Some(rayon::ThreadPool),
}

impl Threads {
    /// As many as there can be questions, but not too many; made anew where a reload needs more.
    pub(super) fn get(&mut self, questions: usize) -> Option<&rayon::ThreadPool> {
        let wanted = questions.clamp(1, MOST_THREADS);
        let has_enough =
            matches!(self, Self::Some(threads) if wanted <= threads.current_num_threads());
        if !has_enough {
            self.replace(wanted);
        }
        match self {
            Self::Some(threads) => Some(threads),
            Self::None | Self::Refused => None,
        }
    }

    fn replace(&mut self, count: usize) {
        let built = rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|number| format!("probe-{number}"))
            .stack_size(PROBE_STACK_BYTES)
            .panic_handler(|_| log::error!("a probe panicked; the upstream is probed again"))
            .build();
        *self = match (built, &*self) {
            (Ok(threads), _) => Self::Some(threads),
            (Err(_), Self::Refused) => Self::Refused,
            (Err(error), Self::None | Self::Some(_)) => {
                log::error!("cannot start threads for probes: {error}");
                Self::Refused
            }
        };
    }
}
