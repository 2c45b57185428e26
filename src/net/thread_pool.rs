//! Threads kept for the next job: starting one costs more than many a job.
//!
//! The thread that became idle last is used first, so that those that are not needed stay idle and
//! leave. How many there may be is bounded by a budget, in which idle ones count, too.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::threads::{self, LongThreads};

/// How long an idle thread stays.
const LEAVE_AFTER: Duration = Duration::from_secs(5);

/// Threads that do one kind of job.
#[derive(Debug)]
pub struct ThreadPool<J> {
    name: &'static str,
    budget: LongThreads,
    work: fn(J),
    idle: IdleThreads<J>,
}

/// Threads without a job; the last one is used first.
type IdleThreads<J> = Arc<Mutex<Vec<Arc<PoolThread<J>>>>>;

/// Where one thread finds its next job.
#[derive(Debug)]
struct PoolThread<J> {
    job: Mutex<Option<J>>,
    given: Condvar,
}

impl<J: Send + 'static> ThreadPool<J> {
    /// No threads yet; those to come do their jobs by `work`.
    pub fn new(name: &'static str, budget: LongThreads, work: fn(J)) -> Self {
        Self {
            name,
            budget,
            work,
            idle: Arc::default(),
        }
    }

    /// Has `job` done.
    ///
    /// # Errors
    /// When no thread is idle and none can be started; the job comes back.
    pub fn run(&self, job: J) -> Result<(), (J, io::Error)> {
        let idle = self.idle.lock().pop();
        if let Some(thread) = idle {
            *thread.job.lock() = Some(job);
            thread.given.notify_one();
            return Ok(());
        }
        let Some(permit) = self.budget.take(1) else {
            return Err((job, io::Error::other("all are in use that may be")));
        };
        let thread = Arc::new(PoolThread {
            job: Mutex::new(Some(job)),
            given: Condvar::new(),
        });
        let (own, idle, work) = (Arc::clone(&thread), Arc::clone(&self.idle), self.work);
        let started = threads::start(self.name, move || {
            own.serve(&idle, work);
            drop(permit);
        });
        match started {
            Ok(_leaves_by_itself) => Ok(()),
            Err(error) => thread
                .job
                .lock()
                .take()
                .map_or(Ok(()), |job| Err((job, error))),
        }
    }
}

impl<J> PoolThread<J> {
    /// Does jobs until there has been none for a while.
    fn serve(self: &Arc<Self>, idle: &Mutex<Vec<Arc<Self>>>, work: fn(J)) {
        loop {
            let job = self.job.lock().take();
            if let Some(job) = job {
                work(job);
                idle.lock().push(Arc::clone(self));
            }
            let mut next = self.job.lock();
            while next.is_none() {
                if !self.given.wait_for(&mut next, LEAVE_AFTER).timed_out() {
                    continue;
                }
                drop(next);
                let mut idle = idle.lock();
                if let Some(own) = idle.iter().position(|other| Arc::ptr_eq(other, self)) {
                    idle.remove(own);
                    return;
                }
                // It was taken out of the list: a job is about to be put here.
                drop(idle);
                next = self.job.lock();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread::ThreadId;

    use super::*;

    /// Says on which thread it runs, and stays there until it is let go.
    struct Stay(Sender<ThreadId>, Receiver<()>);

    fn stay(Stay(said, held): Stay) {
        said.send(std::thread::current().id()).unwrap();
        assert!(held.recv().is_err());
    }

    #[test]
    fn two_jobs_at_a_time_have_two_threads() {
        let pool = ThreadPool::new("test", LongThreads::of(2), stay);
        let (said, heard) = channel();
        let [(one, held_one), (two, held_two)] = [channel::<()>(), channel::<()>()];
        assert!(pool.run(Stay(said.clone(), held_one)).is_ok());
        assert!(pool.run(Stay(said, held_two)).is_ok());
        assert_ne!(heard.recv().unwrap(), heard.recv().unwrap());
        drop((one, two));
    }

    #[test]
    fn a_job_after_another_runs_on_the_same_thread() {
        let pool = ThreadPool::new("test", LongThreads::of(2), stay);
        let (said, heard) = channel();
        let mut on = Vec::new();
        for _ in 0..3 {
            let (release, held) = channel::<()>();
            assert!(pool.run(Stay(said.clone(), held)).is_ok());
            on.push(heard.recv().unwrap());
            drop(release);
            while pool.idle.lock().is_empty() {
                std::thread::yield_now();
            }
        }
        assert_eq!(on[0], on[1]);
        assert_eq!(on[1], on[2]);
    }

    #[test]
    fn there_are_no_more_threads_than_the_budget_has() {
        let budget = LongThreads::of(1);
        let pool = ThreadPool::new("test", budget.clone(), stay);
        let (said, heard) = channel();
        let [(one, held_one), (_two, held_two)] = [channel::<()>(), channel::<()>()];
        assert!(pool.run(Stay(said.clone(), held_one)).is_ok());
        heard.recv().unwrap();
        assert_eq!(budget.taken(), 1);
        assert!(pool.run(Stay(said, held_two)).is_err());
        drop(one);
    }
}
