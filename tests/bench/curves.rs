//! Cost against scale: the same work with more clients, upstreams, idle connections, tunnels.

use crate::machine;
use crate::scenarios::{self, Scenario};

/// One curve: what grows, and its values.
struct Family {
    name: &'static str,
    title: &'static str,
    values: &'static [usize],
    scenario: fn(usize) -> Scenario,
}

const FAMILIES: [Family; 4] = [
    Family {
        name: "clients",
        title: "keep-alive clients",
        values: &[1, 4, 16, 64, 256, 1024],
        scenario: scenarios::busy,
    },
    Family {
        name: "upstreams",
        title: "upstreams",
        values: &[1, 3, 10, 100, 1000],
        scenario: scenarios::over_pool,
    },
    Family {
        name: "idle",
        title: "idle clients (8 busy)",
        values: &[0, 100, 1000, 5000, 10_000],
        scenario: scenarios::beside_idle,
    },
    Family {
        name: "tunnels",
        title: "tunnels that echo",
        values: &[1, 10, 100, 500, 2000],
        scenario: scenarios::echoing,
    },
];

/// How many connections a relay can have here, that needs two descriptors for each.
fn possible() -> usize {
    machine::file_limit().saturating_sub(1000) / 2
}

/// Every point of every curve.
pub(crate) fn all() -> Vec<Scenario> {
    let points = FAMILIES.iter().flat_map(|family| {
        family.values.iter().map(|&value| {
            let value = value.min(possible());
            let mut scenario = (family.scenario)(value);
            scenario.name = format!("{}={value}", family.name);
            scenario.title = format!("{value} {}", family.title);
            scenario
        })
    });
    points.collect()
}
