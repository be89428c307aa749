//! Owns how a picture is drawn: bars, ranges and curves as SVG, the same bytes for the same
//! figures, readable on a light page and on a dark one. Refuses to know what the figures mean.

use std::fmt::{Display, Write as _};

use crate::spread::figure;

const WIDTH: f64 = 760.0;
/// Where labels end and the figures begin, and where these end.
const LEFT: f64 = 170.0;
const RIGHT: f64 = 600.0;
const TOP: f64 = 44.0;
const ROW_HEIGHT: f64 = 30.0;
const BAR_HEIGHT: f64 = 16.0;
const CURVES_HEIGHT: f64 = 220.0;
const LEGEND_STEP: f64 = 96.0;
const COLOURS: [&str; 6] = ["#4477aa", "#66a5c4", "#228833", "#b0a030", "#ee6677", "#aa3377"];

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}\
    .title{font-weight:600}.small{font-size:11px}.axis{stroke:#80868e;stroke-width:1}\
    .grid{stroke:#80868e;stroke-opacity:.3}.whisker{stroke:#1f2328;stroke-width:1.5}\
    @media(prefers-color-scheme:dark){text{fill:#e6edf3}.whisker{stroke:#e6edf3}}";

/// A row of figures beside its label.
#[derive(Debug, Clone)]
pub struct Row {
    pub label: String,
    /// One after another for a bar, from the least to the most for a range; none has no value.
    pub values: Vec<f64>,
    /// What stands behind it.
    pub note: String,
    /// The least and the most that was seen of the whole.
    pub whisker: Option<(f64, f64)>,
}

#[derive(Debug, Clone)]
pub struct Curve {
    pub name: String,
    /// Across and up.
    pub points: Vec<(f64, f64)>,
}

/// A bar each from the left edge on a logarithmic scale, so only the first value is drawn.
pub fn bars_on_a_log_scale(title: &str, rows: &[Row]) -> String {
    let mut svg = Svg::begun(title);
    let ends = rows.iter().flat_map(|row| row.values.iter().copied().chain(ends(row.whisker)));
    let scale = Log::around(ends, (LEFT, RIGHT));
    let bottom = TOP + height(rows);
    svg.decades(&scale, bottom);
    for (row, y) in placed(rows) {
        svg.label(row, y);
        if let Some(value) = row.values.first() {
            svg.rect(LEFT, y, scale.at(*value) - LEFT, COLOURS[0]);
        }
        let end = row.whisker.map_or(LEFT, |(least, most)| {
            let (from, to) = (scale.at(least), scale.at(most));
            let middle = y + BAR_HEIGHT / 2.0;
            svg.line("whisker", (from, middle), (to, middle));
            to
        });
        let bar = row.values.first().map_or(LEFT, |value| scale.at(*value));
        svg.note(end.max(bar), y, &row.note);
    }
    svg.finished(bottom + 26.0)
}

/// A line each from the first value to the last on a logarithmic scale, with a dot on each.
pub fn ranges_on_a_log_scale(title: &str, names: &[&str], rows: &[Row]) -> String {
    let mut svg = Svg::begun(title);
    let scale = Log::around(rows.iter().flat_map(|row| row.values.clone()), (LEFT, RIGHT));
    let bottom = TOP + height(rows);
    svg.decades(&scale, bottom);
    for (row, y) in placed(rows) {
        svg.label(row, y);
        let middle = y + BAR_HEIGHT / 2.0;
        if let [first, .., last] = row.values.as_slice() {
            svg.line("whisker", (scale.at(*first), middle), (scale.at(*last), middle));
        }
        for (value, colour) in row.values.iter().zip(COLOURS) {
            svg.dot((scale.at(*value), middle), colour);
        }
        let end = row.values.last().map_or(LEFT, |value| scale.at(*value));
        svg.note(end, y, &row.note);
    }
    svg.legend(names, bottom + 40.0);
    svg.finished(bottom + 54.0)
}

/// Bars of parts that add up, on scales that begin at nought: one for each group of rows, so that
/// what is small beside the first group can be told apart in the second.
pub fn stacked_bars(title: &str, names: &[&str], groups: &[&[Row]]) -> String {
    let mut svg = Svg::begun(title);
    let mut top = TOP;
    for rows in groups {
        let sum = |row: &Row| row.values.iter().sum::<f64>();
        let most = rows.iter().map(sum).fold(f64::MIN_POSITIVE, f64::max);
        for (row, y) in placed(rows) {
            let y = y - TOP + top;
            svg.label(row, y);
            let mut x = LEFT;
            for (value, colour) in row.values.iter().zip(COLOURS) {
                let width = value / most * (RIGHT - LEFT);
                svg.rect(x, y, width, colour);
                x += width;
            }
            svg.note(x, y, &row.note);
        }
        top += height(rows);
        svg.line("axis", (LEFT, top), (RIGHT, top));
        top += BAR_HEIGHT;
    }
    svg.legend(names, top + 8.0);
    svg.finished(top + 22.0)
}

/// Curves over a logarithmic x and a y that begins at nought, so that what grows is seen to grow.
pub fn curves(title: &str, across: &str, curves: &[Curve]) -> String {
    let mut svg = Svg::begun(title);
    let points = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let scale = Log::around(points().map(|(x, _)| x), (LEFT / 2.0, RIGHT));
    let most = points().map(|(_, y)| y).fold(f64::MIN_POSITIVE, f64::max) * 1.1;
    let bottom = TOP + CURVES_HEIGHT;
    let up = |y: f64| bottom - y / most * CURVES_HEIGHT;
    svg.decades(&scale, bottom);
    for share in [0.25, 0.5, 0.75, 1.0] {
        let y = up(most * share);
        svg.line("grid", (LEFT / 2.0, y), (RIGHT, y));
        svg.text((LEFT / 2.0 - 6.0, y + 4.0), "end", "small", figure(most * share));
    }
    svg.line("axis", (LEFT / 2.0, bottom), (RIGHT, bottom));
    for (curve, colour) in curves.iter().zip(COLOURS) {
        let at = |&(x, y): &(f64, f64)| (scale.at(x), up(y));
        for pair in curve.points.windows(2) {
            svg.coloured_line(at(&pair[0]), at(&pair[1]), colour);
        }
        for point in &curve.points {
            svg.dot(at(point), colour);
        }
        if let Some(last) = curve.points.last() {
            svg.text((RIGHT + 10.0, at(last).1 + 4.0), "start", "small", &curve.name);
        }
    }
    svg.text((f64::midpoint(LEFT / 2.0, RIGHT), bottom + 36.0), "middle", "small", across);
    svg.finished(bottom + 50.0)
}

fn placed(rows: &[Row]) -> impl Iterator<Item = (&Row, f64)> {
    rows.iter().scan(TOP, |next, row| {
        let y = *next;
        *next += ROW_HEIGHT;
        Some((row, y))
    })
}

fn height(rows: &[Row]) -> f64 {
    rows.iter().map(|_| ROW_HEIGHT).sum()
}

fn ends(whisker: Option<(f64, f64)>) -> impl Iterator<Item = f64> {
    whisker.into_iter().flat_map(|(least, most)| [least, most])
}

/// Decades between two edges.
struct Log {
    first: f64,
    last: f64,
    edges: (f64, f64),
}

impl Log {
    /// Whole decades around all values, at least one.
    fn around(values: impl Iterator<Item = f64>, edges: (f64, f64)) -> Self {
        let (least, most) = values
            .fold((f64::INFINITY, f64::MIN_POSITIVE), |(least, most), value| {
                (least.min(value), most.max(value))
            });
        let (least, most) = if least <= most { (least, most) } else { (1.0, 1.0) };
        // A little lower, so that a bar whose value is a power of ten has a length.
        let first = (least * 0.9).log10().floor();
        Self { first, last: most.log10().ceil().max(first + 1.0), edges }
    }

    fn at(&self, value: f64) -> f64 {
        let (left, right) = self.edges;
        left + (value.log10() - self.first) / (self.last - self.first) * (right - left)
    }

    fn decades(&self) -> impl Iterator<Item = f64> {
        let last = self.last;
        std::iter::successors(Some(self.first), |exponent| Some(exponent + 1.0))
            .take_while(move |exponent| *exponent <= last)
            .map(|exponent| 10_f64.powf(exponent))
    }
}

struct Svg(String);

impl Svg {
    fn begun(title: &str) -> Self {
        let mut svg = Self(String::new());
        svg.put(format_args!("<title>{}</title>", escaped(title)));
        svg.put(format_args!("<style>{STYLE}</style>"));
        svg.text((12.0, 22.0), "start", "title", title);
        svg
    }

    fn put(&mut self, element: impl Display) {
        writeln!(self.0, "{element}").expect("a string takes everything");
    }

    fn text(&mut self, at: (f64, f64), anchor: &str, class: &str, text: impl Display) {
        let ((x, y), text) = (at, escaped(&text.to_string()));
        self.put(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" class="{class}">{text}</text>"#
        ));
    }

    fn label(&mut self, row: &Row, y: f64) {
        self.text((LEFT - 10.0, y + 13.0), "end", "", &row.label);
    }

    fn note(&mut self, end: f64, y: f64, note: &str) {
        self.text((end + 8.0, y + 13.0), "start", "small", note);
    }

    fn rect(&mut self, x: f64, y: f64, width: f64, colour: &str) {
        let size = format_args!(r#"width="{width:.1}" height="{BAR_HEIGHT}""#);
        self.put(format_args!(r#"<rect x="{x:.1}" y="{y:.1}" {size} fill="{colour}"/>"#));
    }

    fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        self.stroke(from, to, format_args!(r#"class="{class}""#));
    }

    fn coloured_line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str) {
        self.stroke(from, to, format_args!(r#"stroke="{colour}" stroke-width="2""#));
    }

    fn stroke(&mut self, from: (f64, f64), to: (f64, f64), look: impl Display) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.put(format_args!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" {look}/>"#
        ));
    }

    fn dot(&mut self, at: (f64, f64), colour: &str) {
        let (x, y) = at;
        self.put(format_args!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="4.5" fill="{colour}"/>"#));
    }

    fn decades(&mut self, scale: &Log, bottom: f64) {
        for value in scale.decades() {
            let x = scale.at(value);
            self.line("grid", (x, TOP - 8.0), (x, bottom));
            let value = if value < 1.0 { value.to_string() } else { format!("{value:.0}") };
            self.text((x, bottom + 16.0), "middle", "small", value);
        }
    }

    fn legend(&mut self, names: &[&str], y: f64) {
        let mut x = LEFT;
        for (name, colour) in names.iter().zip(COLOURS) {
            self.dot((x, y - 4.0), colour);
            self.text((x + 9.0, y), "start", "small", name);
            x += LEGEND_STEP;
        }
    }

    fn finished(self, height: f64) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
             width=\"{WIDTH}\" height=\"{height:.0}\" role=\"img\">\n{}</svg>\n",
            self.0
        )
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(label: &str, value: f64) -> Row {
        Row { label: label.into(), values: vec![value], note: String::new(), whisker: None }
    }

    #[test]
    fn text_cannot_become_an_element() {
        let svg = bars_on_a_log_scale("a < b & c", &[row("<script>\"", 10.0)]);
        assert!(svg.contains("a &lt; b &amp; c") && svg.contains("&lt;script&gt;&quot;"), "{svg}");
        assert!(!svg.contains("<script"), "{svg}");
    }

    #[test]
    fn ten_times_as_much_is_one_decade_further_and_a_power_of_ten_has_a_length() {
        let scale = Log::around([10.0, 1_000.0].into_iter(), (0.0, 300.0));
        assert_eq!(scale.decades().collect::<Vec<_>>(), [1.0, 10.0, 100.0, 1_000.0]);
        let at = [1.0, 10.0, 100.0, 1_000.0].map(|value| format!("{:.0}", scale.at(value)));
        assert_eq!(at, ["0", "100", "200", "300"]);
    }

    #[test]
    fn a_scale_without_figures_still_has_a_decade() {
        let scale = Log::around([].into_iter(), (0.0, 300.0));
        assert_eq!(scale.decades().count(), 2);
    }
}
