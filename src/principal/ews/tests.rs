//! Tests of [`EwsCharges`]: who is charged, and what for.

use super::*;
use crate::ledger::Limit;
use crate::policy::ThrottlingPolicy;
use crate::principal::{Budget, Charge, counted};

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
    let own = "<GetFolder><FolderIds><t:DistinguishedFolderId Id='inbox'/></FolderIds></GetFolder>";
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

/// A search with this inside, over these folders.
fn find(inside: &str, folders: &[&str]) -> String {
    let ids = folders
        .iter()
        .map(|id| format!(r#"<t:DistinguishedFolderId Id="{id}"/>"#));
    let ids: String = ids.collect();
    format!(
        r#"<FindItem Traversal="Shallow"><ItemShape/>{inside}<ParentFolderIds>{ids}</ParentFolderIds></FindItem>"#
    )
}

#[test]
fn searches_without_a_page_draw_what_they_found() {
    let charges = ThrottlingPolicy::exchange_online().charges();
    let charges = charges.caller(Caller::new("svc@contoso.com"));
    let rows = |request: &Request<ReplayBody>| {
        let charged = charges.make_charges(request);
        let mut found = charged.iter();
        let found = found.find(|charge| charge.budget() == Budget::FindCount);
        found.map_or(0, Charge::amount)
    };
    // Whether somebody reads this response to the request.
    let says = |request: &Request<ReplayBody>, inner: &str| {
        let Some(mut lease) = charges.lease(request) else {
            return false;
        };
        assert_eq!(lease.budget(), None);
        let response = envelope("", inner).into_body().to_bytes();
        lease.reader().read(&response);
        lease.reader().end();
        true
    };
    let ten = r#"<FindItemResponse><RootFolder TotalItemsInView="10"/></FindItemResponse>"#;
    let too_many = "<R><ResponseCode>ErrorExceededFindCountLimit</ResponseCode></R>";
    let amy = impersonate("SmtpAddress", "amy@contoso.com");
    let restriction = "<Restriction><t:Exists/></Restriction>";
    let page =
        r#"<IndexedPageItemView MaxEntriesReturned="500" Offset="0" BasePoint="Beginning"/>"#;
    let inbox = envelope("", &find("", &["inbox"]));
    let drafts = envelope("", &find("", &["drafts"]));
    let both = envelope("", &find("", &["inbox", "drafts"]));
    let paged = envelope("", &find(page, &["inbox"]));
    let restricted = envelope("", &find(restriction, &["inbox"]));
    let of_amy = envelope(&amy, &find("", &["inbox"]));
    let folders = envelope("", &find("", &["inbox"]).replace("FindItem", "FindFolder"));
    let all = [
        &inbox,
        &drafts,
        &both,
        &paged,
        &restricted,
        &of_amy,
        &folders,
    ];
    let drawn = || all.map(rows);

    assert_eq!(drawn(), [100, 100, 2000, 500, 400, 100, 100]);
    // Nobody reads what says nothing of one folder.
    for request in [&both, &paged, &envelope("", &get_folder("amy@contoso.com"))] {
        assert!(!says(request, ten));
    }
    let before = charges.make_charges(&inbox);
    assert!(says(&inbox, ten));
    // A call that waits asks for what is known by then.
    let lease = charges.lease(&inbox).expect("a reader");
    let estimate = lease.estimate().expect("a guess");
    let after = charges.make_charges(&inbox);
    assert_eq!(
        (estimate(&before), estimate(&after)),
        (Some(after.clone()), None)
    );
    assert_eq!(drawn(), [37, 37, 2000, 500, 400, 100, 100]);
    assert!(says(&restricted, ten) && says(&of_amy, ten));
    assert_eq!(drawn(), [37, 37, 2000, 500, 148, 37, 100]);
    assert!(says(&inbox, too_many));
    assert_eq!(drawn(), [1000, 1000, 2000, 500, 148, 37, 100]);
    assert!(says(&inbox, "<R/>"));
    assert_eq!(rows(&inbox), 1000);
    // Clones know the same, others nothing.
    assert_eq!(
        charges.clone().make_charges(&of_amy),
        charges.make_charges(&of_amy)
    );
    // Without a rule that draws by it nobody reads responses.
    for rules in [vec![], vec![calls_of(Budget::Concurrency)]] {
        assert!(EwsCharges::new(rules).lease(&inbox).is_none());
    }
}

fn calls_of(budget: Budget) -> BudgetRule {
    BudgetRule::new(budget, Payer::Effective, ChargeRule::Calls)
}

#[test]
fn subscriptions_last_where_they_are_limited() {
    let subscribe = envelope("", "<Subscribe><StreamingSubscriptionRequest/></Subscribe>");
    for (budget, lasts) in [(Budget::Subscriptions, true), (Budget::Concurrency, false)] {
        let charges = EwsCharges::new([calls_of(budget)]);
        let lease = charges.lease(&subscribe);
        assert_eq!(lease.is_some(), lasts, "{budget:?}");
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
    let amy = |_: SidKind, who: &str| (who == "S-1-5-21-1").then(|| "amy@contoso.com".to_owned());
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

#[test]
fn the_identity_that_says_most_is_the_impersonated_one() {
    let charges = ThrottlingPolicy::exchange_online().charges();
    let sids = ["SID", "PrincipalName", "SmtpAddress", "PrimarySmtpAddress"];
    let one = |kind: &str| format!("<t:{kind}>{kind}@contoso.com</t:{kind}>");
    for (most, last) in sids.iter().enumerate() {
        for backwards in [false, true] {
            let mut given: Vec<String> = sids[..=most].iter().map(|kind| one(kind)).collect();
            if backwards {
                given.reverse();
            }
            let header = format!(
                "<t:ExchangeImpersonation><t:ConnectingSID>{}</t:ConnectingSID></t:ExchangeImpersonation>",
                given.concat()
            );
            let charged = charges.make_charges(&envelope(&header, "<SyncFolderHierarchy/>"));
            let expected = Principal::impersonation(&format!("{last}@contoso.com"));
            assert_eq!(charged[0].principal(), &expected, "{given:?}");
        }
    }
}

#[test]
fn free_busy_opens_no_mailbox_where_reading_does() {
    let asked = "<GetUserAvailabilityRequest><MailboxDataArray><t:MailboxData><t:Email><t:Address>amy@contoso.com</t:Address></t:Email></t:MailboxData></MailboxDataArray></GetUserAvailabilityRequest>";
    let request = envelope("", asked);
    let policy = ThrottlingPolicy::exchange_2019();
    assert_eq!(charged(&policy, &request), [SVC]);
    assert_eq!(policy.charges().access(&request), Access::Owner);
}

#[test]
fn a_rule_draws_on_the_operations_that_it_names() {
    let rule = ChargeRule::Only(vec!["SyncFolderHierarchy".to_owned(), "X".to_owned()]);
    let rule = BudgetRule::new(Budget::Custom(0), crate::principal::Payer::Effective, rule);
    let charges = EwsCharges::new([rule]);
    let drawn = |body: &str| charges.make_charges(&envelope("", body)).len();
    assert_eq!(drawn("<SyncFolderHierarchy/>"), 1);
    assert_eq!(drawn(&get_folder("amy@contoso.com")), 0);
}

/// Under impersonation an id of a mailbox that nobody knows is taken for the impersonated one's.
#[test]
fn unknown_ids_are_the_impersonated_mailbox_s() {
    let charges = ThrottlingPolicy::exchange_2019().charges();
    // Known is some other mailbox.
    charges.learn(Uuid::from_u128(7), "bob@contoso.com");
    let request = envelope(
        &impersonate("SmtpAddress", "amy@contoso.com"),
        &delete(GUID_ID),
    );
    assert_eq!(charges.make_charges(&request).len(), 1);
}

#[test]
fn a_bounded_number_of_mailboxes_is_remembered() {
    let charges = ThrottlingPolicy::exchange_2019().charges();
    for number in 0..MAX_KNOWN + 1 {
        charges.learn(Uuid::from_u128(number as u128), "amy@contoso.com");
    }
    assert_eq!(charges.known.read().len(), MAX_KNOWN);
    // One that is known can move.
    charges.learn(Uuid::from_u128(1), "Bob@contoso.com");
    assert_eq!(
        &*charges.known.read()[&Uuid::from_u128(1)],
        "bob@contoso.com"
    );
    let printed = format!("{charges:?}");
    assert!(
        printed.contains("the calling account") && !printed.contains("bob"),
        "{printed}"
    );
}

#[test]
fn how_a_mailbox_is_reached_and_which() {
    let charges = ThrottlingPolicy::exchange_online().charges();
    let svc = Caller::new("svc@contoso.com");
    let amy = || Some("amy@contoso.com".to_owned());
    let own = || Some("svc@contoso.com".to_owned());
    let as_amy = impersonate("SmtpAddress", "amy@contoso.com");
    for (header, body, expected) in [
        ("", get_folder("svc@contoso.com"), (Access::Owner, own())),
        ("", get_folder("amy@contoso.com"), (Access::Delegate, amy())),
        (
            &*as_amy,
            get_folder("bob@contoso.com"),
            (Access::Impersonation, amy()),
        ),
    ] {
        let request = envelope(header, &body);
        assert_eq!(charges.reach(request.body(), Some(&svc)), expected);
    }
    let unreadable = ReplayBody::from("no xml");
    let reached = charges.reach(&unreadable, Some(&svc));
    assert_eq!(reached, (Access::Owner, own()));
    assert_eq!(charges.reach(&unreadable, None), (Access::Owner, None));
}

const AMY_SENDS: &str = "impersonation copy of amy@contoso.com";

/// What one budget is charged, as "who x amount".
fn on(policy: &ThrottlingPolicy, budget: Budget, request: &Request<ReplayBody>) -> Vec<String> {
    let charges = policy.charges().caller(Caller::new("svc@contoso.com"));
    let charges = charges.make_charges(request);
    let charges = charges.iter().filter(|charge| charge.budget() == budget);
    charges
        .map(|charge| format!("{} x{}", charge.principal(), charge.amount()))
        .collect()
}

/// A policy under which each budget has a limit.
fn everything() -> ThrottlingPolicy {
    let mut policy = ThrottlingPolicy::exchange_2013();
    let bucket = Limit::per_window(1, std::time::Duration::from_secs(1));
    for budget in [
        Budget::MessageRate,
        Budget::RecipientRate,
        Budget::PercentTime,
        Budget::Requests,
        Budget::UploadBytes,
        Budget::Spacing,
    ] {
        policy.set_limit(budget, bucket).unwrap();
    }
    policy.set_in_flight(Budget::SyncCalls, 5).unwrap();
    policy
}

fn send(number: usize) -> String {
    let message =
        "<t:Message><t:ToRecipients><t:Mailbox/><t:Mailbox/></t:ToRecipients></t:Message>";
    let messages = message.repeat(number);
    format!(r#"<CreateItem MessageDisposition="SendOnly"><Items>{messages}</Items></CreateItem>"#)
}

#[test]
fn what_each_budget_is_charged() {
    let policy = everything();
    let as_amy = impersonate("SmtpAddress", "amy@contoso.com");
    let svc = |amount: usize| vec![format!("account svc@contoso.com x{amount}")];
    let amy = |amount: usize| vec![format!("{AMY_SENDS} x{amount}")];
    let mailbox = |name: &str| vec![format!("mailbox {name}@contoso.com x1")];
    let none = Vec::new;
    let hanging = "<GetStreamingEvents><SubscriptionIds/></GetStreamingEvents>";
    let own = "<GetFolder><FolderIds><t:DistinguishedFolderId Id='inbox'/></FolderIds></GetFolder>";
    let subscribe = |folder: &str| {
        format!(
            "<Subscribe><StreamingSubscriptionRequest><t:FolderIds>{folder}</t:FolderIds></StreamingSubscriptionRequest></Subscribe>"
        )
    };
    let inbox = r#"<t:DistinguishedFolderId Id="inbox"/>"#;
    for (budget, header, body, expected) in [
        (Budget::MessageRate, "", send(3), svc(3)),
        (Budget::MessageRate, &*as_amy, send(3), amy(3)),
        (Budget::MessageRate, "", own.into(), none()),
        (
            Budget::MessageRate,
            "",
            send(3).replace("SendOnly", "SaveOnly"),
            none(),
        ),
        (Budget::RecipientRate, "", send(3), svc(6)),
        (Budget::RecipientRate, &*as_amy, send(3), amy(6)),
        (Budget::RecipientRate, "", own.into(), none()),
        (Budget::BusyTime, "", own.into(), svc(1)),
        (Budget::BusyTime, &*as_amy, own.into(), amy(1)),
        (Budget::BusyTime, "", hanging.into(), none()),
        (Budget::PercentTime, "", own.into(), svc(1)),
        (Budget::PercentTime, "", hanging.into(), none()),
        (Budget::Spacing, "", own.into(), svc(1)),
        (Budget::Spacing, "", hanging.into(), svc(1)),
        (Budget::Requests, "", hanging.into(), svc(1)),
        (
            Budget::UploadBytes,
            "",
            own.into(),
            svc(envelope("", own).body().len() as usize),
        ),
        (Budget::Discovery, "", "<SearchMailboxes/>".into(), svc(1)),
        (Budget::Discovery, "", own.into(), none()),
        (Budget::SyncCalls, "", "<SyncFolderItems/>".into(), svc(1)),
        // The mailbox that is watched pays, however it is reached.
        (Budget::Subscriptions, "", subscribe(inbox), mailbox("svc")),
        (
            Budget::Subscriptions,
            &*as_amy,
            subscribe(inbox),
            mailbox("amy"),
        ),
        (
            Budget::Subscriptions,
            "",
            subscribe(&folder("amy@contoso.com")),
            mailbox("amy"),
        ),
        (
            Budget::Subscriptions,
            &*as_amy,
            subscribe(&folder("bob@contoso.com")),
            mailbox("bob"),
        ),
        (Budget::Subscriptions, "", "<Unsubscribe/>".into(), none()),
    ] {
        let request = envelope(header, &body);
        assert_eq!(on(&policy, budget, &request), expected, "{budget}: {body}");
    }
    // Before SP2 RU4 the calling account pays for subscriptions.
    let old = ThrottlingPolicy::exchange_2010_sp1();
    let request = envelope(&as_amy, &subscribe(inbox));
    assert_eq!(on(&old, Budget::Subscriptions, &request), svc(1));
}

#[test]
fn what_sends_is_charged_in_the_presets_that_limit_it() {
    let request = envelope("", &send(3));
    for name in ThrottlingPolicy::names() {
        let policy = ThrottlingPolicy::named(name).unwrap();
        let messages = on(&policy, Budget::MessageRate, &request);
        let recipients = on(&policy, Budget::RecipientRate, &request);
        let limited = name == "exchange_online";
        assert_eq!(messages.len(), usize::from(limited), "{name}");
        assert_eq!(recipients.len(), usize::from(limited), "{name}");
    }
}

/// A part of a batch is charged for the members that it has.
#[test]
fn a_part_is_charged_for_its_own_members() {
    let whole = envelope("", &send(5));
    let outline = whole.body().outline().unwrap();
    let array = outline.array().unwrap();
    let members = array.members();
    let bytes = whole.body().to_bytes();
    let (head, tail) = (..members[0].start, members[4].end..);
    let kept = members[1].start..members[2].end;
    let part = [&bytes[head], &bytes[kept], &bytes[tail]].concat();
    let part = Request::new(ReplayBody::from(part));
    let policy = everything();
    assert_eq!(
        on(&policy, Budget::MessageRate, &part),
        ["account svc@contoso.com x2"]
    );
    assert_eq!(
        on(&policy, Budget::RecipientRate, &part),
        ["account svc@contoso.com x4"]
    );
}
