//! Faults on demand: which call suffers what.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

/// What can be done to a call.
///
/// ```
/// use tower_ews::simulator::{Exchange, Fault};
/// let exchange = Exchange::builder().build();
/// exchange.inject(Fault::ResetAfter);
/// assert_eq!(Fault::ResetAfter.name(), "reset_after");
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// The connection is refused: nothing was sent, nothing is executed. On a socket, where the
    /// connection stands already, the client sees a reset.
    Refused,
    /// The request arrives, is not executed, and the connection is lost.
    ResetBefore,
    /// The request is executed, and the connection is lost without a response.
    ResetAfter,
    /// The request is executed, and its response breaks off in the middle of its body.
    CutBody,
    /// The request is executed, and its response's body comes in that many frames with that pause
    /// before each.
    SlowBody {
        /// Number of frames, at least one.
        frames: usize,
        /// Policy time before each frame.
        pause: Duration,
    },
    /// HTTP 503 with an HTML page and without `Retry-After`. Not executed.
    Page503,
    /// The request is executed, and the response is HTTP 200 with XML that stops in the middle.
    WrongXml,
    /// `ErrorServerBusy` in a SOAP fault (HTTP 500). Not executed.
    ServerBusy {
        /// `BackOffMilliseconds`, written as it is, without regard to the speed; `None` leaves it
        /// out.
        back_off: Option<Duration>,
    },
    /// HTTP 200 in which every member has `ErrorServerBusy`. Not executed.
    ServerBusyMessages {
        /// As for [`Fault::ServerBusy`].
        back_off: Option<Duration>,
    },
    /// HTTP 200 in which every member has `ErrorInternalServerError` with an inner
    /// `ErrorServerBusy`. Not executed.
    InnerServerBusy,
    /// HTTP 200 in which every member has this response code. Not executed.
    Code(String),
    /// HTTP 200 in which every member has `ErrorTimeoutExpired`, although the first half of them
    /// was executed.
    TimeoutExpired,
    /// Some of the members, drawn from the seed, come back with `ErrorServerBusy` and are not
    /// executed; the others are. Counted where it hits a member.
    ThrottledMembers {
        /// The share of the members, 0 to 1.
        share: f64,
        /// As for [`Fault::ServerBusy`].
        back_off: Option<Duration>,
    },
    /// One member fails with this response code and is not executed; the others are, unless the
    /// code is one that stops a batch. Nothing happens to a call that has no such member.
    MemberCode {
        /// Which one, from 0.
        member: usize,
        /// Its code.
        code: String,
    },
    /// Each member takes this long.
    SlowMembers {
        /// Policy time.
        time: Duration,
    },
    /// A stream is reset some time after it has begun, with the events that are under way. Nothing happens to calls that do
    /// not hang.
    StreamReset {
        /// The time, in policy time, is drawn from the seed: this at most.
        within: Duration,
    },
    /// As `StreamReset`, but nobody is told: the stream is silent from then on, and its events are lost.
    StreamSilent {
        /// As for `StreamReset`.
        within: Duration,
    },
    /// This response. Not executed.
    Response {
        /// Its status.
        status: StatusCode,
        /// Its headers.
        headers: HeaderMap,
        /// Its body.
        body: Bytes,
    },
}

impl Fault {
    /// The name under which the report counts it.
    pub fn name(&self) -> &'static str {
        match self {
            Fault::Refused => "refused",
            Fault::ResetBefore => "reset_before",
            Fault::ResetAfter => "reset_after",
            Fault::CutBody => "cut_body",
            Fault::SlowBody { .. } => "slow_body",
            Fault::Page503 => "page_503",
            Fault::WrongXml => "wrong_xml",
            Fault::ServerBusy { .. } => "server_busy",
            Fault::ServerBusyMessages { .. } => "server_busy_messages",
            Fault::InnerServerBusy => "inner_server_busy",
            Fault::Code(_) => "code",
            Fault::TimeoutExpired => "timeout_expired",
            Fault::ThrottledMembers { .. } => "throttled_members",
            Fault::MemberCode { .. } => "member_code",
            Fault::SlowMembers { .. } => "slow_members",
            Fault::StreamReset { .. } => "stream_reset",
            Fault::StreamSilent { .. } => "stream_silent",
            Fault::Response { .. } => "response",
        }
    }
}

impl Fault {
    /// Whether it befalls a call that is executed: one that is refused before never comes to it.
    pub(super) fn befalls_execution(&self) -> bool {
        matches!(
            self,
            Fault::ResetAfter
                | Fault::CutBody
                | Fault::SlowBody { .. }
                | Fault::WrongXml
                | Fault::TimeoutExpired
                | Fault::SlowMembers { .. }
                | Fault::StreamReset { .. }
                | Fault::StreamSilent { .. }
        ) || self.befalls_members()
    }

    /// Whether it is decided member by member.
    pub(super) fn befalls_members(&self) -> bool {
        matches!(
            self,
            Fault::ThrottledMembers { .. } | Fault::MemberCode { .. }
        )
    }
}

#[derive(Clone, Debug)]
struct Rule {
    fault: Fault,
    probability: f64,
    mailbox: Option<String>,
    operation: Option<String>,
}

/// The faults that an exchange will have: by probability, by number of the call, or for the next
/// calls.
///
/// A scripted fault goes before one by number, and that before one by probability. Every
/// probability is drawn from the exchange's seed.
///
/// ```
/// use tower_ews::simulator::{Fault, Faults};
/// let faults = Faults::none()
///     .rate(Fault::ResetAfter, 0.01)
///     .rate_on("CreateItem", Fault::CutBody, 0.05)
///     .rate_on("GetItem", Fault::ThrottledMembers { share: 0.2, back_off: None }, 1.0)
///     .nth(3, Fault::Page503)
///     .next(Fault::Refused);
/// # let _ = faults;
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "builders do nothing until they are built"]
pub struct Faults {
    rules: Vec<Rule>,
    nth: BTreeMap<u64, Fault>,
    next: VecDeque<Fault>,
}

impl Faults {
    /// No fault at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// Every kind of fault that a client must survive, so that one call in `1 / share` suffers
    /// some.
    pub fn mixed(share: f64) -> Self {
        let second = Duration::from_secs(1);
        let kinds = [
            Fault::Refused,
            Fault::ResetBefore,
            Fault::ResetAfter,
            Fault::CutBody,
            Fault::SlowBody {
                frames: 4,
                pause: second / 4,
            },
            Fault::Page503,
            Fault::WrongXml,
            Fault::ServerBusy {
                back_off: Some(second),
            },
            Fault::ServerBusyMessages {
                back_off: Some(second),
            },
            Fault::InnerServerBusy,
            Fault::Code("ErrorMailboxStoreUnavailable".to_owned()),
            Fault::TimeoutExpired,
        ];
        let each = share / kinds.len() as f64;
        kinds
            .into_iter()
            .fold(Self::none(), |faults, fault| faults.rate(fault, each))
    }

    /// Every call suffers this with that probability (0 to 1). Rules are drawn in the order in
    /// which they were added.
    pub fn rate(self, fault: Fault, probability: f64) -> Self {
        self.rule(fault, probability, None, None)
    }

    /// As [`rate`](Self::rate), for one operation (`CreateItem`).
    pub fn rate_on(self, operation: impl Into<String>, fault: Fault, probability: f64) -> Self {
        self.rule(fault, probability, None, Some(operation.into()))
    }

    /// As [`rate`](Self::rate), for calls that touch this mailbox.
    pub fn rate_for(self, mailbox: impl Into<String>, fault: Fault, probability: f64) -> Self {
        self.rule(
            fault,
            probability,
            Some(mailbox.into().to_lowercase()),
            None,
        )
    }

    fn rule(
        mut self,
        fault: Fault,
        probability: f64,
        mailbox: Option<String>,
        operation: Option<String>,
    ) -> Self {
        self.rules.push(Rule {
            fault,
            probability,
            mailbox,
            operation,
        });
        self
    }

    /// The call of that number, counted from 1 over all calls of the exchange, suffers this.
    pub fn nth(mut self, number: u64, fault: Fault) -> Self {
        self.nth.insert(number, fault);
        self
    }

    /// The next call that has nothing scripted yet suffers this: calling it n times scripts n
    /// calls.
    pub fn next(mut self, fault: Fault) -> Self {
        self.next.push_back(fault);
        self
    }

    /// [`next`](Self::next) with a whole response.
    pub fn respond_next(
        self,
        status: StatusCode,
        headers: HeaderMap,
        body: impl Into<Bytes>,
    ) -> Self {
        self.next(Fault::Response {
            status,
            headers,
            body: body.into(),
        })
    }

    /// Scripts one more call of an exchange that runs already.
    pub(super) fn push(&mut self, fault: Fault) {
        self.next.push_back(fault);
    }

    /// What the call of that number suffers.
    pub(super) fn draw(
        &mut self,
        number: u64,
        operation: &str,
        mailboxes: &[String],
        rng: &mut fastrand::Rng,
    ) -> Option<Fault> {
        if let Some(fault) = self.next.pop_front() {
            return Some(fault);
        }
        if let Some(fault) = self.nth.remove(&number) {
            return Some(fault);
        }
        let suffers = |rule: &Rule| {
            rule.operation.as_ref().is_none_or(|name| name == operation)
                && rule
                    .mailbox
                    .as_ref()
                    .is_none_or(|mailbox| mailboxes.contains(mailbox))
        };
        self.rules
            .iter()
            .find(|rule| suffers(rule) && rng.f64() < rule.probability)
            .map(|rule| rule.fault.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripted_before_numbered_before_random() {
        let mut faults = Faults::none()
            .rate_for("A@contoso.com", Fault::ResetAfter, 1.0)
            .rate_on("GetItem", Fault::CutBody, 1.0)
            .nth(2, Fault::Page503)
            .next(Fault::Refused);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut draw = |number, operation: &str, mailbox: &str| {
            faults
                .draw(number, operation, &[mailbox.to_owned()], &mut rng)
                .map(|fault| fault.name())
        };
        assert_eq!(draw(1, "GetItem", "b@contoso.com"), Some("refused"));
        assert_eq!(draw(2, "GetItem", "b@contoso.com"), Some("page_503"));
        assert_eq!(draw(3, "GetItem", "b@contoso.com"), Some("cut_body"));
        assert_eq!(draw(4, "CreateItem", "a@contoso.com"), Some("reset_after"));
        assert_eq!(draw(5, "CreateItem", "b@contoso.com"), None);
    }

    #[test]
    fn rates_are_kept() {
        let mut faults = Faults::mixed(0.2);
        let mut rng = fastrand::Rng::with_seed(7);
        let hits = (0..10_000)
            .filter(|n| faults.draw(*n, "GetItem", &[], &mut rng).is_some())
            .count();
        assert!((1_700..2_200).contains(&hits), "{hits}");
    }
}
