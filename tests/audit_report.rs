//! The audit report, as a person runs it, on small logs: its numbers against a count of its own.
//!
//! Plain `cargo test` builds it; `cargo test --test audit_report` alone does not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tower_ews::soap::operation::Operation;

#[allow(dead_code)]
#[path = "../examples/audit_report/distinct.rs"]
mod distinct;
#[allow(dead_code)]
#[path = "../examples/audit_report/graph.rs"]
mod graph;
#[allow(dead_code)]
#[path = "../examples/audit_report/series.rs"]
mod series;

fn audit_report() -> Command {
    let test = std::env::current_exe().expect("the test is a file");
    let built = test.ancestors().nth(2).map(|profile| {
        profile
            .join("examples/audit_report")
            .with_extension(std::env::consts::EXE_EXTENSION)
    });
    let built = built.filter(|file| file.exists());
    let mut command = Command::new(
        built.unwrap_or_else(|| panic!("run `cargo build --example audit_report` first")),
    );
    command.stdin(Stdio::null());
    command
}

/// A folder of one test, empty.
fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("audit_report")
        .join(test);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder for the test");
    folder
}

fn run(logs: &[&Path], out: &Path) -> Output {
    let mut command = audit_report();
    command.args(logs).arg("--out").arg(out);
    command.output().expect("it starts")
}

/// The page that is made of this log.
fn report(test: &str, log: impl AsRef<[u8]>) -> String {
    let folder = folder(test);
    let (path, out) = (folder.join("audit.jsonl"), folder.join("report.html"));
    fs::write(&path, log).expect("a log");
    let output = run(&[&path], &out);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{err}");
    assert_eq!(err, "", "no progress where nobody looks");
    fs::read_to_string(out).expect("a page")
}

fn demo(test: &str, records: u32) -> String {
    let log = folder(test).join("demo.jsonl");
    let mut command = audit_report();
    let command = command.args(["--demo", &records.to_string()]).arg(&log);
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{output:?}");
    fs::read_to_string(log).expect("a log")
}

/// The number that the page gives programs under this name.
fn number(page: &str, id: &str) -> u64 {
    let marker = format!("<data id=\"{id}\" value=\"");
    let at = page.find(&marker).unwrap_or_else(|| panic!("no {id}"));
    let rest = &page[at + marker.len()..];
    rest[..rest.find('"').expect("its end")]
        .parse()
        .expect("a number")
}

/// The cells of the row that begins behind `marker`.
fn cells(page: &str, marker: &str) -> Vec<String> {
    let at = page
        .find(marker)
        .unwrap_or_else(|| panic!("no {marker} on the page"));
    let row = &page[at..];
    let row = &row[..row.find("</tr>").expect("the end of the row")];
    row.split("<td")
        .skip(1)
        .map(|cell| {
            let text = cell.split_once('>').map_or("", |(_, text)| text);
            text.replace("</td>", "")
        })
        .collect()
}

fn part<'a>(page: &'a str, id: &str) -> &'a str {
    let at = page
        .find(&format!("<section id=\"{id}\""))
        .expect("the section");
    let section = &page[at..];
    &section[..section.find("</section>").expect("its end")]
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|group| std::str::from_utf8(group).ok())
        .collect();
    groups.join(",")
}

fn minimal() -> Value {
    json!({
        "schema": 1, "time": "2026-11-22T10:00:00.000+01:00", "duration_ms": 12.5, "queued_ms": 1.0, "backed_off_ms": 0.0,
        "wire_ms": 10.0, "body_ms": 1.0, "caller": "svc@contoso.com", "operation": "GetItem", "members": 3,
        "mailbox": "a@contoso.com", "outcome": "ok",
    })
}

#[derive(Default)]
struct Counted {
    calls: u64,
    members: u64,
    mailboxes: BTreeSet<String>,
}

#[test]
fn the_numbers_are_those_of_the_log() {
    let log = demo("numbers_log", 6_000);
    let page = report("numbers", &log);

    let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
    let mut codes: BTreeMap<String, u64> = BTreeMap::new();
    let mut uses: BTreeMap<(String, String), Counted> = BTreeMap::new();
    let mut throttled: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut longest: BTreeMap<String, f64> = BTreeMap::new();
    for line in log.lines() {
        let record: Value = serde_json::from_str(line).expect("JSON");
        let text = |key: &str| record[key].as_str().expect(key).to_owned();
        *outcomes.entry(text("outcome")).or_default() += 1;
        if ["failed", "error", "unknown"].contains(&record["outcome"].as_str().expect("it")) {
            let code = record["code"].as_str().or(record["error.type"].as_str());
            *codes.entry(code.expect("a code").to_owned()).or_default() += 1;
        }
        let used = uses.entry((text("operation"), text("caller"))).or_default();
        used.calls += 1;
        used.members += record["members"].as_u64().expect("members");
        used.mailboxes.insert(text("mailbox"));
        let attempts = record["attempts"].as_array().expect("attempts");
        let signals = attempts.iter().filter(|a| !a["signal"].is_null()).count() as u64;
        let of_account = throttled.entry(text("caller")).or_default();
        of_account.0 += signals;
        of_account.1 += u64::from(signals > 0);
        let duration = record["duration_ms"].as_f64().expect("a duration");
        let max = longest.entry(text("operation")).or_default();
        *max = max.max(duration);
    }
    let of = |outcome: &str| outcomes.get(outcome).copied().unwrap_or(0);
    assert_eq!(number(&page, "calls"), 6_000);
    assert_eq!(
        number(&page, "failed"),
        of("failed") + of("error") + of("not_sent")
    );
    assert!(of("unknown") > 0 && of("failed") > 0, "{outcomes:?}");
    assert_eq!(number(&page, "unknown"), of("unknown"));
    assert_eq!(
        number(&page, "given-up"),
        of("cancelled") + of("body_dropped")
    );
    let sums = throttled
        .values()
        .fold((0, 0), |sums, n| (sums.0 + n.0, sums.1 + n.1));
    assert!(sums.0 > sums.1 && sums.1 > 0, "{sums:?}");
    assert_eq!(number(&page, "throttled"), sums.0);
    assert_eq!(number(&page, "throttled-calls"), sums.1);
    for (account, (responses, calls)) in &throttled {
        let marker = format!("<th scope=\"row\">{account}</th>");
        let row = cells(part(&page, "throttling"), &marker);
        assert_eq!(
            row[..2],
            [grouped(*responses), grouped(*calls)],
            "{account}"
        );
    }

    let failures = part(&page, "failures");
    for (code, counted) in &codes {
        let group = format!(
            "<span class=\"code\">{code}</span><span class=\"badge\">{}</span>",
            grouped(*counted)
        );
        assert!(failures.contains(&group), "{group}");
    }

    let inventory = part(&page, "inventory");
    let names: BTreeSet<&str> = uses.keys().map(|(name, _)| &**name).collect();
    for name in names {
        let of = uses.iter().filter(|((of, _), _)| of == name);
        let of: Vec<_> = of.map(|((_, account), used)| (account, used)).collect();
        let body = &inventory[inventory
            .find(&format!("<span class=\"name\">{name}</span>"))
            .unwrap_or_else(|| panic!("no {name}"))..];
        let body = &body[..body.find("</tbody>").expect("the end")];
        let calls: u64 = of.iter().map(|(_, used)| used.calls).sum();
        let members: u64 = of.iter().map(|(_, used)| used.members).sum();
        let mailboxes: BTreeSet<_> = of.iter().flat_map(|(_, used)| &used.mailboxes).collect();
        let row = cells(body, name);
        assert_eq!(row[..2], [grouped(calls), grouped(members)], "{name}");
        near(&row[2], mailboxes.len(), name);
        for (account, used) in of {
            let row = cells(body, &format!("<th scope=\"row\">{account}</th>"));
            assert_eq!(row[..2], [grouped(used.calls), grouped(used.members)]);
            near(&row[2], used.mailboxes.len(), account);
        }
        let replaced = graph::replacement(name).expect("a row of the table");
        assert!(body.contains(replaced.coverage.name()), "{name}");
    }

    let slowest = part(&page, "slowest");
    let max = longest
        .iter()
        .max_by(|a, b| a.1.total_cmp(b.1))
        .expect("one");
    let row = cells(slowest, &format!("<th scope=\"row\">{}", max.0));
    let minutes = (max.1 / 1000.0).round() as u64;
    let shown = format!("{} min {} s", minutes / 60, minutes % 60);
    assert_eq!(row[4], shown, "{max:?}");
}

/// Exact for few, estimated for many.
fn near(shown: &str, counted: usize, what: &str) {
    match shown.strip_prefix("≈ ") {
        None => assert_eq!(shown, grouped(counted as u64), "{what}"),
        Some(estimate) => {
            let estimate: f64 = estimate.replace(',', "").parse().expect("a number");
            assert!(counted > distinct::EXACT, "{what}");
            let off = (estimate / counted as f64 - 1.0).abs();
            assert!(off < 0.09, "{what}: {shown} for {counted}");
        }
    }
}

#[test]
fn percentiles_are_exact_to_two_digits() {
    let mut log = String::new();
    for n in 1..=1_000 {
        let mut record = minimal();
        // In no order: 7 and 1,000 have no common divisor.
        record["duration_ms"] = json!(n * 7 % 1_000 + 1);
        let _ = writeln!(log, "{record}");
    }
    let page = report("percentiles", log);
    let row = cells(part(&page, "slowest"), "<th scope=\"row\">GetItem</th>");
    let ms = |cell: &str| {
        let (number, unit) = cell.split_once(' ').expect("a unit");
        let factor = if unit == "s" { 1_000.0 } else { 1.0 };
        number.parse::<f64>().expect("a number") * factor
    };
    for (cell, exact) in row[1..5].iter().zip([500.0, 950.0, 990.0, 1_000.0]) {
        assert!((ms(cell) / exact - 1.0).abs() < 0.011, "{cell} for {exact}");
    }
}

#[test]
fn broken_lines_are_counted_and_named() {
    let good = minimal().to_string();
    let mut wrong_type = minimal();
    wrong_type["members"] = json!("three");
    let mut no_time = minimal();
    no_time["time"] = json!("yesterday");
    let mut unknown_keys = minimal();
    unknown_keys["x.new"] = json!({"deep": [1, 2, {"er": null}]});
    let mut log = Vec::new();
    let lines: [&[u8]; 11] = [
        good.as_bytes(),
        &good.as_bytes()[..good.len() / 2],
        b"",
        b"{\"schema\":1,\"outcome\":\"\xff\xfe\"}",
        b"[1,2,3]",
        unknown_keys.to_string().leak().as_bytes(),
        wrong_type.to_string().leak().as_bytes(),
        no_time.to_string().leak().as_bytes(),
        "[".repeat(100_000).leak().as_bytes(),
        "x".repeat(17 << 20).leak().as_bytes(),
        good.as_bytes(),
    ];
    for line in lines {
        log.extend_from_slice(line);
        log.extend_from_slice(b"\r\n");
    }
    // The process was killed while it wrote this one.
    log.extend_from_slice(&good.as_bytes()[..good.len() - 1]);
    let page = report("broken", log);
    assert_eq!(number(&page, "calls"), 3);
    assert_eq!(number(&page, "broken"), 8);
    assert!(page.contains("of 11 lines are no records"), "{page}");
    assert!(page.contains("line 2, line 4, line 5, line 7, line 8, line 9, line 10, line 12"));
}

#[test]
fn another_schema_is_refused() {
    let folder = folder("schema");
    let (path, out) = (folder.join("audit.jsonl"), folder.join("report.html"));
    let other = json!({"schema": 2, "began": 17, "outcome": {"how": "well"}});
    fs::write(&path, format!("{}\n{other}\n", minimal())).expect("a log");
    let output = run(&[&path], &out);
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("line 2: a record of schema 2"), "{err}");
    assert!(err.contains("reads schema 1"), "{err}");
    assert!(!out.exists());
}

#[test]
fn what_is_no_log_is_refused() {
    let folder = folder("no_log");
    let (path, out) = (folder.join("audit.jsonl"), folder.join("report.html"));
    fs::write(&path, "once\nupon\na time\n").expect("a file");
    assert_eq!(run(&[&path], &out).status.code(), Some(1));
    assert_eq!(run(&[&folder.join("missing")], &out).status.code(), Some(1));
    assert_eq!(run(&[], &out).status.code(), Some(2));
    // The log is not written over.
    fs::write(&path, minimal().to_string()).expect("a log");
    assert_eq!(run(&[&path], &path).status.code(), Some(2));
    assert_eq!(
        fs::read_to_string(&path).expect("the log"),
        minimal().to_string()
    );
    assert!(!out.exists());
}

#[test]
fn several_logs_and_stdin_are_one_report() {
    let folder = folder("several");
    let (path, out) = (folder.join("audit.jsonl"), folder.join("report.html"));
    fs::write(&path, format!("{}\n", minimal())).expect("a log");
    let mut command = audit_report();
    let command = command.arg(&path).arg("-").arg(&path).arg("--quiet");
    let command = command.arg("--out").arg(&out).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    writeln!(stdin, "{}\n{}", minimal(), minimal()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success() && output.stdout.is_empty());
    let page = fs::read_to_string(&out).expect("a page");
    assert_eq!(number(&page, "calls"), 4);
}

#[test]
fn an_empty_log_has_a_page_too() {
    let page = report("empty", "");
    assert_eq!(number(&page, "calls"), 0);
    assert!(page.contains("There is no call in this log."));
}

/// Every text of a record, and what it does to a page that trusts it.
#[test]
fn a_hostile_log_stays_text() {
    const EVIL: &str = "</pre></td></title></style><script>alert(1)</script>\"'><img src=x onerror=alert(2)>&lt;\u{202e}\0\n\u{1b}[31m";
    let mut record = minimal();
    record["outcome"] = json!("failed");
    record["mailbox"] = json!(EVIL);
    for key in [
        "caller",
        "principal",
        "access",
        "operation",
        "http.request.method",
        "server.address",
        "url.path",
        "user_agent.original",
        "error.type",
        "code",
        "signal",
    ] {
        record[key] = json!(EVIL);
    }
    record["error"] = json!([EVIL, EVIL]);
    record["attempts"] = json!([{
        "signal": EVIL, "client_request_id": EVIL, "request_id": EVIL, "fe_server": EVIL, "be_server": EVIL, "diag_info": EVIL,
    }]);
    let mut log = format!("{record}\n");
    // What is in words of its own for the report.
    record["outcome"] = json!(EVIL);
    record["operation"] = json!("GetItem");
    let _ = writeln!(log, "{record}");
    record["code"] = Value::Null;
    record["error.type"] = Value::Null;
    record["attempts"] = Value::Null;
    let _ = writeln!(log, "{record}");
    let page = report("hostile", log);
    assert_eq!(number(&page, "calls"), 3);

    let known: BTreeSet<&str> = "!DOCTYPE html head meta link title style body main header h1 h2 p b span dl div dt dd data nav a section \
         figure figcaption ul li svg text rect line polyline table thead tbody tr th td details summary pre footer"
        .split_whitespace()
        .collect();
    for tag in page.split('<').skip(1) {
        let name: String = tag
            .trim_start_matches('/')
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '!')
            .collect();
        assert!(known.contains(&*name), "<{tag}");
        let tag = tag.split('>').next().unwrap_or("");
        assert!(!tag.contains("onerror") && !tag.contains("src="), "<{tag}");
    }
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(!page.contains('\u{202e}') && !page.contains('\0') && !page.contains('\u{1b}'));
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn the_page_loads_nothing() {
    let page = report("self_contained", demo("self_contained_log", 500));
    for loads in [
        "<script", "src=", "@import", "url(", "http://", "https://", "<iframe",
    ] {
        assert!(!page.contains(loads), "{loads}");
    }
    assert_eq!(page.matches("<svg").count(), 6);
    assert_eq!(page.matches("role=\"img\"").count(), 6);
    // plotters' own colours would be there for one of light and dark only.
    assert!(!page.contains("fill=\"#") && !page.contains("stroke=\"#"));
}

#[test]
fn tables_do_not_grow_with_the_log() {
    let mut log = String::new();
    for n in 0..12_000 {
        let mut record = minimal();
        record["caller"] = json!(format!("user{n}@contoso.com"));
        record["operation"] = json!(format!("Operation{}", n % 700));
        record["signal"] = json!(format!("signal{n}"));
        record["outcome"] = json!("failed");
        record["code"] = json!(format!("Error{n}"));
        let _ = writeln!(log, "{record}");
    }
    let page = report("bounded", log);
    assert_eq!(number(&page, "calls"), 12_000);
    assert_eq!(number(&page, "throttled"), 12_000);
    assert!(page.len() < 1_500_000, "{} bytes", page.len());
    assert!(page.contains("more accounts or operations than this report keeps apart"));
}

#[test]
fn every_operation_has_a_way_to_graph() {
    let known: Vec<&str> = Operation::all().map(Operation::name).collect();
    let rows: Vec<&str> = graph::REPLACEMENTS
        .iter()
        .map(|row| row.operation)
        .collect();
    assert_eq!(rows, known);
    assert_eq!(rows.len(), 138);
    for row in graph::REPLACEMENTS {
        let missing = row.coverage == graph::Coverage::Missing;
        assert_eq!(row.call.is_empty(), missing, "{row:?}");
        assert!(!missing || !row.note.is_empty(), "{row:?} says why");
        let beta = row.call.contains("/beta/");
        assert_eq!(beta, row.coverage == graph::Coverage::Preview, "{row:?}");
    }
}

#[test]
fn distinct_values_are_estimated_well_and_merge() {
    for exact in [0, 1, 255, 256, 257, 1_000, 5_000, 20_000, 200_000] {
        let mut all = distinct::Distinct::default();
        let mut halves = [distinct::Distinct::default(), distinct::Distinct::default()];
        for n in 0..exact {
            let hash = distinct::hash(&format!("user{n}@contoso.com"));
            all.insert(hash);
            all.insert(hash);
            halves[n % 2].insert(hash);
        }
        let (estimate, sure) = all.count();
        assert_eq!(sure, exact <= distinct::EXACT);
        let off = (estimate as f64 - exact as f64).abs();
        let allowed = if sure { 0.0 } else { exact as f64 * 0.06 };
        assert!(off <= allowed, "{estimate} for {exact}");
        let [mut one, other] = halves;
        one.merge(&other);
        assert_eq!(one.count(), (estimate, sure), "merged, of {exact}");
    }
}

#[test]
fn series_lose_nothing_when_their_buckets_widen() {
    // Ten seconds, three months, and five centuries.
    for span in [10, 7_776_000, 16_000_000_000] {
        let mut series = series::Series::<2>::default();
        let begin = -1_000_000;
        let mut counts = [0; 2];
        for n in 0..5_000 {
            let which = usize::from(n % 3 == 0);
            counts[which] += 2;
            series.add(begin + n * 7_919 % 5_000 * span / 5_000, which, 2);
        }
        for most in [40, 340] {
            let window = series.window(most).expect("not empty");
            assert!(window.buckets <= most, "{window:?}");
            assert_eq!(window.left_out, 0, "{window:?}");
            let shown = series.within(&window);
            let sums = shown
                .iter()
                .fold([0; 2], |sums, n| [sums[0] + n[0], sums[1] + n[1]]);
            assert_eq!(sums, counts);
            let ticks = window.ticks(8);
            assert!((1..=9).contains(&ticks.len()), "{ticks:?}");
            assert!(
                ticks
                    .iter()
                    .all(|t| (window.start..=window.end()).contains(t))
            );
        }
    }
}

#[test]
fn a_wrong_clock_does_not_squeeze_the_rest() {
    let mut series = series::Series::<1>::default();
    series.add(0, 0, 1);
    for second in 0..86_400 {
        series.add(1_793_574_000 + second, 0, 1);
    }
    let window = series.window(300).expect("not empty");
    assert_eq!(window.left_out, 1, "{window:?}");
    assert!(window.end() - window.start < 3 * 86_400, "{window:?}");
}
