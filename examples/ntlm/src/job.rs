//! A job of two accounts at once, through one stack, whose credentials are put on by account.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::BodyExt;
use tower::{BoxError, ServiceExt};
use tower_ews::EwsStack;
use tower_ews::audit_log::{AuditLogLayer, Level, MemorySink, Record};
use tower_ews::extensions::Caller;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::simulator::Exchange;
use tower_ews::stack::{EwsClient, EwsService};

use crate::ntlm_client;
use crate::server::{MEANS, Options, Server};

/// How much faster than real ones the simulator's limits and waits are.
const SPEED: f64 = 60.0;

/// The accounts, and their passwords.
pub fn accounts() -> HashMap<String, String> {
    let account = |name: &str, password: &str| (format!("contoso\\{name}"), password.to_owned());
    [account("svc-a", "Räuber-7"), account("svc-b", "pass:word")].into()
}

/// Starts a server for [`accounts`] that forgets logins and closes connections like a real one, only sooner.
pub async fn server() -> Result<Server, BoxError> {
    let mut exchange = Exchange::builder().speed(SPEED);
    for (name, password) in accounts() {
        exchange = exchange.account(name, password);
    }
    Server::start(Options {
        accounts: accounts(),
        calls_per_login: 7,
        calls_per_connection: 20,
        exchange: exchange.build(),
    })
    .await
}

/// The stack over NTLM, with the password of each caller, and a record of each call.
pub fn stack(
    server: &Server,
    passwords: HashMap<String, String>,
    log: MemorySink,
) -> EwsService<impl EwsClient> {
    let mut policy = ThrottlingPolicy::exchange_se().faster(SPEED);
    // The machine does not get faster.
    policy.attempt_timeout = Duration::from_secs(100);
    EwsStack::new(policy)
        .credentials(move |caller| {
            let password = passwords.get(caller.name()).cloned();
            async move { basic(caller.name(), &password.ok_or("no password")?) }
        })
        .audit_log(AuditLogLayer::new(log).level(Level::Summary))
        .service(ntlm_client(server.trusting()))
}

/// A call of `account` that creates an event.
pub fn create(server: &Server, account: &str, n: usize) -> Request<String> {
    Request::post(server.url())
        .header("content-type", "text/xml; charset=utf-8")
        .header(MEANS, account)
        .extension(Caller::new(account))
        .body(event(n))
        .expect("a request")
}

/// Creates `items` events at once, by turns as one account and the other. Returns the record of each call.
///
/// # Errors
///
/// The first one that a call ends with, a response other than 200 included.
pub async fn run(server: &Server, items: usize) -> Result<Vec<Record>, BoxError> {
    let log = MemorySink::new();
    let stack = stack(server, accounts(), log.clone());
    let names: Vec<String> = accounts().into_keys().collect();
    let calls = (0..items).map(|n| {
        let call = stack.clone().oneshot(create(server, &names[n % 2], n));
        tokio::spawn(async move {
            let response = call.await?;
            let status = response.status();
            response.into_body().collect().await?;
            match status {
                StatusCode::OK => Ok(()),
                status => Err(BoxError::from(format!("event {n} came back with {status}"))),
            }
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await??;
    }
    Ok(log.records())
}

/// What [`ntlm_client`] takes user and password from.
fn basic(account: &str, password: &str) -> Result<HeaderValue, BoxError> {
    let text = STANDARD.encode(format!("{account}:{password}"));
    Ok(HeaderValue::try_from(format!("Basic {text}"))?)
}

fn event(n: usize) -> String {
    format!(
        r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"
             xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types"
             xmlns="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Body>
           <CreateItem SendMeetingInvitations="SendToNone"><SavedItemFolderId>
             <t:DistinguishedFolderId Id="calendar"><t:Mailbox>
               <t:EmailAddress>user{}@contoso.com</t:EmailAddress>
             </t:Mailbox></t:DistinguishedFolderId></SavedItemFolderId>
             <Items><t:CalendarItem><t:Subject>event {n}</t:Subject>
               <t:Start>2030-01-07T09:00:00Z</t:Start><t:End>2030-01-07T09:30:00Z</t:End>
             </t:CalendarItem></Items></CreateItem></s:Body></s:Envelope>"#,
        n % 8
    )
}
