//! The job against a simulated Exchange on a loopback socket, bare and through the stack.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};
use tower_ews::EwsStack;
use tower_ews::audit_log::AuditLogLayer;
use tower_ews::extensions::Caller;
use tower_ews::simulator::{DEFAULT_ACCOUNT, DEFAULT_PASSWORD, Exchange, Fault, Faults, Policy};

use crate::Failure;
use crate::args::{Access, Args, Usage};
use crate::audit::Audit;
use crate::client::{bounded_client, client};
use crate::job::{CONNECTIONS, Job, Outcome};
use crate::progress::{Watch, bar};
use crate::tally::{Results, Tally, grouped};

/// With `--faults`, the share of calls that suffer one.
const FAULTY: f64 = 0.05;

pub(crate) async fn run(args: &Args) -> Result<Results, Failure> {
    let policy = policy(args)?;
    if !args.json {
        print!("{}", introduction(args, &policy));
    }

    // A server of its own for each run: neither finds the other's mailboxes open or the other's budget spent.
    let (job, exchange, _server) = begin(args, &policy).await?;
    let progress = bar("bare", job.items, args.json);
    let bare = client(None).map_err(cannot_begin)?;
    let outcome = job.run(bare, Some(CONNECTIONS), &progress).await;
    progress.finish();
    let bare = tally(&job, &outcome, &exchange);

    let (job, exchange, _server) = begin(args, &policy).await?;
    let progress = bar("EwsStack", job.items, args.json);
    let stack =
        EwsStack::new(job.policy(&args.policy, args.speed)?).caller(Caller::new(DEFAULT_ACCOUNT));
    let watch = Watch::over(stack.shared_ledger().clone(), progress.clone());
    let (audit, _guard) = Audit::begin(args.audit.as_deref())?;
    let level = audit.level();
    let client = stack
        .audit_log(AuditLogLayer::new(audit).level(level))
        .service(bounded_client(None).map_err(cannot_begin)?);
    let outcome = job.run(client, None, &progress).await;
    drop(watch);
    progress.finish_with_message("");
    let stack = tally(&job, &outcome, &exchange);

    Ok(Results {
        bare: Some(bare),
        stack,
    })
}

/// The policy of that name, with a busy budget that the job exceeds: the real one is for days, not for a minute.
///
/// A payer may save up a third of the execution time that the job costs it; after that it is locked out for five
/// minutes, in which it gets as much again. The client is told nothing of this.
fn policy(args: &Args) -> Result<Policy, Usage> {
    let name = &args.policy.name;
    let policy = Policy::named(name)
        .ok_or_else(|| Usage(format!("there is no simulated server {name:?}")))?;
    let members = match args.access {
        Access::Delegate => args.items,
        Access::Impersonation => args.items.div_ceil(args.simulated_mailboxes()),
    };
    let costs = policy.member_time.as_secs_f64() * 1000.0 * members as f64;
    let saved = (costs / 3.0).ceil();
    let recharge = saved * 3600.0 / policy.lockout.as_secs_f64();
    Ok(policy.with(|policy| {
        policy.max_burst = Some(whole(saved));
        policy.cutoff_balance = 0;
        policy.recharge_rate = whole(recharge.ceil()).max(1);
        // A call during the lock-out makes it a second longer.
        policy.busy_call_cost = policy.recharge_rate.div_ceil(3600);
    }))
}

fn whole(milliseconds: f64) -> u64 {
    // Saturating, as casts from floats are.
    milliseconds as u64
}

/// Every fault that the simulator has. Hints are real time, so that the speed has to be put into them here.
fn faults(speed: f64) -> Faults {
    let minute = Duration::from_secs(60);
    let back_off = Some(minute.div_f64(speed));
    let kinds = [
        Fault::Refused,
        Fault::ResetBefore,
        Fault::ResetAfter,
        Fault::CutBody,
        Fault::SlowBody {
            frames: 4,
            pause: minute / 240,
        },
        Fault::Page503,
        Fault::WrongXml,
        Fault::ServerBusy { back_off },
        Fault::ServerBusyMessages { back_off },
        Fault::InnerServerBusy,
        Fault::Code("ErrorMailboxStoreUnavailable".to_owned()),
        Fault::TimeoutExpired,
    ];
    let each = FAULTY / kinds.len() as f64;
    kinds
        .into_iter()
        .fold(Faults::none(), |faults, kind| faults.rate(kind, each))
}

async fn begin(
    args: &Args,
    policy: &Policy,
) -> Result<(Job, Exchange, tower_ews::simulator::Server), Failure> {
    let mailboxes = Args::names(args.simulated_mailboxes(), "contoso.com");
    let mut exchange = Exchange::builder()
        .policy(policy.clone())
        .speed(args.speed)
        .seed(args.seed)
        .mailboxes(&mailboxes);
    if args.faults {
        exchange = exchange.faults(faults(args.speed));
    }
    let exchange = exchange.build();
    let server = exchange
        .serve_on_loopback()
        .await
        .map_err(|error| cannot_begin(error.into()))?;
    let url: Uri = server
        .url()
        .parse()
        .map_err(|error: http::uri::InvalidUri| cannot_begin(error.into()))?;
    let credentials = STANDARD.encode(format!("{DEFAULT_ACCOUNT}:{DEFAULT_PASSWORD}"));
    let mut authorization = HeaderValue::try_from(format!("Basic {credentials}"))
        .map_err(|error| cannot_begin(error.into()))?;
    authorization.set_sensitive(true);
    let job = Job::new(args, url, authorization, mailboxes);
    Ok((job, exchange, server))
}

fn cannot_begin(error: tower::BoxError) -> Failure {
    Failure::Server(format!("the simulated server cannot be used: {error}"))
}

/// Counted where it is known: at the server.
fn tally(job: &Job, outcome: &Outcome, exchange: &Exchange) -> Tally {
    let report = exchange.report();
    let mut tally = Tally::new(job, outcome, |subject| {
        report.existing.get(subject).copied().unwrap_or(0)
    });
    let held_back = [
        "page_503",
        "server_busy",
        "server_busy_messages",
        "inner_server_busy",
    ];
    let by_fault: u64 = held_back
        .iter()
        .filter_map(|name| report.faults.get(*name))
        .sum();
    tally.throttled = report.throttled_total() + by_fault;
    tally.calls = report.calls;
    tally.peak_in_flight = report.peak();
    tally
}

fn introduction(args: &Args, policy: &Policy) -> String {
    let how = match args.access {
        Access::Delegate => "by delegate access",
        Access::Impersonation => "by impersonation",
    };
    let payer = match (args.access, policy.impersonation_copy) {
        (Access::Delegate, _) => "the account",
        (Access::Impersonation, true) => "a mailbox's impersonation copy",
        (Access::Impersonation, false) => "a mailbox's owner",
    };
    let allows = |limit: Option<u32>, what: &str| {
        limit.map_or_else(String::new, |limit| format!("  {limit} {what}\n"))
    };
    let mut text = format!(
        "{} calendar events in {} mailboxes through {DEFAULT_ACCOUNT}, {how}, {}, all at once:\n\
         bare ({CONNECTIONS} connections at most), then through EwsStack.\n\n\
         The server is a simulated {}. Its time runs {} times faster: five minutes are {:.2} s.\n\
         It allows {payer}\n",
        grouped(args.items),
        grouped(args.simulated_mailboxes()),
        match args.batch {
            1 => "one call for each".to_owned(),
            batch => format!("{} in a call at most", grouped(batch)),
        },
        args.policy.name,
        args.speed,
        300.0 / args.speed,
    );
    text += &allows(policy.max_concurrency, "calls at the same time");
    if args.access == Access::Delegate {
        text += &allows(
            policy.open_mailboxes,
            "mailboxes open, each until five minutes after its last use",
        );
    }
    text += &format!(
        "  {:.1} s of execution, then a lock-out of {:.0} s at least, in which as much is saved up again \
         (the client does not know)\n",
        policy.max_burst.unwrap_or(0) as f64 / 1000.0,
        policy.lockout.as_secs_f64(),
    );
    if args.faults {
        text += &format!(
            "and {:.0} % of all calls suffer some fault.\n",
            FAULTY * 100.0
        );
    }
    text
}
