//! The cores that lanes are bound to.
//!
//! A leader runs on the core of its lane: two of them on one core, while another is idle, cost their clients
//! a whole turn of the scheduler. A follower may run anywhere.

#[cfg(target_os = "linux")]
mod system {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    /// Those this process may use; none where they are not to be bound to.
    #[derive(Debug, Default)]
    pub(in crate::server) struct Cores {
        all: Option<CpuSet>,
        each: Vec<CpuSet>,
    }

    impl Cores {
        pub(in crate::server) fn new() -> Self {
            let Ok(all) = sched_getaffinity(None) else {
                return Self::default();
            };
            if std::env::var("HPLB_UNBOUND").is_ok() {
                return Self::default();
            }
            let usable = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core));
            let alone = |core| {
                let mut set = CpuSet::new();
                set.set(core);
                set
            };
            Self {
                each: usable.map(alone).collect(),
                all: Some(all),
            }
        }

        /// This thread leads that lane from now on.
        pub(in crate::server) fn bind(&self, lane: usize) {
            if let Some(core) = self.each.get(lane) {
                set(core);
            }
        }

        /// This thread leads no more.
        pub(in crate::server) fn unbind(&self) {
            if let Some(all) = &self.all {
                set(all);
            }
        }
    }

    fn set(cores: &CpuSet) {
        if let Err(error) = sched_setaffinity(None, cores) {
            log::debug!("a thread is not bound to a core: {error}");
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    /// There is no way to bind a thread.
    #[derive(Debug, Default)]
    pub(in crate::server) struct Cores;

    impl Cores {
        pub(in crate::server) fn new() -> Self {
            Self
        }

        pub(in crate::server) fn bind(&self, _lane: usize) {}

        pub(in crate::server) fn unbind(&self) {}
    }
}

pub(super) use system::Cores;
