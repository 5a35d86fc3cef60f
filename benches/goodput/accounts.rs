//! Jobs of several accounts: the mailboxes of a delegate job shared out, with all accounts at work and with one that fails.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Request};
use tower::ServiceExt;
use tower_ews::account_pool::Account;
use tower_ews::body::ReplayBody;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::simulator::{AccountRefusal, Exchange, OpenedBy, Payer, Policy};

use super::client::{self, Server};
use super::scenarios::{CALL, GOAL_UNTOLD, Scenario, ServerSpec, Size, in_turn, mailbox, online};
use super::{ews, oracle};

const IDLE: Duration = Duration::from_secs(300);
const OPEN: usize = 16;
const EACH: usize = 4;

/// What befalls one of the accounts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trouble {
    LockedOut(Duration),
    Refused(AccountRefusal),
}

/// The accounts of a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accounts {
    pub(super) number: usize,
    /// What befalls the last one, and when.
    pub(super) trouble: Option<(Duration, Trouble)>,
    /// The items that the job creates, each with a subject of its own.
    pub(super) items: usize,
}

fn name(number: usize) -> String {
    format!("svc{number}@contoso.com")
}

fn basic(number: usize) -> HeaderValue {
    let basic = STANDARD.encode(format!("{}:secret", name(number)));
    HeaderValue::try_from(format!("Basic {basic}")).expect("a header")
}

impl Accounts {
    pub(super) fn names(self) -> impl Iterator<Item = String> {
        (0..self.number).map(name)
    }

    /// As they are given to the stack.
    pub(super) fn pool(self) -> impl Iterator<Item = Account> {
        (0..self.number).map(|number| Account::new(&name(number)).authorization(basic(number)))
    }

    /// What a client does that knows no pool: a fixed map from mailboxes to accounts.
    pub(super) fn map(self, server: Server) -> Server {
        client::server(server.map_request(move |mut request: Request<ReplayBody>| {
            let mut hasher = DefaultHasher::new();
            let body = request.body().to_bytes();
            let mailbox = String::from_utf8_lossy(&body);
            let mailbox = mailbox.split("EmailAddress>").nth(1);
            mailbox.unwrap_or_default().hash(&mut hasher);
            let number = hasher.finish() % self.number as u64;
            let headers = request.headers_mut();
            headers.insert("authorization", basic(number as usize));
            request
        }))
    }

    /// Begins the trouble when its time has come.
    pub(super) fn begin(self, exchange: &Exchange) {
        let Some((at, trouble)) = self.trouble else {
            return;
        };
        let (exchange, last) = (exchange.clone(), name(self.number - 1));
        tokio::spawn(async move {
            tokio::time::sleep(at).await;
            match trouble {
                Trouble::LockedOut(time) => exchange.lock_out(&Payer::Account(last), time),
                Trouble::Refused(refusal) => exchange.refuse_account(&last, refusal),
            }
        });
    }
}

/// The jobs of one and of four accounts.
pub(super) fn all(size: Size) -> Vec<Scenario> {
    let at = IDLE + CALL * 3;
    let lock_out = Duration::from_secs(20 * 60);
    let back = at + lock_out;
    vec![
        scenario("o_one_account", size, 1, None, |_| OPEN),
        scenario("p_four_accounts", size, 4, None, |_| 4 * OPEN),
        scenario(
            "q_locked_out",
            size,
            4,
            Some((at, Trouble::LockedOut(lock_out))),
            |time| {
                if time < at || time > back {
                    4 * OPEN
                } else {
                    3 * OPEN
                }
            },
        ),
        failing("r_disabled", size, at, AccountRefusal::Disabled),
        failing("s_wrong_password", size, at, AccountRefusal::WrongPassword),
    ]
}

/// A job of four accounts, the last of which fails for good.
fn failing(name: &'static str, size: Size, at: Duration, refusal: AccountRefusal) -> Scenario {
    let trouble = Some((at, Trouble::Refused(refusal)));
    let open = |time| if time < at { 4 * OPEN } else { 3 * OPEN };
    scenario(name, size, 4, trouble, open)
}

fn scenario(
    name: &'static str,
    size: Size,
    number: usize,
    trouble: Option<(Duration, Trouble)>,
    open: impl Fn(Duration) -> usize,
) -> Scenario {
    let mailboxes = size.of(1_000);
    let server = online().with(|policy| policy.opened_by = OpenedBy::ReadsAndWrites);
    let turn = std::sync::atomic::AtomicUsize::new(0);
    let create = |at: usize| {
        let turn = turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let body = ews::create_item(&format!("item {turn}"), &mailbox(at));
        ews::envelope(None, &body)
    };
    let calls: Vec<_> = (0..EACH)
        .flat_map(|_| in_turn(mailboxes, 1, create))
        .collect();
    let accounts = Accounts {
        number,
        trouble,
        items: calls.len(),
    };
    let least = oracle::rounds_of(mailboxes, IDLE, open) + CALL;
    let happens = match trouble {
        None => String::new(),
        Some((_, Trouble::LockedOut(time))) => {
            format!("; one is locked out for {} s", time.as_secs())
        }
        Some((_, Trouble::Refused(AccountRefusal::Disabled))) => "; one is disabled".into(),
        Some((_, Trouble::Refused(_))) => "; the password of one is changed".into(),
    };
    let scenario = Scenario::ews(name, server.clone(), calls, least).says(
        format!(
            "{mailboxes} mailboxes through {number} accounts, an item created in each {EACH} times, all at once{happens}"
        ),
        "27 calls at a time of each account, 16 mailboxes open, each until 300 s after its last call",
    );
    scenario.with(|scenario| {
        scenario.server = ServerSpec::Ews(Box::new(server), Vec::new());
        scenario.policy = ThrottlingPolicy::exchange_2019();
        scenario.accounts = Some(accounts);
        if trouble.is_some() {
            scenario.goal = GOAL_UNTOLD;
        }
    })
}

/// What became of the items: how many there are not, and how many more than once.
pub(super) fn lost_and_twice(exchange: &Exchange, items: usize) -> (u64, u64) {
    let existing = exchange.report().existing;
    let there = |number: &usize| existing.get(&format!("item {number}")).copied();
    let lost = (0..items).filter(|number| there(number).is_none()).count();
    let twice = (0..items).filter(|number| there(number) > Some(1)).count();
    (lost as u64, twice as u64)
}

/// A server with these accounts.
pub(super) fn exchange(policy: Policy, accounts: Accounts, seed: u64) -> Exchange {
    let builder = Exchange::builder().policy(policy).seed(seed);
    let names = accounts.names();
    names
        .fold(builder, |builder, name| builder.account(name, "secret"))
        .build()
}
