//! What a target costs, by the kernel's accounting of its whole process tree.
//!
//! `/proc/PID/stat` includes threads that have ended, which a relay with a thread per connection
//! has many of, but counts in steps of 10 ms. `schedstat` counts nanoseconds, but only of threads
//! that still live. So the second is taken where it agrees with the first.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// Reading the files of more threads than this would disturb what is measured.
const FEW_THREADS: usize = 300;

/// How far the two accounts may be apart before threads must have ended in between.
const COARSE: Duration = Duration::from_millis(30);

/// Totals since the processes started, and what they hold now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    /// Of the whole tree, in steps of 10 ms.
    coarse: Duration,
    /// Of the living threads, by thread.
    fine: BTreeMap<u32, Duration>,
    /// How often living threads went to sleep by themselves, by thread.
    sleeps: BTreeMap<u32, u64>,
    /// There were too many threads to ask each.
    is_coarse: bool,
    pub(crate) threads: usize,
    /// Resident memory in bytes.
    pub(crate) resident: u64,
    /// The part of it that belongs to no file: heap and stacks.
    pub(crate) anonymous: u64,
}

/// What happened between two looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    pub(crate) cpu: Duration,
    /// None where threads are too many or too short-lived to be asked.
    pub(crate) sleeps: Option<u64>,
}

impl Usage {
    /// Looks at these processes and all below them.
    pub(crate) fn of(root: Option<u32>) -> Self {
        let mut usage = Self::default();
        for process in root.map_or_else(Vec::new, tree) {
            usage.add(process);
        }
        usage
    }

    fn add(&mut self, process: u32) {
        let fields = stat(process);
        let ticks: u64 = [11, 12].iter().filter_map(|&index| fields.get(index)).sum();
        let per_second = rustix::param::clock_ticks_per_second();
        self.coarse += Duration::from_nanos(ticks * 1_000_000_000 / per_second);
        let threads = usize::try_from(fields.get(17).copied().unwrap_or_default());
        let threads = threads.unwrap_or_default();
        self.threads += threads;
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        self.resident += value(&status, "VmRSS:") * 1024;
        self.anonymous += value(&status, "RssAnon:") * 1024;
        if threads <= FEW_THREADS {
            self.add_threads(process);
        } else {
            self.is_coarse = true;
        }
    }

    fn add_threads(&mut self, process: u32) {
        for thread in numbers(&format!("/proc/{process}/task")) {
            let of = |file: &str| {
                let path = format!("/proc/{process}/task/{thread}/{file}");
                fs::read_to_string(path).unwrap_or_default()
            };
            let nanoseconds = of("schedstat");
            let nanoseconds = nanoseconds.split(' ').next().and_then(|n| n.parse().ok());
            let time = Duration::from_nanos(nanoseconds.unwrap_or_default());
            self.fine.insert(thread, time);
            let sleeps = value(&of("status"), "voluntary_ctxt_switches:");
            self.sleeps.insert(thread, sleeps);
        }
    }

    /// What was spent since an earlier look.
    pub(crate) fn since(&self, before: &Self) -> Spent {
        let coarse = self.coarse.saturating_sub(before.coarse);
        let fine: Duration = self
            .fine
            .iter()
            .map(|(thread, &now)| {
                now.saturating_sub(before.fine.get(thread).copied().unwrap_or_default())
            })
            .sum();
        let is_coarse = self.is_coarse || before.is_coarse;
        if is_coarse || fine.abs_diff(coarse) > COARSE {
            return Spent {
                cpu: coarse,
                sleeps: None,
            };
        }
        let sleeps = self.sleeps.iter().map(|(thread, &now)| {
            now.saturating_sub(before.sleeps.get(thread).copied().unwrap_or_default())
        });
        Spent {
            cpu: fine,
            sleeps: Some(sleeps.sum()),
        }
    }
}

/// The numbers behind the name of the process, the state (not a number) being 0.
fn stat(process: u32) -> Vec<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let behind = text.rsplit_once(')').map_or("", |(_, behind)| behind);
    behind
        .split_whitespace()
        .map(|field| field.parse().unwrap_or_default())
        .collect()
}

fn value(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

/// Whether a debugger has taken hold of it.
pub(crate) fn is_traced(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    value(&status, "TracerPid:") != 0
}

fn numbers(folder: &str) -> Vec<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// A process and all its descendants.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u64)> = numbers("/proc")
        .into_iter()
        .map(|process| (process, stat(process).get(1).copied().unwrap_or_default()))
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        let children = parents.iter().filter(|(_, of)| *of == u64::from(parent));
        found.extend(children.map(|(child, _)| *child));
        next += 1;
    }
    found
}
