//! Subscribe, Unsubscribe, GetEvents, GetStreamingEvents.

use std::time::Duration;

use super::super::budget::Payer;
use super::super::failure::Failure;
use super::super::policy::SubscriptionPayer;
use super::super::stream::{self, not_had};
use super::super::subscription::Subscription;
use super::super::xml::Element;
use super::context::{Context, Hanging};
use super::response::MemberResult;

/// A subscription for a stream lives so long without one.
const WITHOUT_STREAM: Duration = Duration::from_secs(30 * 60);
/// A stream of more subscriptions is refused ("How to: Maintain affinity between a group of
/// subscriptions and the Mailbox server", step 7).
const MOST_IN_STREAM: usize = 200;

pub(super) fn subscribe(context: &mut Context<'_>, request: &Element) -> MemberResult {
    let kind = request.children().next().ok_or_else(invalid)?;
    let minutes = |name| {
        let text = kind.child_text(name)?;
        let minutes: u64 = text
            .parse()
            .ok()
            .filter(|minutes| (1..=1440).contains(minutes))?;
        Some(Duration::from_secs(60 * minutes))
    };
    let lives = match kind.name.as_str() {
        "PullSubscriptionRequest" => minutes("Timeout"),
        // Nobody responds to a push here.
        "PushSubscriptionRequest" => minutes("StatusFrequency"),
        "StreamingSubscriptionRequest" => Some(WITHOUT_STREAM),
        _ => None,
    };
    let lives = lives.ok_or_else(invalid)?;
    let (index, folders) = folders_of(context, kind)?;
    if context.affinity.server_of(index) != context.server {
        return Err(Failure::new(
            "ErrorProxyRequestNotAllowed",
            "Another server has the mailbox.",
        ));
    }
    let mailbox = context.mailbox(index)?;
    let payer = match context.policy.subscription_payer {
        SubscriptionPayer::Caller => Payer::Account(context.caller.name().to_owned()),
        SubscriptionPayer::Mailbox => Payer::Copy(mailbox.address.clone()),
    };
    let since = mailbox.version();
    let subscription = Subscription {
        owner: context.caller.name().to_owned(),
        payer,
        mailbox: index,
        folders,
        since,
        server: context.server,
        cookie: context.cookie,
        lives,
    };
    let most = context.policy.max_subscriptions;
    let id = context.subscriptions.add(subscription, most, context.now);
    let id = id.inspect_err(|failure| {
        context.counters.throttled(&failure.code);
        context.counters.violation("EWSMaxSubscriptions");
    })?;
    let mut out = format!("<m:SubscriptionId>{id}</m:SubscriptionId>");
    if kind.name != "StreamingSubscriptionRequest" {
        out.push_str("<m:Watermark>AAAAAAAAAAA=</m:Watermark>");
    }
    Ok(out)
}

/// The one mailbox that a subscription is for, and its folders.
fn folders_of(context: &mut Context<'_>, kind: &Element) -> Result<(usize, Vec<u64>), Failure> {
    if kind.attribute("SubscribeToAllFolders") == Some("true") {
        let index = context.effective.ok_or_else(Failure::no_mailbox)?;
        context.enter(index)?;
        return Ok((index, Vec::new()));
    }
    let mut of = None;
    let mut folders = Vec::new();
    for id in kind
        .child("FolderIds")
        .into_iter()
        .flat_map(Element::children)
    {
        let (index, folder) = context.folder(id)?;
        if *of.get_or_insert(index) != index {
            return Err(invalid());
        }
        folders.push(folder);
    }
    Ok((of.ok_or_else(invalid)?, folders))
}

fn invalid() -> Failure {
    Failure::new(
        "ErrorInvalidSubscriptionRequest",
        "A subscription is for folders of one mailbox, with a kind and a time that are allowed.",
    )
}

/// The subscription that the request names, if the caller has it.
fn named(context: &mut Context<'_>, request: &Element) -> Result<String, Failure> {
    let id = request.child_text("SubscriptionId").unwrap_or_default();
    check(context, std::slice::from_ref(&id)).map_err(|(failure, _)| failure)?;
    Ok(id)
}

/// Whether the caller has these here; else the first failure, and the ids of all.
fn check(context: &mut Context<'_>, ids: &[String]) -> Result<(), (Failure, Vec<String>)> {
    let (owner, server) = (context.caller.name(), context.server);
    let foreign = |id: &String| {
        let made_with = context.subscriptions.cookie(id);
        context.cookie.is_some() && made_with.is_some() && made_with != context.cookie
    };
    context.counters.report.foreign_cookies += u64::from(ids.iter().any(foreign));
    let check = |id: &String| {
        let checked = context.subscriptions.check(id, owner, server, context.now);
        checked.err().map(|failure| (failure, id.clone()))
    };
    let (failures, ids): (Vec<Failure>, Vec<String>) = ids.iter().filter_map(check).unzip();
    failures
        .into_iter()
        .next()
        .map_or(Ok(()), |failure| Err((failure, ids)))
}

pub(super) fn unsubscribe(context: &mut Context<'_>, request: &Element) -> MemberResult {
    let id = named(context, request)?;
    context.subscriptions.remove(&id);
    Ok(String::new())
}

pub(super) fn get_events(context: &mut Context<'_>, request: &Element) -> MemberResult {
    let id = named(context, request)?;
    let (stamp, now) = (context.stamp(), context.now);
    let notification = context
        .subscriptions
        .notification(&id, context.store, &stamp, Some(now));
    let notification = notification.ok_or_else(Failure::no_mailbox)?;
    Ok(format!("<m:Notification>{notification}</m:Notification>"))
}

pub(super) fn get_streaming_events(context: &mut Context<'_>, request: &Element) -> MemberResult {
    let ids = request.child("SubscriptionIds").into_iter();
    let ids: Vec<String> = ids.flat_map(Element::children).map(Element::text).collect();
    let most = &mut context.counters.report.most_stream_ids;
    *most = ids.len().max(*most);
    let minutes = request
        .child_text("ConnectionTimeout")
        .and_then(|minutes| minutes.parse().ok())
        .filter(|minutes: &u64| (1..=30).contains(minutes));
    let Some(minutes) = minutes.filter(|_| (1..=MOST_IN_STREAM).contains(&ids.len())) else {
        return Err(invalid());
    };
    if let Err((failure, refused)) = check(context, &ids) {
        return Err(not_had(failure, &refused));
    }
    context.scratch.hanging = Some(Hanging {
        number: context.subscriptions.open(&ids),
        ids,
        lasts: Duration::from_secs(60 * minutes),
    });
    Ok(stream::OPEN.to_owned())
}
