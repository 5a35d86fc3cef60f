//! [`EwsCharges`]: who is charged for an EWS call, read from its SOAP text.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use http::Request;
use parking_lot::RwLock;
use uuid::Uuid;

use super::accounts::Accounts;
use super::charges::{Charge, Charges};
use super::identity::{Access, Principal};
use super::make_charges::MakeCharges;
use super::rules::{BudgetRule, ChargeRule};
use crate::body::ReplayBody;
use crate::extensions::Caller;
use crate::soap::{ConnectingSid, Operation, Outline, SidKind, Targets};

/// So many mailbox GUIDs are remembered.
const MAX_KNOWN: usize = 65_536;

type MapPrincipal = dyn Fn(SidKind, &str) -> Option<String> + Send + Sync;

/// The charges of EWS calls.
///
/// * Without impersonation the calling account pays: the [`Caller`] in the request's extensions,
///   else the one set here.
/// * With impersonation the target mailbox's impersonation copy pays, which all service accounts
///   share. The four kinds of `ConnectingSID` are one key where
///   [`map_principal`](Self::map_principal) knows the mailbox's SMTP address; addresses and user
///   principal names are compared as text besides.
/// * A call that impersonates A and touches B, by name or by an item id, charges A's copy and the
///   calling account.
/// * A body that cannot be read charges the calling account one call.
///
/// An item id tells its mailbox's GUID, not the address. [`learn`](Self::learn) tells which address
/// a GUID stands for; without it a mailbox that a delegate reaches both by address and by id counts
/// twice, and under impersonation ids count as the impersonated mailbox's.
///
/// The source is "EWS throttling in Exchange" and "How to maintain affinity between a group of
/// subscriptions and the Mailbox server" of Microsoft's documentation.
///
/// ```
/// use http::Request;
/// use tower_ews::body::ReplayBody;
/// use tower_ews::policy::ThrottlingPolicy;
/// use tower_ews::extensions::Caller;
/// use tower_ews::principal::{MakeCharges, Principal};
///
/// let charges = ThrottlingPolicy::exchange_online().charges().caller(Caller::new("svc@contoso.com"));
/// let body = ReplayBody::from(r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"
///     xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types"
///     xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages">
///   <s:Header><t:ExchangeImpersonation><t:ConnectingSID>
///     <t:PrimarySmtpAddress>Amy@contoso.com</t:PrimarySmtpAddress>
///   </t:ConnectingSID></t:ExchangeImpersonation></s:Header>
///   <s:Body><m:GetFolder><m:FolderShape><t:BaseShape>IdOnly</t:BaseShape></m:FolderShape>
///     <m:FolderIds><t:DistinguishedFolderId Id="inbox"/></m:FolderIds></m:GetFolder></s:Body>
/// </s:Envelope>"#);
/// let charged = charges.make_charges(&Request::new(body));
/// assert_eq!(charged[0].principal(), &Principal::impersonation("amy@contoso.com"));
/// ```
#[derive(Clone)]
pub struct EwsCharges {
    rules: Arc<[BudgetRule]>,
    impersonation_copy: bool,
    caller: Caller,
    /// The caller as the principal that is charged.
    account: Principal,
    /// What is seen of callers, as long as none is named.
    unnamed: Option<Arc<Accounts>>,
    map_principal: Option<Arc<MapPrincipal>>,
    known: Arc<RwLock<HashMap<Uuid, Box<str>>>>,
}

impl EwsCharges {
    /// Charges by `rules`. Callers that are not known by name share one account.
    pub fn new(rules: impl IntoIterator<Item = BudgetRule>) -> Self {
        let caller = Caller::new("the calling account");
        Self {
            rules: rules.into_iter().collect(),
            impersonation_copy: true,
            account: Principal::account(caller.name()),
            caller,
            unnamed: Some(Arc::new(Accounts::new())),
            map_principal: None,
            known: Arc::default(),
        }
    }

    /// The account that calls without a [`Caller`] extension are made with.
    #[must_use]
    pub fn caller(mut self, caller: Caller) -> Self {
        self.account = Principal::account(caller.name());
        self.caller = caller;
        self.unnamed = None;
        self
    }

    /// Whether impersonation draws on a copy of the mailbox owner's budgets (default) or, as before
    /// Exchange 2010 SP2 RU4, on the owner's own.
    #[must_use]
    pub fn impersonation_copy(mut self, copy: bool) -> Self {
        self.impersonation_copy = copy;
        self
    }

    /// Finds the SMTP address of an impersonated identity, so that all kinds of `ConnectingSID` are
    /// one key.
    #[must_use]
    pub fn map_principal<F>(mut self, map: F) -> Self
    where
        F: Fn(SidKind, &str) -> Option<String> + Send + Sync + 'static,
    {
        self.map_principal = Some(Arc::new(map));
        self
    }

    /// Remembers that item ids with this mailbox GUID belong to `mailbox`. At most 65,536 are kept.
    pub fn learn(&self, guid: Uuid, mailbox: &str) {
        let mut known = self.known.write();
        if known.len() < MAX_KNOWN || known.contains_key(&guid) {
            known.insert(guid, mailbox.to_ascii_lowercase().into());
        }
    }

    /// How a request reaches the mailboxes that it names, and by which account.
    pub fn access(&self, request: &Request<ReplayBody>) -> Access {
        let caller = self.caller_of(request);
        match request.body().outline() {
            Ok(outline) if !outline.impersonation().is_empty() => Access::Impersonation,
            Ok(outline) => {
                let own = Some(caller.name());
                match self.reached(outline, request.body(), own, false).next() {
                    None => Access::Owner,
                    Some(_) => Access::Delegate,
                }
            }
            Err(_) => Access::Owner,
        }
    }

    fn caller_of<'a>(&'a self, request: &'a Request<ReplayBody>) -> &'a Caller {
        self.caller_or(request.extensions().get())
    }

    /// The account that makes the call, as the principal that is charged.
    fn account_of(&self, request: &Request<ReplayBody>) -> Principal {
        match request.extensions().get::<Caller>() {
            Some(caller) => Principal::account(caller.name()),
            None => {
                if let Some(unnamed) = &self.unnamed {
                    unnamed.see(request.headers());
                }
                self.account.clone()
            }
        }
    }

    /// That caller, or the configured one.
    pub(crate) fn caller_or<'a>(&'a self, given: Option<&'a Caller>) -> &'a Caller {
        given.unwrap_or(&self.caller)
    }

    /// How a request reaches the mailbox that it works on, and which that is: the first, where it
    /// works on several. None where it is the caller's own and the caller is not known.
    pub(crate) fn reach(
        &self,
        body: &ReplayBody,
        caller: Option<&Caller>,
    ) -> (Access, Option<String>) {
        let own = caller.map(Caller::name);
        let Ok(outline) = body.outline() else {
            return (Access::Owner, own.map(Into::into));
        };
        if let Some(mailbox) = self.impersonated(outline) {
            return (Access::Impersonation, Some(mailbox.into_owned()));
        }
        match self.reached(outline, body, own, false).next() {
            Some(mailbox) => (Access::Delegate, Some(mailbox.into_owned())),
            None => (Access::Owner, own.map(Into::into)),
        }
    }

    /// The impersonated mailbox, by the kind of identity that says most.
    fn impersonated<'a>(&self, outline: &'a Outline) -> Option<Cow<'a, str>> {
        let rank = |sid: &&ConnectingSid| match sid.kind {
            SidKind::PrimarySmtpAddress => 0,
            SidKind::SmtpAddress => 1,
            SidKind::PrincipalName => 2,
            _ => 3,
        };
        let sid = outline.impersonation().iter().min_by_key(rank)?;
        let mapped = self
            .map_principal
            .as_ref()
            .and_then(|map| map(sid.kind, &sid.value));
        Some(mapped.map_or(Cow::Borrowed(&*sid.value), Cow::Owned))
    }

    /// The mailboxes other than the effective user's `own` that a call reaches. One that is reached
    /// by name and by id is there more than once: [`Charges`] have each value once.
    fn reached<'a>(
        &'a self,
        outline: &Outline,
        body: &'a ReplayBody,
        own: Option<&'a str>,
        impersonates: bool,
    ) -> impl Iterator<Item = Cow<'a, str>> {
        // Free/busy is asked of other servers' mailboxes and opens none of them; ids are converted
        // without them.
        let opens_none = matches!(
            outline.operation(),
            Some(Operation::GET_USER_AVAILABILITY | Operation::CONVERT_ID)
        );
        // On the hot path: watched by `benches/overhead`, `stack`. Under impersonation unknown
        // GUIDs say nothing.
        let names_alone = impersonates && self.known.read().is_empty();
        let reaches_none =
            opens_none || (names_alone && !outline.may_name_mailbox(&body.to_bytes()));
        let targets = if reaches_none { None } else { body.targets() };
        let (mailboxes, guids) = targets.map_or((&[][..], &[][..]), |targets| {
            (&*targets.mailboxes, &*targets.guids)
        });
        let is_own = move |name: &str| own.is_some_and(|own| own.eq_ignore_ascii_case(name));
        let by_name = mailboxes.iter().filter(move |name| !is_own(name));
        let known = (!guids.is_empty()).then(|| self.known.read());
        let by_id = guids.iter().filter_map(move |guid| {
            match known.as_ref().and_then(|known| known.get(guid)) {
                Some(name) if is_own(name) => None,
                Some(name) => Some(Cow::Owned(name.to_string())),
                // Most likely the impersonated mailbox's own.
                None if impersonates => None,
                None => Some(Cow::Owned(guid.to_string())),
            }
        });
        by_name.map(|name| Cow::Borrowed(&**name)).chain(by_id)
    }
}

/// Rows that a find may hold in memory.
fn found_rows(targets: &Targets) -> u32 {
    let rows = targets.page_size.unwrap_or(1000).clamp(1, 1000);
    let weight = if targets.has_restriction { 4 } else { 1 };
    rows.saturating_mul(weight)
        .saturating_mul(targets.folders.max(1))
}

/// Returns what one call draws by one rule, besides mailboxes.
fn amount(rule: &ChargeRule, operation: Option<Operation>, body: &ReplayBody) -> u32 {
    let is = |operations: &[Operation]| operation.is_some_and(|known| operations.contains(&known));
    let hanging = is(&[Operation::GET_STREAMING_EVENTS]);
    match rule {
        ChargeRule::Calls => u32::from(!hanging),
        ChargeRule::HangingCalls => u32::from(hanging),
        ChargeRule::Syncs => {
            let syncs = [
                Operation::SYNC_FOLDER_ITEMS,
                Operation::SYNC_FOLDER_HIERARCHY,
            ];
            u32::from(is(&syncs))
        }
        ChargeRule::FoundRows if is(&[Operation::FIND_ITEM, Operation::FIND_FOLDER]) => {
            body.targets().map_or(0, found_rows)
        }
        ChargeRule::Only(names) => {
            let name = operation.map(Operation::name);
            u32::from(name.is_some_and(|name| names.iter().any(|known| known == name)))
        }
        ChargeRule::FoundRows | ChargeRule::Mailboxes | ChargeRule::MailboxesWritten => 0,
    }
}

impl MakeCharges<ReplayBody> for EwsCharges {
    // On the hot path: watched by `benches/overhead`, `stack`.
    fn make_charges(&self, request: &Request<ReplayBody>) -> Charges {
        let caller = self.account_of(request);
        let body = request.body();
        let Ok(outline) = body.outline() else {
            return Charges::from(caller);
        };
        let impersonated = self.impersonated(outline);
        let own = impersonated.as_deref().or(Some(caller.name()));
        let reached = self.reached(outline, body, own, impersonated.is_some());
        let reached: Vec<_> = reached.collect();
        let effective = match &impersonated {
            Some(mailbox) if self.impersonation_copy => Principal::impersonation(mailbox),
            Some(mailbox) => Principal::account(mailbox),
            None => caller.clone(),
        };
        let operation = outline.operation();
        let writes = operation.is_none_or(|operation| !operation.is_read());
        let both = impersonated.is_some() && !reached.is_empty();
        let drawn = |rule: &BudgetRule, amount| {
            let payers = [Some(&effective), both.then_some(&caller)];
            let payers = payers.into_iter().flatten().filter(move |_| amount > 0);
            let budget = rule.budget;
            payers.map(move |payer| Charge::new(payer.clone(), budget, amount))
        };
        let opened = |rule: &BudgetRule| {
            let opens = match rule.rule {
                ChargeRule::Mailboxes => true,
                ChargeRule::MailboxesWritten => writes,
                _ => false,
            };
            let mailboxes = if opens { &*reached } else { &[] };
            let (payer, budget) = (&caller, rule.budget);
            mailboxes.iter().map(move |mailbox| {
                Charge::of_value(payer.clone(), budget, Principal::mailbox(mailbox))
            })
        };
        let rules = self.rules.iter();
        rules
            .flat_map(|rule| drawn(rule, amount(&rule.rule, operation, body)).chain(opened(rule)))
            .collect()
    }
}

impl fmt::Debug for EwsCharges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EwsCharges")
            .field("rules", &self.rules)
            .field("impersonation_copy", &self.impersonation_copy)
            .field("caller", &self.caller)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Budget, counted};
    use super::*;
    use crate::policy::ThrottlingPolicy;

    const GUID_ID: &str = "AAMkADkzNjJjODUzLWZhMDMtNDVkMS05ZDdjLWVmMDlkYjQ1Zjc4MwBGAAAAAABSSWVKrmGUTJE+MVIvofglBwDZGACZQpSgSpyNkexYe2b7AAAAAAENAADZGACZQpSgSpyNkexYe2b7AAANGFYwAAA=";

    fn envelope(header: &str, body: &str) -> Request<ReplayBody> {
        Request::new(ReplayBody::from(format!(
            r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types" xmlns="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Header>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>"#
        )))
    }

    fn impersonate(kind: &str, who: &str) -> String {
        format!(
            "<t:ExchangeImpersonation><t:ConnectingSID><t:{kind}> {who} </t:{kind}></t:ConnectingSID></t:ExchangeImpersonation>"
        )
    }

    fn folder(mailbox: &str) -> String {
        format!(
            r#"<t:DistinguishedFolderId Id="inbox"><t:Mailbox><t:EmailAddress>{mailbox}</t:EmailAddress></t:Mailbox></t:DistinguishedFolderId>"#
        )
    }

    fn get_folder(mailbox: &str) -> String {
        let folder = folder(mailbox);
        format!("<GetFolder><FolderShape/><FolderIds>{folder}</FolderIds></GetFolder>")
    }

    fn delete(id: &str) -> String {
        format!(
            r#"<DeleteItem DeleteType="HardDelete"><ItemIds><t:ItemId Id="{id}"/></ItemIds></DeleteItem>"#
        )
    }

    fn charged(policy: &ThrottlingPolicy, request: &Request<ReplayBody>) -> Vec<String> {
        let charges = policy.charges().caller(Caller::new("svc@contoso.com"));
        let charges = charges.make_charges(request);
        charges
            .iter()
            .map(|charge| match charge.value() {
                Some(value) => format!("{:?} {} -> {value}", charge.budget(), charge.principal()),
                None => format!(
                    "{:?} {} x{}",
                    charge.budget(),
                    charge.principal(),
                    charge.amount()
                ),
            })
            .collect()
    }

    const SVC: &str = "Concurrency account svc@contoso.com x1";
    const AMY: &str = "Concurrency impersonation copy of amy@contoso.com x1";

    #[test]
    fn who_is_charged() {
        let online = ThrottlingPolicy::exchange_online();
        let own =
            "<GetFolder><FolderIds><t:DistinguishedFolderId Id='inbox'/></FolderIds></GetFolder>";
        let opens = "OpenMailboxes account svc@contoso.com -> mailbox";
        let by_id = format!("{opens} 9362c853-fa03-45d1-9d7c-ef09db45f783");
        let cases: &[(&str, String, String, &[&str])] = &[
            ("own mailbox", String::new(), own.into(), &[SVC]),
            ("own by name", String::new(), get_folder("SVC@contoso.com"), &[SVC]),
            // Exchange Online: reading opens nothing.
            ("delegate read", String::new(), get_folder("amy@contoso.com"), &[SVC]),
            ("delegate write", String::new(), delete(GUID_ID), &[SVC, &by_id]),
            ("impersonation", impersonate("SmtpAddress", "Amy@Contoso.com"), own.into(), &[AMY]),
            ("by name", impersonate("PrincipalName", "amy@contoso.com"), own.into(), &[AMY]),
            (
                "by sid",
                impersonate("SID", "S-1-5-21-1"),
                own.into(),
                &["Concurrency impersonation copy of s-1-5-21-1 x1"],
            ),
            (
                "impersonation of A that touches B",
                impersonate("PrimarySmtpAddress", "amy@contoso.com"),
                get_folder("bob@contoso.com"),
                &[AMY, SVC],
            ),
            (
                "impersonation with the own mailbox named",
                impersonate("PrimarySmtpAddress", "amy@contoso.com"),
                get_folder("amy@contoso.com"),
                &[AMY],
            ),
            (
                "streaming",
                String::new(),
                "<GetStreamingEvents><SubscriptionIds><t:SubscriptionId>x</t:SubscriptionId></SubscriptionIds><ConnectionTimeout>1</ConnectionTimeout></GetStreamingEvents>".into(),
                &["HangingConnections account svc@contoso.com x1"],
            ),
            (
                "sync",
                String::new(),
                "<SyncFolderHierarchy/>".into(),
                &[SVC, "SyncCalls account svc@contoso.com x1"],
            ),
            (
                "a page of 100 over two folders",
                String::new(),
                format!(
                    r#"<FindItem Traversal="Shallow"><ItemShape/><IndexedPageItemView MaxEntriesReturned="100" Offset="0" BasePoint="Beginning"/><ParentFolderIds>{}{}</ParentFolderIds></FindItem>"#,
                    r#"<t:DistinguishedFolderId Id="inbox"/>"#, r#"<t:DistinguishedFolderId Id="drafts"/>"#
                ),
                &[SVC, "FindCount account svc@contoso.com x200"],
            ),
            ("free/busy opens nothing", String::new(), "<GetUserAvailabilityRequest><MailboxDataArray><t:MailboxData><t:Email><t:Address>amy@contoso.com</t:Address></t:Email></t:MailboxData></MailboxDataArray></GetUserAvailabilityRequest>".into(), &[SVC]),
        ];
        for (name, header, body, expected) in cases {
            let request = envelope(header, body);
            let charged = charged(&online, &request);
            assert_eq!(charged, *expected, "{name}");
        }
    }

    #[test]
    fn before_sp2_ru4_the_owner_pays_and_everything_opens_mailboxes() {
        let old = ThrottlingPolicy::exchange_2010_sp1();
        let request = envelope(
            &impersonate("SmtpAddress", "amy@contoso.com"),
            &delete(GUID_ID),
        );
        assert_eq!(
            charged(&old, &request),
            ["Concurrency account amy@contoso.com x1"]
        );
        let request = envelope("", &get_folder("amy@contoso.com"));
        assert_eq!(
            charged(&old, &request),
            [
                SVC,
                "OpenMailboxes account svc@contoso.com -> mailbox amy@contoso.com"
            ]
        );
    }

    #[test]
    fn what_cannot_be_read_charges_the_caller() {
        let policy = ThrottlingPolicy::exchange_online();
        let mut request = Request::new(ReplayBody::from("no xml"));
        assert_eq!(charged(&policy, &request), [SVC]);
        request.extensions_mut().insert(Caller::new("other"));
        assert_eq!(charged(&policy, &request), ["Concurrency account other x1"]);
    }

    #[test]
    fn mappings_make_one_key_of_all_kinds() {
        let amy =
            |_: SidKind, who: &str| (who == "S-1-5-21-1").then(|| "amy@contoso.com".to_owned());
        let charges = ThrottlingPolicy::exchange_online()
            .charges()
            .map_principal(amy);
        charges.learn(
            "9362c853-fa03-45d1-9d7c-ef09db45f783".parse().unwrap(),
            "Amy@contoso.com",
        );
        let request = envelope(&impersonate("SID", "S-1-5-21-1"), &delete(GUID_ID));
        let charged = charges.make_charges(&request);
        assert_eq!(charged.len(), 1);
        assert_eq!(
            charged[0].principal(),
            &Principal::impersonation("amy@contoso.com")
        );
        assert_eq!(charges.access(&request), Access::Impersonation);
        // An id of Amy's in somebody else's name reaches a second mailbox.
        let request = envelope(
            &impersonate("SmtpAddress", "bob@contoso.com"),
            &delete(GUID_ID),
        );
        let values = charges.make_charges(&request);
        assert!(values.iter().any(|charge| {
            charge
                .value()
                .is_some_and(|v| v.name() == "amy@contoso.com")
        }));
        let request = envelope("", &delete(GUID_ID));
        assert_eq!(charges.access(&request), Access::Delegate);
    }
    /// An id of the mailbox with this number, as Exchange writes it.
    fn id(number: usize) -> String {
        let guid = Uuid::from_u128(number as u128).to_string();
        let head = [&[0, 3, 36, 0], guid.as_bytes(), &[0; 24]].concat();
        base64::Engine::encode(&base64::prelude::BASE64_STANDARD, head)
    }

    #[test]
    fn the_work_is_in_proportion_to_the_mailboxes() {
        let policy = ThrottlingPolicy::exchange_2019();
        let service = Principal::account("svc@contoso.com");
        for n in [10, 1_000, 10_000] {
            let charges = policy.charges().caller(Caller::new("svc@contoso.com"));
            // One in two is known by its address, and named by it besides.
            for number in (0..n).step_by(2) {
                let address = format!("User{number}@contoso.com");
                charges.learn(Uuid::from_u128(number as u128), &address);
            }
            let ids: String = (0..n)
                .map(|number| format!(r#"<t:FolderId Id="{}"/>"#, id(number)))
                .collect();
            let named: String = (0..n)
                .step_by(2)
                .map(|number| folder(&format!("user{number}@Contoso.com")))
                .collect();
            let body = format!("<GetFolder><FolderIds>{ids}{named}</FolderIds></GetFolder>");
            let request = envelope("", &body);
            let (work, charged) = counted::during(|| charges.make_charges(&request));
            assert!(work <= 40 * n as u64, "{work} steps for {n} mailboxes");
            // Each mailbox once, however it is reached.
            assert_eq!(charged.len(), 1 + n);
            assert!(charged[1..].iter().all(|charge| {
                charge.budget() == Budget::OpenMailboxes && charge.principal() == &service
            }));
        }
    }
}
