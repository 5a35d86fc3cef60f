//! Autodiscover over SOAP: the settings of users that say which server has their mailboxes.

use std::fmt::Write as _;

use super::affinity::Affinity;
use super::mailbox::Store;
use super::soap;
use super::xml::{Element, escaped};

const NAMESPACE: &str = "http://schemas.microsoft.com/exchange/2010/Autodiscover";
/// Each user is asked for the settings of the affinity of subscriptions, and others are not known.
const EWS_URL: &str = "https://mail.contoso.com/EWS/Exchange.asmx";

/// The child of that name, whose namespace is none of EWS's.
fn child<'a>(of: &'a Element, name: &str) -> Option<&'a Element> {
    of.children().find(|child| child.name == name)
}

/// The response to GetUserSettings; none to anything else.
pub(super) fn respond(
    request: &Element,
    store: &mut Store,
    affinity: &Affinity,
    policy: &super::policy::Policy,
) -> Option<String> {
    if request.name != "GetUserSettingsRequestMessage" {
        return None;
    }
    let list = |name| {
        let found = child(request, "Request").and_then(|request| child(request, name));
        found.into_iter().flat_map(Element::children)
    };
    let settings: Vec<String> = list("RequestedSettings").map(Element::text).collect();
    let mut users = String::new();
    for user in list("Users") {
        let address = child(user, "Mailbox")
            .map(Element::text)
            .unwrap_or_default();
        let Some(mailbox) = store.find(&address) else {
            users += "<a:UserResponse><a:ErrorCode>InvalidUser</a:ErrorCode>\
                      <a:ErrorMessage>There is no such user.</a:ErrorMessage></a:UserResponse>";
            continue;
        };
        users += "<a:UserResponse><a:ErrorCode>NoError</a:ErrorCode><a:ErrorMessage>No error.</a:ErrorMessage><a:UserSettings>";
        for name in &settings {
            let value = match name.as_str() {
                "ExternalEwsUrl" => EWS_URL.to_owned(),
                "GroupingInformation" => affinity.grouping(mailbox),
                _ => continue,
            };
            let _ = write!(
                users,
                "<a:UserSetting><a:Name>{name}</a:Name><a:Value>{}</a:Value></a:UserSetting>",
                escaped(&value)
            );
        }
        users += "</a:UserSettings></a:UserResponse>";
    }
    Some(soap::envelope(
        policy,
        &format!(
            "<a:GetUserSettingsResponseMessage xmlns:a=\"{NAMESPACE}\"><a:Response><a:ErrorCode>NoError</a:ErrorCode>\
             <a:ErrorMessage/><a:UserResponses>{users}</a:UserResponses></a:Response></a:GetUserSettingsResponseMessage>"
        ),
    ))
}
