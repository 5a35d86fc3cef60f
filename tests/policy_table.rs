//! `docs/policy.md`: each throttling parameter that is documented, and what the crate makes of it. The numbers are read off the
//! presets. `EWS_WRITE_DOCS=1` writes the page anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tower_ews::ledger::Limit;
use tower_ews::policy::{BudgetPolicy, ThrottlingPolicy};
use tower_ews::principal::Budget;

const PAGE: &str = "docs/policy.md";

/// A parameter that is a budget. `names` are those of the documents.
struct Kept {
    names: &'static [&'static str],
    budget: Budget,
    source: &'static str,
    tests: &'static [&'static str],
}

/// A parameter that draws on nothing.
struct Other {
    names: &'static [&'static str],
    what: &'static str,
    source: &'static str,
    tests: &'static [&'static str],
}

const TH: &str = "EWS throttling in Exchange";
const GLOBAL: &str = "`Get-ThrottlingPolicy` of an Exchange 2013 CU23 (Microsoft Q&A 125609)";
const OUTLOOK: &str = "Outlook service limits of Microsoft Graph";

const EWS: &[Kept] = &[
    Kept {
        names: &["EWSMaxConcurrency"],
        budget: Budget::Concurrency,
        source: "EWS throttling in Exchange, Table 1. 27 since 2013, by inheritance from 2016 on; the cmdlet's page says 10 for all \
                 versions",
        tests: &["who_is_charged", "a_limit_changes_a_row_or_adds_one"],
    },
    Kept {
        names: &["HangingConnectionLimit"],
        budget: Budget::HangingConnections,
        source: "EWS throttling in Exchange; in 2010 streaming has a copy of EWSMaxConcurrency",
        tests: &["who_is_charged"],
    },
    Kept {
        names: &["EWSMaxSubscriptions"],
        budget: Budget::Subscriptions,
        source: "How to maintain affinity between a group of subscriptions and the Mailbox server, Table 1; 5000 in a 2013 CU23, by \
                 inheritance from 2016 on; 20 is an example for 2010",
        tests: &["what_each_budget_is_charged"],
    },
    Kept {
        names: &["EWSFindCountLimit"],
        budget: Budget::FindCount,
        source: "EWS throttling in Exchange, Table 1. A row counts four times with a restriction or a query string, whose limit is 250. What a search without a page draws is learnt from responses",
        tests: &[
            "who_is_charged",
            "searches_without_a_page_draw_what_they_found",
        ],
    },
    Kept {
        names: &["ConcurrentSyncCalls"],
        budget: Budget::SyncCalls,
        source: "EWS throttling in Exchange names it, a recorded response has the number",
        tests: &["who_is_charged"],
    },
    Kept {
        names: &["mailboxes open at once"],
        budget: Budget::OpenMailboxes,
        source: "seen, not documented: ErrorTooManyObjectsOpened at the seventeenth, for about 5 minutes; in Exchange Online by \
                 operations that write (`MailboxesWritten`)",
        tests: &[
            "who_is_charged",
            "before_sp2_ru4_the_owner_pays_and_everything_opens_mailboxes",
        ],
    },
    Kept {
        names: &["MessageRateLimit"],
        budget: Budget::MessageRate,
        source: "EWS throttling in Exchange. The server delays what is above it and says nothing. `Unlimited` from 2013 on; no number for \
                 2010",
        tests: &[
            "messages_go_as_fast_as_their_rate",
            "a_batch_is_charged_part_by_part",
            "what_the_server_refused_has_not_used_up_the_rate",
            "messages_and_recipients_of_each_operation",
        ],
    },
    Kept {
        names: &["RecipientRateLimit"],
        budget: Budget::RecipientRate,
        source: "Submission quota exceeded, and sending limits of Exchange Online. `Unlimited` from 2013 on; no number for 2010",
        tests: &[
            "recipients_are_counted_for_a_day",
            "messages_and_recipients_of_each_operation",
        ],
    },
    Kept {
        names: &["EwsMaxBurst", "EwsRechargeRate", "EwsCutoffBalance"],
        budget: Budget::BusyTime,
        source: "`Get-ThrottlingPolicy` of an Exchange 2013 CU23 (Microsoft Q&A 125609). Not stated from 2016 on and hidden in Exchange \
                 Online: `set_busy_time`",
        tests: &[
            "busy_time_is_a_bucket_of_milliseconds",
            "the_servers_time_is_kept_to",
            "the_time_from_sending_to_the_response_is_spent",
        ],
    },
    Kept {
        names: &["EWSPercentTimeInAD / CAS / MailboxRPC"],
        budget: Budget::PercentTime,
        source: "EWS throttling in Exchange has 90 as an example, and no default: `set_percent_time`. Exchange 2010 only",
        tests: &[
            "busy_time_is_a_bucket_of_milliseconds",
            "the_time_from_sending_to_the_response_is_spent",
        ],
    },
    Kept {
        names: &["DiscoveryMaxConcurrency / MaxMailboxes / MaxKeywords"],
        budget: Budget::Discovery,
        source: "`Get-ThrottlingPolicy` of an Exchange 2013 CU23 (Microsoft Q&A 125609). The 5000 mailboxes and 500 keywords of one \
                 search are left to the server, which refuses such a search",
        tests: &["what_each_budget_is_charged"],
    },
    Kept {
        names: &["a minimum spacing between calls"],
        budget: Budget::Spacing,
        source: "no parameter of Exchange: a setting, for servers that want it. A bucket of one: `Limit::per_window(1, pause)`",
        tests: &["calls_keep_a_distance"],
    },
];

const GRAPH: &[Kept] = &[
    Kept {
        names: &["concurrent requests", "batch", "batch to one mailbox"],
        budget: Budget::Concurrency,
        source: OUTLOOK,
        tests: &["a_batch_is_charged_what_runs_at_the_same_time"],
    },
    Kept {
        names: &["requests"],
        budget: Budget::Requests,
        source: OUTLOOK,
        tests: &[
            "graph_s_requests_in_ten_minutes",
            "requests_and_uploads_are_counted_by_whom_they_are_shared",
        ],
    },
    Kept {
        names: &["upload"],
        budget: Budget::UploadBytes,
        source: "Outlook service limits of Microsoft Graph; contributors to the documents say that it counts for the mailbox alone, or \
                 for the application alone: `GraphCharges::scope`",
        tests: &[
            "graph_s_uploads_in_five_minutes",
            "requests_and_uploads_are_counted_by_whom_they_are_shared",
        ],
    },
];

const OTHERS: &[Other] = &[
    Other {
        names: &["– charged to"],
        what: "who pays for EWSMaxSubscriptions: `Payer::Mailbox`, and `Payer::Caller` before Exchange 2010 SP2 RU4",
        source: "EWS throttling in Exchange, Table 2",
        tests: &["what_each_budget_is_charged"],
    },
    Other {
        names: &["EWSFastSearchTimeoutInSeconds"],
        what: "the server ends a search after this time, 60 s in 2010. It costs no budget: the `deadline` of a call is longer in each preset",
        source: "New-ThrottlingPolicy",
        tests: &["times_are_longer_than_the_server_s"],
    },
    Other {
        names: &["CPUStartPercent"],
        what: "the server delays each item of a batch by up to half a second. A delay is latency, not a charge: BatchSplitter makes the \
               parts smaller until one takes `batch_time`",
        source: TH,
        tests: &["times_are_longer_than_the_server_s"],
    },
    Other {
        names: &["recipients per message"],
        what: "not checked: it is a setting of each mailbox, and the server refuses such a message by a code of its own",
        source: "cmdlet documents, an example; Microsoft Q&A 542802",
        tests: &[],
    },
    Other {
        names: &["ForwardeeLimit"],
        what: "limits Inbox rules, not calls",
        source: GLOBAL,
        tests: &[],
    },
    Other {
        names: &[
            "SubscriptionIds per GetStreamingEvents",
            "mailboxes per affinity group",
            "mailboxes per Subscribe",
        ],
        what: "shapes of single requests: what the caller writes is forwarded as it is",
        source: "How to maintain affinity between a group of subscriptions and the Mailbox server",
        tests: &[],
    },
    Other {
        names: &[
            "GetStreamingEvents ConnectionTimeout",
            "pull subscription Timeout, push StatusFrequency",
            "heartbeat a client expects",
        ],
        what: "lengths of subscriptions and connections that the request sets. A connection holds its HangingConnectionLimit until its \
               response has ended",
        source: "types.xsd; EWS Managed API",
        tests: &["who_is_charged"],
    },
    Other {
        names: &["global"],
        what: "not charged: 130,000 requests in 10 s of one application in all tenants is beyond one process. `Limit::per_window` with a \
               `Budget::Custom` keeps it",
        source: "Microsoft Graph throttling limits",
        tests: &[],
    },
    Other {
        names: &["JSON batch"],
        what: "BatchSplitter cuts larger ones",
        source: "json-batching.md of Microsoft Graph",
        tests: &["a_batch_is_charged_what_runs_at_the_same_time"],
    },
    Other {
        names: &["throttled batch", "Retry-After", "error"],
        what: "how a refusal looks: read by ServerBusyBackoff and BatchSplitter",
        source: "throttling.md of Microsoft Graph",
        tests: &[],
    },
];

/// The columns of the first table: presets that have the same numbers share one.
const VERSIONS: &[(&str, &[&str])] = &[
    ("Online", &["exchange_online"]),
    (
        "2016, 2019, SE",
        &["exchange_2016", "exchange_2019", "exchange_se"],
    ),
    ("2013", &["exchange_2013"]),
    ("2010", &["exchange_2010", "exchange_2010_sp1"]),
];

const INTRODUCTION: &str = "\
# The throttling policy

Each throttling parameter that Microsoft documents for EWS, and for the Outlook service of Microsoft Graph: which budget it is, who
pays, what draws on it, and its number in each preset of `ThrottlingPolicy`. A dash is a number that is not published, or that does
not exist: the budget is off there. `ThrottlingPolicy::set_limit` sets any of them in any policy.

The test `policy_table` reads the numbers off the presets and makes this page: `EWS_WRITE_DOCS=1 cargo test --all-features --test policy_table`.

- **Payer and rule** are those of `BudgetPolicy::of`. `Effective` is the impersonated mailbox's copy, or else the calling account.
- **30 in any 1 min** is what the server counts within any minute: what a call drew comes back one minute after it has ended.
- **900,000 back in 1 h** is a bucket: all of it can go at once, and what was drawn comes back bit by bit.
- Messages and recipients are counted in the request, for each part of a batch by itself. SendItem and replies do not say who gets
  them: each message counts as one recipient then. A call that the server refused has sent nothing, and draws nothing. Members that come back
  refused one by one are counted again with the part that they are sent in next.
- Exchange counts the time that it works. A client knows the time from sending a call to the head of its response, which is more.
- Exchange delays calls before it refuses them: as soon as the balance of EwsMaxBurst is below zero, until it is at EwsCutoffBalance. No
  call is held back for a delay. With the documented numbers 300 s of work are done without delay, 3,000 s more with it, and 900 s come
  back in an hour: a job of 4,800 s of work that kept out of the delays would take five hours, and takes 1 h 40 min with them. A lock-out
  costs no time, as the budget fills up meanwhile: with nothing known of the numbers, that job meets lock-outs with 24 of 2,424
  requests and takes 1.04 times the least time (`d_busy_unknown` of `benches/goodput`). So there is nothing to win by the time per
  member as an early signal, and each call that is slow for another reason would be a false alarm.
";

fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn time(time: Duration) -> String {
    match time.as_secs() {
        86_400 => "24 h".to_owned(),
        3_600 => "1 h".to_owned(),
        seconds if seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

fn number(policy: &ThrottlingPolicy, budget: Budget) -> String {
    match policy.limit(budget) {
        None => "–".to_owned(),
        Some(Limit::InFlight(number)) => grouped(number),
        Some(Limit::Distinct { limit, idle }) => format!("{}, each {}", grouped(limit), time(idle)),
        Some(Limit::PerWindow {
            limit,
            refill,
            period,
        }) if limit == refill => {
            format!("{} in {}", grouped(limit), time(period))
        }
        Some(Limit::PerWindow {
            limit,
            refill,
            period,
        }) => {
            format!(
                "{}, {} back in {}",
                grouped(limit),
                grouped(refill),
                time(period)
            )
        }
        Some(Limit::Sliding { limit, period }) => {
            format!("{} in any {}", grouped(limit), time(period))
        }
        Some(other) => panic!("no way to write {other:?}"),
    }
}

/// One text for presets that are to have the same.
fn same<T: PartialEq + std::fmt::Debug>(
    presets: &[&str],
    of: impl Fn(&ThrottlingPolicy) -> T,
) -> T {
    let mut all = presets
        .iter()
        .map(|name| of(&ThrottlingPolicy::named(name).unwrap()));
    let first = all.next().unwrap();
    for other in all {
        assert_eq!(first, other, "{presets:?}");
    }
    first
}

fn tests(names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// Who pays, and by what rule.
fn charged(budget: Budget) -> String {
    let any = match budget {
        Budget::OpenMailboxes => Limit::Distinct {
            limit: 1,
            idle: Duration::ZERO,
        },
        _ => Limit::InFlight(1),
    };
    let row = BudgetPolicy::of(budget, any).unwrap();
    let rule = format!("{:?}", row.rule)
        .replace('"', "")
        .replace(['[', ']'], "");
    format!("`{:?}`, `{rule}`", row.payer)
}

fn page() -> String {
    let mut page = String::from(INTRODUCTION);
    page += "\n## EWS\n\n| parameter | budget | payer, rule |";
    for (version, _) in VERSIONS {
        let _ = write!(page, " {version} |");
    }
    page += " source | tests |\n| --- | --- | --- |";
    page += &" --- |".repeat(VERSIONS.len() + 2);
    page.push('\n');
    for row in EWS {
        let (names, budget) = (row.names.join(", "), row.budget);
        let _ = write!(page, "| {names} | `{budget:?}` | {} |", charged(budget));
        for (_, presets) in VERSIONS {
            let _ = write!(
                page,
                " {} |",
                same(presets, |policy| number(policy, budget))
            );
        }
        let _ = writeln!(page, " {} | {} |", row.source, tests(row.tests));
    }
    let _ = write!(
        page,
        "| bytes of a request | `max_request` | a typed error before anything is sent |"
    );
    for (_, presets) in VERSIONS {
        let size = same(presets, |policy| policy.max_request);
        let _ = write!(page, " {} |", grouped(u32::try_from(size).unwrap()));
    }
    page += " Message size limits in Exchange Server (2016 and 2019). For 2010 there is the number of Outlook on the web alone | \
             `a_request_that_is_too_large_is_not_sent` |\n";
    page += "\n## Microsoft Graph\n\n| limit | budget | `graph_outlook` | source | tests |\n| --- | --- | --- | --- | --- |\n";
    for row in GRAPH {
        let number = same(&["graph_outlook"], |policy| number(policy, row.budget));
        let (names, budget) = (row.names.join(", "), row.budget);
        let _ = writeln!(
            page,
            "| {names} | `{budget:?}` | {number} | {} | {} |",
            row.source,
            tests(row.tests)
        );
    }
    page += "\n## What draws on nothing\n\n| parameter | what is done with it | source | tests |\n| --- | --- | --- | --- |\n";
    for row in OTHERS {
        let names = row.names.join("; ");
        let _ = writeln!(
            page,
            "| {names} | {} | {} | {} |",
            row.what,
            row.source,
            tests(row.tests)
        );
    }
    page
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_page_has_the_numbers_of_the_presets() {
    let path = root().join(PAGE);
    let page = page();
    if std::env::var_os("EWS_WRITE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "{PAGE} is old: run this test with EWS_WRITE_DOCS=1"
    );
}

#[test]
fn each_budget_of_a_preset_has_a_row() {
    for name in ThrottlingPolicy::names() {
        let table = if name == "graph_outlook" { GRAPH } else { EWS };
        let known: BTreeSet<Budget> = table.iter().map(|row| row.budget).collect();
        let column = VERSIONS.iter().any(|(_, presets)| presets.contains(&name));
        assert!(column || name == "graph_outlook", "{name}");
        for row in ThrottlingPolicy::named(name).unwrap().budgets {
            assert!(known.contains(&row.budget), "{name}: {}", row.budget);
        }
    }
}

#[test]
fn times_are_longer_than_the_server_s() {
    for name in ThrottlingPolicy::names() {
        let policy = ThrottlingPolicy::named(name).unwrap();
        // EWSFastSearchTimeoutInSeconds of 2010, and the minute of a batch, delays of its items included.
        assert!(policy.deadline > Duration::from_secs(60), "{name}");
        assert!(policy.batch_time < Duration::from_secs(60), "{name}");
    }
}

fn sources(folder: &Path, all: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.extension() {
            _ if path.is_dir() => sources(&path, all),
            Some(extension) if extension == "rs" => *all += &fs::read_to_string(&path).unwrap(),
            _ => {}
        }
    }
}

#[test]
fn each_test_that_the_page_names_exists() {
    let mut all = String::new();
    sources(&root().join("src"), &mut all);
    sources(&root().join("tests"), &mut all);
    let kept = EWS.iter().chain(GRAPH).map(|row| row.tests);
    for name in kept.chain(OTHERS.iter().map(|row| row.tests)).flatten() {
        assert!(all.contains(&format!("fn {name}(")), "no test {name}");
    }
}

/// The first column of the tables in a section, without what stands in brackets.
fn parameters<'a>(page: &'a str, section: &str) -> Vec<&'a str> {
    let mut sections = page.split("\n## ");
    let text = sections.find(|text| text.starts_with(section)).unwrap();
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let first = rows.filter_map(|line| line.split('|').nth(1));
    let names = first.map(|cell| cell.split(" (").next().unwrap_or_default().trim());
    names
        .filter(|name| !["Parameter", "Limit"].contains(name) && !name.starts_with("---"))
        .collect()
}

#[test]
fn no_documented_parameter_is_without_a_row() {
    let Some(facts) = std::env::var_os("EWS_FACTS_DIR") else {
        println!("skipped: EWS_FACTS_DIR names no folder");
        return;
    };
    let facts = fs::read_to_string(Path::new(&facts).join("limits.md")).unwrap();
    let kept = EWS.iter().chain(GRAPH).map(|row| row.names);
    let known: BTreeSet<&str> = kept
        .chain(OTHERS.iter().map(|row| row.names))
        .flatten()
        .copied()
        .collect();
    let mut number = 0;
    for section in ["1 ", "4 ", "5 "] {
        for parameter in parameters(&facts, section) {
            assert!(known.contains(parameter), "no row for {parameter}");
            number += 1;
        }
    }
    assert!(number > 25, "{number}");
}
