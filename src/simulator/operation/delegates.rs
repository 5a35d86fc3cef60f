//! GetDelegate, AddDelegate, UpdateDelegate, RemoveDelegate: a mailbox's list of delegates. It
//! gives no account any rights: [`Account`](super::super::Account) says what those are.

use std::fmt::Write as _;

use super::super::failure::Failure;
use super::super::xml::{Element, Node};
use super::context::Context;
use super::response::MemberResult;

/// The mailbox that the call is about, entered.
fn principal(context: &mut Context<'_>, request: &Element) -> Result<usize, Failure> {
    let address = request
        .at(&["Mailbox", "EmailAddress"])
        .map(Element::text)
        .unwrap_or_default();
    let index = context
        .store
        .find(&address)
        .ok_or_else(Failure::no_mailbox)?;
    context.enter(index)?;
    Ok(index)
}

/// An error about the mailbox is the whole response's.
pub(super) fn prepare(context: &mut Context<'_>, request: &Element) -> Result<(), Failure> {
    let index = principal(context, request)?;
    if let Some(deliver) = request.child_text("DeliverMeetingRequests") {
        context.mailbox_mut(index)?.meeting_requests = deliver;
    }
    Ok(())
}

pub(super) fn meeting_requests(context: &mut Context<'_>, request: &Element) -> String {
    let index = principal(context, request);
    match index.and_then(|index| context.mailbox(index)) {
        Ok(mailbox) => format!(
            "<m:DeliverMeetingRequests>{}</m:DeliverMeetingRequests>",
            super::super::xml::escaped(&mailbox.meeting_requests)
        ),
        Err(_) => String::new(),
    }
}

/// The address of a `UserId`.
fn address_of(user: &Element) -> Result<String, Failure> {
    user.child_text("PrimarySmtpAddress")
        .or_else(|| user.child_text("SID"))
        .map(|address| address.to_lowercase())
        .filter(|address| !address.is_empty())
        .ok_or_else(|| Failure::new("ErrorInvalidDelegateUserId", "The user id names nobody."))
}

fn not_a_delegate() -> Failure {
    Failure::new(
        "ErrorNotDelegate",
        "The user is no delegate of this mailbox.",
    )
}

fn write(user: &Element, permissions: bool) -> String {
    let mut out = String::from("<m:DelegateUser>");
    for field in user.children() {
        if permissions || field.name != "DelegatePermissions" {
            field.write(&mut out);
        }
    }
    out.push_str("</m:DelegateUser>");
    out
}

/// One delegate, or all of them when the request names none.
pub(super) fn get(context: &mut Context<'_>, request: &Element, member: &Element) -> MemberResult {
    let index = principal(context, request)?;
    let permissions = request.attribute("IncludePermissions") == Some("true");
    let wanted = match member.name.as_str() {
        "GetDelegate" => None,
        _ => Some(address_of(member)?),
    };
    let mut out = String::new();
    for (address, user) in &context.mailbox(index)?.delegates {
        if wanted.as_ref().is_none_or(|wanted| wanted == address) {
            let _ = write!(
                out,
                "<m:DelegateUserResponseMessageType ResponseClass=\"Success\">\
                 <m:ResponseCode>NoError</m:ResponseCode>{}</m:DelegateUserResponseMessageType>",
                write(user, permissions)
            );
        }
    }
    if out.is_empty() && wanted.is_some() {
        return Err(not_a_delegate());
    }
    Ok(out)
}

pub(super) fn add(context: &mut Context<'_>, request: &Element, member: &Element) -> MemberResult {
    let index = principal(context, request)?;
    let address = address_of(member.child("UserId").unwrap_or(member))?;
    if context.store.find(&address).is_none() {
        return Err(Failure::new(
            "ErrorDelegateNoUser",
            "The delegate has no mailbox.",
        ));
    }
    let mailbox = context.mailbox_mut(index)?;
    if mailbox.address == address {
        return Err(Failure::new(
            "ErrorDelegateCannotAddOwner",
            "The owner cannot be a delegate.",
        ));
    }
    if mailbox.delegates.iter().any(|(known, _)| *known == address) {
        return Err(Failure::new(
            "ErrorDelegateAlreadyExists",
            "The user is a delegate already.",
        ));
    }
    mailbox.delegates.push((address.clone(), member.clone()));
    context.done(&address);
    Ok(write(member, true))
}

pub(super) fn update(
    context: &mut Context<'_>,
    request: &Element,
    member: &Element,
) -> MemberResult {
    if member.name == "UpdateDelegate" {
        // Only the delivery of meeting requests changes.
        return Ok(String::new());
    }
    let index = principal(context, request)?;
    let address = address_of(member.child("UserId").unwrap_or(member))?;
    let mailbox = context.mailbox_mut(index)?;
    let (_, user) = mailbox
        .delegates
        .iter_mut()
        .find(|(known, _)| *known == address)
        .ok_or_else(not_a_delegate)?;
    // Those settings that the client names replace the old ones, in their order.
    for name in [
        "DelegatePermissions",
        "ReceiveCopiesOfMeetingMessages",
        "ViewPrivateItems",
    ] {
        let new = member.child(name).or_else(|| user.child(name)).cloned();
        user.nodes
            .retain(|node| !matches!(node, Node::Element(field) if field.name == name));
        user.nodes.extend(new.map(Node::Element));
    }
    let out = write(user, true);
    context.done(&address);
    Ok(out)
}

pub(super) fn remove(
    context: &mut Context<'_>,
    request: &Element,
    member: &Element,
) -> MemberResult {
    let index = principal(context, request)?;
    let address = address_of(member)?;
    let mailbox = context.mailbox_mut(index)?;
    let before = mailbox.delegates.len();
    mailbox.delegates.retain(|(known, _)| *known != address);
    if mailbox.delegates.len() == before {
        return Err(not_a_delegate());
    }
    context.done(&address);
    Ok(String::new())
}
