//! What has to move to Microsoft Graph: the operations in use, by whom, and what replaces each.

use maud::{Markup, html};

use crate::distinct::Distinct;
use crate::format::{Clock, count, estimate, percent};
use crate::graph::{Coverage, Replacement, replacement};
use crate::tally::{END_OF_EWS, Tally};

/// Accounts that are named for each operation.
const ACCOUNTS: usize = 8;

/// Exchange Online's names, of all its clouds.
fn is_online(server: &str) -> bool {
    let server = server.to_ascii_lowercase();
    let hosts = [
        "outlook.office365.com",
        "outlook.office.com",
        "outlook.office365.us",
        "partner.outlook.cn",
    ];
    hosts.contains(&server.as_str())
        || [".outlook.com", ".office365.com", ".office365.us"]
            .iter()
            .any(|domain| server.ends_with(domain))
}

fn class(coverage: Coverage) -> &'static str {
    match coverage {
        Coverage::Direct => "good",
        Coverage::Partly => "warn",
        Coverage::Preview => "soon",
        Coverage::Missing => "bad",
    }
}

pub(super) fn section(tally: &Tally, clock: Clock) -> Markup {
    let ranked = Tally::ranked(&tally.operations, |operation| operation.outcomes.calls);
    let entry = |place: &usize| &tally.operations.entries[*place];
    let covered = |coverage: Coverage| {
        let of = ranked.iter().filter(move |place| {
            replacement(&entry(place).0).is_some_and(|found| found.coverage == coverage)
        });
        of.fold((0u64, 0u64), |(operations, calls), place| {
            (operations + 1, calls + entry(place).1.outcomes.calls)
        })
    };
    let online: u64 = tally
        .servers
        .entries
        .iter()
        .filter(|(name, _)| is_online(name))
        .map(|(_, n)| n)
        .sum();
    let days = (END_OF_EWS - tally.last).div_euclid(86_400);
    html! {
        section #inventory {
            h2 { "Moving to Microsoft Graph" }
            p {
                "EWS in Exchange Online ends on " b { "1 April 2027" }
                @match days {
                    1.. => { ", " (count(days.unsigned_abs())) " days after the last call in this log" }
                    _ => { ", before the last call in this log" }
                }
                "; since 1 October 2026 it is blocked for every tenant that has not opted in. Exchange Server keeps it. "
                @if online > 0 {
                    b { (percent(online, tally.outcomes.calls)) } " of these calls went to Exchange Online."
                } @else {
                    "No call in this log went to Exchange Online by its usual names."
                }
            }
            ul.coverage {
                @for coverage in Coverage::ALL {
                    @let (operations, calls) = covered(coverage);
                    li {
                        span class={ "chip " (class(coverage)) } { (coverage.name()) }
                        " " b { (count(operations)) } (if operations == 1 { " operation, " } else { " operations, " })
                        (percent(calls, tally.outcomes.calls)) " of the calls"
                    }
                }
            }
            div.scroll { table.inventory {
                thead { tr {
                    th scope="col" { "Operation and who uses it" }
                    th.n scope="col" { "Calls" }
                    th.n.extra scope="col" { "Members" }
                    th.n scope="col" { "Mailboxes" }
                    th.n.extra scope="col" { "Last used" }
                } }
                @for place in &ranked {
                    (operation(tally, clock, *place))
                }
            } }
            p.more {
                "From Microsoft’s list of mappings and the reference of Graph; " span.chip.check { "check" }
                " marks what neither says. Members are those of the requests’ arrays, such as the items of a CreateItem."
            }
        }
    }
}

fn operation(tally: &Tally, clock: Clock, place: usize) -> Markup {
    let (name, operation) = &tally.operations.entries[place];
    let uses = tally.uses_of(place);
    let mut mailboxes = Distinct::default();
    uses.iter()
        .for_each(|(_, used)| mailboxes.merge(&used.mailboxes));
    let members: u64 = uses.iter().map(|(_, used)| used.members).sum();
    let last = uses.iter().map(|(_, used)| used.last).max().unwrap_or(0);
    let shown = |distinct: &Distinct| match distinct.count() {
        (0, _) => "–".to_owned(),
        some => estimate(some),
    };
    let day = |second: i64| clock.show(second, "%-d %b %Y");
    html! {
        tbody {
            tr.operation {
                th scope="rowgroup" {
                    span.name { (name) }
                    @match replacement(name) {
                        Some(found) => (replaced(found)),
                        None => span.call { "No operation of EWS that this report knows." },
                    }
                }
                td.n { (count(operation.outcomes.calls)) }
                td.n.extra { (count(members)) }
                td.n { (shown(&mailboxes)) }
                td.n.extra { (day(last)) }
            }
            @for (account, used) in uses.iter().take(ACCOUNTS) {
                tr.account {
                    th scope="row" { (account) }
                    td.n { (count(used.calls)) }
                    td.n.extra { (count(used.members)) }
                    td.n { (shown(&used.mailboxes)) }
                    td.n.extra { (day(used.last)) }
                }
            }
            @if uses.len() > ACCOUNTS {
                tr.account {
                    th scope="row" { "… and " (uses.len() - ACCOUNTS) " more accounts" }
                    td.n { (count(uses.iter().skip(ACCOUNTS).map(|(_, used)| used.calls).sum())) }
                    td.extra {} td {} td.extra {}
                }
            }
        }
    }
}

fn replaced(found: &Replacement) -> Markup {
    html! {
        span class={ "chip " (class(found.coverage)) } { (found.coverage.name()) }
        @if found.uncertain { " " span.chip.check { "check" } }
        @if !found.call.is_empty() { span.call.code { (found.call) } }
        @if !found.note.is_empty() { span.note { (found.note) } }
    }
}
