//! Tests of policies in files: what they say, and what a person reads whose file is wrong. Each in TOML and in JSON.

use super::*;
use crate::principal::{ChargeRule, Payer};

/// Reads the same in both formats.
fn read(toml: &str) -> [Result<ThrottlingPolicy, String>; 2] {
    let value: serde_json::Value = toml::from_str(toml).unwrap();
    let json = value.to_string();
    [
        toml::from_str(toml).map_err(|error| error.to_string()),
        serde_json::from_str(&json).map_err(|error| error.to_string()),
    ]
}

#[test]
fn a_policy_survives_a_file() {
    for name in ThrottlingPolicy::names() {
        let policy = ThrottlingPolicy::named(name).unwrap();
        let text = toml::to_string(&policy).unwrap();
        assert_eq!(toml::from_str::<ThrottlingPolicy>(&text).unwrap(), policy);
        let text = serde_json::to_string(&policy).unwrap();
        assert_eq!(
            serde_json::from_str::<ThrottlingPolicy>(&text).unwrap(),
            policy
        );
    }
}

#[test]
fn a_file_changes_what_it_names() {
    let same = ThrottlingPolicy::exchange_online();
    for policy in read("") {
        assert_eq!(policy.unwrap(), same);
    }
    let text = r#"
        preset = "exchange_2013"
        deadline = 3600
        max_request = 1000
        impersonation_copy = false
        [limits]
        Concurrency = { InFlight = 5 }
        Spacing = { PerWindow = { limit = 1, refill = 1, period = 0.5 } }
    "#;
    for policy in read(text) {
        let policy = policy.unwrap();
        let mut expected = ThrottlingPolicy::exchange_2013();
        expected.set_in_flight(Budget::Concurrency, 5).unwrap();
        let spacing = Limit::per_window(1, Duration::from_millis(500));
        expected.set_limit(Budget::Spacing, spacing).unwrap();
        expected.deadline = Duration::from_secs(3600);
        expected.max_request = 1000;
        expected.impersonation_copy = false;
        assert_eq!(policy, expected);
    }
    let text = r#"
        budgets = [{ budget = { Custom = 3 }, limit = { InFlight = 2 }, payer = "Caller", rule = { Only = ["SendItem"] } }]
    "#;
    for policy in read(text) {
        let row = &policy.unwrap().budgets[..];
        let only = ChargeRule::Only(vec!["SendItem".to_owned()]);
        let expected =
            BudgetPolicy::new(Budget::Custom(3), Limit::InFlight(2), Payer::Caller, only);
        assert_eq!(row, [expected]);
    }
}

/// A file with one mistake, the key that the message begins with, and what it says. TOML says in between where that is.
const MISTAKES: &[(&str, &str)] = &[
    (
        "deadline = 'soon'",
        "deadline: invalid type: string \"soon\", expected f64",
    ),
    ("deadline = -1.0", "deadline: -1 is no number of seconds: "),
    (
        "max_queued = 1.5",
        "max_queued: invalid type: floating point `1.5`, expected usize",
    ),
    (
        "max_queued = -1",
        "max_queued: invalid value: integer `-1`, expected usize",
    ),
    (
        "impersonation_copy = 1",
        "impersonation_copy: invalid type: integer `1`, expected a boolean",
    ),
    (
        "dedline = 1.0",
        "dedline: unknown field `dedline`, expected one of `preset`, `name`, ",
    ),
    (
        "preset = 'exchange_95'",
        "preset: no preset `exchange_95`, expected one of exchange_online, ",
    ),
    (
        "limits = 3",
        "limits: invalid type: integer `3`, expected a map",
    ),
    (
        "limits = { Concurency = { InFlight = 3 } }",
        "limits.Concurency: unknown variant `Concurency`, expected one of `Concurrency`, ",
    ),
    (
        "limits = { Concurrency = { InFlite = 3 } }",
        "limits.Concurrency: unknown variant `InFlite`, expected one of `InFlight`, ",
    ),
    (
        "limits = { Concurrency = { InFlight = 0 } }",
        "limits.Concurrency: a limit of 0 for concurrency would let no call run: allow at least 1",
    ),
    (
        "limits = { MessageRate = { PerWindow = { limit = 3, refill = 0, period = 1.0 } } }",
        "limits.MessageRate: a limit of 0 for message-rate ",
    ),
    (
        "limits = { MessageRate = { PerWindow = { limit = 3, period = 1.0 } } }",
        "limits.MessageRate.PerWindow: missing field `refill`",
    ),
    (
        "limits = { Concurrency = { Distinct = { limit = 3, idle = 1.0 } } }",
        "limits.Concurrency: concurrency counts amounts: its limit has to be `InFlight` or `PerWindow`",
    ),
    (
        "limits = { OpenMailboxes = { InFlight = 3 } }",
        "limits.OpenMailboxes: open-mailboxes counts different mailboxes: its limit has to be `Distinct`",
    ),
    (
        "budgets = [ROW, {budget='Nothing', limit={InFlight=3}, payer='Effective', rule='Calls'}]",
        "budgets[1].budget: unknown variant `Nothing`, expected one of `Concurrency`, ",
    ),
    (
        "budgets = [{budget='SyncCalls', limit={InFlight='x'}, payer='Effective', rule='Calls'}]",
        "budgets[0].limit.InFlight: invalid type: string \"x\", expected u32",
    ),
    (
        "budgets = [{budget='SyncCalls', limit={InFlight=1}, payer='Nobody', rule='Calls'}]",
        "budgets[0].payer: unknown variant `Nobody`, expected one of `Effective`, ",
    ),
    (
        "budgets = [{budget='SyncCalls', limit={InFlight=1}, payer='Effective', rule='Cals'}]",
        "budgets[0].rule: unknown variant `Cals`, expected one of `Calls`, ",
    ),
    (
        "budgets = [{budget='SyncCalls', limit={InFlight=1}, payer='Effective', ruel='Calls'}]",
        "budgets[0].ruel: unknown field `ruel`, expected one of `budget`, ",
    ),
    (
        "budgets = [{budget='SyncCalls', limit={InFlight=1}, payer='Effective'}]",
        "budgets[0]: missing field `rule`",
    ),
    (
        "budgets = [ROW, ROW]",
        "budgets[1].budget: the budget concurrency has several rows: leave one of them",
    ),
    (
        "budgets = [{budget='Concurrency', limit={InFlight=0}, payer='Effective', rule='Calls'}]",
        "budgets[0].limit: a limit of 0 for concurrency would let no call run: allow at least 1",
    ),
    (
        "budgets = [{budget='Concurrency', limit={Distinct={limit=0, idle=1.0}}, payer='Effective', rule='Calls'}]",
        "budgets[0].limit: a limit of 0 for concurrency ",
    ),
];

#[test]
fn each_mistake_is_told_with_its_key() {
    let row = "{budget='Concurrency', limit={InFlight=3}, payer='Effective', rule='Calls'}";
    let mut wrong = Vec::new();
    for (text, message) in MISTAKES {
        let (key, problem) = message.split_once(": ").unwrap();
        for error in read(&text.replace("ROW", row)) {
            let error = error.unwrap_err();
            if !(error.starts_with(key) && error.contains(problem)) {
                wrong.push(format!("{text}: {error}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
