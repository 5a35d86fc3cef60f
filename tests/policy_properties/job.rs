//! A job at random: calls of all kinds, by all kinds of access, some of which are dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tokio::task::JoinSet;
use tower::{BoxError, Service, ServiceExt};
use tower_ews::EwsStack;
use tower_ews::body::ReplayBody;
use tower_ews::simulator::Exchange;

use super::policies::{MOST_RECIPIENTS, Policies};

/// What is done one after the other.
#[derive(Clone, Debug)]
enum Work {
    One(String),
    /// Subscribe, a stream of a minute, Unsubscribe.
    Stream {
        impersonated: Option<usize>,
        mailbox_of: Option<usize>,
    },
}

#[derive(Clone, Debug)]
struct Call {
    work: Work,
    at: Duration,
    /// When its caller drops it.
    dropped: Option<Duration>,
}

/// How a call ended.
#[derive(Clone, Debug)]
pub(crate) enum Ended {
    Well,
    Dropped,
    Failed(String),
}

pub(crate) struct Job {
    calls: Vec<Call>,
    drops_sent: bool,
    items: u32,
}

/// Whether the server has the call.
#[derive(Clone, Debug, Default)]
struct Sent(Arc<AtomicBool>);

const MAILBOXES: usize = 8;

fn mailbox(number: usize) -> String {
    format!("user{number}@contoso.com")
}

fn envelope(impersonated: Option<usize>, body: &str) -> String {
    let header = impersonated.map_or_else(String::new, |number| {
        format!(
            "<t:ExchangeImpersonation><t:ConnectingSID><t:SmtpAddress>{}</t:SmtpAddress></t:ConnectingSID>\
             </t:ExchangeImpersonation>",
            mailbox(number)
        )
    });
    format!(
        "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' \
         xmlns:t='http://schemas.microsoft.com/exchange/services/2006/types' \
         xmlns:m='http://schemas.microsoft.com/exchange/services/2006/messages'><s:Header>\
         <t:RequestServerVersion Version='Exchange2013_SP1'/>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>"
    )
}

fn folder(mailbox_of: Option<usize>) -> String {
    let of = mailbox_of.map_or_else(String::new, |number| {
        let mailbox = mailbox(number);
        format!("<t:Mailbox><t:EmailAddress>{mailbox}</t:EmailAddress></t:Mailbox>")
    });
    format!("<t:DistinguishedFolderId Id='inbox'>{of}</t:DistinguishedFolderId>")
}

fn create(mailbox_of: Option<usize>, items: u32) -> String {
    let items = "<t:Message><t:Subject>x</t:Subject></t:Message>".repeat(items as usize);
    format!(
        "<m:CreateItem MessageDisposition='SaveOnly'><m:SavedItemFolderId>{}</m:SavedItemFolderId><m:Items>{items}</m:Items>\
         </m:CreateItem>",
        folder(mailbox_of)
    )
}

impl Job {
    /// Calls that each policy allows when nothing else runs.
    pub(crate) fn random(rng: &mut fastrand::Rng, policies: &Policies, drops_sent: bool) -> Self {
        let items = policies.server.find_count.unwrap_or(10).min(20);
        let within = Duration::from_millis(rng.u64(0..=20_000));
        let drops = rng.f64() / 4.0;
        let number = rng.usize(10..=120);
        let milliseconds = |rng: &mut fastrand::Rng, most: Duration| {
            Duration::from_millis(rng.u64(0..=most.as_millis() as u64))
        };
        let calls = (0..number).map(|_| Call {
            work: work(rng, items),
            at: milliseconds(rng, within),
            dropped: (rng.f64() < drops).then(|| milliseconds(rng, Duration::from_secs(5))),
        });
        Self {
            calls: calls.collect(),
            drops_sent,
            items,
        }
    }

    /// Puts items into each inbox.
    pub(crate) async fn prepare(&self, exchange: &Exchange) {
        let content = create(None, self.items);
        for number in 0..MAILBOXES {
            let text = envelope(Some(number), &content);
            let request = Request::post("/").body(Full::<Bytes>::from(text)).unwrap();
            let response = exchange.clone().oneshot(request).await.unwrap();
            let text = response.into_body().collect().await.unwrap().to_bytes();
            assert!(!is_error(&text));
        }
    }

    pub(crate) async fn run(&self, stack: &EwsStack, exchange: &Exchange) -> Vec<Ended> {
        let exchange = exchange.clone();
        let service = stack.service(tower::service_fn(move |request: Request<ReplayBody>| {
            if let Some(sent) = request.extensions().get::<Sent>() {
                sent.0.store(true, Ordering::Relaxed);
            }
            exchange.clone().call(request)
        }));
        let mut running = JoinSet::new();
        for call in self.calls.clone() {
            let client = Client {
                service: service.clone(),
                sent: Sent::default(),
            };
            let (sent, drops_sent) = (client.sent.clone(), self.drops_sent);
            running.spawn(async move {
                tokio::time::sleep(call.at).await;
                let drops = async {
                    match call.dropped {
                        Some(after) => tokio::time::sleep(after).await,
                        None => std::future::pending().await,
                    }
                    if !drops_sent && sent.0.load(Ordering::Relaxed) {
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    // What has ended is not dropped.
                    biased;
                    ended = call.work.run(&client, drops_sent) => match ended {
                        Ok(()) => Ended::Well,
                        Err(error) => Ended::Failed(format!("{error:?}\n{:?}", call.work)),
                    },
                    () = drops => Ended::Dropped,
                }
            });
        }
        running.join_all().await
    }
}

struct Client<S> {
    service: S,
    sent: Sent,
}

impl<S, B> Client<S>
where
    S: Service<Request<ReplayBody>, Response = Response<B>, Error = BoxError> + Clone,
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    async fn ask(&self, text: String) -> Result<String, BoxError> {
        let request = Request::post("https://ews.invalid/EWS/Exchange.asmx")
            .extension(self.sent.clone())
            .body(ReplayBody::from(text))?;
        let response = self.service.clone().oneshot(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(Into::into)?;
        let text = String::from_utf8(body.to_bytes().to_vec())?;
        match status == 200 && !is_error(text.as_bytes()) {
            true => Ok(text),
            false => Err(format!("{status} {text}").into()),
        }
    }
}

impl Work {
    async fn run<S, B>(&self, client: &Client<S>, drops_sent: bool) -> Result<(), BoxError>
    where
        S: Service<Request<ReplayBody>, Response = Response<B>, Error = BoxError> + Clone,
        B: Body<Data = Bytes, Error: Into<BoxError>>,
    {
        let (impersonated, mailbox_of) = match self {
            Self::One(text) => return client.ask(text.clone()).await.map(drop),
            Self::Stream {
                impersonated,
                mailbox_of,
            } => (*impersonated, *mailbox_of),
        };
        let subscribe = format!(
            "<m:Subscribe><m:StreamingSubscriptionRequest><t:FolderIds>{}</t:FolderIds><t:EventTypes>\
             <t:EventType>CreatedEvent</t:EventType></t:EventTypes></m:StreamingSubscriptionRequest></m:Subscribe>",
            folder(mailbox_of)
        );
        let text = match client.ask(envelope(impersonated, &subscribe)).await {
            // The server still has one whose Subscribe was dropped.
            Err(error)
                if drops_sent && error.to_string().contains("ErrorExceededSubscriptionCount") =>
            {
                return Ok(());
            }
            other => other?,
        };
        let (_, id) = text.split_once("<m:SubscriptionId>").ok_or("no id")?;
        let id = id.split('<').next().unwrap_or_default();
        let stream = format!(
            "<m:GetStreamingEvents><m:SubscriptionIds><t:SubscriptionId>{id}</t:SubscriptionId></m:SubscriptionIds>\
             <m:ConnectionTimeout>1</m:ConnectionTimeout></m:GetStreamingEvents>"
        );
        let unsubscribe =
            format!("<m:Unsubscribe><m:SubscriptionId>{id}</m:SubscriptionId></m:Unsubscribe>");
        for content in [stream, unsubscribe] {
            match client.ask(envelope(impersonated, &content)).await {
                // It expires while its next call waits for a rate.
                Err(error) if error.to_string().contains("ErrorSubscriptionNotFound") => {}
                other => drop(other?),
            }
        }
        Ok(())
    }
}

fn is_error(text: &[u8]) -> bool {
    memchr::memmem::find(text, b"ResponseClass=\"Error\"").is_some()
        || memchr::memmem::find(text, b"Fault").is_some()
}

/// Work of any kind.
fn work(rng: &mut fastrand::Rng, items: u32) -> Work {
    let other = |rng: &mut fastrand::Rng| Some(rng.usize(0..MAILBOXES));
    let impersonated = if rng.bool() { other(rng) } else { None };
    let mailbox_of = if rng.bool() { other(rng) } else { None };
    let folder = folder(mailbox_of);
    let shape = "<m:ItemShape><t:BaseShape>IdOnly</t:BaseShape></m:ItemShape>";
    let body = match rng.u8(0..9) {
        0 | 1 => format!(
            "<m:GetFolder><m:FolderShape><t:BaseShape>IdOnly</t:BaseShape></m:FolderShape><m:FolderIds>{folder}</m:FolderIds>\
             </m:GetFolder>"
        ),
        2 => create(mailbox_of, rng.u32(1..=5)),
        3 => format!(
            "<m:FindItem Traversal='Shallow'>{shape}<m:IndexedPageItemView MaxEntriesReturned='{}' Offset='0' \
             BasePoint='Beginning'/><m:ParentFolderIds>{folder}</m:ParentFolderIds></m:FindItem>",
            rng.u32(1..=items)
        ),
        4 => "<m:SyncFolderHierarchy><m:FolderShape><t:BaseShape>IdOnly</t:BaseShape></m:FolderShape></m:SyncFolderHierarchy>"
            .to_owned(),
        5 => {
            let recipients = rng.u32(1..=MOST_RECIPIENTS) as usize;
            let to = "<t:Mailbox><t:EmailAddress>bo@contoso.com</t:EmailAddress></t:Mailbox>".repeat(recipients);
            let message = format!(
                "<t:Message><t:Subject>x</t:Subject><t:ToRecipients>{to}</t:ToRecipients></t:Message>"
            );
            format!(
                "<m:CreateItem MessageDisposition='SendOnly'><m:Items>{message}</m:Items></m:CreateItem>"
            )
        }
        6 => "<m:SearchMailboxes><m:SearchQueries><t:MailboxQuery><t:Query>x</t:Query><t:MailboxSearchScopes>\
              <t:MailboxSearchScope><t:Mailbox>user0@contoso.com</t:Mailbox><t:SearchScope>All</t:SearchScope>\
              </t:MailboxSearchScope></t:MailboxSearchScopes></t:MailboxQuery></m:SearchQueries>\
              <m:ResultType>StatisticsOnly</m:ResultType></m:SearchMailboxes>"
            .to_owned(),
        7 => {
            return Work::Stream {
                impersonated,
                mailbox_of,
            };
        }
        _ => format!(
            "<m:SyncFolderItems>{shape}<m:SyncFolderId>{folder}</m:SyncFolderId><m:MaxChangesReturned>10</m:MaxChangesReturned>\
             </m:SyncFolderItems>"
        ),
    };
    Work::One(envelope(impersonated, &body))
}
