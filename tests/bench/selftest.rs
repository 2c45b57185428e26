//! Whether the checks of the benchmark can fail: they must, behind a relay that damages bytes.

use std::io;
use std::time::Duration;

use crate::process::Folder;
use crate::run;
use crate::scenarios;
use crate::targets::{Kind, Target, Upstreams};

/// One for each way bytes take: answers, bodies of requests, and both directions of a tunnel.
const WAYS: [&str; 6] = [
    "get-1k",
    "get-1m",
    "post-16k",
    "new-connection",
    "tunnel-down",
    "tunnel-up",
];

/// Runs each way through a relay that damages what it passes on; no error there is an error.
pub(crate) fn damage_is_seen(time: Duration) -> io::Result<()> {
    let folder = Folder::new()?;
    let target = Target {
        name: "damaging".to_owned(),
        kind: Kind::Damaging,
        cores: None,
    };
    let is_way = |name: &str| WAYS.contains(&name);
    for scenario in scenarios::all() {
        if !is_way(&scenario.name) {
            continue;
        }
        let upstreams = Upstreams::start(scenario.pool)?;
        let seen = run::measure(&scenario, &target, &upstreams.ports, time, folder.path());
        let why = match seen {
            Err(error) => error.to_string(),
            Ok(sample) => sample.first_error.unwrap_or_default(),
        };
        if why.is_empty() {
            let name = &scenario.name;
            return Err(io::Error::other(format!(
                "{name}: damaged bytes pass as right"
            )));
        }
        println!("damage is seen: {}: {why}", scenario.name);
    }
    Ok(())
}
