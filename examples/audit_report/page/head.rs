//! The head of the page: which log it is, and the numbers that matter most.

use maud::{Markup, html};

use crate::Read;
use crate::format::{Clock, count, duration, estimate, percent};
use crate::record::clip;

/// A number, and for programs what it is.
fn number(id: &str, value: u64) -> Markup {
    html! { data id=(id) value=(value) { (count(value)) } }
}

pub(super) fn header(read: &Read, sources: &[String], clock: Clock) -> Markup {
    let tally = &read.tally;
    let all = tally.outcomes;
    let seconds = tally.last.saturating_sub(tally.first).max(0).unsigned_abs();
    html! {
        header {
            h1 { "EWS audit report" }
            p.lead {
                @if all.calls > 0 {
                    b { (clock.time(tally.first)) } " to " b { (clock.time(tally.last)) }
                    " (" (clock.name()) ", the clock of the first record) · "
                }
                @for (index, source) in sources.iter().take(4).enumerate() {
                    @if index > 0 { ", " }
                    span.path { @if source == "-" { "stdin" } @else { (clip(source, 120)) } }
                }
                @if sources.len() > 4 { ", and " (sources.len() - 4) " more" }
            }
            @if read.broken > 0 {
                p.warning {
                    b { (number("broken", read.broken)) " of " (count(read.lines)) " lines are no records" }
                    " (broken, cut off, or something else) and are counted nowhere below: "
                    @for (index, (source, line)) in read.broken_at.iter().enumerate() {
                        @if index > 0 { ", " }
                        @if sources.len() > 1 { span.path { (clip(source, 120)) } " " }
                        "line " (count(*line))
                    }
                    @if read.broken > read.broken_at.len() as u64 { " …" }
                }
            }
            dl.cards {
                (card("Calls", number("calls", all.calls), html! {
                    (count(tally.attempts)) " attempts, " (count(tally.accounts.entries.len() as u64)) " accounts, "
                    (estimate(tally.mailboxes.count())) " mailboxes"
                }, ""))
                (card("Throttled responses", number("throttled", tally.throttled), html! {
                    "met by " (number("throttled-calls", tally.throttled_calls)) " calls (" (percent(tally.throttled_calls, all.calls)) "); "
                    (percent(tally.rescued, tally.throttled_calls)) " of them ended well"
                }, if tally.throttled > 0 { "warn" } else { "" }))
                (card("Failed", number("failed", all.failed), html! {
                    (percent(all.failed, all.calls)) " of all calls"
                }, if all.failed > 0 { "bad" } else { "" }))
                (card("Unknown outcome", number("unknown", all.unknown), html! {
                    "perhaps executed: look before you send them again"
                }, if all.unknown > 0 { "bad" } else { "" }))
                (card("Given up", number("given-up", all.given_up), html! {
                    "by the caller, before the response or its end"
                }, ""))
                (card("Time span", html! { (duration(seconds * 1_000_000)) }, html! {
                    @if seconds > 0 { (count((all.calls as f64 * 3600.0 / seconds as f64).round() as u64)) " calls an hour" }
                    @else { "all in one second" }
                }, ""))
            }
            nav aria-label="Sections" {
                @for (id, name) in [("calls-over-time", "Calls"), ("throttling", "Throttling"), ("slowest", "Slowest"), ("times", "Time"), ("failures", "Failures"), ("inventory", "Moving to Graph")] {
                    a href={ "#" (id) } { (name) }
                }
            }
        }
    }
}

fn card(name: &str, value: Markup, about: Markup, class: &str) -> Markup {
    html! {
        div class={ "card " (class) } {
            dt { (name) }
            dd { (value) }
            dd.about { (about) }
        }
    }
}
