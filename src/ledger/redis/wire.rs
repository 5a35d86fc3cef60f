//! What a process and `lease.lua` say to each other: JSON, so that it can be read in `redis-cli monitor`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a process says of one principal. Budgets and values go by their texts, times are in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Ask {
    /// The process.
    pub(super) p: String,
    /// The number of this request among those of the process for the principal. An older one that comes late is refused.
    pub(super) n: u64,
    /// How long the lease is good for.
    pub(super) ttl: u64,
    /// The channels of processes begin with it.
    pub(super) ch: String,
    /// What processes are told that are to ask again: the principal.
    pub(super) name: String,
    /// How long the gate is to be closed, 0 for not.
    pub(super) gate: u64,
    /// How long a process may wait for a value before one is closed for it.
    pub(super) overtake: u64,
    /// The budgets.
    pub(super) b: BTreeMap<String, Say>,
    /// The first call of each list of waiting calls.
    pub(super) h: Vec<HeadSay>,
    /// What was refused, by budget.
    pub(super) ex: BTreeMap<String, u32>,
    /// The request to which messages have added what the budgets say that they got.
    pub(super) gn: u64,
}

/// What a process says of one budget.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Say {
    /// `f` what is in flight, `w` a bucket, `d` different values.
    pub(super) k: String,
    /// The limit.
    pub(super) l: u32,
    /// What it may use until it has the reply.
    pub(super) keep: u32,
    /// What its calls use and wait for.
    pub(super) want: u32,
    /// What its calls wait for, by priority: the most urgent first.
    pub(super) q: [u32; 3],
    /// What of `keep` came by messages, after the last reply.
    pub(super) got: u32,
    /// What it would like to have, so that the next calls find it in place.
    pub(super) like: u32,
    /// What comes back to a bucket in `t`.
    pub(super) r: u32,
    pub(super) t: u64,
    /// What it gives back to a bucket, and what calls cost on top.
    pub(super) back: u32,
    pub(super) spent: u32,
    /// How long an unused value stays open.
    pub(super) i: u64,
    /// The values that it may use, and how long each was not used; -1 is in use.
    #[serde(rename = "use")]
    pub(super) used: BTreeMap<String, i64>,
    /// The values that the server did not open.
    pub(super) refused: Vec<String>,
    /// The values that calls wait for, and the priority of the first call.
    pub(super) values: Vec<String>,
    pub(super) c: u8,
}

/// The first call of a list.
#[derive(Clone, Debug, Serialize)]
pub(super) struct HeadSay {
    pub(super) list: String,
    /// What it draws on each budget.
    pub(super) v: BTreeMap<String, u32>,
    /// Its priority: 0 is the most urgent.
    pub(super) c: u8,
    /// How long it has waited.
    pub(super) t: u64,
}

impl HeadSay {
    /// Whether Redis knows all of this call when it knows `other`.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (&self.list, &self.v, self.c) == (&other.list, &other.v, other.c)
    }
}

/// What a message of another process brings, beside the news that asking is worth it.
#[derive(Debug, Deserialize)]
pub(super) struct Push {
    /// The principal.
    pub(super) name: String,
    /// The request of this process that Redis knew last.
    pub(super) n: u64,
    /// What was added by budget since its reply.
    pub(super) g: Vec<(String, u32)>,
}

/// What a process may use.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Reply {
    pub(super) share: Vec<(String, u32)>,
    /// Others are short: no more than so much is to be kept.
    pub(super) target: Vec<(String, u32)>,
    /// Values that may be used, and that new calls may not use any more.
    pub(super) lent: Vec<(String, String)>,
    pub(super) closed: Vec<(String, String)>,
    /// How long the gate stays closed.
    pub(super) gate: Option<u64>,
    /// When to ask again if calls still wait.
    pub(super) again: Option<u64>,
    /// How many processes have a lease.
    pub(super) procs: u32,
    /// How many heads of this process wait.
    pub(super) waits: u32,
}

impl Reply {
    pub(super) fn of(pairs: &[(String, u32)], budget: &str) -> Option<u32> {
        let known = pairs.iter().find(|(name, _)| name == budget);
        known.map(|(_, amount)| *amount)
    }
}
