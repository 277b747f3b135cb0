//! The percentile plot: latency over percentile as SVG, both on scales that show the tail.
//!
//! The horizontal scale is logarithmic in what is left above the percentile, so each further nine takes as much
//! room as the one before; the vertical scale is logarithmic in microseconds.

use super::backend::Kind;
use super::report::Measured;
use hdrhistogram::Histogram;
use std::fmt::Write;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 520.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 78.0;
const BOTTOM: f64 = 62.0;

/// Most nines on the horizontal axis; a run would have to count ten million I/Os to need more.
const NINES_MAX: f64 = 7.0;

/// Points of a curve per nine.
const POINTS_PER_NINE: f64 = 60.0;

/// Colours by [`Kind`], told apart in print and by the colour-blind, too.
const COLOURS: [&str; 3] = ["#1f6fb4", "#d1495b", "#3a7d44"];

/// Axes: which stretch of values they show.
struct Scale {
    nines: f64,
    /// Decimal logarithm of microseconds.
    low: f64,
    high: f64,
}

impl Scale {
    /// A scale that holds all of these.
    fn of(histograms: &[(Kind, &Histogram<u64>)]) -> Self {
        let count = histograms
            .iter()
            .map(|(_, histogram)| histogram.len())
            .max()
            .unwrap_or(0);
        let lowest = histograms
            .iter()
            .map(|(_, histogram)| histogram.min())
            .min()
            .unwrap_or(1_000);
        let highest = histograms
            .iter()
            .map(|(_, histogram)| histogram.max())
            .max()
            .unwrap_or(10_000);
        let logarithm = |nanoseconds: u64| (nanoseconds.max(1) as f64 / 1000.0).log10();
        // Half a step of room above and below, and never an empty axis.
        let low = step_below(logarithm(lowest) - 0.02);
        let high = step_above(logarithm(highest) + 0.02).max(low + 0.3);
        Self {
            nines: (count.max(1) as f64).log10().ceil().clamp(2.0, NINES_MAX),
            low,
            high,
        }
    }

    fn x(&self, nines: f64) -> f64 {
        LEFT + nines / self.nines * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, logarithm: f64) -> f64 {
        let share = (logarithm - self.low) / (self.high - self.low);
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }
}

/// The steps 1, 2 and 5 of every decade.
const STEPS: [f64; 3] = [1.0, 2.0, 5.0];

/// Decimal logarithms of all steps between two such.
fn steps(low: f64, high: f64) -> impl Iterator<Item = f64> {
    const TOLERANCE: f64 = 1e-9;
    let decades = low.floor() as i32..=high.ceil() as i32;
    decades
        .flat_map(|decade| STEPS.map(|step| f64::from(decade) + step.log10()))
        .filter(move |&step| step >= low - TOLERANCE && step <= high + TOLERANCE)
}

fn step_below(logarithm: f64) -> f64 {
    steps(logarithm - 1.0, logarithm)
        .last()
        .unwrap_or(logarithm)
}

fn step_above(logarithm: f64) -> f64 {
    steps(logarithm, logarithm + 1.0)
        .next()
        .unwrap_or(logarithm)
}

/// The plot of a run, as the text of an SVG file.
pub fn percentiles(measured: &Measured) -> String {
    let histograms: Vec<(Kind, &Histogram<u64>)> = Kind::ALL
        .into_iter()
        .zip(&measured.latency)
        .filter(|(_, histogram)| !histogram.is_empty())
        .collect();
    let scale = Scale::of(&histograms);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"13\" fill=\"#333\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    let report = &measured.report;
    title(&mut svg, &report.target, &report.headline());
    horizontal_axis(&mut svg, &scale);
    vertical_axis(&mut svg, &scale, report.corrected);
    for (index, (kind, histogram)) in histograms.iter().enumerate() {
        curve(&mut svg, &scale, histogram, COLOURS[*kind as usize]);
        legend(
            &mut svg,
            index,
            kind.name(),
            histogram.len(),
            COLOURS[*kind as usize],
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Appends formatted text; writing to a string cannot fail.
macro_rules! put {
    ($svg:expr, $($argument:tt)*) => { let _ = writeln!($svg, $($argument)*); };
}

/// Text as SVG wants it.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn title(svg: &mut String, target: &str, headline: &str) {
    let (target, headline) = (escape(target), escape(headline));
    put!(
        svg,
        "<text x=\"{LEFT}\" y=\"28\" font-size=\"16\" font-weight=\"bold\">{target}</text>"
    );
    put!(
        svg,
        "<text x=\"{LEFT}\" y=\"48\" fill=\"#666\">{headline}</text>"
    );
}

fn horizontal_axis(svg: &mut String, scale: &Scale) {
    let bottom = HEIGHT - BOTTOM;
    let mut ticks = vec![(0.0, "0".to_owned()), (2f64.log10(), "50".to_owned())];
    for nines in 1..=scale.nines as usize {
        let label = match nines {
            1 => "90".to_owned(),
            2 => "99".to_owned(),
            _ => format!("99.{}", "9".repeat(nines - 2)),
        };
        ticks.push((nines as f64, label));
    }
    for (nines, label) in ticks {
        let x = scale.x(nines);
        put!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#e3e3e3\"/>"
        );
        put!(
            svg,
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            bottom + 20.0
        );
    }
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    let y = HEIGHT - 16.0;
    put!(
        svg,
        "<text x=\"{middle}\" y=\"{y}\" text-anchor=\"middle\">percentile of I/Os</text>"
    );
}

fn vertical_axis(svg: &mut String, scale: &Scale, corrected: bool) {
    let right = WIDTH - RIGHT;
    for step in steps(scale.low, scale.high) {
        let y = scale.y(step);
        let label = time(10f64.powf(step));
        put!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#e3e3e3\"/>"
        );
        let x = LEFT - 8.0;
        put!(
            svg,
            "<text x=\"{x}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            y + 4.5
        );
    }
    let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    put!(
        svg,
        "<rect x=\"{LEFT}\" y=\"{TOP}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"#999\"/>"
    );
    let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
    let label = if corrected {
        "latency since due"
    } else {
        "latency"
    };
    put!(
        svg,
        "<text transform=\"translate(20 {middle}) rotate(-90)\" text-anchor=\"middle\">{label}</text>"
    );
}

fn curve(svg: &mut String, scale: &Scale, histogram: &Histogram<u64>, colour: &str) {
    let points = (scale.nines * POINTS_PER_NINE) as usize;
    // Beyond one I/O in `len` there is nothing but the maximum.
    let end = (histogram.len() as f64).log10().min(scale.nines);
    let mut path = String::new();
    for point in 0..=points {
        let nines = point as f64 / POINTS_PER_NINE;
        let nines = nines.min(end);
        // The last point of a curve is the slowest I/O of all.
        let value = if nines >= end {
            histogram.max()
        } else {
            histogram.value_at_quantile(1.0 - 10f64.powf(-nines))
        };
        let y = scale.y((value.max(1) as f64 / 1000.0).log10());
        let command = if point == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{command}{:.1} {y:.1}", scale.x(nines));
        if nines >= end {
            break;
        }
    }
    put!(
        svg,
        "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-linejoin=\"round\"/>"
    );
}

fn legend(svg: &mut String, index: usize, name: &str, count: u64, colour: &str) {
    let y = TOP + 22.0 + index as f64 * 20.0;
    let (x, end) = (LEFT + 14.0, LEFT + 38.0);
    let text = end + 8.0;
    let count = super::report::thousands(count);
    put!(
        svg,
        "<line x1=\"{x}\" y1=\"{y}\" x2=\"{end}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"3\"/>"
    );
    put!(
        svg,
        "<text x=\"{text}\" y=\"{:.1}\">{name} ({count} I/Os)</text>",
        y + 4.5
    );
}

/// A time given in microseconds, in the unit that people would use.
fn time(microseconds: f64) -> String {
    let (value, unit) = match microseconds {
        _ if microseconds < 0.9999 => (microseconds * 1e3, "ns"),
        _ if microseconds < 999.9 => (microseconds, "µs"),
        _ if microseconds < 999_900.0 => (microseconds / 1e3, "ms"),
        _ => (microseconds / 1e6, "s"),
    };
    format!("{} {unit}", value.round())
}

#[cfg(test)]
mod tests {
    use super::super::options::Pattern;
    use super::super::testing::{Fault, MemoryTarget, options};
    use super::*;
    use std::time::Duration;

    #[test]
    fn axes_begin_and_end_at_round_values() {
        let labels: Vec<String> = steps(step_below(0.9), step_above(2.05))
            .map(|step| time(10f64.powf(step)))
            .collect();
        assert_eq!(
            labels,
            ["5 µs", "10 µs", "20 µs", "50 µs", "100 µs", "200 µs"]
        );
        assert_eq!(time(0.2), "200 ns");
        assert_eq!(time(1000.0), "1 ms");
        assert_eq!(time(2e6), "2 s");
    }

    /// Every point lies inside the frame, and every kind has its curve and its name.
    #[test]
    fn curves_stay_within_the_frame() {
        let mut target = MemoryTarget::new(64, Fault::None);
        let options = options(|o| {
            o.rw = Pattern::RandRw;
            o.flush_every = Some(4);
            o.time = Duration::from_millis(20);
        });
        let measured = super::super::run::run(&mut target, &options).unwrap();
        let svg = percentiles(&measured);
        assert_eq!(svg.matches("<path").count(), 3);
        for name in ["read (", "write (", "flush ("] {
            assert!(svg.contains(name), "{name}");
        }
        for path in svg
            .lines()
            .filter_map(|line| line.strip_prefix("<path d=\""))
        {
            let path = path.split('"').next().unwrap();
            for point in path.split(['M', 'L']).filter(|point| !point.is_empty()) {
                let (x, y) = point.split_once(' ').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((LEFT..=WIDTH - RIGHT + 0.1).contains(&x), "{point}");
                assert!((TOP - 0.1..=HEIGHT - BOTTOM + 0.1).contains(&y), "{point}");
            }
        }
        assert_eq!(escape("a<b>&"), "a&lt;b&gt;&amp;");
    }
}
