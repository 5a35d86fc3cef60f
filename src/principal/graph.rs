//! [`GraphCharges`]: whom Microsoft Graph charges, and for how much.

use std::borrow::Cow;
use std::fmt;

use hashbrown::HashMap;
use http::Request;
use serde::Deserialize;
use serde_json::value::RawValue;
use smallvec::SmallVec;
use uuid::Uuid;

use super::budget::Budget;
use super::charges::{Charge, Charges};
use super::identity::Principal;
use super::make_charges::MakeCharges;
use crate::body::ReplayBody;
use crate::extensions::Caller;

/// How many requests of a batch run at the same time (Outlook service limits; microsoft-graph-docs, pull 20833).
const MAX_AT_A_TIME: u32 = 4;

/// Who shares one of Graph's budgets.
///
/// Microsoft's documents say that limits count for each application and mailbox. Of uploads, contributors to them say that they count
/// for the mailbox alone, or for the application alone.
///
/// ```
/// use tower_ews::principal::{Budget, GraphCharges, GraphScope};
///
/// let charges = GraphCharges::new("app").scope(Budget::UploadBytes, GraphScope::Mailbox);
/// # let _ = charges;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum GraphScope {
    /// Each application has a budget of its own in each mailbox.
    #[default]
    ApplicationAndMailbox,
    /// All applications share the mailbox's.
    Mailbox,
    /// The application has one for all mailboxes.
    Application,
}

/// The charges of the Outlook service of Microsoft Graph: one application may have four concurrent requests in one mailbox
/// ([`Budget::Concurrency`]), 10,000 in ten minutes ([`Budget::Requests`]), and may upload 150 MB in five
/// ([`Budget::UploadBytes`]).
///
/// A `$batch` is charged what runs at the same time in it: for each mailbox as many as it has requests, four at most.
/// Requests that depend on each other run one after another, so that a sequential batch is charged one. Graph runs four in
/// all, so that a batch over several mailboxes is charged more than it uses, but never less. Each of its requests counts as one of the
/// 10,000. A request that names no mailbox is not charged. The bodies of PATCH, POST and PUT are uploads.
///
/// The mailbox is what the URL calls it, in lower case: `/users/{id}`, `/users('{id}')`, or `/me`, which stands for the
/// [`Caller`] where there is one. A mailbox that is called by its address and by its id counts as two.
///
/// The URL of an upload session leads to another host, and is charged like others where it names the mailbox, as those of attachments
/// do: `https://outlook.office.com/api/v2.0/Users('{id}@{tenant}')/...`. They name it by its id, so call it by its id before, too: then the
/// ranges draw on the same budgets. Those of OneDrive and SharePoint name no mailbox, are not the Outlook service's, and are not charged.
///
/// For batches larger than twenty requests, [`ConcurrencyByPrincipal`](crate::concurrency_by_principal) belongs beneath
/// [`BatchSplitter`](crate::batch_splitter::BatchSplitter), so that each part is charged.
///
/// The limits are those of [`ThrottlingPolicy::graph_outlook`](crate::policy::ThrottlingPolicy::graph_outlook).
///
/// ```
/// use http::Request;
/// use tower_ews::body::ReplayBody;
/// use tower_ews::principal::{GraphCharges, MakeCharges};
///
/// let charges = GraphCharges::new("11111111-2222-3333-4444-555555555555");
/// let get = |id| format!(r#"{{"id":"{id}","method":"GET","url":"/users/amy@contoso.com/messages/{id}"}}"#);
/// let batch = Request::post("https://graph.microsoft.com/v1.0/$batch")
///     .body(ReplayBody::from(format!(r#"{{"requests":[{},{}]}}"#, get(1), get(2))))
///     .unwrap();
/// assert_eq!(charges.make_charges(&batch)[0].amount(), 2);
/// ```
#[derive(Clone)]
pub struct GraphCharges {
    application: Box<str>,
    /// What is charged, and to whom.
    budgets: SmallVec<[(Budget, GraphScope); 3]>,
}

const BUDGETS: [Budget; 3] = [Budget::Concurrency, Budget::Requests, Budget::UploadBytes];

impl GraphCharges {
    /// Creates the charges of the application with this id.
    pub fn new(application: impl Into<Box<str>>) -> Self {
        let budgets = BUDGETS.map(|budget| (budget, GraphScope::default()));
        Self {
            application: application.into(),
            budgets: SmallVec::from(budgets),
        }
    }

    /// Sets who shares a budget. Default: [`GraphScope::ApplicationAndMailbox`].
    #[must_use]
    pub fn scope(mut self, budget: Budget, scope: GraphScope) -> Self {
        let known = self.budgets.iter_mut().filter(|known| known.0 == budget);
        known.for_each(|known| known.1 = scope);
        self
    }

    /// Charges on these budgets alone.
    #[must_use]
    pub(crate) fn only(mut self, budgets: impl IntoIterator<Item = Budget>) -> Self {
        let wanted: SmallVec<[Budget; 3]> = budgets.into_iter().collect();
        self.budgets.retain(|known| wanted.contains(&known.0));
        self
    }

    fn principal(&self, scope: GraphScope, mailbox: &str) -> Principal {
        let application = &self.application;
        match scope {
            GraphScope::ApplicationAndMailbox => {
                Principal::new(format!("{application} in {mailbox}"))
            }
            GraphScope::Mailbox => Principal::mailbox(mailbox),
            GraphScope::Application => Principal::new(&**application),
        }
    }

    /// Returns the charges of one request.
    fn of_request(&self, mailbox: &str, upload: u32) -> impl Iterator<Item = Charge> {
        let charged = self.budgets.iter().map(move |(budget, scope)| {
            let amount = match budget {
                Budget::UploadBytes => upload,
                _ => 1,
            };
            (*scope, *budget, amount)
        });
        charged
            .filter(|(.., amount)| *amount > 0)
            .map(move |(scope, budget, amount)| {
                Charge::new(self.principal(scope, mailbox), budget, amount)
            })
    }

    /// Returns the charges of a batch, or `None` if it cannot be read.
    fn of_batch(&self, body: &[u8], caller: Option<&Caller>) -> Option<Charges> {
        let batch: Batch<'_> = serde_json::from_slice(body).ok()?;
        let mut steps: HashMap<String, usize> = HashMap::with_capacity(batch.requests.len());
        let mut at_a_time = AtATime::default();
        let mut others = Vec::new();
        for request in &batch.requests {
            // Requests of one step can run at the same time.
            let needs = request.depends_on.iter().flatten();
            let needs = needs.filter_map(|id| steps.get(&id.to_lowercase()));
            let step = needs.max().map_or(0, |step| step + 1);
            steps.insert(request.id.to_lowercase(), step);
            let path = request.url.split(['?', '#']).next().unwrap_or_default();
            let Some(mailbox) = mailbox(path, caller) else {
                continue;
            };
            for charge in self.of_request(&mailbox, request.upload()) {
                match charge.budget() {
                    Budget::Concurrency => at_a_time.add(charge.principal(), step),
                    _ => others.push(charge),
                }
            }
        }
        Some(at_a_time.charges().chain(others).collect())
    }
}

/// Of each principal, how many requests each step of a batch has.
#[derive(Default)]
struct AtATime {
    known: HashMap<Principal, usize>,
    principals: Vec<(Principal, HashMap<usize, u32>)>,
}

impl AtATime {
    fn add(&mut self, principal: &Principal, step: usize) {
        let next = self.principals.len();
        let at = *self.known.entry(principal.clone()).or_insert(next);
        if at == next {
            self.principals.push((principal.clone(), HashMap::new()));
        }
        if let Some((_, counts)) = self.principals.get_mut(at) {
            *counts.entry(step).or_default() += 1;
        }
    }

    fn charges(self) -> impl Iterator<Item = Charge> {
        self.principals.into_iter().map(|(principal, counts)| {
            let most = counts.into_values().max().unwrap_or(1);
            Charge::new(principal, Budget::Concurrency, most.min(MAX_AT_A_TIME))
        })
    }
}

impl MakeCharges<ReplayBody> for GraphCharges {
    fn make_charges(&self, request: &Request<ReplayBody>) -> Charges {
        let caller = request.extensions().get::<Caller>();
        let path = request.uri().path();
        if path.ends_with("/$batch") || path.ends_with("/%24batch") {
            let charges = self.of_batch(&request.body().to_bytes(), caller);
            return charges.unwrap_or_default();
        }
        let upload = match uploads(request.method().as_str()) {
            true => u32::try_from(request.body().len()).unwrap_or(u32::MAX),
            false => 0,
        };
        let mailbox = mailbox(path, caller);
        let charges = mailbox
            .iter()
            .flat_map(|mailbox| self.of_request(mailbox, upload));
        charges.collect()
    }
}

/// Prints no mailbox.
impl fmt::Debug for GraphCharges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraphCharges")
            .field("application", &self.application)
            .field("budgets", &self.budgets)
            .finish()
    }
}

/// Whether the body of such a request is an upload.
fn uploads(method: &str) -> bool {
    ["PATCH", "POST", "PUT"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(method))
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    requests: Vec<InBatch<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InBatch<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    url: Cow<'a, str>,
    #[serde(borrow, default)]
    method: Cow<'a, str>,
    depends_on: Option<Vec<String>>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

impl InBatch<'_> {
    /// The bytes that it uploads.
    fn upload(&self) -> u32 {
        let body = self.body.filter(|_| uploads(&self.method));
        let length = body.map_or(0, |body| body.get().len());
        u32::try_from(length).unwrap_or(u32::MAX)
    }
}

/// Returns the mailbox that a path names, in lower case.
fn mailbox(path: &str, caller: Option<&Caller>) -> Option<String> {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let mut first = segments.next()?;
    // Of upload sessions, on a host of their own.
    if first == "api" {
        first = segments.next()?;
    }
    if matches!(first, "v1.0" | "v2.0" | "beta") {
        first = segments.next()?;
    }
    let name = first.to_ascii_lowercase();
    let named = match &*name {
        "me" => {
            return Some(caller.map_or_else(|| name.clone(), |caller| caller.name().to_owned()));
        }
        "users" => segments.next()?,
        _ => first
            .get("users('".len()..)
            .filter(|_| name.starts_with("users('"))?
            .strip_suffix("')")?,
    };
    // What clients escape of an address.
    let named = named.to_lowercase().replace("%40", "@");
    match named.split_once('@') {
        Some((id, tenant)) if is_guid(id) && is_guid(tenant) => Some(id.to_owned()),
        _ => Some(named),
    }
}

fn is_guid(text: &str) -> bool {
    Uuid::try_parse(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charges(request: Request<ReplayBody>) -> Vec<(String, u32)> {
        on(Budget::Concurrency, &GraphCharges::new("app"), &request)
    }

    /// What is drawn on one budget.
    fn on(
        budget: Budget,
        charges: &GraphCharges,
        request: &Request<ReplayBody>,
    ) -> Vec<(String, u32)> {
        let charges = charges.make_charges(request);
        let charges = charges.iter().filter(|charge| charge.budget() == budget);
        let charge = |charge: &Charge| (charge.principal().name().to_owned(), charge.amount());
        charges.map(charge).collect()
    }

    /// A batch of requests of these urls, each with the ids that it depends on. Ids are numbers from 1.
    fn batch(requests: &[(&str, &[&str])]) -> Request<ReplayBody> {
        let requests: Vec<serde_json::Value> = requests
            .iter()
            .zip(1..)
            .map(|((url, needs), id)| {
                let id = format!("R{id}");
                serde_json::json!({"id": id, "method": "GET", "url": url, "dependsOn": needs})
            })
            .collect();
        let body = serde_json::json!({ "requests": requests }).to_string();
        Request::post("https://graph.microsoft.com/v1.0/$batch")
            .body(body.into())
            .unwrap()
    }

    #[test]
    fn one_request_is_charged_to_its_mailbox() {
        for (path, mailbox) in [
            (
                "/v1.0/users/Amy@Contoso.com/messages",
                Some("amy@contoso.com"),
            ),
            ("/beta/users/amy%40contoso.com", Some("amy@contoso.com")),
            (
                "/v1.0/Users('Amy@contoso.com')/events",
                Some("amy@contoso.com"),
            ),
            (
                "/users/87d349ed-44d7-43e1-9a83-5f2406dee5bd",
                Some("87d349ed-44d7-43e1-9a83-5f2406dee5bd"),
            ),
            (
                "/api/v2.0/Users('87d349ed-44d7-43e1-9a83-5f2406dee5bd@72aa88bf-76f0-494f-91ab-2d7cd730db47')\
                 /Messages('AAMk=')/AttachmentSessions('AAMk=')?authtoken=x",
                Some("87d349ed-44d7-43e1-9a83-5f2406dee5bd"),
            ),
            ("/v1.0/me/messages", Some("me")),
            ("/v1.0/users", None),
            ("/v1.0/groups/1/events", None),
            ("/v1.0/users('amy", None),
            (
                "/v1.0/users/amy@72aa88bf-76f0-494f-91ab-2d7cd730db47/messages",
                Some("amy@72aa88bf-76f0-494f-91ab-2d7cd730db47"),
            ),
            ("/api", None),
            ("/", None),
            ("/v1.0", None),
        ] {
            let request = Request::get(path).body(ReplayBody::empty()).unwrap();
            let expected = mailbox.map(|mailbox| (format!("app in {mailbox}"), 1));
            assert_eq!(charges(request), Vec::from_iter(expected), "{path}");
        }
        let mut mine = Request::get("/v1.0/me").body(ReplayBody::empty()).unwrap();
        mine.extensions_mut().insert(Caller::new("Amy@contoso.com"));
        assert_eq!(charges(mine), [("app in amy@contoso.com".to_owned(), 1)]);
    }

    #[test]
    fn a_batch_is_charged_what_runs_at_the_same_time() {
        let (amy, bob) = ("/users/amy@x/messages", "/users/BOB%40x/events?$top=1");
        let none: &[&str] = &[];
        type Requests<'a> = Vec<(&'a str, &'a [&'a str])>;
        let cases: [(Requests<'_>, &[(&str, u32)]); 7] = [
            (vec![(amy, none); 3], &[("amy@x", 3)]),
            (vec![(amy, none); 20], &[("amy@x", 4)]),
            (
                vec![(amy, none), (bob, none), (amy, none), ("/groups/1", none)],
                &[("amy@x", 2), ("bob@x", 1)],
            ),
            // A chain, whose ids are written in another case.
            (
                vec![(amy, none), (amy, &["r1"]), (amy, &["R2"]), (amy, &["r3"])],
                &[("amy@x", 1)],
            ),
            // One, three after it, and one after those.
            (
                vec![
                    (amy, none),
                    (amy, &["R1"]),
                    (amy, &["R1"]),
                    (amy, &["R1"]),
                    (amy, &["R2", "R3", "R4"]),
                ],
                &[("amy@x", 3)],
            ),
            (
                vec![(amy, none), (bob, &["R1"])],
                &[("amy@x", 1), ("bob@x", 1)],
            ),
            (vec![("/groups/1", none); 2], &[]),
        ];
        for (requests, expected) in cases {
            let expected: Vec<(String, u32)> = expected
                .iter()
                .map(|(mailbox, amount)| (format!("app in {mailbox}"), *amount))
                .collect();
            assert_eq!(charges(batch(&requests)), expected, "{requests:?}");
        }
        for body in ["", "{}", r#"{"requests":[{"id":1}]}"#, "<html>"] {
            let request = Request::post("/v1.0/%24batch").body(body.into()).unwrap();
            assert!(charges(request).is_empty(), "{body}");
        }
        let charges = format!("{:?}", GraphCharges::new("app"));
        let told = charges.contains(r#"application: "app""#) && !charges.contains("amy");
        assert!(told, "{charges}");
    }

    #[test]
    fn requests_and_uploads_are_counted_by_whom_they_are_shared() {
        let amy = "/v1.0/users/amy@x/messages";
        let post = Request::post(amy).body("12345".into()).unwrap();
        let get = Request::get(amy).body("12345".into()).unwrap();
        let inner = |method: &str, mailbox: &str, body: &str| {
            let id = format!("{method}{mailbox}");
            serde_json::json!({"id": id, "method": method, "url": format!("/users/{mailbox}/messages"), "body": {"a": body}})
        };
        let body = serde_json::json!({ "requests": [
            inner("POST", "amy@x", "xyz"), inner("patch", "amy@x", ""), inner("GET", "amy@x", ""), inner("PUT", "bob@x", "x"),
        ] });
        let batch = Request::post("/v1.0/$batch")
            .body(body.to_string().into())
            .unwrap();
        // `{"a":""}` has eight bytes.
        let (both, mailbox, app) = (
            GraphScope::ApplicationAndMailbox,
            GraphScope::Mailbox,
            GraphScope::Application,
        );
        type Expected<'a> = &'a [(&'a str, u32)];
        let cases: [(Budget, GraphScope, &Request<ReplayBody>, Expected<'_>); 10] = [
            (Budget::Requests, both, &get, &[("app in amy@x", 1)]),
            (Budget::Requests, app, &post, &[("app", 1)]),
            (Budget::UploadBytes, both, &get, &[]),
            (Budget::UploadBytes, both, &post, &[("app in amy@x", 5)]),
            (Budget::UploadBytes, mailbox, &post, &[("amy@x", 5)]),
            (
                Budget::Requests,
                both,
                &batch,
                &[("app in amy@x", 3), ("app in bob@x", 1)],
            ),
            (Budget::Requests, app, &batch, &[("app", 4)]),
            (
                Budget::UploadBytes,
                mailbox,
                &batch,
                &[("amy@x", 19), ("bob@x", 9)],
            ),
            (Budget::UploadBytes, app, &batch, &[("app", 28)]),
            (Budget::Concurrency, app, &batch, &[("app", 4)]),
        ];
        for (budget, scope, request, expected) in cases {
            let charges = GraphCharges::new("app").scope(budget, scope);
            let expected: Vec<_> = expected
                .iter()
                .map(|(name, amount)| ((*name).to_owned(), *amount))
                .collect();
            assert_eq!(
                on(budget, &charges, request),
                expected,
                "{budget} {scope:?}"
            );
            let none = charges.only([]);
            assert!(none.make_charges(request).is_empty());
        }
    }
}
