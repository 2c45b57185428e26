//! Threads kept for the next job: starting one costs more than many a job.
//!
//! The thread that became idle last is used first, so that those that are not needed stay idle and
//! leave. How many there may be is for the caller to bound.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::threads;

/// How long an idle thread stays.
const LEAVE_AFTER: Duration = Duration::from_secs(5);

/// Something to be done on a thread of its own.
pub trait Job: Send + 'static {
    /// Does it.
    fn run(self);
}

/// Threads that do one kind of job.
#[derive(Debug)]
pub struct Crew<J> {
    name: &'static str,
    idle: Idle<J>,
    start: Start<J>,
}

/// Threads without a job; the last one is used first.
type Idle<J> = Arc<Mutex<Vec<Arc<Seat<J>>>>>;

/// Starts a thread of that name.
type Start<J> = fn(&str, Arc<Seat<J>>, Idle<J>) -> io::Result<()>;

/// Where one thread finds its next job.
#[derive(Debug)]
struct Seat<J> {
    job: Mutex<Option<J>>,
    given: Condvar,
}

impl<J: Job> Crew<J> {
    /// Nobody yet.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            idle: Arc::default(),
            start: |name, seat, idle| {
                threads::start(name, move || work(&seat, &idle)).map(|_counted_by_the_caller| ())
            },
        }
    }

    /// Nobody, ever: as on a system without threads left.
    #[cfg(test)]
    pub fn of_nobody(name: &'static str) -> Self {
        Self {
            start: |_, _, _| Err(io::ErrorKind::WouldBlock.into()),
            ..Self::new(name)
        }
    }

    /// Has `job` done.
    ///
    /// # Errors
    /// When no thread is idle and none can be started; the job comes back.
    pub fn give(&self, job: J) -> Result<(), (J, io::Error)> {
        let idle = self.idle.lock().pop();
        if let Some(seat) = idle {
            *seat.job.lock() = Some(job);
            seat.given.notify_one();
            return Ok(());
        }
        let seat = Arc::new(Seat {
            job: Mutex::new(Some(job)),
            given: Condvar::new(),
        });
        match (self.start)(self.name, Arc::clone(&seat), Arc::clone(&self.idle)) {
            Ok(()) => Ok(()),
            Err(error) => match seat.job.lock().take() {
                Some(job) => Err((job, error)),
                None => Ok(()),
            },
        }
    }
}

/// One thread: does jobs until there has been none for a while.
fn work<J: Job>(seat: &Arc<Seat<J>>, idle: &Mutex<Vec<Arc<Seat<J>>>>) {
    loop {
        let job = seat.job.lock().take();
        if let Some(job) = job {
            job.run();
            idle.lock().push(Arc::clone(seat));
        }
        let mut next = seat.job.lock();
        while next.is_none() {
            if !seat.given.wait_for(&mut next, LEAVE_AFTER).timed_out() {
                continue;
            }
            drop(next);
            let mut idle = idle.lock();
            if let Some(own) = idle.iter().position(|other| Arc::ptr_eq(other, seat)) {
                idle.remove(own);
                return;
            }
            // Whoever took this seat out of the list is about to put a job there.
            drop(idle);
            next = seat.job.lock();
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

    impl Job for Stay {
        fn run(self) {
            self.0.send(std::thread::current().id()).unwrap();
            assert!(self.1.recv().is_err());
        }
    }

    #[test]
    fn two_jobs_at_a_time_have_two_threads() {
        let crew = Crew::new("test");
        let (said, heard) = channel();
        let [(one, held_one), (two, held_two)] = [channel::<()>(), channel::<()>()];
        assert!(crew.give(Stay(said.clone(), held_one)).is_ok());
        assert!(crew.give(Stay(said, held_two)).is_ok());
        assert_ne!(heard.recv().unwrap(), heard.recv().unwrap());
        drop((one, two));
    }

    #[test]
    fn a_job_after_another_runs_on_the_same_thread() {
        let crew = Crew::new("test");
        let (said, heard) = channel();
        let mut on = Vec::new();
        for _ in 0..3 {
            let (release, held) = channel::<()>();
            assert!(crew.give(Stay(said.clone(), held)).is_ok());
            on.push(heard.recv().unwrap());
            drop(release);
            while crew.idle.lock().is_empty() {
                std::thread::yield_now();
            }
        }
        assert_eq!(on[0], on[1]);
        assert_eq!(on[1], on[2]);
    }
}
