//! Bars in SVG, written by hand: no fonts but the reader's, no script, and legible on paper.

use std::fmt::Write;

pub struct Panel {
    pub title: String,
    pub bars: Vec<Bar>,
    pub target: Option<Target>,
}

pub struct Bar {
    pub label: &'static str,
    pub value: f64,
    /// Lower and upper quartile.
    pub spread: (f64, f64),
    pub text: String,
    /// Whether this is the one that it is all about.
    pub ours: bool,
}

/// A line that our bar is to reach, or not to pass.
pub struct Target {
    pub value: f64,
    pub text: String,
}

const WIDTH: f64 = 760.0;
const LEFT: f64 = 110.0;
const BARS: f64 = 490.0;
const ROW: f64 = 24.0;
const HEAD: f64 = 34.0;
const TITLE: f64 = 40.0;

/// One panel below the other, each on a scale of its own.
pub fn svg(title: &str, panels: &[Panel]) -> String {
    let rows = |panel: &Panel| f64::from(u32::try_from(panel.bars.len()).unwrap_or(u32::MAX));
    let height = TITLE + panels.iter().map(|panel| HEAD + rows(panel) * ROW + 14.0).sum::<f64>();
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13">
<title>{title}</title>
<rect width="100%" height="100%" fill="white"/>
<text x="12" y="26" font-size="17" font-weight="bold" fill="black">{title}</text>"#,
        title = escaped(title)
    );
    let mut top = TITLE;
    for panel in panels {
        draw(&mut out, panel, top, rows(panel));
        top += HEAD + rows(panel) * ROW + 14.0;
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, panel: &Panel, top: f64, rows: f64) {
    let values = panel.bars.iter().map(|bar| bar.value.max(bar.spread.1));
    let longest = values.chain(panel.target.iter().map(|target| target.value)).fold(0.0, f64::max);
    let x = |value: f64| LEFT + if longest > 0.0 { BARS * value / longest } else { 0.0 };
    let _ = writeln!(
        out,
        r##"<text x="12" y="{:.1}" font-weight="bold" fill="#333">{}</text>"##,
        top + 20.0,
        escaped(&panel.title)
    );
    let first = top + HEAD;
    let mut y = first;
    for Bar { label, value, spread, text, ours } in &panel.bars {
        let (colour, weight) = if *ours { ("#1f5fa8", "bold") } else { ("#a9b4c0", "normal") };
        let (middle, end) = (y + ROW / 2.0, x(*value));
        let _ = writeln!(
            out,
            r##"<text x="{:.1}" y="{:.1}" text-anchor="end" font-weight="{weight}" fill="black">{}</text>
<rect x="{LEFT}" y="{:.1}" width="{:.1}" height="{:.1}" fill="{colour}"/>
<path d="M{:.1} {middle:.1}H{:.1}" stroke="#222" stroke-width="1.5"/>
<text x="{:.1}" y="{:.1}" font-weight="{weight}" fill="black">{}</text>"##,
            LEFT - 8.0,
            middle + 4.5,
            escaped(label),
            y + 3.0,
            (end - LEFT).max(1.0),
            ROW - 6.0,
            x(spread.0),
            x(spread.1),
            end.max(x(spread.1)) + 6.0,
            middle + 4.5,
            escaped(text)
        );
        y += ROW;
    }
    if let Some(Target { value, text }) = &panel.target {
        let at = x(*value);
        // The words go to whichever side has room.
        let (anchor, shift) = if at > LEFT + BARS / 2.0 { ("end", -4.0) } else { ("start", 4.0) };
        let _ = writeln!(
            out,
            r##"<path d="M{at:.1} {:.1}V{:.1}" stroke="#c0392b" stroke-width="2" stroke-dasharray="5 3"/>
<text x="{:.1}" y="{:.1}" text-anchor="{anchor}" font-size="11" fill="#c0392b">{}</text>"##,
            first - 4.0,
            first + rows * ROW,
            at + shift,
            first - 2.0,
            escaped(text)
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
