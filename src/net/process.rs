//! What the system says about this process: processor time, memory, descriptors (Linux, `/proc`).

use std::fs;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// What this process uses now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// Processor time so far, in user and kernel mode.
    pub cpu: Duration,
    /// Memory in RAM, in bytes.
    pub resident: u64,
    /// Address space, in bytes.
    pub address_space: u64,
    /// Threads.
    pub threads: u64,
    /// When it was started, since 1970.
    pub started: Duration,
    /// Open file descriptors.
    pub open_files: u64,
    /// How many there may be. `None`: no limit.
    pub most_files: Option<u64>,
}

/// What this process uses now. `None` where there is no `/proc`, or no descriptor left to read it with.
pub fn usage() -> Option<Usage> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The one that lists them is among them.
    let open_files = fs::read_dir("/proc/self/fd")
        .ok()?
        .count()
        .saturating_sub(1);
    let stat = Stat::parse(&stat)?;
    Some(Usage {
        cpu: ticks(stat.cpu),
        resident: stat.resident_pages * page_size() as u64,
        address_space: stat.address_space,
        threads: stat.threads,
        started: booted()? + ticks(stat.started),
        open_files: open_files as u64,
        most_files: getrlimit(Resource::Nofile).current,
    })
}

/// When the system was started, since 1970: computed, because `/proc/stat`, which tells it, is hidden
/// from a confined service; and once, because a start that moves with every adjustment of the clock
/// looks like a restart.
fn booted() -> Option<Duration> {
    static BOOTED: OnceLock<Option<Duration>> = OnceLock::new();
    *BOOTED.get_or_init(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.ok()?.checked_sub(uptime()?)
    })
}

#[cfg(target_os = "linux")]
fn uptime() -> Option<Duration> {
    use rustix::time::{ClockId, clock_gettime};
    Duration::try_from(clock_gettime(ClockId::Boottime)).ok()
}

#[cfg(not(target_os = "linux"))]
fn uptime() -> Option<Duration> {
    None
}

fn ticks(count: u64) -> Duration {
    let each = clock_ticks_per_second().max(1);
    Duration::from_millis(count.saturating_mul(1000) / each)
}

/// The fields of `/proc/self/stat` that are wanted (`proc_pid_stat(5)`).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// In ticks.
    cpu: u64,
    threads: u64,
    /// In ticks after the system was started.
    started: u64,
    /// In bytes.
    address_space: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is the name in parentheses, with whatever is in it.
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        // Numbered from 1 in the manual; the third one is the first here.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu: field(14)? + field(15)?,
            threads: field(20)?,
            started: field(22)?,
            address_space: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let text = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 30 12 0 0 20 0 5 0 999 4096 3 1844";
        assert_eq!(
            Stat::parse(text),
            Some(Stat {
                cpu: 42,
                threads: 5,
                started: 999,
                address_space: 4096,
                resident_pages: 3,
            })
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_uses_something() {
        let usage = usage().unwrap();
        assert!(usage.resident > 0 && usage.threads > 0 && usage.open_files > 0);
    }
}
