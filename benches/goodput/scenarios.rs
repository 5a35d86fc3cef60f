//! The jobs: what is offered, what the server allows, and what the client is told of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::principal::Budget;
use tower_ews::simulator::{DEFAULT_ACCOUNT, Exchange, GraphPolicy, OpenedBy, OtherClient, Policy};

use super::accounts::Accounts;
use super::job::{Counts, Ready};
use super::{accounts, client, ews, graph, oracle};

/// How large the jobs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Full,
    /// Jobs of seconds, for a smoke test.
    Quick,
}

impl Size {
    /// A number of the full job, and the tenth of it of the quick one.
    pub(super) fn of(self, number: usize) -> usize {
        match self {
            Self::Full => number,
            Self::Quick => number.div_ceil(10),
        }
    }
}

/// What a call does.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Once(Bytes),
    /// Reads the inbox of a mailbox page by page.
    Pages {
        mailbox: String,
        size: usize,
    },
}

/// One call of a job.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) uri: Arc<str>,
    pub(super) work: Work,
    /// When it is offered.
    pub(super) at: Duration,
    /// How long after the server took it up its caller gives it up.
    pub(super) gives_up: Option<Duration>,
    /// Whether somebody waits for it while the job is done.
    pub(super) of_a_person: bool,
    /// How long it takes without waiting.
    pub(super) lasts: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Api {
    Ews,
    Graph,
}

/// A server before it is there.
pub(super) enum ServerSpec {
    /// With what it holds, as the requests that create it.
    Ews(Box<Policy>, Vec<Bytes>),
    Graph(GraphPolicy),
}

impl ServerSpec {
    pub(super) async fn ready(&self, accounts: Option<Accounts>, seed: u64) -> Ready {
        let (policy, content) = match self {
            Self::Graph(limits) => return graph::ready(limits.clone()),
            Self::Ews(policy, content) => (policy, content),
        };
        let exchange = match accounts {
            Some(known) => accounts::exchange((**policy).clone(), known, seed),
            None => Exchange::builder()
                .policy((**policy).clone())
                .anonymous(DEFAULT_ACCOUNT)
                .seed(seed)
                .build(),
        };
        let server = client::server(exchange.clone());
        for body in content {
            let request = http::Request::post(EWS)
                .body(body.clone().into())
                .expect("a request");
            let response = tower::ServiceExt::oneshot(server.clone(), request).await;
            assert_eq!(response.expect("a response").status(), 200);
        }
        exchange.reset_report();
        if let Some(accounts) = accounts {
            accounts.begin(&exchange);
        }
        Ready {
            server,
            counts: Box::new(move || {
                let report = exchange.report();
                Counts {
                    calls: report.calls,
                    throttled: report.throttled_total(),
                    lost_and_twice: accounts
                        .map(|known| accounts::lost_and_twice(&exchange, known.items)),
                }
            }),
        }
    }
}

/// A job and its server.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) offers: String,
    pub(super) hidden: String,
    pub(super) least: Duration,
    /// The most that a client may take, as a multiple of the least time.
    pub(super) goal: f64,
    pub(super) api: Api,
    pub(super) server: ServerSpec,
    /// What the client is told.
    pub(super) policy: ThrottlingPolicy,
    pub(super) calls: Arc<[Call]>,
    /// How many calls are offered at the same time.
    pub(super) at_once: usize,
    /// When the client is killed and started again.
    pub(super) killed_at: Option<Duration>,
    /// Where there are several.
    pub(super) accounts: Option<Accounts>,
}

const GOAL: f64 = 1.05;
/// The same where the client is not told the limits, or shares them.
pub(super) const GOAL_UNTOLD: f64 = 1.15;

const EWS: &str = "https://ews.invalid/EWS/Exchange.asmx";
const WAY: Duration = Duration::from_millis(20);
pub(super) const CALL: Duration = Duration::from_millis(100);

impl Scenario {
    pub(super) fn known_concurrency(&self) -> usize {
        let known = self.policy.in_flight(Budget::Concurrency);
        known.map_or(usize::MAX >> 4, |known| known as usize)
    }

    /// As long as the job needs, and as long again, and an hour.
    pub(super) fn deadline(&self) -> Duration {
        self.least * 2 + Duration::from_secs(3600)
    }

    pub(super) fn ews(
        name: &'static str,
        server: Policy,
        calls: Vec<Call>,
        least: Duration,
    ) -> Self {
        let scenario = Self {
            name,
            offers: String::new(),
            hidden: String::new(),
            least,
            goal: GOAL,
            api: Api::Ews,
            server: ServerSpec::Ews(Box::new(server), Vec::new()),
            policy: ThrottlingPolicy::exchange_online(),
            calls: calls.into(),
            at_once: usize::MAX,
            killed_at: None,
            accounts: None,
        };
        scenario.with(|_| {})
    }

    /// Changes it, and makes room for the job in the client.
    pub(super) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        let deadline = self.deadline();
        (self.policy.deadline, self.policy.max_wait) = (deadline, deadline);
        self.policy.max_queued = 1_000_000;
        self
    }

    pub(super) fn says(mut self, offers: impl Into<String>, hidden: impl Into<String>) -> Self {
        (self.offers, self.hidden) = (offers.into(), hidden.into());
        self
    }
}

/// All jobs, in the order of their letters.
pub(super) fn all(size: Size) -> Vec<Scenario> {
    let mut all = vec![
        impersonation(size),
        delegate(size),
        busy("c_busy_known", Duration::ZERO, size),
        busy("c_busy_known_far", WAY, size),
        busy("d_busy_unknown", WAY, size),
        messages(size),
        find_budget(size),
        half(size),
        other_client(size),
        mixed(size),
        interactive(size),
        graph_requests(size),
        restart(size),
        given_up(size),
        small_folders(),
    ];
    all.extend(accounts::all(size));
    all
}

/// A server with the documented numbers but for those that a row is about; calls take 100 ms, evenly spread around it.
pub(super) fn online() -> Policy {
    Policy::exchange_online().with(|policy| {
        policy.max_burst = None;
        policy.latency = WAY;
        policy.member_time = CALL - WAY;
    })
}

fn call(body: Bytes) -> Call {
    Call {
        uri: EWS.into(),
        work: Work::Once(body),
        at: Duration::ZERO,
        gives_up: None,
        of_a_person: false,
        lasts: CALL,
    }
}

/// Calls of one kind.
fn calls(number: usize, body: &Bytes) -> impl Iterator<Item = Call> + use<> {
    std::iter::repeat_n(call(body.clone()), number)
}

fn own() -> Bytes {
    ews::envelope(None, &ews::get_folder(None))
}

pub(super) fn mailbox(number: usize) -> String {
    format!("user{number}@contoso.com")
}

fn impersonated(number: usize) -> Bytes {
    ews::envelope(Some(&mailbox(number)), &ews::get_folder(None))
}

/// In the order of the first call of each, then of the second, ...: as it comes where many work at the same time.
pub(super) fn in_turn(mailboxes: usize, each: usize, body: impl Fn(usize) -> Bytes) -> Vec<Call> {
    let bodies: Vec<Bytes> = (0..mailboxes).map(body).collect();
    let round = || bodies.iter().map(|body| call(body.clone()));
    (0..each).flat_map(|_| round()).collect()
}

fn impersonation(size: Size) -> Scenario {
    let (mailboxes, each) = (size.of(1_000), 108);
    let server = online().with(|policy| policy.jitter = 0.0);
    let calls = in_turn(mailboxes, each, impersonated);
    let least = oracle::rounds(each, CALL, 27);
    Scenario::ews("a_impersonation", server, calls, least).says(
        format!("{mailboxes} mailboxes, {each} calls of 100 ms each, all at once"),
        "27 calls at a time for each mailbox's copy",
    )
}

fn delegate(size: Size) -> Scenario {
    let (mailboxes, each) = (size.of(1_000), 4);
    let server = online().with(|policy| policy.opened_by = OpenedBy::ReadsAndWrites);
    let body = |number| {
        let mailbox = mailbox(number);
        ews::envelope(None, &ews::get_folder(Some(&mailbox)))
    };
    let calls = in_turn(mailboxes, each, body);
    let least = oracle::mailboxes(mailboxes, 16, Duration::from_secs(300), CALL);
    let scenario = Scenario::ews("b_delegate", server, calls, least).says(
        format!("{mailboxes} mailboxes through one account, {each} calls each, all at once"),
        "27 calls at a time, 16 mailboxes open, each until 300 s after its last call",
    );
    scenario.with(|scenario| scenario.policy = ThrottlingPolicy::exchange_2019())
}

fn busy(name: &'static str, way: Duration, size: Size) -> Scenario {
    let number = 2_400;
    let milliseconds = |number: usize| Duration::from_millis(size.of(number) as u64);
    let lasts = milliseconds(2_000);
    let (burst, cutoff) = (milliseconds(300_000), milliseconds(3_000_000));
    let per_hour = Duration::from_secs(900);
    let server = Policy::exchange_online().with(|policy| {
        policy.latency = way;
        policy.member_time = lasts;
        policy.max_burst = Some(burst.as_millis() as u64);
        policy.cutoff_balance = cutoff.as_millis() as u64;
        policy.recharge_rate = per_hour.as_millis() as u64;
        policy.lockout = milliseconds(300_000);
    });
    let calls = calls(number, &own()).collect();
    let least = oracle::busy((number, lasts, 27), burst, cutoff, per_hour);
    let scenario = Scenario::ews(name, server, calls, least).says(
        format!("{number} calls of {} s of one account, all at once", lasts.as_secs_f64()),
        format!(
            "27 calls at a time, {} s of execution saved, {} s more before a lock-out of {} s or longer, 900 s back in an \
             hour; members are held up for as much as 500 ms before; {} ms on the way, which no client can tell from execution",
            burst.as_secs(),
            cutoff.as_secs(),
            milliseconds(300_000).as_secs(),
            way.as_millis()
        ),
    );
    scenario.with(|scenario| {
        if !way.is_zero() {
            scenario.goal = GOAL_UNTOLD;
        }
        if !name.ends_with("unknown") {
            let number = |time: Duration| time.as_millis() as u32;
            let told =
                scenario
                    .policy
                    .set_busy_time(number(burst), number(per_hour), number(cutoff));
            told.expect("a busy budget");
        }
    })
}

fn messages(size: Size) -> Scenario {
    let number = size.of(2_000);
    let server = online().with(|policy| {
        policy.message_rate = Some(30);
        policy.message_rate_refuses = true;
    });
    let body = ews::envelope(None, &ews::send_message());
    let calls = calls(number, &body).collect();
    let least = oracle::windows(number, 30, Duration::from_secs(60), CALL, 27);
    Scenario::ews("e_messages", server, calls, least).says(
        format!("{number} messages of one account to one recipient each, all at once"),
        "30 messages within any minute; more are refused, so that they can be counted",
    )
}

fn interactive(size: Size) -> Scenario {
    let (bulk, people) = (size.of(27_000), size.of(100));
    let server = online().with(|policy| policy.jitter = 0.0);
    let mut all: Vec<Call> = calls(bulk, &own()).collect();
    // Each at another moment between the ends of two rounds.
    all.extend((0..people).map(|second| Call {
        at: Duration::from_millis(1_000 * second as u64 + 37 * second as u64 % 100),
        of_a_person: true,
        ..call(own())
    }));
    let least = oracle::rounds(all.len(), CALL, 27);
    Scenario::ews("j_interactive", server, all, least).says(
        format!(
            "{bulk} calls of one account, all at once, and one call of a person in each second"
        ),
        "27 calls at a time",
    )
}

fn find_budget(size: Size) -> Scenario {
    let (folders, items, page) = (8, size.of(10_000), 250);
    let mailboxes: Vec<String> = (0..folders).map(mailbox).collect();
    let content = mailboxes.iter().flat_map(|mailbox| {
        let body = ews::envelope(Some(mailbox), &ews::create_items("inbox", None, 1_000));
        std::iter::repeat_n(body, items.div_ceil(1_000))
    });
    let content = content.collect();
    let calls = mailboxes.iter().map(|mailbox| Call {
        work: Work::Pages {
            mailbox: mailbox.clone(),
            size: page,
        },
        ..call(Bytes::new())
    });
    let calls = calls.collect();
    // The content is created in batches of a thousand.
    let server = online().with(|policy| policy.batch_limit = None);
    let least = oracle::in_flight(folders * items / page, CALL, 1_000 / page as u32);
    let scenario = Scenario::ews("f_find_budget", server.clone(), calls, least).says(
        format!(
            "{folders} folders of {items} items of one account, in pages of {page}, all at once"
        ),
        "1,000 rows in memory",
    );
    scenario.with(|scenario| scenario.server = ServerSpec::Ews(Box::new(server), content))
}

fn half(size: Size) -> Scenario {
    let number = size.of(13_000);
    let server = online().with(|policy| policy.max_concurrency = Some(13));
    let calls = calls(number, &own()).collect();
    let least = oracle::in_flight(number, CALL, 13);
    let scenario = Scenario::ews("g_half", server, calls, least).says(
        format!("{number} calls of one account, all at once"),
        "13 calls at a time, where the policy says 27",
    );
    scenario.with(|scenario| scenario.goal = GOAL_UNTOLD)
}

fn other_client(size: Size) -> Scenario {
    let number = size.of(40_000);
    let other = OtherClient {
        period: Duration::from_secs(30),
        calls: 14,
        execution: 0.0,
    };
    let server = online().with(|policy| policy.other_client = Some(other));
    let calls = calls(number, &own()).collect();
    let least = oracle::beside(number, CALL, 27, other);
    let scenario = Scenario::ews("h_other_client", server, calls, least).says(
        format!("{number} calls of one account, all at once"),
        "27 calls at a time, of which another application has 14 for 30 s, and none for the next 30 s",
    );
    scenario.with(|scenario| scenario.goal = GOAL_UNTOLD)
}

fn mixed(size: Size) -> Scenario {
    let (own_calls, of_mailboxes, each, syncs) = (size.of(6_000), 16, size.of(250), size.of(500));
    let (copies, of_copy, leaving) = (40, 50, size.of(500));
    let delegate = |number: usize| {
        let mailbox = mailbox(number);
        ews::envelope(None, &ews::get_folder(Some(&mailbox)))
    };
    let leaving_body = |number: usize| {
        let other = mailbox(number % of_mailboxes);
        ews::envelope(
            Some(&mailbox(100 + number % copies)),
            &ews::get_folder(Some(&other)),
        )
    };
    let mut all: Vec<Call> = calls(own_calls, &own()).collect();
    all.extend(calls(syncs, &ews::envelope(None, &ews::sync_hierarchy())));
    all.extend(in_turn(of_mailboxes, each, delegate));
    all.extend(in_turn(copies, of_copy, |number| {
        impersonated(100 + number)
    }));
    all.extend((0..leaving).map(|number| call(leaving_body(number))));
    fastrand::Rng::with_seed(1).shuffle(&mut all);
    // The account pays for all calls but those that stay in the mailbox that they impersonate.
    let of_account = own_calls + syncs + of_mailboxes * each + leaving;
    let least = oracle::in_flight(of_account, CALL, 27);
    let least = least.max(oracle::in_flight(syncs, CALL, 5));
    let server = online().with(|policy| policy.opened_by = OpenedBy::ReadsAndWrites);
    let scenario = Scenario::ews("i_mixed", server, all, least).says(
        format!(
            "{own_calls} calls of an account to its own mailbox, {syncs} of SyncFolderHierarchy, {} to {of_mailboxes} mailboxes of \
             others, {} by impersonation of {copies}, {leaving} that impersonate one mailbox and open another, shuffled, all at once",
            of_mailboxes * each,
            copies * of_copy
        ),
        "27 calls at a time for the account and each copy, 5 synchronisations, 16 mailboxes open",
    );
    scenario.with(|scenario| scenario.policy = ThrottlingPolicy::exchange_online())
}

fn graph_requests(size: Size) -> Scenario {
    let (mailboxes, number) = (4, size.of(100_000));
    let mut limits = GraphPolicy::outlook();
    // So that the quick job comes to the same limit.
    let (requests, period) = (size.of(10_000), Duration::from_secs(size.of(600) as u64));
    limits.requests = (requests as u64, period);
    let each = number / mailboxes;
    let all = (0..number).map(|at| Call {
        uri: format!(
            "https://graph.invalid/v1.0/users/user{}@contoso.com/messages",
            at % mailboxes
        )
        .into(),
        ..call(Bytes::from_static(b"{}"))
    });
    let (lasts, at_a_time) = (limits.request_time, limits.at_a_time);
    let least = oracle::windows(each, requests, period, lasts, at_a_time);
    let scenario = Scenario::ews("k_graph", online(), all.collect(), least).says(
        format!("{number} requests in {mailboxes} mailboxes, all at once"),
        format!(
            "4 requests at a time in a mailbox, {requests} within any {} s",
            period.as_secs()
        ),
    );
    scenario.with(|scenario| {
        scenario.api = Api::Graph;
        scenario.server = ServerSpec::Graph(limits);
        scenario.policy = ThrottlingPolicy::graph_outlook();
    })
}

/// A server whose calls take a second, so that it is noticed what becomes of one.
fn slow() -> (Policy, Duration) {
    let lasts = Duration::from_secs(1);
    let server = online().with(|policy| policy.member_time = lasts - WAY);
    (server, lasts)
}

fn restart(size: Size) -> Scenario {
    let number = size.of(8_100);
    let (server, lasts) = slow();
    let calls = calls(number, &own()).collect();
    // What runs when the client is killed is done twice.
    let least = oracle::in_flight(number + 27, lasts, 27);
    let scenario = Scenario::ews("l_restart", server, calls, least).says(
        format!("{number} calls of 1 s of one account, all at once; killed after half of them, and what is left offered again"),
        "27 calls at a time; calls of the killed client run to their end",
    );
    scenario.with(|scenario| scenario.killed_at = Some(least / 2 + lasts / 2))
}

fn given_up(size: Size) -> Scenario {
    let number = size.of(8_100);
    let (server, lasts) = slow();
    let calls = calls(number, &own()).enumerate().map(|(at, call)| Call {
        gives_up: (at % 10 == 9).then_some(lasts / 2),
        ..call
    });
    let calls = calls.collect();
    let least = oracle::in_flight(number, lasts, 27);
    Scenario::ews("m_given_up", server, calls, least).says(
        format!("{number} calls of 1 s of one account, all at once; each tenth is given up half a second after the server took it up"),
        "27 calls at a time; calls that were given up run to their end",
    )
}

fn small_folders() -> Scenario {
    let names = ["inbox", "drafts", "calendar", "contacts", "tasks"];
    let content = names.map(|name| ews::envelope(None, &ews::create_items(name, None, 10)));
    let (each, at_once) = (10, 10);
    let body = |at: usize| ews::envelope(None, &ews::find_items(names[at], None, None));
    let calls = in_turn(names.len(), each, body);
    let server = online().with(|policy| policy.jitter = 0.0);
    let least = oracle::rounds(calls.len(), CALL, at_once as u32);
    let scenario = Scenario::ews("n_small_folders", server.clone(), calls, least).says(
        format!("FindItem without a page, {each} times for each of {} folders of 10 items, {at_once} at once", names.len()),
        "1,000 rows in memory",
    );
    scenario.with(|scenario| {
        scenario.server = ServerSpec::Ews(Box::new(server), content.to_vec());
        scenario.at_once = at_once;
    })
}
