//! The process that does the job: settles what is in doubt, makes the calls that are left, and tells how far it is.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::interval;
use tower::{BoxError, Layer, ServiceExt};
use tower_ews::account_pool::Account;
use tower_ews::body::ReplayBody;
use tower_ews::job::{Job, Journal, Past, Progress};
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::{EwsService, EwsStack};

use crate::supervise::{ACCOUNTS, PASSWORD, SPEED};
use crate::{Size, item};

type Http = Client<HttpConnector, ReplayBody>;

pub(crate) async fn run(url: &str, journal: &str, size: Size) -> Result<bool, BoxError> {
    let stack = stack()?;
    let client: Http = Client::builder(TokioExecutor::new()).build_http();

    let mut past = match File::open(journal) {
        Ok(file) => Past::read(BufReader::new(file))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Past::default(),
        Err(error) => return Err(error.into()),
    };
    settle(&mut past, &stack.service(client.clone()), url, size).await?;
    let file = OpenOptions::new().append(true).create(true).open(journal)?;
    let journal = Journal::resume(file, past);

    let service = stack.service(journal.layer().layer(client));
    let requests = (0..size.items).map(|number| {
        let (mailbox, subject) = item(number, size);
        (subject.clone(), request(url, &create(&mailbox, &subject)))
    });
    let mut results = Job::new().journal(journal).run(service, requests);
    let mut failed = 0;
    let mut ticks = interval(Duration::from_millis(50));
    loop {
        tokio::select! {
            result = results.next() => match result {
                Some(result) => {
                    let response = result.result?;
                    failed += usize::from(!says(response.body(), "NoError"));
                }
                None => break,
            },
            _ = ticks.tick() => tell(results.progress(), &stack),
        }
    }
    tell(results.progress(), &stack);
    let progress = results.progress();
    Ok(failed == 0 && progress.done + progress.skipped == size.items)
}

fn stack() -> Result<EwsStack, BoxError> {
    let policy = ThrottlingPolicy::exchange_2019().faster(SPEED);
    let accounts = ACCOUNTS.iter().map(|name| {
        let basic = STANDARD.encode(format!("{name}:{PASSWORD}"));
        let value = HeaderValue::try_from(format!("Basic {basic}"))?;
        Ok(Account::new(name).authorization(value))
    });
    let accounts: Vec<Account> = accounts.collect::<Result<_, BoxError>>()?;
    Ok(EwsStack::new(policy).accounts(accounts))
}

/// Looks for each item that is in doubt.
async fn settle(
    past: &mut Past,
    ews: &EwsService<Http>,
    url: &str,
    size: Size,
) -> Result<(), BoxError> {
    let in_doubt = past.in_doubt();
    if !in_doubt.is_empty() {
        // What the server was at work on when this process was killed ends.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for subject in in_doubt {
        let number = subject
            .rsplit(' ')
            .next()
            .and_then(|number| number.parse().ok());
        let (mailbox, subject) = item(number.ok_or("a strange key in the journal")?, size);
        let response = ews
            .clone()
            .oneshot(request(url, &find(&mailbox, &subject)))
            .await?;
        let body = response.into_body().collect().await?.to_bytes();
        if !says(&body, "NoError") {
            return Err("cannot look for what is in doubt".into());
        }
        match says(&body, "<t:Message") {
            true => past.was_executed(&subject),
            false => past.was_not_executed(&subject),
        }
        println!("settled");
    }
    Ok(())
}

/// One line for the supervisor.
fn tell(progress: Progress, stack: &EwsStack) {
    let accounts = stack.account_snapshots();
    let accounts = accounts
        .iter()
        .map(|one| format!(" {} {}", one.in_flight, one.mailboxes));
    let accounts: String = accounts.collect();
    println!(
        "progress {} {}{accounts}",
        progress.done + progress.skipped,
        progress.offered
    );
}

fn says(body: &[u8], text: &str) -> bool {
    body.windows(text.len())
        .any(|window| window == text.as_bytes())
}

fn request(url: &str, body: &str) -> Request<Full<Bytes>> {
    let body = format!(
        "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' \
         xmlns:t='http://schemas.microsoft.com/exchange/services/2006/types' \
         xmlns='http://schemas.microsoft.com/exchange/services/2006/messages'><s:Body>{body}</s:Body></s:Envelope>"
    );
    let mut request = Request::new(Full::from(body));
    *request.method_mut() = http::Method::POST;
    // A URL that makes no URI ends in an error of the client.
    *request.uri_mut() = url.parse().unwrap_or_default();
    let xml = HeaderValue::from_static("text/xml; charset=utf-8");
    request.headers_mut().insert("content-type", xml);
    request
}

fn inbox(mailbox: &str) -> String {
    format!(
        "<t:DistinguishedFolderId Id='inbox'><t:Mailbox><t:EmailAddress>{mailbox}</t:EmailAddress></t:Mailbox>\
         </t:DistinguishedFolderId>"
    )
}

fn create(mailbox: &str, subject: &str) -> String {
    format!(
        "<CreateItem MessageDisposition='SaveOnly'><SavedItemFolderId>{}</SavedItemFolderId><Items><t:Message>\
         <t:Subject>{subject}</t:Subject></t:Message></Items></CreateItem>",
        inbox(mailbox)
    )
}

fn find(mailbox: &str, subject: &str) -> String {
    format!(
        "<FindItem Traversal='Shallow'><ItemShape><t:BaseShape>IdOnly</t:BaseShape></ItemShape><Restriction><t:IsEqualTo>\
         <t:FieldURI FieldURI='item:Subject'/><t:FieldURIOrConstant><t:Constant Value='{subject}'/></t:FieldURIOrConstant>\
         </t:IsEqualTo></Restriction><ParentFolderIds>{}</ParentFolderIds></FindItem>",
        inbox(mailbox)
    )
}
