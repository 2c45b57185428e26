//! Keeps the cores awake.
//!
//! Waking a halted virtual core takes longer than relaying a request, and how much longer depends
//! on the host. A spinner for each core, at the idle priority, runs only when nobody else wants to,
//! so that no core ever halts.

use std::hint;
use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::thread;

use crate::options::Spin;
use crate::process::Process;

/// Turns until standard input ends.
pub(crate) fn serve() -> io::Result<()> {
    let builder = thread::Builder::new().name("end".to_owned());
    builder.spawn(|| {
        drop(io::stdin().read(&mut [0]));
        std::process::exit(0);
    })?;
    loop {
        hint::spin_loop();
    }
}

/// One for each core, if asked for; they end when they are dropped.
pub(crate) fn start(spin: Spin) -> io::Result<Vec<Process>> {
    let count = match spin {
        Spin::No => 0,
        Spin::EveryCore => thread::available_parallelism()?.get(),
    };
    let program = std::env::current_exe()?;
    let one = || {
        let mut command = Command::new("chrt");
        command.args(["--idle", "0"]).arg(&program).arg("--spinner");
        Process::start(command.stdin(Stdio::piped()))
    };
    (0..count).map(|_| one()).collect()
}
