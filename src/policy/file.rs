//! How a [`ThrottlingPolicy`] is read from a file: a preset, and what differs from it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use serde::de::{Error, IntoDeserializer, value};
use serde::{Deserialize, Deserializer};
use serde_path_to_error::Track;

use super::row::BudgetPolicy;
use super::throttling::ThrottlingPolicy;
use crate::ledger::Limit;
use crate::principal::Budget;

/// The keys of a file. What is left out is the preset's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    preset: Option<String>,
    name: Option<String>,
    budgets: Option<Vec<BudgetPolicy>>,
    limits: Option<BTreeMap<String, Limit>>,
    impersonation_copy: Option<bool>,
    deadline: Option<Seconds>,
    max_wait: Option<Seconds>,
    max_queued: Option<usize>,
    max_overtake: Option<Seconds>,
    backoff_base: Option<Seconds>,
    backoff_cap: Option<Seconds>,
    batch_time: Option<Seconds>,
    max_request: Option<u64>,
}

#[derive(Deserialize)]
struct Seconds(#[serde(deserialize_with = "crate::seconds::deserialize")] Duration);

/// What is wrong, behind the key where it is.
fn at<E: Error>(key: impl Display, problem: impl Display) -> E {
    E::custom(format!("{key}: {problem}"))
}

impl Form {
    fn base<E: Error>(&self) -> Result<ThrottlingPolicy, E> {
        let Some(name) = &self.preset else {
            return Ok(ThrottlingPolicy::default());
        };
        ThrottlingPolicy::named(name).ok_or_else(|| {
            let names: Vec<_> = ThrottlingPolicy::names().collect();
            let problem = format!("no preset `{name}`, expected one of {}", names.join(", "));
            at("preset", problem)
        })
    }

    fn policy<E: Error>(self) -> Result<ThrottlingPolicy, E> {
        let mut policy = self.base()?;
        if let Some(budgets) = self.budgets {
            check(&budgets)?;
            policy.budgets = budgets;
        }
        for (name, limit) in self.limits.into_iter().flatten() {
            let key = format!("limits.{name}");
            // Not a key of the map: an error would not know which.
            let budget: Result<_, value::Error> = Budget::deserialize(name.into_deserializer());
            let budget = budget.map_err(|error| at(&key, error))?;
            let set = policy.set_limit(budget, limit);
            set.map_err(|error| at(&key, error))?;
        }
        let times = [
            (&mut policy.deadline, self.deadline),
            (&mut policy.max_wait, self.max_wait),
            (&mut policy.max_overtake, self.max_overtake),
            (&mut policy.backoff_base, self.backoff_base),
            (&mut policy.backoff_cap, self.backoff_cap),
            (&mut policy.batch_time, self.batch_time),
        ];
        for (time, given) in times {
            *time = given.map_or(*time, |seconds| seconds.0);
        }
        Ok(ThrottlingPolicy {
            name: self.name.unwrap_or(policy.name),
            impersonation_copy: self.impersonation_copy.unwrap_or(policy.impersonation_copy),
            max_queued: self.max_queued.unwrap_or(policy.max_queued),
            max_request: self.max_request.unwrap_or(policy.max_request),
            ..policy
        })
    }
}

/// Each budget once, and each under a limit that lets calls run.
fn check<E: Error>(rows: &[BudgetPolicy]) -> Result<(), E> {
    for (number, row) in rows.iter().enumerate() {
        let key = |field| format!("budgets[{number}].{field}");
        row.check().map_err(|error| at(key("limit"), error))?;
        let budget = row.budget;
        if rows[..number].iter().any(|other| other.budget == budget) {
            let problem = format!("the budget {budget} has several rows: leave one of them");
            return Err(at(key("budget"), problem));
        }
    }
    Ok(())
}

impl<'de> Deserialize<'de> for ThrottlingPolicy {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut track = Track::new();
        let read = Form::deserialize(serde_path_to_error::Deserializer::new(from, &mut track));
        match read {
            Ok(form) => form.policy(),
            Err(error) => {
                let path = track.path();
                match path.iter().next() {
                    Some(_) => Err(at(path, error)),
                    None => Err(error),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
