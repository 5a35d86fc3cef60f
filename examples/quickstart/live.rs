//! The job against any EWS server, through the stack only, counted as far as a client can.

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower::{BoxError, Service, ServiceExt};
use tower_ews::EwsStack;
use tower_ews::audit_log::AuditLogLayer;
use tower_ews::extensions::Caller;
use tower_ews::soap::{CodeClass, ResponseCode};

use crate::Failure;
use crate::args::{Args, Usage};
use crate::audit::Audit;
use crate::client::{bounded_client, client};
use crate::ews;
use crate::job::Job;
use crate::progress::{Watch, bar};
use crate::tally::{Results, Tally, grouped};

/// How long the server has for the first call, which nothing resends.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a call that only reads is tried, if its response does not come whole.
const LOOKS: usize = 3;

pub(crate) async fn run(args: &Args) -> Result<Results, Failure> {
    let url = args
        .url
        .clone()
        .ok_or_else(|| Usage("--url is missing".to_owned()))?;
    let mailboxes = mailboxes(args)?;
    let (account, authorization) = credentials()?;
    let roots = env::var("EWS_CA_FILE").ok();
    let roots = roots.as_deref().filter(|file| !file.is_empty());
    let job = Job::new(args, url, authorization, mailboxes);
    let unusable = |error: BoxError| {
        Usage(match roots {
            Some(file) => format!("EWS_CA_FILE {file:?} gives no root certificates: {error}"),
            None => format!("TLS cannot be set up: {error}"),
        })
    };
    let bare = client(roots).map_err(unusable)?;
    look(&job, bare).await?;
    if !args.json {
        println!(
            "{} calendar events in {} mailboxes of {} through EwsStack, policy {}{}.\n\
             Their subjects begin with {:?}.",
            grouped(job.items),
            grouped(job.mailboxes.len()),
            job.url
                .authority()
                .map_or("", |authority| authority.as_str()),
            args.policy.name,
            if args.speed == 1.0 {
                String::new()
            } else {
                format!(", its times divided by {}", args.speed)
            },
            job.name,
        );
    }

    let progress = bar("EwsStack", job.items, args.json);
    let stack = EwsStack::new(job.policy(&args.policy, args.speed)?).caller(Caller::new(&account));
    let watch = Watch::over(stack.shared_ledger().clone(), progress.clone());
    let (audit, _guard) = Audit::begin(args.audit.as_deref())?;
    let level = audit.level();
    let client = stack
        .audit_log(AuditLogLayer::new(audit).level(level))
        .service(bounded_client(roots).map_err(unusable)?);
    let outcome = job.run(client.clone(), None, &progress).await;
    let peak = watch.peak();
    drop(watch);
    progress.finish_with_message("");

    let progress = bar("counting", job.mailboxes.len(), args.json);
    let mut found: HashMap<String, u64> = HashMap::new();
    for mailbox in &job.mailboxes {
        let subjects = subjects(&job, client.clone(), mailbox)
            .await
            .map_err(|why| {
                Failure::Server(format!(
                    "the job has run, but the calendar of {mailbox} cannot be counted: {why}"
                ))
            })?;
        for subject in subjects {
            *found.entry(subject).or_default() += 1;
        }
        progress.inc(1);
    }
    progress.finish();
    let mut stack = Tally::new(&job, &outcome, |subject| {
        found.get(subject).copied().unwrap_or(0)
    });
    stack.peak_in_flight = peak;
    Ok(Results { bare: None, stack })
}

/// The account's name, and what stands for it in each request.
fn credentials() -> Result<(String, HeaderValue), Usage> {
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let user = variable("EWS_USER");
    let (account, value) = match (variable("EWS_TOKEN"), user, variable("EWS_PASSWORD")) {
        (Some(token), user, _) => (
            user.unwrap_or_else(|| "the calling account".to_owned()),
            format!("Bearer {token}"),
        ),
        (None, Some(user), Some(password)) => {
            let basic = STANDARD.encode(format!("{user}:{password}"));
            (user, format!("Basic {basic}"))
        }
        _ => {
            return Err(Usage(
                "--url needs credentials in the environment: EWS_USER and EWS_PASSWORD, or EWS_TOKEN"
                    .to_owned(),
            ));
        }
    };
    let mut value = HeaderValue::try_from(value)
        .map_err(|_| Usage("EWS_TOKEN holds characters that no header takes".to_owned()))?;
    value.set_sensitive(true);
    Ok((account, value))
}

/// The mailboxes that are named; the first ones of them if a number was asked for.
fn mailboxes(args: &Args) -> Result<Vec<String>, Usage> {
    let mut mailboxes = args.mailbox.clone();
    if mailboxes.is_empty() {
        let listed = env::var("EWS_MAILBOXES").unwrap_or_default();
        mailboxes.extend(listed.split(',').map(|mailbox| mailbox.trim().to_owned()));
    }
    mailboxes.retain(|mailbox| !mailbox.is_empty());
    if let (true, Some(count)) = (mailboxes.is_empty(), args.mailboxes) {
        let user = env::var("EWS_USER").unwrap_or_default();
        if let Some((_, domain)) = user.split_once('@') {
            mailboxes = Args::names(count, domain);
        }
    }
    // Counting one twice would find its events twice.
    mailboxes.sort_by_key(|mailbox| mailbox.to_lowercase());
    mailboxes.dedup_by_key(|mailbox| mailbox.to_lowercase());
    if let Some(wrong) = mailboxes.iter().find(|mailbox| !mailbox.contains('@')) {
        return Err(Usage(format!("{wrong:?} is no SMTP address of a mailbox")));
    }
    if mailboxes.is_empty() {
        return Err(Usage(
            "--url needs mailboxes: --mailbox ADDRESS, repeated, or EWS_MAILBOXES in the environment, or \
             --mailboxes N with an EWS_USER that has a domain"
                .to_owned(),
        ));
    }
    let count = args.mailboxes.unwrap_or(mailboxes.len());
    if count > mailboxes.len() {
        return Err(Usage(format!(
            "--mailboxes {count}, but only {} are named",
            mailboxes.len()
        )));
    }
    mailboxes.truncate(count);
    Ok(mailboxes)
}

/// Looks for one calendar first, without the stack, so that what no waiting can cure is told at once.
async fn look<S, B>(job: &Job, client: S) -> Result<(), Failure>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let Some(mailbox) = job.mailboxes.first() else {
        return Ok(());
    };
    let mut why = String::new();
    for _ in 0..LOOKS {
        let called = call(
            client.clone(),
            job.post(ews::get_folder(job.access, mailbox)),
        );
        let responded = tokio::time::timeout(STALL_TIMEOUT, called).await;
        why = match responded {
            Err(_) => format!("no response within {} s", STALL_TIMEOUT.as_secs()),
            Ok(Err(error)) => {
                let text = chain(error.as_ref());
                let never_connected = error
                    .downcast_ref::<hyper_util::client::legacy::Error>()
                    .is_some_and(hyper_util::client::legacy::Error::is_connect);
                if never_connected {
                    return Err(refused(job, &format!("it cannot be reached: {text}")));
                }
                text
            }
            Ok(Ok((StatusCode::UNAUTHORIZED, _))) => {
                return Err(refused(
                    job,
                    "it does not accept the credentials (HTTP 401); \
                     this example speaks Basic and Bearer, not NTLM and Kerberos",
                ));
            }
            Ok(Ok((StatusCode::FORBIDDEN, _))) => {
                return Err(refused(
                    job,
                    "it refuses this account (HTTP 403): EWS is switched off for it, \
                     or its application is not allowed",
                ));
            }
            Ok(Ok((_, Some(response)))) if is_final(&response) => {
                let code = response.code();
                return Err(refused(
                    job,
                    &format!("it does not give the calendar of {mailbox}: {code}"),
                ));
            }
            // Busy, perhaps: that is what the stack is for.
            Ok(Ok((_, Some(_)))) => return Ok(()),
            Ok(Ok((status, None))) if status.is_server_error() => return Ok(()),
            Ok(Ok((status, None))) => {
                format!("it does not respond as EWS does (HTTP {})", status.as_u16())
            }
        };
    }
    Err(refused(job, &why))
}

fn refused(job: &Job, why: &str) -> Failure {
    Failure::Server(format!("{}: {why}", job.url))
}

fn is_final(response: &ews::EwsResponse) -> bool {
    !response.success() && ResponseCode::from_text(response.code()).class() == CodeClass::Permanent
}

/// The subjects of this run's events in one calendar.
async fn subjects<S, B>(job: &Job, client: S, mailbox: &str) -> Result<Vec<String>, String>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut subjects = Vec::new();
    loop {
        let page = page(job, &client, mailbox, subjects.len()).await?;
        let rows = page.subjects.len();
        subjects.extend(page.subjects);
        if page.last_page {
            return Ok(subjects);
        }
        if rows == 0 {
            return Err("a page without rows that is not the last one".to_owned());
        }
    }
}

async fn page<S, B>(
    job: &Job,
    client: &S,
    mailbox: &str,
    offset: usize,
) -> Result<ews::EwsResponse, String>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut why = String::new();
    for _ in 0..LOOKS {
        let soap = ews::find_item(job.access, mailbox, &job.name, offset);
        why = match call(client.clone(), job.post(soap)).await {
            Ok((_, Some(page))) if page.success() => return Ok(page),
            Ok((_, Some(page))) => page.code().to_owned(),
            Ok((status, None)) => format!("HTTP {}", status.as_u16()),
            Err(error) => chain(error.as_ref()),
        };
    }
    Err(why)
}

/// One call with its whole response; `None` if that is not SOAP.
async fn call<S, B>(
    client: S,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Option<ews::EwsResponse>), BoxError>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let response = client.oneshot(request).await.map_err(Into::into)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(Into::into)?;
    Ok((status, ews::read(&body.to_bytes()).ok()))
}

/// An error and all that is behind it.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}
