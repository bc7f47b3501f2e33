//! A small chart as inline SVG, drawn as steps: what was measured between two samples is a level between them.
//! Pure. It needs no script and no style attribute, so that the page's Content-Security-Policy can forbid both.

use std::fmt::Write as _;

use super::words::{Escaped, NOTHING, Spoken};

/// Drawn in these units, and stretched to its place by the browser.
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 100.0;
/// Between the highest value and the top, so that its line is not cut.
const HEADROOM: f64 = 4.0;

/// One series over the last minutes.
pub(super) struct Chart<'a> {
    pub(super) title: &'a str,
    /// Seconds that the width stands for.
    pub(super) span_secs: f64,
    pub(super) steps: Vec<Level>,
    /// How a value is written.
    pub(super) unit: fn(f64) -> String,
}

/// A value that held from one moment to the next; none where there was nothing to measure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Level {
    /// The end, before now.
    pub(super) ago_secs: f64,
    pub(super) secs: f64,
    pub(super) value: Option<f64>,
}

impl Chart<'_> {
    /// A figure: title, latest value, drawing, highest value. What the drawing shows is also said in words.
    pub(super) fn write(&self, html: &mut String) {
        let values = || self.steps.iter().filter_map(|level| level.value);
        let highest = values().fold(0.0, f64::max);
        let shown = |value: Option<f64>| value.map_or_else(|| NOTHING.to_owned(), self.unit);
        let latest = shown(self.steps.last().and_then(|level| level.value));
        let highest_shown = shown(values().next().map(|_| highest));
        let title = Escaped(self.title);
        let minutes = (self.span_secs / 60.0).round();
        // Writing to a String cannot fail.
        let _ = write!(
            html,
            "<figure><figcaption>{title} <b>{}</b></figcaption>\
             <svg role=\"img\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" \
             aria-label=\"{title}, last {minutes} minutes: now {}, highest {}\">\
             <path class=\"line\" vector-effect=\"non-scaling-stroke\" d=\"{}\"/></svg>\
             <p class=\"scale\"><span>{minutes} min ago</span> <span>highest {}</span> <span>now</span></p>\
             </figure>",
            Escaped(&latest),
            Spoken(&latest),
            Spoken(&highest_shown),
            self.path(highest),
            Escaped(&highest_shown),
        );
    }

    fn path(&self, highest: f64) -> String {
        let x = |ago_secs: f64| {
            (WIDTH * (1.0 - ago_secs / self.span_secs))
                .clamp(0.0, WIDTH)
                .round()
        };
        let y = |value: f64| {
            let share = if highest > 0.0 { value / highest } else { 0.0 };
            (HEIGHT - 1.0 - share * (HEIGHT - 1.0 - HEADROOM)).round()
        };
        let mut path = String::new();
        let mut is_drawing = false;
        for level in &self.steps {
            let Some(value) = level.value else {
                is_drawing = false;
                continue;
            };
            let (from, to) = (x(level.ago_secs + level.secs), x(level.ago_secs));
            let _ = if is_drawing {
                write!(path, "V{}H{to}", y(value))
            } else {
                write!(path, "M{from} {}H{to}", y(value))
            };
            is_drawing = true;
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(values: &[Option<f64>]) -> String {
        let count = u32::try_from(values.len()).unwrap();
        let level = |(index, value): (u32, &Option<f64>)| Level {
            ago_secs: 5.0 * f64::from(count - 1 - index),
            secs: 5.0,
            value: *value,
        };
        let mut html = String::new();
        Chart {
            title: "Age <of> messages",
            span_secs: 900.0,
            steps: (0..).zip(values).map(level).collect(),
            unit: |value| format!("{value} s"),
        }
        .write(&mut html);
        html
    }

    #[test]
    fn values_are_levels_and_gaps_are_left_open() {
        let html = chart(&[Some(2.0), Some(4.0), None, Some(0.0)]);
        assert!(html.contains("d=\"M880 52H885V4H890M895 99H900\""), "{html}");
    }

    #[test]
    fn what_is_drawn_is_also_said_and_what_comes_from_outside_is_escaped() {
        let html = chart(&[Some(2.0), Some(0.5)]);
        let said = "aria-label=\"Age &lt;of&gt; messages, last 15 minutes: now 0.5 s, highest 2 s\"";
        assert!(html.contains(said), "{html}");
        assert!(
            html.contains("<b>0.5 s</b>") && html.contains("highest 2 s"),
            "{html}"
        );
    }

    #[test]
    fn without_a_value_there_is_an_empty_drawing_and_words_that_say_so() {
        for html in [chart(&[]), chart(&[None, None])] {
            assert!(
                html.contains("d=\"\"") && html.contains("now none, highest none"),
                "{html}"
            );
        }
    }

    #[test]
    fn zeros_lie_on_the_ground() {
        assert!(chart(&[Some(0.0), Some(0.0)]).contains("d=\"M890 99H895V99H900\""));
    }
}
