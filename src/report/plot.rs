//! The card's plots, as SVG.
//!
//! A picture has to be legible on a light page and on a dark one, and does not know on which it stands. So it has
//! a ground of its own, and both colours of everything: the dark ones for readers whose system asks for them.
//! It is the same to the byte on every machine: places come from integers and from arithmetic that IEEE 754 fixes.

use super::markdown::shown;
use super::summary::thousands;
use crate::domain::histogram::Histogram;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::ops::Range;

/// Width of every plot in pixels.
const WIDTH: u32 = 760;
const MARGIN: u32 = 20;

/// A colour by day and by night.
struct Colour {
    light: RGBColor,
    dark: RGBColor,
}

const GROUND: Colour = Colour { light: RGBColor(0xff, 0xff, 0xff), dark: RGBColor(0x12, 0x16, 0x1d) };
const INK: Colour = Colour { light: RGBColor(0x1f, 0x23, 0x28), dark: RGBColor(0xe6, 0xed, 0xf3) };
const FAINT: Colour = Colour { light: RGBColor(0x5b, 0x65, 0x70), dark: RGBColor(0x9d, 0xa7, 0xb3) };
const LINE: Colour = Colour { light: RGBColor(0xd8, 0xde, 0xe4), dark: RGBColor(0x33, 0x3b, 0x45) };
const BAR: Colour = Colour { light: RGBColor(0x2f, 0x6f, 0xde), dark: RGBColor(0x6c, 0xa4, 0xf8) };
const REST: Colour = Colour { light: RGBColor(0x8c, 0x96, 0xa1), dark: RGBColor(0x6b, 0x76, 0x83) };
const COLOURS: [Colour; 6] = [GROUND, INK, FAINT, LINE, BAR, REST];

const FONT: &str = "system-ui, sans-serif";
/// plotters asks for 1.24 times what comes out.
const TEXT: f64 = 13.0 * 1.24;
const SMALL: f64 = 12.0 * 1.24;

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// The most splits that are drawn; the card's table has all of them.
const PANELS: usize = 6;
const PANEL_HEIGHT: u32 = 110;
const AXIS_HEIGHT: u32 = 46;

/// Histograms of text lengths, one above the other, for splits that have documents. `None` without any.
pub fn lengths(splits: &[(&str, &Histogram)]) -> Option<String> {
    let splits: Vec<_> = splits.iter().filter(|(_, lengths)| lengths.count() > 0).take(PANELS).copied().collect();
    let first = splits.iter().filter_map(|(_, lengths)| lengths.min()).min()?;
    let last = splits.iter().filter_map(|(_, lengths)| lengths.max()).max()?;
    // A bin of air on both sides.
    let bins = bin_of(first).saturating_sub(1)..bin_of(last) + 2;
    let height = splits.len() as u32 * PANEL_HEIGHT + AXIS_HEIGHT + MARGIN;
    Some(picture(height, "Lengths of the texts in characters, by split", |root| {
        let mut rest = root.margin(MARGIN / 2, MARGIN / 2, MARGIN / 2, MARGIN / 2);
        for (i, (name, lengths)) in splits.iter().enumerate() {
            let is_last = i + 1 == splits.len();
            let height = PANEL_HEIGHT + if is_last { AXIS_HEIGHT } else { 0 };
            let (panel, below) = rest.split_vertically(height);
            rest = below;
            draw_lengths(&panel, name, lengths, &bins, is_last)?;
        }
        Ok(())
    }))
}

fn draw_lengths(panel: &Area, name: &str, lengths: &Histogram, bins: &Range<usize>, has_axis: bool) -> Drawn {
    let counts = binned(lengths, bins);
    let most = counts.iter().copied().max().unwrap_or(0);
    let step = nice_step(most);
    let top = most.div_ceil(step) * step;
    let x = Axis::new(bins.start as f64..bins.end as f64, ticks(bins).iter().map(|bin| *bin as f64).collect());
    let y = Axis::new(0.0..top as f64, (0..=top / step).map(|i| (i * step) as f64).collect());
    let mut chart = ChartBuilder::on(panel)
        .margin_top(30)
        .margin_right(24)
        .set_label_area_size(LabelAreaPosition::Left, 64)
        .set_label_area_size(LabelAreaPosition::Bottom, if has_axis { AXIS_HEIGHT } else { 0 })
        .build_cartesian_2d(x, y)?;
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(TRANSPARENT)
        .bold_line_style(LINE.light)
        .axis_style(LINE.light)
        .label_style((FONT, SMALL).into_font().color(&FAINT.light))
        .axis_desc_style((FONT, SMALL).into_font().color(&FAINT.light))
        .y_label_formatter(&|documents| short(*documents as u64));
    if has_axis {
        mesh.x_label_formatter(&|bin| short(edge(*bin as usize))).x_desc("characters (logarithmic scale)");
    }
    mesh.draw()?;
    chart.draw_series(counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(i, count)| {
        let left = (bins.start + i) as f64;
        let mut bar = Rectangle::new([(left, 0.0), (left + 1.0, *count as f64)], BAR.light.filled());
        bar.set_margin(0, 0, 1, 1);
        bar
    }))?;
    let heading = format!("{name}: {}", documents(lengths.count()));
    panel.draw(&Text::new(heading, (64, 19), style(TEXT, &INK, HPos::Left)))?;
    Ok(())
}

/// An axis with its ticks.
struct Axis {
    scale: RangedCoordf64,
    ticks: Vec<f64>,
}

impl Axis {
    fn new(range: Range<f64>, ticks: Vec<f64>) -> Axis {
        Axis { scale: range.into(), ticks }
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.scale.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.scale.range()
    }
}

/// The bars of the domain plot; more domains are drawn together as one.
const BARS: usize = 15;

/// Documents by domain, the most frequent first. `None` where there is nothing to compare.
pub fn domains(domains: &[(String, u64)]) -> Option<String> {
    if domains.len() < 2 {
        return None;
    }
    let shown_bars = if domains.len() <= BARS { domains.len() } else { BARS - 1 };
    let mut bars: Vec<Bar> = domains[..shown_bars]
        .iter()
        .map(|(name, times)| Bar { label: shown(name, LABEL), count: *times, colour: &BAR })
        .collect();
    let rest = &domains[shown_bars..];
    if !rest.is_empty() {
        let label = format!("{} more domains", thousands(rest.len() as u64));
        bars.push(Bar { label, count: rest.iter().map(|(_, times)| times).sum(), colour: &REST });
    }
    Some(draw_bars("Documents by domain", &bars))
}

/// Documents of high, medium and low quality; `unscored` of the low ones have none. `None` without any.
pub fn quality(classes: [u64; 3], unscored: u64) -> Option<String> {
    let [high, medium, low] = classes;
    let low = low.saturating_sub(unscored);
    if high + medium + low == 0 {
        return None;
    }
    let bar = |label: &str, count, colour| Bar { label: label.into(), count, colour };
    let mut bars = vec![
        bar("high (0.8 and above)", high, &BAR),
        bar("medium (0.6 to 0.8)", medium, &BAR),
        bar("low (below 0.6)", low, &BAR),
    ];
    if unscored > 0 {
        bars.push(bar("without a score", unscored, &REST));
    }
    Some(draw_bars("Documents by quality", &bars))
}

struct Bar {
    label: String,
    count: u64,
    colour: &'static Colour,
}

/// Columns of a bar's label.
const LABEL: usize = 24;
const LABEL_WIDTH: u32 = 220;
const COUNT_WIDTH: u32 = 160;
const BAR_HEIGHT: u32 = 26;

fn draw_bars(title: &str, bars: &[Bar]) -> String {
    let height = bars.len() as u32 * BAR_HEIGHT + 2 * MARGIN;
    let total: u64 = bars.iter().map(|bar| bar.count).sum();
    let most = bars.iter().map(|bar| bar.count).max().unwrap_or(0).max(1);
    picture(height, title, |root| {
        let area = root.margin(MARGIN, MARGIN, MARGIN / 2, MARGIN / 2);
        let mut chart = ChartBuilder::on(&area)
            .set_label_area_size(LabelAreaPosition::Left, LABEL_WIDTH)
            .margin_right(COUNT_WIDTH)
            .build_cartesian_2d(0.0..most as f64, (bars.len() as f64)..0.0)?;
        chart.draw_series(bars.iter().enumerate().map(|(i, bar)| {
            let (from, to) = ((0.0, i as f64), (bar.count as f64, (i + 1) as f64));
            let mut rectangle = Rectangle::new([from, to], bar.colour.light.filled());
            rectangle.set_margin(4, 4, 0, 0);
            rectangle
        }))?;
        for (i, bar) in bars.iter().enumerate() {
            let (end, middle) = chart.backend_coord(&(bar.count as f64, i as f64 + 0.5));
            let (start, _) = chart.backend_coord(&(0.0, i as f64 + 0.5));
            let count = format!("{}  ({})", thousands(bar.count), percent(bar.count, total));
            root.draw(&Text::new(bar.label.clone(), (start - 10, middle), style(TEXT, &INK, HPos::Right)))?;
            root.draw(&Text::new(count, (end + 8, middle), style(SMALL, &FAINT, HPos::Left)))?;
        }
        Ok(())
    })
}

fn style<'a>(size: f64, colour: &Colour, horizontal: HPos) -> TextStyle<'a> {
    (FONT, size).into_font().color(&colour.light).pos(Pos::new(horizontal, VPos::Center))
}

/// Draws a picture on its ground, and gives it its title and its dark colours.
fn picture(height: u32, title: &str, draw: impl FnOnce(&Area) -> Drawn) -> String {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        let frame = Rectangle::new([(0, 0), (WIDTH as i32 - 1, height as i32 - 1)], LINE.light);
        root.fill(&GROUND.light)
            .and_then(|()| root.draw(&frame))
            .map_err(Into::into)
            .and_then(|()| draw(&root))
            .and_then(|()| root.present().map_err(Into::into))
            .expect("a text in memory can be drawn on");
    }
    let (tag, rest) = svg.split_at(svg.find('>').map_or(0, |end| end + 1));
    format!("{} role=\"img\">\n<title>{title}</title>\n{}{rest}", tag.trim_end_matches('>'), dark_style())
}

/// Colours are attributes, which a style sheet outranks.
fn dark_style() -> String {
    let hex = |RGBColor(r, g, b): RGBColor| format!("#{r:02X}{g:02X}{b:02X}");
    let rules = COLOURS.iter().flat_map(|colour| {
        let (light, dark) = (hex(colour.light), hex(colour.dark));
        ["fill", "stroke"].map(|attribute| format!("[{attribute}=\"{light}\"]{{{attribute}:{dark}}}\n"))
    });
    format!("<style>\n@media (prefers-color-scheme: dark) {{\n{}}}\n</style>", rules.collect::<String>())
}

/// Bins of a decade, and where each begins (in hundredths of the decade's first value): nearly even on a
/// logarithmic scale, and round. They are the preferred numbers R10 of ISO 3.
const EDGES: [u64; 10] = [100, 125, 160, 200, 250, 315, 400, 500, 630, 800];

/// The smallest length in a bin.
fn edge(bin: usize) -> u64 {
    (EDGES[bin % 10] * 10u64.saturating_pow((bin / 10) as u32)).div_ceil(100)
}

/// The bin of a length of at least 1.
fn bin_of(length: u64) -> usize {
    let decade = length.max(1).ilog10() as usize;
    (decade * 10..decade * 10 + 10).rfind(|bin| edge(*bin) <= length.max(1)).unwrap_or(decade * 10)
}

fn binned(lengths: &Histogram, bins: &Range<usize>) -> Vec<u64> {
    let mut counts = vec![0; bins.len()];
    for (length, times) in lengths.iter() {
        counts[bin_of(length) - bins.start] += times;
    }
    counts
}

/// Bins that are labelled: decades, and 2 and 5 times those where there are few.
fn ticks(bins: &Range<usize>) -> Vec<usize> {
    let places: &[usize] = if bins.len() > 30 { &[0] } else { &[0, 3, 7] };
    bins.clone().filter(|bin| places.contains(&(bin % 10))).collect()
}

/// 1, 2 or 5 times a power of ten, at least a third of `most`, if that is not too fine.
fn nice_step(most: u64) -> u64 {
    let powers = (0..19).map(|power| 10u64.pow(power));
    powers.flat_map(|power| [1, 2, 5].map(|times| times * power)).find(|step| step * 3 >= most).unwrap_or(most.max(1))
}

/// `950`, `1k`, `2.5k`, `40M`.
fn short(number: u64) -> String {
    for (unit, name) in [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")] {
        if number >= unit {
            return format!("{}{name}", number as f64 / unit as f64);
        }
    }
    number.to_string()
}

fn documents(number: u64) -> String {
    if number == 1 { "1 document".into() } else { format!("{} documents", thousands(number)) }
}

/// A part of a whole with one decimal, in integers.
pub fn percent(part: u64, whole: u64) -> String {
    let per_mille = (u128::from(part) * 2000 + u128::from(whole)) / (2 * u128::from(whole.max(1)));
    format!("{}.{} %", per_mille / 10, per_mille % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_hold_what_lies_between_their_edges() {
        for length in (1..2000).chain([9_999, 10_000, 1 << 30, u64::from(u32::MAX)]) {
            let bin = bin_of(length);
            assert!(edge(bin) <= length && length < edge(bin + 1), "{length}");
        }
    }

    #[test]
    fn steps_leave_room_for_all() {
        for most in [0, 1, 2, 3, 4, 9, 14, 670, 123_456, u64::from(u32::MAX)] {
            let step = nice_step(most);
            assert!(step * 3 >= most && step > 0, "{most}");
        }
        assert_eq!([0, 950, 1000, 2500, 40_000_000].map(short), ["0", "950", "1k", "2.5k", "40M"]);
        assert_eq!(percent(1, 3), "33.3 %");
        assert_eq!(percent(0, 0), "0.0 %");
    }

    #[test]
    fn every_colour_has_its_dark_one_and_markup_is_text() {
        let all = [("<b>&\"'\u{1}".to_owned(), 3), ("x".to_owned(), 1)];
        let svg = domains(&all).expect("a plot");
        assert!(svg.contains("&lt;b&gt;&amp;&quot;&apos;\\u{1}"), "{svg}");
        for part in svg.split("fill=\"#").skip(1) {
            let colour = &part[..6];
            assert!(svg.contains(&format!("[fill=\"#{colour}\"]")), "{colour}");
        }
        assert_eq!(domains(&all[..1]), None);
        assert_eq!(quality([0, 0, 4], 4), None);
        assert_eq!(lengths(&[("train", &Histogram::default())]), None);
    }
}
