//! Several accounts in the stack, against the simulated server: delegate jobs over many mailboxes, with all accounts at work and
//! with one that is locked out, disabled, locked or refused in the middle.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_ews::account_pool::{Account, AccountPoolLayer, LeftOutReason, NoAccount};
use tower_ews::extensions::Caller;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::principal::Principal;
use tower_ews::simulator::{AccountRefusal, Exchange, Fault, OpenedBy, Payer, Policy};
use tower_ews::stack::status_of;
use tower_ews::{EwsService, EwsStack};

const CALL: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_secs(300);
const OPEN: usize = 16;

fn name(number: usize) -> String {
    format!("svc{number}@contoso.com")
}

fn password(number: usize) -> String {
    format!("secret{number}")
}

/// A server on which a mailbox is open once it was read or written.
fn exchange(accounts: usize) -> Exchange {
    let policy = Policy::exchange_online().with(|policy| {
        policy.max_burst = None;
        policy.latency = CALL / 4;
        policy.member_time = CALL - CALL / 4;
        policy.opened_by = OpenedBy::ReadsAndWrites;
    });
    let builder = Exchange::builder().policy(policy);
    let accounts = 0..accounts;
    accounts
        .fold(builder, |builder, number| {
            builder.account(name(number), password(number))
        })
        .build()
}

fn stack(accounts: usize) -> EwsStack {
    let account = |number: usize| {
        let basic = STANDARD.encode(format!("{}:{}", name(number), password(number)));
        let value = HeaderValue::try_from(format!("Basic {basic}")).unwrap();
        Account::new(&name(number)).authorization(value)
    };
    let mut policy = ThrottlingPolicy::exchange_2019();
    // All calls are offered at once, and the last of them wait for hours.
    let long = Duration::from_secs(12 * 60 * 60);
    (policy.deadline, policy.max_wait) = (long, long);
    EwsStack::new(policy).accounts((0..accounts).map(account))
}

fn create(mailbox: usize, subject: &str) -> Request<Full<Bytes>> {
    let body = format!(
        "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' \
         xmlns:t='http://schemas.microsoft.com/exchange/services/2006/types' \
         xmlns:m='http://schemas.microsoft.com/exchange/services/2006/messages'><s:Body>\
         <m:CreateItem MessageDisposition='SaveOnly'><m:SavedItemFolderId><t:DistinguishedFolderId Id='inbox'>\
         <t:Mailbox><t:EmailAddress>user{mailbox}@contoso.com</t:EmailAddress></t:Mailbox></t:DistinguishedFolderId>\
         </m:SavedItemFolderId><m:Items><t:Message><t:Subject>{subject}</t:Subject></t:Message></m:Items></m:CreateItem>\
         </s:Body></s:Envelope>"
    );
    Request::post("https://mail.contoso.com/EWS/Exchange.asmx")
        .header("content-type", "text/xml; charset=utf-8")
        .body(Full::from(body))
        .unwrap()
}

type Ews = EwsService<Exchange>;

/// Makes one call. Returns whether its item was created.
async fn ask(ews: Ews, request: Request<Full<Bytes>>) -> Result<bool, BoxError> {
    let response = ews.oneshot(request).await?;
    let body = response.into_body().collect().await?.to_bytes();
    Ok(body.windows(7).any(|text| text == b"NoError"))
}

/// The calls of a job: the same number of each mailbox, in turn.
fn job(ews: &Ews, mailboxes: usize, each: usize) -> JoinSet<Result<bool, BoxError>> {
    let mut calls = JoinSet::new();
    for round in 0..each {
        for mailbox in 0..mailboxes {
            let request = create(mailbox, &format!("item {mailbox} {round}"));
            calls.spawn(ask(ews.clone(), request));
        }
    }
    calls
}

async fn done(mut calls: JoinSet<Result<bool, BoxError>>) {
    while let Some(call) = calls.join_next().await {
        assert!(call.unwrap().unwrap());
    }
}

/// Each item was created exactly once.
fn is_whole(exchange: &Exchange, mailboxes: usize, each: usize) {
    let report = exchange.report();
    let rounds = (0..each).flat_map(|round| (0..mailboxes).map(move |at| (at, round)));
    for (mailbox, round) in rounds {
        let subject = format!("item {mailbox} {round}");
        assert_eq!(report.existing.get(&subject), Some(&1), "{subject}");
    }
    assert_eq!(report.items_created as usize, mailboxes * each);
}

/// Which accounts have called for which mailbox.
fn callers(exchange: &Exchange) -> BTreeMap<String, BTreeSet<Payer>> {
    let mut callers: BTreeMap<String, BTreeSet<Payer>> = BTreeMap::new();
    for call in exchange.calls() {
        let of_mailbox = callers.entry(call.mailboxes[0].clone()).or_default();
        of_mailbox.extend(call.payers);
    }
    callers
}

/// The least time: the mailboxes that can be open, then as many more each time that those have closed.
fn least(mailboxes: usize, accounts: usize) -> Duration {
    let rounds = mailboxes.div_ceil(OPEN * accounts) - 1;
    IDLE * u32::try_from(rounds).unwrap() + CALL
}

#[tokio::test(start_paused = true)]
async fn a_job_over_a_thousand_mailboxes_never_opens_too_many() {
    for accounts in [1, 4] {
        let exchange = exchange(accounts);
        let stack = stack(accounts);
        let ews = stack.service(exchange.clone());
        let start = Instant::now();
        done(job(&ews, 1_000, 4)).await;
        let took = start.elapsed();
        let ratio = took.as_secs_f64() / least(1_000, accounts).as_secs_f64();
        println!("{accounts} accounts: {took:?}, {ratio:.4} times the least time");
        assert!(ratio <= 1.05, "{accounts} accounts: {ratio}");
        is_whole(&exchange, 1_000, 4);
        let report = exchange.report();
        assert_eq!(report.throttled_total(), 0, "{:?}", report.throttled);
        // No mailbox was opened twice.
        assert!(
            callers(&exchange)
                .values()
                .all(|callers| callers.len() == 1)
        );
        let snapshot = stack.account_snapshots();
        assert!(
            snapshot
                .iter()
                .all(|one| one.in_flight == 0 && one.left_out.is_none())
        );
    }
}

/// What befalls one of four accounts in the middle of a job.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    LockedOut,
    Refused(AccountRefusal, LeftOutReason),
}

impl Trouble {
    fn begin(self, exchange: &Exchange) {
        let account = name(1);
        match self {
            Self::LockedOut => {
                let time = Duration::from_secs(20 * 60);
                exchange.lock_out(&Payer::Account(account), time);
            }
            Self::Refused(refusal, _) => exchange.refuse_account(&account, refusal),
        }
    }
}

/// How many calls were refused because of their account.
fn refused(exchange: &Exchange) -> usize {
    let refusals = ["401", "456", "ErrorAccountDisabled", "ErrorServerBusy"];
    let calls = exchange.calls();
    calls
        .iter()
        .filter(|call| refusals.contains(&&*call.outcome))
        .count()
}

#[tokio::test(start_paused = true)]
async fn a_job_goes_on_when_an_account_fails() {
    let troubles = [
        Trouble::LockedOut,
        Trouble::Refused(AccountRefusal::Disabled, LeftOutReason::Disabled),
        Trouble::Refused(AccountRefusal::WrongPassword, LeftOutReason::Refused),
        Trouble::Refused(AccountRefusal::Locked, LeftOutReason::Locked),
    ];
    let (mailboxes, each) = (300, 6);
    for trouble in troubles {
        let exchange = exchange(4);
        let stack = stack(4);
        let ews = stack.service(exchange.clone());
        let calls = job(&ews, mailboxes, each);
        sleep(IDLE + CALL).await;
        trouble.begin(&exchange);
        let start = Instant::now();
        done(calls).await;
        is_whole(&exchange, mailboxes, each);
        let refused = refused(&exchange);
        // Those that were under way, and one now and then that asks.
        assert!(refused <= 27 + 8, "{trouble:?}: {refused} calls refused");
        // Three accounts do what four would have done.
        let bound = least(mailboxes, 3).mul_f64(1.05) + Duration::from_secs(60);
        let took = start.elapsed();
        println!("{trouble:?}: {took:?} of {bound:?}");
        assert!(took <= bound, "{trouble:?}: {took:?} of {bound:?}");
        let snapshot = stack.account_snapshots();
        match trouble {
            Trouble::LockedOut => {
                assert!(exchange.report().calls_during_backoff <= 27);
            }
            Trouble::Refused(_, reason) => {
                let left_out = snapshot[1].left_out.clone().expect("it is told");
                assert_eq!(
                    (*left_out.reason(), left_out.caller().name()),
                    (reason, &*name(1))
                );
            }
        }
        assert!(
            snapshot
                .iter()
                .enumerate()
                .all(|(at, one)| at == 1 || one.left_out.is_none())
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_caller_is_told_when_no_account_is_left() {
    let exchange = exchange(2);
    let stack = stack(2);
    let ews = stack.service(exchange.clone());
    for number in 0..2 {
        exchange.refuse_account(&name(number), AccountRefusal::WrongPassword);
    }
    // The last word is the server's.
    let response = ews.clone().oneshot(create(0, "a")).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    // After that nothing is sent.
    let sent = exchange.report().calls;
    let error = ask(ews.clone(), create(0, "b")).await.unwrap_err();
    let none: &NoAccount = error.downcast_ref().expect("a typed error");
    assert_eq!(none.left_out().len(), 2);
    assert_eq!(status_of(&error), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(exchange.report().calls, sent);
    for number in 0..2 {
        exchange.refuse_account(&name(number), None);
    }
    sleep(Duration::from_secs(61)).await;
    assert!(ask(ews, create(0, "c")).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_disabled_mailbox_costs_no_account() {
    // Every account says the same of it, so it is not the accounts.
    let exchange = exchange(3);
    let stack = stack(3);
    let ews = stack.service(exchange.clone());
    for number in 0..3 {
        exchange.refuse_account(&name(number), AccountRefusal::Disabled);
    }
    assert!(!ask(ews.clone(), create(0, "a")).await.unwrap());
    assert_eq!(exchange.report().calls, 3);
    assert!(
        stack
            .account_snapshots()
            .iter()
            .all(|one| one.left_out.is_none())
    );
}

/// What one call takes in memory while it waits for its permit, its request of 600 bytes included.
fn bytes_of_waiting<S>(service: &S, places: usize, calls: usize) -> u64
where
    S: Service<Request<Full<Bytes>>, Error = BoxError> + Clone,
{
    let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
    let mut held: Vec<_> = (0..places)
        .map(|mailbox| Box::pin(service.clone().oneshot(create(mailbox, "held"))))
        .collect();
    for call in &mut held {
        assert!(call.as_mut().poll(context).is_pending());
    }
    let mut waiting = Vec::with_capacity(calls);
    let info = allocation_counter::measure(|| {
        for mailbox in places..places + calls {
            let mut call = Box::pin(service.clone().oneshot(create(mailbox, "waits")));
            assert!(call.as_mut().poll(context).is_pending());
            waiting.push(call);
        }
    });
    u64::try_from(info.bytes_current).unwrap() / calls as u64
}

#[tokio::test(start_paused = true)]
async fn memory_of_calls_that_wait() {
    let calls = 2_000;
    let by_caller = |request: &Request<Full<Bytes>>| {
        let caller = request.extensions().get().map(Caller::name);
        Principal::new(caller.unwrap_or_default())
    };
    for accounts in [1, 2, 4, 10] {
        let names = (0..accounts).map(name);
        let pool = names.fold(AccountPoolLayer::in_flight(4, by_caller), |pool, name| {
            pool.account(Account::new(&name))
        });
        let hangs = service_fn(async |_: Request<Full<Bytes>>| {
            std::future::pending::<Result<Response<Full<Bytes>>, BoxError>>().await
        });
        let alone = bytes_of_waiting(&pool.layer(hangs), 4 * accounts, calls);
        let ews = stack(accounts).service(exchange(accounts));
        let in_stack = bytes_of_waiting(&ews, OPEN * accounts, calls);
        let one = EwsStack::new(ThrottlingPolicy::exchange_2019())
            .caller(Caller::new(&name(0)))
            .service(exchange(accounts));
        let without = bytes_of_waiting(&one, OPEN, calls);
        println!(
            "{accounts} accounts, bytes of a call that waits: {alone} in the pool alone, {in_stack} in the stack, \
             {without} in a stack without a pool"
        );
        // It waits in the queue of each account.
        let accounts = accounts as u64;
        assert!(alone <= 7_168 + 1_024 * accounts, "{alone}");
        assert!(in_stack <= 16_384 + 1_024 * accounts, "{in_stack}");
    }
}

/// An account that works would take it, but the one before may have executed it.
#[tokio::test(start_paused = true)]
async fn a_write_whose_response_is_lost_is_not_made_with_another_account() {
    for fault in [Fault::ResetAfter, Fault::CutBody] {
        let exchange = exchange(3);
        let ews = stack(3).service(exchange.clone());
        exchange.inject(fault.clone());
        let result = ask(ews, create(0, "once")).await;
        assert!(result.is_err(), "{fault:?}: {result:?}");
        let report = exchange.report();
        assert_eq!((report.calls, report.items_created), (1, 1), "{fault:?}");
    }
}

/// The server allows fewer open mailboxes than the policy says.
#[tokio::test(start_paused = true)]
async fn accounts_that_are_full_sooner_than_known_are_found_out_once() {
    let policy = Policy::exchange_online().with(|policy| {
        policy.max_burst = None;
        policy.opened_by = OpenedBy::ReadsAndWrites;
        policy.open_mailboxes = Some(6);
    });
    let builder = (0..3).fold(Exchange::builder().policy(policy), |builder, number| {
        builder.account(name(number), password(number))
    });
    let exchange = builder.build();
    let ews = stack(3).service(exchange.clone());
    done(job(&ews, 60, 3)).await;
    is_whole(&exchange, 60, 3);
    let first = exchange.report().throttled_total();
    exchange.reset_report();
    done(job(&ews, 60, 3)).await;
    let second = exchange.report().throttled_total();
    println!("refusals of 180 calls: {first}, then {second}");
    assert!(first <= 180 && second <= 12, "{first}, {second}");
}
