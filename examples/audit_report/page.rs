//! The page: one file, which loads nothing and runs nothing.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::Read;
use crate::charts::{self, Colour, NARROW, PALETTE, Size, WIDE};
use crate::failures::LATEST;
use crate::format::{self, Clock, count, duration, percent};
use crate::record::clip;
use crate::series::Window;
use crate::tally::{OTHERS, Phases, Tally};

mod head;
mod inventory;

type Drawn = Result<Markup, Box<dyn std::error::Error>>;

/// Accounts that have a colour of their own; the rest is added up.
const COLOURED: usize = 5;
const ROWS: usize = 20;
const BARS: usize = 12;
const GROUPS: usize = 25;

const STYLE: &str = include_str!("style.css");

/// The whole page, as text.
pub(crate) fn render(
    read: &Read,
    sources: &[String],
) -> Result<String, Box<dyn std::error::Error>> {
    let tally = &read.tally;
    let clock = tally.clock.unwrap_or(Clock { offset: 0 });
    let empty = tally.outcomes.calls == 0;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                // A log is written by strangers, in part. Should one of them get past the escaping, then into a page that may do nothing.
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";
                meta name="referrer" content="no-referrer";
                link rel="icon" href="data:,";
                title { "EWS audit report" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    (head::header(read, sources, clock))
                    @if empty {
                        p.empty { "There is no call in this log." }
                    } @else {
                        (calls(tally, clock)?)
                        (throttling(tally, clock)?)
                        (slowest(tally))
                        (times(tally)?)
                        (failures(tally))
                        (inventory::section(tally, clock))
                    }
                    (footer(tally))
                }
            }
        }
    };
    Ok(page.into_string())
}

/// The plot for large screens and the one for small ones: the style sheet shows one of them.
fn twice(draw: impl Fn(Size) -> Result<String, Box<dyn std::error::Error>>) -> Drawn {
    let (wide, narrow) = (draw(WIDE)?, draw(NARROW)?);
    Ok(html! { (PreEscaped(wide)) (PreEscaped(narrow)) })
}

fn legend(entries: &[(Colour, &str)]) -> Markup {
    html! {
        ul.legend {
            @for (colour, name) in entries {
                li { span class={ "swatch " (PALETTE[usize::from(*colour)]) } {} (clip(name, 60)) }
            }
        }
    }
}

fn left_out(window: &Window) -> Markup {
    html! {
        @if window.left_out > 0 {
            " " (count(window.left_out)) " calls far outside of this time are not shown."
        }
    }
}

fn calls(tally: &Tally, clock: Clock) -> Drawn {
    let Some(window) = tally.calls.window(WIDE.columns) else {
        return Ok(html! {});
    };
    let shown = tally.calls.within(&window);
    let busiest = shown
        .iter()
        .enumerate()
        .max_by_key(|(_, n)| n.iter().sum::<u64>());
    let (peak, peak_at) = busiest.map_or((0, window.start), |(index, counts)| {
        (
            counts.iter().sum(),
            window.start + window.width * index as i64,
        )
    });
    let each = format::width(window.width);
    let title = format!(
        "Calls over time: {} in all, at most {} within one {each}",
        count(tally.outcomes.calls),
        count(peak)
    );
    let plot = twice(|size| {
        let Some(window) = tally.calls.window(size.columns) else {
            return Ok(String::new());
        };
        let shown = tally.calls.within(&window);
        let stack = |which: usize| shown.iter().map(|counts| counts[which]).collect();
        let stacks = [
            (charts::BLUE, stack(0)),
            (charts::RED, stack(1)),
            (charts::REST, stack(2)),
        ];
        charts::columns(size, "plot-calls", &title, clock, &window, &stacks)
    })?;
    Ok(html! {
        section #calls-over-time {
            h2 { "Calls over time" }
            figure {
                (legend(&[(charts::BLUE, "ended well"), (charts::RED, "failed or unknown"), (charts::REST, "given up")]))
                (plot)
                figcaption {
                    "The busiest " (each) " began at " (clock.show(peak_at, "%-d %b %H:%M")) ", with " b { (count(peak)) } " calls."
                    (left_out(&window))
                }
            }
        }
    })
}

fn throttling(tally: &Tally, clock: Clock) -> Drawn {
    let ranked = Tally::ranked(&tally.accounts, |account| account.throttled);
    let throttled: Vec<usize> = ranked
        .into_iter()
        .filter(|place| tally.accounts.entries[*place].1.throttled > 0)
        .collect();
    if throttled.is_empty() {
        return Ok(html! {
            section #throttling { h2 { "Throttling" } p.empty { "No response in this log throttled a call." } }
        });
    }
    let account = |place: &usize| &tally.accounts.entries[*place];
    let (top, rest) = throttled.split_at(throttled.len().min(COLOURED));
    let mut entries: Vec<(Colour, &str)> = top
        .iter()
        .enumerate()
        .map(|(colour, place)| (colour as Colour, &*account(place).0))
        .collect();
    let rest_name = format!("{} more", rest.len());
    if !rest.is_empty() {
        entries.push((charts::REST, &rest_name));
    }
    let title = format!(
        "Throttled responses over time, by account: {} in all",
        count(tally.throttled)
    );
    let plot = twice(|size| {
        let Some(window) = tally.calls.window(size.columns) else {
            return Ok(String::new());
        };
        let of = |places: &[usize]| {
            let mut sums = vec![0; window.buckets];
            for place in places {
                let counts = account(place).1.throttling.within(&window);
                sums.iter_mut().zip(counts).for_each(|(sum, [n])| *sum += n);
            }
            sums
        };
        let mut stacks: Vec<(Colour, Vec<u64>)> = top
            .iter()
            .enumerate()
            .map(|(colour, place)| (colour as Colour, of(&[*place])))
            .collect();
        stacks.push((charts::REST, of(rest)));
        charts::columns(size, "plot-throttling", &title, clock, &window, &stacks)
    })?;
    let signals = Tally::ranked(&tally.signals, |count| *count);
    let limit = ROWS;
    Ok(html! {
        section #throttling {
            h2 { "Throttling" }
            figure {
                (legend(&entries))
                (plot)
                figcaption {
                    "Responses that refused a call for a while: "
                    @for (index, place) in signals.iter().take(6).enumerate() {
                        @let (signal, counted) = &tally.signals.entries[*place];
                        @if index > 0 { ", " }
                        span.code { (signal) } " " (count(*counted))
                    }
                    @if signals.len() > 6 { " …" }
                    "."
                }
            }
            div.scroll { table {
                thead { tr {
                    th scope="col" { "Account" }
                    th.n scope="col" { "Throttled responses" }
                    th.n scope="col" { "Calls that met one" }
                    th.n.extra scope="col" { "of all its calls" }
                    th.n.extra scope="col" { "Backing off" }
                    th.n.extra scope="col" { "Queued" }
                } }
                tbody {
                    @for place in throttled.iter().take(limit) {
                        @let (name, account) = account(place);
                        tr {
                            th scope="row" { (name) }
                            td.n { (count(account.throttled)) }
                            td.n { (count(account.throttled_calls)) }
                            td.n.extra { (percent(account.throttled_calls, account.outcomes.calls)) }
                            td.n.extra { (duration(account.phases.backed_off)) }
                            td.n.extra { (duration(account.phases.queued)) }
                        }
                    }
                }
            } }
            (more(throttled.len(), limit, "accounts"))
        }
    })
}

fn more(all: usize, shown: usize, what: &str) -> Markup {
    html! {
        @if all > shown { p.more { "… and " (count((all - shown) as u64)) " more " (what) } }
    }
}

fn slowest(tally: &Tally) -> Markup {
    let at = |operation: &crate::tally::Operation, quantile: f64| {
        // A bucket of the histogram may end behind the longest call in it.
        operation
            .durations
            .value_at_quantile(quantile)
            .min(operation.longest.max(1))
    };
    let ranked = Tally::ranked(&tally.operations, |operation| at(operation, 0.95));
    html! {
        section #slowest {
            h2 { "Slowest operations" }
            p { "How long calls took in all, with queueing and backing off, from the call to the end of the response's body." }
            div.scroll { table {
                thead { tr {
                    th scope="col" { "Operation" }
                    th.n scope="col" { "Calls" }
                    th.n scope="col" { "p50" }
                    th.n scope="col" { "p95" }
                    th.n.extra scope="col" { "p99" }
                    th.n scope="col" { "max" }
                    th.n.extra scope="col" { "Failed" }
                } }
                tbody {
                    @for place in ranked.iter().take(ROWS) {
                        @let (name, operation) = &tally.operations.entries[*place];
                        tr {
                            th scope="row" { (name) @if waits(name) { span.chip.soon { "waits by design" } } }
                            td.n { (count(operation.outcomes.calls)) }
                            td.n { (duration(at(operation, 0.5))) }
                            td.n { (duration(at(operation, 0.95))) }
                            td.n.extra { (duration(at(operation, 0.99))) }
                            td.n { (duration(operation.longest)) }
                            td.n.extra { (percent(operation.outcomes.failed + operation.outcomes.unknown, operation.outcomes.calls)) }
                        }
                    }
                }
            } }
            (more(ranked.len(), ROWS, "operations"))
            details {
                summary { "The slowest single calls" }
                div.scroll { table {
                    thead { tr {
                        th.n scope="col" { "Duration" }
                        th scope="col" { "Operation" }
                        th scope="col" { "Time" }
                        th scope="col" { "Account" }
                        th scope="col" { "Outcome" }
                        th scope="col" { "Last request id" }
                    } }
                    tbody {
                        @for slow in &tally.slowest.0 {
                            tr {
                                td.n { (duration(slow.duration)) }
                                th scope="row" { (slow.operation) }
                                td.id { (slow.time) }
                                td { (slow.account) }
                                td { (slow.outcome) }
                                td.id { (slow.request_id) }
                            }
                        }
                    }
                } }
            }
        }
    }
}

/// Its calls are held open for as long as they may: they would hide where the others spend their time.
const STREAMING: &str = "GetStreamingEvents";

fn waits(operation: &str) -> bool {
    operation == STREAMING
}

const PHASE_COLOURS: [Colour; 4] = [charts::GOLD, charts::ORANGE, charts::BLUE, charts::TEAL];

fn times(tally: &Tally) -> Drawn {
    let mut ranked = Tally::ranked(&tally.operations, |operation| operation.phases.sum());
    let entry = |place: &usize| &tally.operations.entries[*place];
    let waiting = ranked.iter().position(|place| waits(&entry(place).0));
    let waited = waiting
        .filter(|_| ranked.len() > 1)
        .map_or(0, |index| entry(&ranked.remove(index)).1.phases.sum());
    let shown = &ranked[..ranked.len().min(BARS)];
    let sum = |places: &[usize]| {
        places.iter().fold([0; 4], |mut sums, place| {
            let each = tally.operations.entries[*place].1.phases.each();
            sums.iter_mut().zip(each).for_each(|(sum, n)| *sum += n);
            sums
        })
    };
    let mut rows: Vec<(String, [u64; 4])> = shown
        .iter()
        .map(|place| {
            (
                clip(&tally.operations.entries[*place].0, 30).into_owned(),
                sum(&[*place]),
            )
        })
        .collect();
    if ranked.len() > BARS {
        rows.push((
            format!("{} more", ranked.len() - BARS),
            sum(&ranked[BARS..]),
        ));
    }
    let longest = rows
        .iter()
        .map(|(_, row)| row.iter().sum::<u64>())
        .max()
        .unwrap_or(0);
    let (unit, micros) = match longest {
        7_200_000_000.. => ("hours", 3.6e9),
        120_000_000.. => ("minutes", 6e7),
        _ => ("seconds", 1e6),
    };
    let title = format!(
        "Where the time went, by operation: {} in all",
        duration(sum(&ranked).iter().sum())
    );
    let plot = twice(|size| {
        // On a small screen the labels would leave no room for the bars.
        let letters = if size.columns < WIDE.columns { 16 } else { 30 };
        let labels: Vec<String> = rows
            .iter()
            .map(|(label, _)| clip(label, letters).into_owned())
            .collect();
        let part = |phase: usize| {
            rows.iter()
                .map(|(_, row)| row[phase] as f64 / micros)
                .collect()
        };
        let parts: Vec<_> = PHASE_COLOURS.into_iter().zip((0..4).map(part)).collect();
        charts::bars(size, "plot-times", &title, unit, &labels, &parts)
    })?;
    let entries: Vec<(Colour, &str)> = PHASE_COLOURS.into_iter().zip(Phases::NAMES).collect();
    let all = sum(&ranked);
    let whole: u64 = all.iter().sum();
    Ok(html! {
        section #times {
            h2 { "Where the time went" }
            figure {
                (legend(&entries))
                (plot)
                figcaption {
                    "Of " b { (duration(whole)) } " in all calls together, "
                    b { (percent(all[0], whole)) } " were spent queued, "
                    b { (percent(all[1], whole)) } " backing off, "
                    b { (percent(all[2], whole)) } " on the wire and "
                    b { (percent(all[3], whole)) } " reading bodies."
                    @if waited > 0 { " " (STREAMING) ", which waits by design, is left out: " (duration(waited)) "." }
                }
            }
            details {
                summary { "In numbers" }
                div.scroll { table {
                    thead { tr {
                        th scope="col" { "Operation" }
                        @for name in Phases::NAMES { th.n scope="col" { (name) } }
                    } }
                    tbody {
                        @for (label, row) in &rows {
                            tr {
                                th scope="row" { (label) }
                                @for micros in row { td.n { (duration(*micros)) } }
                            }
                        }
                    }
                } }
            }
        }
    })
}

fn failures(tally: &Tally) -> Markup {
    let groups = tally.failures.by_count();
    html! {
        section #failures {
            h2 { "Failures" }
            @if groups.is_empty() {
                p.empty { "No call in this log failed." }
            } @else {
                p {
                    "By code, the most frequent first; of each the latest " (LATEST) ", the last one first. "
                    "A click on a block selects all of it, to be copied into a support case."
                }
            }
            @for (index, (code, group)) in groups.iter().take(GROUPS).enumerate() {
                details.group open[index == 0] {
                    summary {
                        span.code { (code) }
                        span.badge { (count(group.count)) }
                        @if group.unknown > 0 { span.chip.bad { (count(group.unknown)) " perhaps executed" } }
                    }
                    div.cases {
                        @for case in &group.latest {
                            div {
                                p.case { (case.title) }
                                pre tabindex="0" aria-label="Text for a support case" { (case.text) }
                            }
                        }
                    }
                    @if group.count > group.latest.len() as u64 {
                        p.more { "… and " (count(group.count - group.latest.len() as u64)) " earlier ones" }
                    }
                }
            }
            (more(groups.len(), GROUPS, "codes"))
        }
    }
}

fn footer(tally: &Tally) -> Markup {
    let overflowed = tally.accounts.overflowed + tally.operations.overflowed + tally.uncounted_uses;
    html! {
        footer {
            p {
                "A throttled response is an attempt whose response carried a throttle signal. Percentiles are exact to two digits. "
                "Numbers of mailboxes are exact up to " (crate::distinct::EXACT) "; beyond (≈) they are estimated, give or take 2.3 %. "
                "Text in this page was redacted by the log, not by the report."
            }
            @if overflowed > 0 {
                p { "There are more accounts or operations than this report keeps apart: " (count(overflowed)) " calls are in " (OTHERS) " or missing from the inventory." }
            }
            p { "Made by tower-ews’ " span.code { "audit_report" } "." }
        }
    }
}
