//! The Prometheus text format 0.0.4: each family in one piece, HELP and TYPE first, labels escaped.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use crate::metrics::histogram::Histogram;

/// Every name begins with this, but for those that all programs share.
const PREFIX: &str = "http_proxy_lb_";
/// What the names begin with that all programs share.
const SHARED: &str = "process_";

/// What the numbers of a family mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MetricType {
    Counter,
    Gauge,
    Histogram,
}

/// The name of a label and its value.
pub(super) type Label<'a> = (&'a str, &'a str);

/// An exposition under construction.
#[derive(Debug)]
pub(super) struct Exposition {
    out: String,
}

/// One family under construction.
#[derive(Debug)]
pub(super) struct Family<'a> {
    out: &'a mut String,
    name: String,
}

impl Exposition {
    /// One that will have about so many bytes.
    pub(super) fn of_size(bytes: usize) -> Self {
        let out = String::with_capacity(bytes);
        Self { out }
    }

    /// A family; `name` without prefix.
    pub(super) fn family(&mut self, kind: MetricType, name: &str, help: &str) -> Family<'_> {
        let prefix = if name.starts_with(SHARED) { "" } else { PREFIX };
        let name = format!("{prefix}{name}");
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let kind = match kind {
            MetricType::Counter => "counter",
            MetricType::Gauge => "gauge",
            MetricType::Histogram => "histogram",
        };
        let text = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        self.out.push_str(&text);
        Family {
            out: &mut self.out,
            name,
        }
    }

    /// A histogram without labels; its name ends with the unit, `_seconds`.
    pub(super) fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        let mut family = self.family(MetricType::Histogram, name, help);
        let mut all = 0;
        for (bound, count) in histogram.cumulative() {
            let bound = bound.map_or_else(
                || "+Inf".to_owned(),
                |micros| Duration::from_micros(micros).as_secs_f64().to_string(),
            );
            family.line("_bucket", &[("le", &bound)], count);
            all = count;
        }
        family.line("_sum", &[], histogram.sum().as_secs_f64());
        family.line("_count", &[], all);
    }

    /// The text.
    pub(super) fn finish(self) -> String {
        self.out
    }
}

impl Family<'_> {
    /// One sample.
    pub(super) fn sample(&mut self, labels: &[Label<'_>], value: impl Display) {
        self.line("", labels, value);
    }

    /// One sample of a subject: `its` labels and those of the sample, both as [`labels`] wrote them, and the number.
    pub(super) fn sample_of(&mut self, its: &str, own: &str, number: &str) {
        self.out.push_str(&self.name);
        if !its.is_empty() || !own.is_empty() {
            self.out.push('{');
            self.out.push_str(its);
            if !its.is_empty() && !own.is_empty() {
                self.out.push(',');
            }
            self.out.push_str(own);
            self.out.push('}');
        }
        self.out.push(' ');
        self.out.push_str(number);
        self.out.push('\n');
    }

    fn line(&mut self, suffix: &str, labels: &[Label<'_>], value: impl Display) {
        self.out.push_str(&self.name);
        self.out.push_str(suffix);
        if !labels.is_empty() {
            self.out.push('{');
            self.out.push_str(&self::labels(labels));
            self.out.push('}');
        }
        let written = writeln!(self.out, " {value}");
        debug_assert!(written.is_ok());
    }
}

/// Labels as they stand between the braces.
pub(super) fn labels(labels: &[Label<'_>]) -> String {
    let bytes = labels
        .iter()
        .map(|(label, text)| label.len() + text.len() + 4);
    let mut out = String::with_capacity(bytes.sum());
    for label in labels {
        out.push_str(if out.is_empty() { "" } else { "," });
        write_label(*label, &mut out);
    }
    out
}

fn write_label((label, text): Label<'_>, out: &mut String) {
    out.push_str(label);
    out.push_str("=\"");
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            _ => out.push(letter),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_told_before_its_samples() {
        let mut exposition = Exposition::of_size(0);
        let mut family = exposition.family(MetricType::Gauge, "up", "Whether.\nOr \\ not.");
        family.sample(&[("name", "a"), ("b", "c")], 1);
        family.sample(&[], 0.5);
        assert_eq!(
            exposition.finish(),
            "# HELP http_proxy_lb_up Whether.\\nOr \\\\ not.\n# TYPE http_proxy_lb_up gauge\n\
             http_proxy_lb_up{name=\"a\",b=\"c\"} 1\nhttp_proxy_lb_up 0.5\n"
        );
    }

    #[test]
    fn a_hostile_label_stays_a_label() {
        let mut exposition = Exposition::of_size(0);
        let mut family = exposition.family(MetricType::Counter, "process_x_total", "X.");
        family.sample(&[("name", "\"} 1\nx_total{a=\"\\")], 2);
        assert!(
            exposition
                .finish()
                .ends_with("\nprocess_x_total{name=\"\\\"} 1\\nx_total{a=\\\"\\\\\"} 2\n")
        );
    }

    #[test]
    fn a_histogram_has_cumulative_buckets_a_sum_and_a_count() {
        let histogram = Histogram::new(&[2_500, 60_000_000]);
        histogram.observe(Duration::from_millis(1));
        histogram.observe(Duration::from_secs(2));
        let mut exposition = Exposition::of_size(0);
        exposition.histogram("t_seconds", "T.", &histogram);
        let text = exposition.finish();
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "http_proxy_lb_t_seconds_bucket{le=\"0.0025\"} 1",
                "http_proxy_lb_t_seconds_bucket{le=\"60\"} 2",
                "http_proxy_lb_t_seconds_bucket{le=\"+Inf\"} 2",
                "http_proxy_lb_t_seconds_sum 2.001",
                "http_proxy_lb_t_seconds_count 2",
            ]
        );
    }
}
