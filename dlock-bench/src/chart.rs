//! Lines on logarithmic axes, as SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
/// The edges of the area of the lines. The names are to the right of it.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 480.0;
const TOP: f64 = 52.0;
const BOTTOM: f64 = 340.0;
/// The least distance between two names.
const LINE_HEIGHT: f64 = 16.0;
/// Colours that people with colour blindness can tell apart (Okabe and Ito).
const COLOURS: [&str; 6] = [
    "#888888", "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7",
];

/// A chart with a title and two axes.
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x: String,
    pub(crate) y: String,
    pub(crate) lines: Vec<Line>,
}

/// Points from left to right, all above zero. A line without points is not drawn but keeps its
/// colour, so that several charts use the same colours.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

impl Chart {
    pub(crate) fn to_svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = Axis::over(points().map(|point| point.0), LEFT, RIGHT);
        let y = Axis::over(points().map(|point| point.1), BOTTOM, TOP);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>\n",
            self.title
        );
        let mut add = |text: std::fmt::Arguments<'_>| {
            // Writing to a String cannot fail.
            let _ = writeln!(svg, "{text}");
        };
        for (value, at) in x.ticks() {
            add(format_args!(
                "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{BOTTOM}\" stroke=\"#dddddd\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value}</text>",
                BOTTOM + 18.0
            ));
        }
        for (value, at) in y.ticks() {
            add(format_args!(
                "<line x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#dddddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
                LEFT - 8.0,
                at + 4.0
            ));
        }
        add(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            (LEFT + RIGHT) / 2.0,
            BOTTOM + 40.0,
            self.x,
            LEFT / 8.0,
            TOP - 12.0,
            self.y
        ));
        let labels = self.labels(&y);
        for ((line, colour), label) in self.lines.iter().zip(COLOURS.iter().cycle()).zip(labels) {
            if line.points.is_empty() {
                continue;
            }
            let path: Vec<String> = line
                .points
                .iter()
                .map(|point| format!("{:.1},{:.1}", x.at(point.0), y.at(point.1)))
                .collect();
            add(format_args!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                path.join(" ")
            ));
            for point in &path {
                let (x, y) = point.split_once(',').unwrap_or_default();
                add(format_args!(
                    "<circle cx=\"{x}\" cy=\"{y}\" r=\"3\" fill=\"{colour}\"/>"
                ));
            }
            add(format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
                RIGHT + 10.0,
                label + 4.0,
                line.name
            ));
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// The height of each line's name: at the end of the line, but below the name above it.
    fn labels(&self, y: &Axis) -> Vec<f64> {
        let end = |line: &Line| line.points.last().map_or(BOTTOM, |point| y.at(point.1));
        let mut heights: Vec<f64> = self.lines.iter().map(end).collect();
        let mut order: Vec<usize> = (0..heights.len()).collect();
        order.sort_by(|a, b| heights[*a].total_cmp(&heights[*b]));
        order.retain(|at| !self.lines[*at].points.is_empty());
        for pair in order.windows(2) {
            heights[pair[1]] = heights[pair[1]].max(heights[pair[0]] + LINE_HEIGHT);
        }
        heights
    }
}

/// A logarithmic axis over whole powers of ten.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let low = values.clone().fold(f64::INFINITY, f64::min).log10().floor();
        let high = values.fold(0.0, f64::max).log10().ceil();
        match low.is_finite() && high.is_finite() {
            true => Axis {
                low,
                high: high.max(low + 1.0),
                from,
                to,
            },
            false => Axis {
                low: 0.0,
                high: 1.0,
                from,
                to,
            },
        }
    }

    fn at(&self, value: f64) -> f64 {
        let part = (value.log10() - self.low) / (self.high - self.low);
        self.from + part * (self.to - self.from)
    }

    /// The powers of ten and their positions.
    fn ticks(&self) -> Vec<(f64, f64)> {
        let mut ticks = Vec::new();
        let mut power = self.low;
        while power <= self.high {
            let value = 10_f64.powf(power);
            ticks.push((value, self.at(value)));
            power += 1.0;
        }
        ticks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_of_ten_is_a_step_on_an_axis() {
        let axis = Axis::over([2.0, 700.0].into_iter(), 0.0, 300.0);
        assert_eq!((axis.low, axis.high), (0.0, 3.0));
        assert_eq!(axis.at(10.0).round(), 100.0);
        assert_eq!(axis.ticks().len(), 4);
    }

    #[test]
    fn names_do_not_cover_each_other() {
        let line = |name: &str, y| Line {
            name: name.to_owned(),
            points: vec![(1.0, y), (10.0, y)],
        };
        let chart = Chart {
            title: "t".to_owned(),
            x: "x".to_owned(),
            y: "y".to_owned(),
            lines: vec![line("a", 10.0), line("b", 10.1), line("c", 1000.0)],
        };
        let heights = chart.labels(&Axis::over([1.0, 1000.0].into_iter(), BOTTOM, TOP));
        let mut apart = heights.clone();
        apart.sort_by(f64::total_cmp);
        assert!(
            apart
                .windows(2)
                .all(|pair| pair[1] - pair[0] >= LINE_HEIGHT),
            "{heights:?}"
        );
        let svg = chart.to_svg();
        assert_eq!(svg.matches("<polyline").count(), 3);
        assert!(svg.contains(">b</text>"));
    }
}
