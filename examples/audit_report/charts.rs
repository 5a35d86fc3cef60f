//! The plots: drawn by plotters, coloured by the page's style sheet.
//!
//! plotters knows colours, not classes. So it draws in colours that mean something only here, and these are replaced by classes,
//! which the page gives one colour on light paper and another on dark.

use plotters::chart::MeshStyle;
use plotters::coord::combinators::BindKeyPoints;
use plotters::coord::ranged1d::{IntoSegmentedCoord, SegmentValue};
use plotters::prelude::*;

use crate::format::{self, Clock};
use crate::series::Window;

/// The colour that stands for a class.
#[derive(Clone, Copy, Debug)]
enum Ink {
    Text,
    Axis,
    Grid,
    /// Of a series: its number in the palette.
    Series(u8),
}

impl Ink {
    fn color(self) -> RGBColor {
        RGBColor(1, 2, self.number())
    }

    fn number(self) -> u8 {
        match self {
            Self::Text => 0,
            Self::Axis => 1,
            Self::Grid => 2,
            Self::Series(number) => 3 + number,
        }
    }
}

/// The classes of the series, which the style sheet names too.
pub(crate) const PALETTE: [&str; 7] = [
    "s-blue", "s-orange", "s-teal", "s-purple", "s-gold", "s-rest", "s-red",
];

/// A number of [`PALETTE`].
pub(crate) type Colour = u8;
pub(crate) const BLUE: Colour = 0;
pub(crate) const ORANGE: Colour = 1;
pub(crate) const TEAL: Colour = 2;
pub(crate) const GOLD: Colour = 4;
pub(crate) const REST: Colour = 5;
pub(crate) const RED: Colour = 6;

/// How large a plot is drawn. It is shown at most at that size, so that its letters stay readable: there is a small one for small
/// screens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// Of the letters, in pixels.
    letters: f64,
    /// The most columns.
    pub(crate) columns: usize,
    class: &'static str,
}

pub(crate) const WIDE: Size = Size {
    width: 1080,
    height: 270,
    letters: 12.0,
    columns: 340,
    class: "wide",
};
pub(crate) const NARROW: Size = Size {
    width: 380,
    height: 230,
    letters: 12.0,
    columns: 120,
    class: "narrow",
};

type Drawn = Result<String, Box<dyn std::error::Error>>;

/// Columns over time, `stacks[i]` on top of `stacks[i - 1]`. `name` must be one word.
pub(crate) fn columns(
    size: Size,
    name: &str,
    title: &str,
    clock: Clock,
    window: &Window,
    stacks: &[(Colour, Vec<u64>)],
) -> Drawn {
    let total = |index: usize| stacks.iter().filter_map(|(_, s)| s.get(index)).sum::<u64>();
    let highest = (0..window.buckets).map(total).max().unwrap_or(0);
    let top = nice(highest as f64);
    let ticks = window.ticks(if size.columns < WIDE.columns { 4 } else { 9 });
    let daily = ticks.windows(2).all(|pair| pair[1] - pair[0] >= 86_400);
    let time = |second: &i64| {
        let format = match daily {
            true if window.end() - window.start > 300 * 86_400 => "%b %Y",
            true => "%-d %b",
            false if window.width < 60 => "%H:%M:%S",
            false if window.end() - window.start > 86_400 => "%-d %b %H:%M",
            false => "%H:%M",
        };
        clock.show(*second, format)
    };
    let svg = draw(size, |area| {
        let labels = format::count(top as u64).len() as f64 * size.letters * 0.62;
        let mut chart = ChartBuilder::on(area)
            .margin_top(10)
            .margin_right(24)
            .x_label_area_size(26)
            .y_label_area_size(labels as u32 + 14)
            .build_cartesian_2d(
                (window.start..window.end()).with_key_points(ticks.clone()),
                0.0..top,
            )?;
        let mut mesh = chart.configure_mesh();
        plain(&mut mesh, size);
        mesh.disable_x_mesh()
            .y_labels(5)
            .x_labels(ticks.len())
            .x_label_formatter(&time)
            .y_label_formatter(&|value: &f64| format::count(value.round() as u64))
            .draw()?;
        let gap = u32::from(size.width as usize > 5 * window.buckets);
        for index in 0..window.buckets {
            let left = window.start + window.width * index as i64;
            let mut below = 0;
            for (colour, heights) in stacks {
                let height = heights.get(index).copied().unwrap_or(0);
                if height > 0 {
                    let corners = [
                        (left, (below + height) as f64),
                        (left + window.width, below as f64),
                    ];
                    let ink = Ink::Series(*colour).color().filled();
                    let mut column = Rectangle::new(corners, ink);
                    column.set_margin(0, 0, 0, gap);
                    chart.draw_series([column])?;
                }
                below += height;
            }
        }
        Ok(())
    })?;
    Ok(dress(&svg, size, name, title))
}

/// One bar for each label, its parts side by side. `unit` is what the numbers are.
pub(crate) fn bars(
    size: Size,
    name: &str,
    title: &str,
    unit: &str,
    labels: &[String],
    parts: &[(Colour, Vec<f64>)],
) -> Drawn {
    let rows = labels.len();
    let size = Size {
        height: 52 + 26 * rows as u32,
        ..size
    };
    let total = |row: usize| parts.iter().filter_map(|(_, p)| p.get(row)).sum::<f64>();
    let right = nice((0..rows).map(total).fold(0.0, f64::max));
    let letters = labels.iter().map(|label| label.chars().count()).max();
    let room = letters.unwrap_or(0) as f64 * size.letters * 0.56 + 14.0;
    let svg = draw(size, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin_top(4)
            .margin_right(24)
            .x_label_area_size(44)
            .y_label_area_size(room as u32)
            .build_cartesian_2d(0.0..right, (0..rows).into_segmented())?;
        let label = |segment: &SegmentValue<usize>| match segment {
            SegmentValue::Exact(row) | SegmentValue::CenterOf(row) => {
                // The first stands on top.
                let row = rows.checked_sub(row + 1).and_then(|row| labels.get(row));
                row.cloned().unwrap_or_default()
            }
            SegmentValue::Last => String::new(),
        };
        let decimals = usize::from(right < 5.0);
        let mut mesh = chart.configure_mesh();
        plain(&mut mesh, size);
        mesh.disable_y_mesh()
            .x_labels(if size.columns < WIDE.columns { 4 } else { 8 })
            .y_labels(rows)
            .x_desc(unit)
            .y_label_formatter(&label)
            .x_label_formatter(&|value: &f64| format!("{value:.decimals$}"))
            .draw()?;
        for row in 0..rows {
            let place = rows - 1 - row;
            let mut before = 0.0;
            for (colour, lengths) in parts {
                let length = lengths.get(row).copied().unwrap_or(0.0);
                let corners = [
                    (before, SegmentValue::Exact(place)),
                    (before + length, SegmentValue::Exact(place + 1)),
                ];
                let mut bar = Rectangle::new(corners, Ink::Series(*colour).color().filled());
                bar.set_margin(4, 4, 0, 0);
                if length > 0.0 {
                    chart.draw_series([bar])?;
                }
                before += length;
            }
        }
        Ok(())
    })?;
    Ok(dress(&svg, size, name, title))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(
    size: Size,
    onto: impl FnOnce(&Area<'_>) -> Result<(), Box<dyn std::error::Error>>,
) -> Drawn {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (size.width, size.height)).into_drawing_area();
        onto(&area)?;
        area.present()?;
    }
    Ok(svg)
}

/// What the axes of all plots have in common.
fn plain<X: Ranged, Y: Ranged>(mesh: &mut MeshStyle<'_, '_, X, Y, SVGBackend<'_>>, size: Size) {
    // plotters writes letters at 1 / 1.24 of the size that it is told.
    let letters = ("sans-serif", size.letters * 1.24).into_font();
    mesh.label_style(letters.color(&Ink::Text.color()))
        .axis_style(Ink::Axis.color())
        .bold_line_style(Ink::Grid.color())
        .light_line_style(TRANSPARENT)
        .set_all_tick_mark_size(4);
}

/// The end of an axis: 1, 2, 2.5, 3, 4, 5, 6, 8 times a power of ten.
fn nice(highest: f64) -> f64 {
    if highest <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(highest.log10().floor());
    [1.0, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0]
        .into_iter()
        .map(|step| step * power)
        .find(|end| *end >= highest)
        .unwrap_or(10.0 * power)
}

/// Classes instead of colours, and words for those who do not see it.
fn dress(svg: &str, size: Size, name: &str, title: &str) -> String {
    let classes = (0..PALETTE.len() as u8).map(|n| (Ink::Series(n), PALETTE[usize::from(n)]));
    let classes = classes.chain([(Ink::Text, "ink"), (Ink::Axis, "axis"), (Ink::Grid, "grid")]);
    // Behind the tag that plotters opened with its own size.
    let mut drawn = svg
        .split_once(">\n")
        .map_or("", |(_, rest)| rest)
        .to_owned();
    for (ink, class) in classes {
        let RGBColor(r, g, b) = ink.color();
        for paint in ["fill", "stroke"] {
            let colour = format!("{paint}=\"#{r:02X}{g:02X}{b:02X}\"");
            drawn = drawn.replace(&colour, &format!("class=\"{paint}-{class}\""));
        }
    }
    let drawn = drawn
        .replace(" font-family=\"sans-serif\"", "")
        .replace(" opacity=\"1\"", "")
        .replace(" stroke=\"none\"", "");
    let Size {
        width,
        height,
        class,
        ..
    } = size;
    let title = html_escape(title);
    format!(
        "<svg class=\"{class}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-labelledby=\"{name}-{class}\">\
         <title id=\"{name}-{class}\">{title}</title>{drawn}"
    )
}

fn html_escape(text: &str) -> String {
    maud::html! { (text) }.into_string()
}
