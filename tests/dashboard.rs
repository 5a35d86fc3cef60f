//! The example dashboard, `docs/grafana.json`: each of its queries asks for a metric that the crate has, by labels that it has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::Value;
use tower_ews::audit_log::{AttemptRecord, MetricsSink, Record, Sink};
use tower_ews::gauges::LedgerGauges;
use tower_ews::policy::ThrottlingPolicy;

/// Functions and words of PromQL, and what Prometheus adds by itself.
const WORDS: [&str; 9] = [
    "by",
    "histogram_quantile",
    "max",
    "min",
    "rate",
    "sum",
    "le",
    "instance",
    "__rate_interval",
];

/// The metrics of the crate as Prometheus scrapes them: names and labels.
fn scraped() -> BTreeMap<String, BTreeSet<String>> {
    let recorder = PrometheusBuilder::new()
        .set_buckets(&[0.1, 1.0])
        .unwrap()
        .build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let mut record = Record::default();
        for resend in [false, true] {
            let mut attempt = AttemptRecord::default();
            attempt.signal = Some("ErrorServerBusy".into());
            attempt.resend = resend;
            record.attempts.push(attempt);
        }
        MetricsSink::new().record(&record);
        let policy = ThrottlingPolicy::exchange_online();
        LedgerGauges::new(Arc::new(policy.ledger()), &policy).record();
    });
    let mut metrics: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in handle
        .render()
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let Some((series, _)) = line.rsplit_once(' ') else {
            continue;
        };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.split(',').filter_map(|label| label.split_once('='));
        let labels = labels.map(|(label, _)| label.to_owned());
        metrics.entry(name.to_owned()).or_default().extend(labels);
    }
    metrics
}

/// The names in a query.
fn names(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))
}

/// What is wrong with a query.
fn wrong(query: &str, metrics: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let (asked, rest): (Vec<&str>, Vec<&str>) = names(query)
        .filter(|name| !WORDS.contains(name))
        .partition(|name| name.starts_with("ews_"));
    let mut wrong = Vec::new();
    if asked.is_empty() {
        wrong.push(format!("no metric in {query}"));
    }
    for name in asked {
        let Some(labels) = metrics.get(name) else {
            wrong.push(format!("no metric {name}"));
            continue;
        };
        let missing = rest.iter().filter(|label| !labels.contains(**label));
        wrong.extend(missing.map(|label| format!("{name} has no label {label}")));
    }
    wrong
}

#[test]
fn the_dashboard_asks_for_what_is_there() {
    let metrics = scraped();
    assert!(metrics.len() > 20, "{metrics:?}");
    let dashboard: Value = serde_json::from_str(include_str!("../docs/grafana.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() >= 10);
    let mut shown = BTreeSet::new();
    for target in panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
    {
        let query = target["expr"].as_str().unwrap();
        assert_eq!(wrong(query, &metrics), [""; 0], "{query}");
        shown.extend(names(query).filter(|name| name.starts_with("ews_")));
    }
    // Each gauge has its panel.
    let gauges = [
        "calls_queued",
        "principals_gated",
        "endpoints_gated",
        "gate_seconds",
        "budget_held",
        "budget_limit",
        "limits_lowered",
    ];
    for gauge in gauges {
        assert!(shown.contains(&*format!("ews_{gauge}")), "{gauge}");
    }
}

#[test]
fn a_wrong_query_is_found() {
    let metrics = scraped();
    for (query, expected) in [
        (
            "sum by (mailbox) (ews_calls_total)",
            "ews_calls_total has no label mailbox",
        ),
        ("rate(ews_call_total[5m])", "no metric ews_call_total"),
        ("rate(up[5m])", "no metric in rate(up[5m])"),
    ] {
        assert_eq!(wrong(query, &metrics), [expected], "{query}");
    }
}
