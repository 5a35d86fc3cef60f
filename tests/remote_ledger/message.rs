//! What a process and the back end say to each other.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tower_ews::ledger::{AcquireError, AcquireRequest, Admission, Contended, End, Signal};
use tower_ews::principal::{Charge, Principal};

/// To the back end.
#[derive(Debug)]
pub(crate) enum Message {
    Acquire {
        id: u64,
        ask: Ask,
        reply: oneshot::Sender<Reply>,
    },
    /// Whoever asked with that id has gone away.
    Cancel {
        id: u64,
    },
    Report {
        to: Held,
        news: News,
    },
    Release {
        held: Held,
        good: bool,
    },
    /// Not part of the protocol: the tests look inside.
    Look(oneshot::Sender<super::Counts>),
}

/// What a call draws on one budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Draw {
    pub(crate) principal: String,
    pub(crate) budget: String,
    pub(crate) amount: u32,
    pub(crate) value: Option<String>,
}

impl From<&Charge> for Draw {
    fn from(charge: &Charge) -> Self {
        Self {
            principal: charge.principal().key(),
            budget: charge.budget().to_string(),
            amount: charge.amount(),
            value: charge.value().map(Principal::key),
        }
    }
}

/// What a call asks for.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) draws: Vec<Draw>,
    pub(crate) endpoint: Option<String>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) ticket: Option<u64>,
    pub(crate) not_before: Option<Instant>,
}

impl From<&AcquireRequest> for Ask {
    fn from(request: &AcquireRequest) -> Self {
        Self {
            draws: request.charges().iter().map(Draw::from).collect(),
            endpoint: request.endpoint().map(ToString::to_string),
            deadline: request.deadline(),
            ticket: request.ticket(),
            not_before: request.not_before(),
        }
    }
}

/// What a process holds, or held.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) sequence: u64,
    pub(crate) draws: Vec<Draw>,
    pub(crate) endpoint: Option<String>,
    /// It does not stand for the call.
    pub(crate) split_off: bool,
}

impl From<&Admission> for Held {
    fn from(admission: &Admission) -> Self {
        Self {
            sequence: admission.sequence(),
            draws: admission.charges().iter().map(Draw::from).collect(),
            endpoint: admission.endpoint().map(ToString::to_string),
            split_off: admission.is_split_off(),
        }
    }
}

/// What a response said.
#[derive(Clone, Debug)]
pub(crate) enum News {
    Busy { until: Instant },
    EndpointBusy { until: Instant },
    Accepted,
    Exceeded { budget: String },
}

impl News {
    /// None for signals that came later than this protocol.
    pub(crate) fn of(signal: Signal) -> Option<Self> {
        Some(match signal {
            Signal::Busy { until } => Self::Busy { until },
            Signal::EndpointBusy { until } => Self::EndpointBusy { until },
            Signal::Accepted => Self::Accepted,
            Signal::Exceeded(budget) => Self::Exceeded {
                budget: budget.to_string(),
            },
            _ => return None,
        })
    }
}

pub(crate) fn is_good(end: End) -> bool {
    end == End::Complete
}

/// From the back end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) sent: Instant,
    pub(crate) outcome: Result<Admitted, Refused>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Admitted {
    pub(crate) ticket: u64,
    pub(crate) sequence: u64,
    /// It tests a gate.
    pub(crate) probes: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Refused {
    QueueFull { queued: usize },
    TimedOut { waited: Duration, blocked: Blocked },
    GateTooLate { wait: Duration, blocked: Blocked },
}

/// What keeps a call waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    Budget(String, String),
    Gate(String),
    Endpoint(String),
    Time,
}

impl Blocked {
    fn contended(&self) -> Contended {
        let principal = |key: &str| Principal::from_key(key).expect("a principal's own key");
        match self {
            Self::Budget(key, budget) => {
                let budget = budget.parse().expect("a budget's own name");
                Contended::Budget(principal(key), budget)
            }
            Self::Gate(key) => Contended::Gate(principal(key)),
            Self::Endpoint(name) => Contended::Endpoint(name.parse().expect("an authority's text")),
            Self::Time => Contended::Time,
        }
    }
}

impl From<Refused> for AcquireError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::QueueFull { queued } => Self::QueueFull { queued },
            Refused::TimedOut { waited, blocked } => Self::TimedOut {
                waited,
                contended: blocked.contended(),
            },
            Refused::GateTooLate { wait, blocked } => Self::GateTooLate {
                wait,
                contended: blocked.contended(),
            },
        }
    }
}
