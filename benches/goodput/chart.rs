//! The picture of the table: how many times the least time each client took, and which of them did not do the job.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use super::Row;

const WIDTH: u32 = 900;
/// Of one row: three bars, and room between rows.
const ROW: i32 = 46;
const BAR: i32 = 10;
const LEFT: i32 = 150;
const TOP: i32 = 60;
/// Where the scale ends, in times of the least time.
const MOST: f64 = 100.0;
const COLOURS: [RGBColor; 3] = [
    RGBColor(31, 102, 173),
    RGBColor(214, 126, 44),
    RGBColor(120, 120, 120),
];
const NAMES: [&str; 3] = [
    "EwsStack",
    "tower: ConcurrencyLimit + Retry",
    "a pool that shrinks, one back-off",
];

/// Draws the rows into a file.
pub(super) fn draw(rows: &[Row], path: &Path) -> Result<(), Box<dyn Error>> {
    let height = TOP + ROW * rows.len() as i32 + 20;
    let root = SVGBackend::new(path, (WIDTH, height as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let text = |size: u32| ("sans-serif", size).into_font().color(&BLACK);
    for (at, (name, colour)) in NAMES.iter().zip(COLOURS).enumerate() {
        let x = LEFT + 230 * at as i32;
        root.draw(&Rectangle::new([(x, 12), (x + 12, 24)], colour.filled()))?;
        root.draw(&Text::new(*name, (x + 18, 10), text(14)))?;
    }
    root.draw(&Text::new("times the least time", (8, TOP - 26), text(12)))?;
    for times in [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0] {
        let x = place(times);
        let line = vec![(x, TOP - 8), (x, height - 20)];
        root.draw(&PathElement::new(line, RGBColor(210, 210, 210)))?;
        root.draw(&Text::new(
            format!("{times} x"),
            (x - 10, TOP - 26),
            text(12),
        ))?;
    }
    for (at, row) in rows.iter().enumerate() {
        let y = TOP + ROW * at as i32;
        root.draw(&Text::new(row.name, (8, y + 10), text(14)))?;
        let clients = [
            (row.ratio, row.caller_errors),
            (row.tower.ratio, row.tower.caller_errors),
            (row.pool.ratio, row.pool.caller_errors),
        ];
        for (bar, ((ratio, errors), colour)) in clients.into_iter().zip(COLOURS).enumerate() {
            let y = y + (BAR + 2) * bar as i32;
            let end = place(ratio).max(LEFT + 2);
            let style = match errors {
                0 => colour.filled(),
                _ => colour.stroke_width(1),
            };
            root.draw(&Rectangle::new([(LEFT, y), (end, y + BAR)], style))?;
            let label = match errors {
                0 => format!("{ratio:.2}"),
                _ => format!("not done: {errors} errors"),
            };
            root.draw(&Text::new(label, (end + 6, y - 1), text(11)))?;
        }
    }
    root.present()?;
    Ok(())
}

/// Where a multiple of the least time is: the scale is logarithmic, and begins at a half.
fn place(times: f64) -> i32 {
    let width = f64::from(WIDTH as i32 - LEFT - 130);
    let share = (times.clamp(0.5, MOST) / 0.5).ln() / (MOST / 0.5).ln();
    LEFT + (share * width) as i32
}
