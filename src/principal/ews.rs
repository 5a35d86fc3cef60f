//! [`EwsCharges`]: who is charged for an EWS call, read from its SOAP text.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use http::Request;
use parking_lot::RwLock;
use uuid::Uuid;

use super::accounts::Accounts;
use super::amounts::amount;
use super::budget::Budget;
use super::charges::{Charge, Charges};
use super::found_rows::{KnownRows, MAX_ROWS, RowsReader, Search};
use super::identity::{Access, Principal};
use super::lease::Lease;
use super::make_charges::MakeCharges;
use super::rules::{BudgetRule, ChargeRule, Payer};
use super::subscriptions::SubscriptionReader;
use crate::body::ReplayBody;
use crate::extensions::Caller;
use crate::soap::{ConnectingSid, Operation, Outline, SidKind};

/// How many mailbox GUIDs are remembered.
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
    /// How much searches found.
    rows: Arc<KnownRows>,
}

impl EwsCharges {
    /// Charges by `rules`: what several rules draw on one budget is added up. Callers that are not known by name share one account.
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
            rows: Arc::default(),
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

    /// Who pays what the effective user pays.
    fn effective(&self, impersonated: Option<&str>, caller: &Principal) -> Principal {
        match impersonated {
            Some(mailbox) if self.impersonation_copy => Principal::impersonation(mailbox),
            Some(mailbox) => Principal::account(mailbox),
            None => caller.clone(),
        }
    }

    /// Reads how much a search found, if it draws by that.
    fn search(&self, request: &Request<ReplayBody>) -> Option<Lease> {
        let mut rules = self.rules.iter();
        if !rules.any(|rule| rule.rule == ChargeRule::FoundRows) {
            return None;
        }
        let body = request.body();
        let impersonated = self.impersonated(body.outline().ok()?);
        let caller = Principal::account(self.caller_of(request).name());
        let search = Search::of(&self.effective(impersonated.as_deref(), &caller), body)?;
        let lease = Lease::of_nothing(RowsReader::new(&self.rows, search));
        let (rules, rows) = (Arc::clone(&self.rules), Arc::clone(&self.rows));
        Some(lease.with_estimate(Arc::new(move |charges| {
            estimated(charges, &rules, rows.drawn(search))
        })))
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

/// The charges of a search that draws `rows`. None: no others.
fn estimated(charges: &Charges, rules: &[BudgetRule], rows: u32) -> Option<Charges> {
    let counts_rows = |charge: &Charge| {
        let mut rules = rules.iter().filter(|rule| rule.budget == charge.budget());
        rules.all(|rule| rule.rule == ChargeRule::FoundRows)
    };
    let is_other = |charge: &&Charge| counts_rows(charge) && charge.amount() != rows;
    charges.iter().find(is_other)?;
    let of_now = |charge: &Charge| match counts_rows(charge) {
        true => charge.clone().with_amount(rows),
        false => charge.clone(),
    };
    Some(charges.iter().map(of_now).collect())
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
        let effective = self.effective(impersonated.as_deref(), &caller);
        let operation = outline.operation();
        let writes = operation.is_none_or(|operation| !operation.is_read());
        let both = impersonated.is_some() && !reached.is_empty();
        let payers = |payer: Payer| match payer {
            Payer::Effective => [Some(effective.clone()), both.then(|| caller.clone())],
            Payer::Caller => [Some(caller.clone()), None],
            Payer::Mailbox => {
                let mailbox = reached.first().map(|mailbox| &**mailbox).or(own);
                [mailbox.map(Principal::mailbox), None]
            }
        };
        let drawn = |rule: &BudgetRule| {
            let expected = || {
                let search = Search::of(&effective, body);
                search.map_or(MAX_ROWS, |search| self.rows.likely(search))
            };
            let amount = amount(&rule.rule, operation, body, expected);
            let payers = (amount > 0).then(|| payers(rule.payer));
            let payers = payers.into_iter().flatten().flatten();
            let budget = rule.budget;
            payers.map(move |payer| Charge::new(payer, budget, amount))
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
            .flat_map(|rule| drawn(rule).chain(opened(rule)))
            .collect()
    }

    /// What Subscribe draws on [`Budget::Subscriptions`] lasts until Unsubscribe, or until the subscription has expired. The
    /// response of a search without a page tells what the next one draws by [`ChargeRule::FoundRows`].
    fn lease(&self, request: &Request<ReplayBody>) -> Option<Lease> {
        match request.body().outline().ok()?.operation()? {
            Operation::FIND_ITEM | Operation::FIND_FOLDER => self.search(request),
            operation @ (Operation::SUBSCRIBE
            | Operation::UNSUBSCRIBE
            | Operation::GET_EVENTS
            | Operation::GET_STREAMING_EVENTS) => {
                let budget = Budget::Subscriptions;
                if !self.rules.iter().any(|rule| rule.budget == budget) {
                    return None;
                }
                let reader = SubscriptionReader::of(operation, &request.body().to_bytes())?;
                Some(Lease::new(budget, reader))
            }
            _ => None,
        }
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
mod tests;
