//! The plot of a comparison: a line for each scenario, a dot for each target.
//!
//! Both halves show ratios against this program, on logarithmic axes: what CPU a target needs for
//! the same work, and how much work it does in the same time. Colours are readable on light and
//! dark ground, and text follows the reader's scheme.

use std::fmt::Write;

use crate::compare::{Results, Row};
use crate::run::Sample;
use crate::scenarios::Unit;
use crate::targets::{Kind, Target};

const WIDTH: f64 = 900.0;
const LABELS: f64 = 300.0;
const PANEL: f64 = 270.0;
const GAP: f64 = 20.0;
const TOP: f64 = 70.0;
const LINE: f64 = 26.0;

/// Ratios beyond these stand at the edge.
const SMALLEST: f64 = 0.25;
const LARGEST: f64 = 8.0;

const STYLE: &str = "<style>
text{font:12px system-ui,sans-serif;fill:#24292f}
.small{font-size:11px}
.title{font-weight:600}
.grid{stroke:#8c959f;stroke-opacity:.35}
.one{stroke:#8c959f}
@media (prefers-color-scheme:dark){text{fill:#d0d7de}}
</style>\n";

fn color(target: &Target) -> &'static str {
    match target.kind {
        Kind::Ours(..) => "#e5484d",
        Kind::Blind | Kind::Damaging => "#8c959f",
        Kind::None => "#57a0a0",
        Kind::Peer(peer) => peer.color(),
    }
}

/// Text that may stand in an SVG.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// The names of the targets in their colours, from a place on.
fn legend(targets: &[Target], from: f64, height: f64) -> String {
    let mut out = String::new();
    let mut place = from;
    for target in targets {
        let (name, color) = (escaped(&target.name), color(target));
        writeln!(
            out,
            "<circle cx=\"{place}\" cy=\"{}\" r=\"5\" fill=\"{color}\"/>\
             <text x=\"{}\" y=\"{height}\">{name}</text>",
            height - 4.0,
            place + 10.0,
        )
        .expect("a string takes it");
        place += 30.0 + 7.0 * target.name.len() as f64;
    }
    out
}

/// Where a ratio is, from 0 to 1.
fn place(ratio: f64) -> f64 {
    let log = ratio.clamp(SMALLEST, LARGEST).log2() - SMALLEST.log2();
    log / (LARGEST.log2() - SMALLEST.log2())
}

/// One half of the plot.
struct Panel {
    title: &'static str,
    left: f64,
    value: fn(&Sample) -> Option<f64>,
}

/// The whole picture.
pub(crate) fn text(results: &Results) -> String {
    let is_work = |row: &&Row| !matches!(row.scenario.unit, Unit::Memory(_));
    let rows: Vec<&Row> = results.rows.iter().filter(is_work).collect();
    let height = TOP + LINE * rows.len() as f64 + 40.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\">\n{STYLE}"
    );
    out.push_str(&legend(&results.targets, 12.0, 20.0));
    for (index, row) in rows.iter().enumerate() {
        let middle = TOP + LINE * (index as f64 + 0.5);
        writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            LABELS - 12.0,
            middle + 4.0,
            escaped(&row.scenario.title)
        )
        .expect("a string takes it");
    }
    let panels = [
        Panel {
            title: "CPU for the same work: less is better",
            left: LABELS,
            value: |sample| sample.cpu,
        },
        Panel {
            title: "work per second: more is better",
            left: LABELS + PANEL + GAP,
            value: |sample| sample.rate,
        },
    ];
    for panel in &panels {
        out.push_str(&axis(panel, rows.len()));
        for (index, row) in rows.iter().enumerate() {
            let middle = TOP + LINE * (index as f64 + 0.5);
            out.push_str(&dots(results, row, panel, middle));
        }
    }
    let note = "Each dot is a multiple of this program's figure; what is beyond the scale stands at \
                its edge.";
    writeln!(
        out,
        "<text class=\"small\" x=\"{LABELS}\" y=\"{}\">{note}</text>\n</svg>",
        height - 16.0
    )
    .expect("a string takes it");
    out
}

fn axis(panel: &Panel, rows: usize) -> String {
    let bottom = TOP + LINE * rows as f64;
    let mut out = format!(
        "<text class=\"title\" x=\"{}\" y=\"{}\">{}</text>\n",
        panel.left,
        TOP - 24.0,
        panel.title
    );
    for (ratio, label) in [
        (0.25, "¼"),
        (0.5, "½"),
        (1.0, "1"),
        (2.0, "2"),
        (4.0, "4"),
        (8.0, "8"),
    ] {
        let at = panel.left + PANEL * place(ratio);
        let class = if label == "1" { "one" } else { "grid" };
        writeln!(
            out,
            "<line class=\"{class}\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
             <text class=\"small\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            TOP - 6.0
        )
        .expect("a string takes it");
    }
    out
}

fn dots(results: &Results, row: &Row, panel: &Panel, middle: f64) -> String {
    let mut out = String::new();
    let ours = row.medians().next().flatten().and_then(panel.value);
    // This program last, so that nobody hides it.
    let both = results.targets.iter().zip(row.medians());
    let is_ours = |target: &Target| matches!(target.kind, Kind::Ours(..));
    let (ours_last, mut all): (Vec<_>, Vec<_>) = both.partition(|(target, _)| is_ours(target));
    all.extend(ours_last);
    for (target, median) in all {
        let both = median.and_then(panel.value).zip(ours);
        let Some((value, ours)) = both.filter(|(_, ours)| *ours > 0.0) else {
            continue;
        };
        let at = panel.left + PANEL * place(value / ours);
        let radius = if is_ours(target) { 6.0 } else { 4.5 };
        writeln!(
            out,
            "<circle cx=\"{at:.1}\" cy=\"{middle:.1}\" r=\"{radius}\" fill=\"{}\" \
             fill-opacity=\".9\"><title>{}: {:.2}</title></circle>",
            color(target),
            escaped(&target.name),
            value / ours
        )
        .expect("a string takes it");
    }
    out
}
