//! The plot of cost against scale: a panel for each thing that grows, a line for each target.

use std::fmt::Write;

use crate::compare::{Results, Row};
use crate::curves;
use crate::plot::{STYLE, color, escaped, legend};
use crate::targets::{Kind, Target};

const WIDTH: f64 = 900.0;
const PANEL: f64 = 370.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 70.0;
const COLUMN: f64 = PANEL + 70.0;
const LINE: f64 = HEIGHT + 90.0;

/// One panel: its points on the horizontal axis, and where it stands.
struct Panel<'r> {
    family: &'r str,
    rows: Vec<(usize, &'r Row)>,
    left: f64,
    top: f64,
    /// The largest cost, in microseconds.
    most: f64,
}

/// The whole picture.
pub(crate) fn text(results: &Results) -> String {
    let panels = panels(results);
    let lines = panels.len().div_ceil(2) as f64;
    let height = TOP + LINE * lines;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\">\n{STYLE}"
    );
    let has_cost = |target: &&Target| !matches!(target.kind, Kind::None);
    let shown: Vec<Target> = results.targets.iter().filter(has_cost).cloned().collect();
    out.push_str(&legend(&shown, 12.0, 20.0));
    for panel in &panels {
        out.push_str(&axes(panel));
        for (index, target) in results.targets.iter().enumerate() {
            out.push_str(&curve(panel, target, index));
        }
    }
    out.push_str("</svg>\n");
    out
}

fn cost(row: &Row, target: usize) -> Option<f64> {
    let median = row.outcomes.get(target)?.median.as_ref()?;
    // What went wrong is not cheap.
    let median = Some(median).filter(|median| median.errors == 0)?;
    median.cpu.map(|seconds| seconds * 1e6)
}

fn panels(results: &Results) -> Vec<Panel<'_>> {
    let mut panels: Vec<Panel<'_>> = Vec::new();
    for row in &results.rows {
        let Some((family, value)) = curves::point(&row.scenario) else {
            continue;
        };
        let costs = (0..results.targets.len()).filter_map(|target| cost(row, target));
        let most = costs.fold(0.0, f64::max);
        match panels.last_mut().filter(|panel| panel.family == family) {
            Some(panel) => {
                panel.rows.push((value, row));
                panel.most = panel.most.max(most);
            }
            None => panels.push(Panel {
                family,
                rows: vec![(value, row)],
                left: LEFT + COLUMN * (panels.len() % 2) as f64,
                top: TOP + LINE * (panels.len() / 2) as f64,
                most,
            }),
        }
    }
    panels
}

impl Panel<'_> {
    /// Points stand side by side, whatever lies between them: the scale grows by factors.
    fn across(&self, index: usize) -> f64 {
        let gaps = self.rows.len().saturating_sub(1).max(1) as f64;
        self.left + PANEL * index as f64 / gaps
    }

    fn down(&self, cost: f64) -> f64 {
        self.top + HEIGHT * (1.0 - cost / self.most.max(1.0))
    }
}

fn axes(panel: &Panel<'_>) -> String {
    let bottom = panel.top + HEIGHT;
    let mut out = format!(
        "<text class=\"title\" x=\"{}\" y=\"{}\">µs of CPU per exchange, with more {}</text>\n",
        panel.left,
        panel.top - 14.0,
        escaped(curves::title(panel.family))
    );
    for quarter in 0..=4_u8 {
        let cost = panel.most * f64::from(quarter) / 4.0;
        let at = panel.down(cost);
        writeln!(
            out,
            "<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"small\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{cost:.0}</text>",
            panel.left,
            panel.left + PANEL,
            panel.left - 6.0,
            at + 4.0
        )
        .expect("a string takes it");
    }
    for (index, (value, _)) in panel.rows.iter().enumerate() {
        let at = panel.across(index);
        writeln!(
            out,
            "<text class=\"small\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{value}</text>",
            bottom + 16.0
        )
        .expect("a string takes it");
    }
    out
}

fn curve(panel: &Panel<'_>, target: &Target, index: usize) -> String {
    let points = panel.rows.iter().enumerate();
    let points = points.filter_map(|(point, (_, row))| {
        let cost = cost(row, index)?;
        Some(format!(
            "{:.1},{:.1}",
            panel.across(point),
            panel.down(cost)
        ))
    });
    let points: Vec<String> = points.collect();
    if points.is_empty() {
        return String::new();
    }
    let width = if matches!(target.kind, Kind::Ours(_)) {
        3.0
    } else {
        1.5
    };
    format!(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\">\
         <title>{}</title></polyline>\n",
        points.join(" "),
        color(target),
        escaped(&target.name)
    )
}
