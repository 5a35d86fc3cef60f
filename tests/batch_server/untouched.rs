//! Requests that are not to be cut: parts of them would mean something else, or nobody can tell.

use http::Request;
use tower_ews::body::ReplayBody;
use tower_ews::soap::operation::Namespace;
use tower_ews::soap::{Operation, Split};

use super::Style;
use super::requests::case_of;

fn item(number: u32) -> String {
    format!("<t:ItemId Id='{number}'/>")
}

fn envelope(text: &str) -> String {
    Style::Usual.request(text)
}

fn get(items: &str) -> String {
    envelope(&format!("<m:GetItem>{items}</m:GetItem>"))
}

/// GetAppManifests, with settings before its ids.
pub fn manifests(settings: &str, ids: &str) -> String {
    envelope(&format!(
        "<m:GetAppManifests>{settings}<m:ExtensionIds>{ids}</m:ExtensionIds></m:GetAppManifests>"
    ))
}

/// One that may be cut, of which many of the others are made.
pub fn nearly_untouched() -> String {
    get(&format!("<m:ItemIds>{}{}</m:ItemIds>", item(1), item(2)))
}

/// Why they are not to be cut, and the requests.
pub fn untouched() -> Vec<(String, Request<ReplayBody>)> {
    let (one, two) = (item(1), item(1) + &item(2));
    let items = format!("<m:ItemIds>{two}</m:ItemIds>");
    let availability = case_of("GetUserAvailability").request(Style::Usual, 6);
    let conversations = case_of("GetConversationItems").request(Style::Usual, 6);
    let users = "<t:UserId><t:SID>1</t:SID></t:UserId>".repeat(2);
    let untouched = [
        ("one member", get(&format!("<m:ItemIds>{one}</m:ItemIds>"))),
        ("none", get("<m:ItemIds/>")),
        ("no array", get("")),
        ("two containers", get(&format!("{items}{items}"))),
        ("one of them empty", get(&format!("{items}<m:ItemIds/>"))),
        ("one of two kinds empty", envelope(&format!("<m:GetImItems><m:ContactIds/><m:GroupIds>{two}</m:GroupIds></m:GetImItems>"))),
        ("text between", get(&format!("<m:ItemIds>{one}x{one}</m:ItemIds>"))),
        ("text in the other container", get(&format!("{items}<m:ItemIds>x{one}</m:ItemIds>"))),
        ("unknown", get(&items).replace("GetItem", "GetStuff")),
        ("two operations", envelope(&format!("<m:GetItem>{items}</m:GetItem><m:GetItem>{items}</m:GetItem>"))),
        ("changes its meaning", envelope("<m:GetStreamingEvents><m:SubscriptionIds><t:SubscriptionId>a</t:SubscriptionId><t:SubscriptionId>b</t:SubscriptionId></m:SubscriptionIds></m:GetStreamingEvents>")),
        ("a handful of names", envelope("<m:GetServiceConfiguration><m:RequestedConfiguration><m:ConfigurationName>MailTips</m:ConfigurationName><m:ConfigurationName>ProtectionRules</m:ConfigurationName></m:RequestedConfiguration></m:GetServiceConfiguration>")),
        ("rules", envelope("<m:UpdateInboxRules><m:Operations><t:CreateRuleOperation/><t:CreateRuleOperation/></m:Operations></m:UpdateInboxRules>")),
        ("suggestions", availability.replace("</t:FreeBusyViewOptions>", "</t:FreeBusyViewOptions><t:SuggestionsViewOptions><t:GoodThreshold>25</t:GoodThreshold></t:SuggestionsViewOptions>")),
        ("a maximum", conversations.replace("<m:Conversations>", "<m:MaxItemsToReturn>5</m:MaxItemsToReturn><m:Conversations>")),
        ("the same name", envelope("<m:CreateManagedFolder><m:FolderNames><t:FolderName>a</t:FolderName><t:FolderName> A </t:FolderName></m:FolderNames></m:CreateManagedFolder>")),
        ("one id", manifests("", "a")),
        ("no id", manifests("", " ")),
        ("the same id", manifests("", "a B b")),
        ("the same id in elements", manifests("", "<t:String>a</t:String><t:String> A </t:String>")),
        ("a comment between", manifests("", "a <!-- --> b")),
        ("an instruction between", manifests("", "a <?p?> b")),
        ("CDATA", manifests("", "<![CDATA[a b]]>")),
        ("CDATA between", manifests("", "a <![CDATA[b]]> c")),
        ("an entity", manifests("", "a b&#32;c")),
        ("a broken entity", manifests("", "a b &c")),
        ("words and elements", manifests("", "a b<t:String>c</t:String>")),
        ("all add-ins", manifests("<m:IncludeAllInstalledAddIns> true\n</m:IncludeAllInstalledAddIns>", "a b")),
        ("all of them", manifests("<m:IncludeAllInstalledAddIns>1</m:IncludeAllInstalledAddIns>", "a b")),
        ("perhaps all", manifests("<m:IncludeAllInstalledAddIns>True</m:IncludeAllInstalledAddIns>", "a b")),
        ("other add-ins", manifests("", "a b").replace("</m:GetApp", "<m:AddIns>\n<t:AddIn/></m:AddIns></m:GetApp")),
        ("two lists", manifests("<m:ExtensionIds>c d</m:ExtensionIds>", "a b")),
        ("a list in another namespace", manifests("", "a b").replace("m:ExtensionIds", "t:ExtensionIds")),
        ("users in another namespace", envelope(&format!("<m:GetDelegate><t:UserIds>{users}</t:UserIds></m:GetDelegate>"))),
        ("no time zones", envelope("<m:GetServerTimeZones/>")),
        ("broken", get(&items).replace("</m:GetItem>", "")),
        ("a document type", format!("<!DOCTYPE x>{}", get(&items).split_once("?>").unwrap().1)),
        ("JSON", "{}".to_owned()),
        ("a signature", get(&items).replace("<s:Header>", "<s:Header><w:Security xmlns:w='urn:w'><Signature/></w:Security>")),
        ("an encoding", get(&items).replace("utf-8", "iso-8859-1")),
        ("one array of two is no array", envelope(&format!("<m:GetImItems><m:ContactIds>x{one}</m:ContactIds><m:GroupIds>{two}</m:GroupIds></m:GetImItems>"))),
    ];
    let mut all: Vec<(String, Request<ReplayBody>)> = untouched
        .into_iter()
        .map(|(why, request)| (why.to_owned(), Request::new(request.into())))
        .collect();
    let utf16: Vec<u8> = get(&items)
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    all.push(("UTF-16".to_owned(), Request::new(utf16.into())));
    all.push(("nothing".to_owned(), Request::new(().into())));
    let mut compressed = Request::new(ReplayBody::from(get(&items)));
    let headers = compressed.headers_mut();
    headers.insert("content-encoding", "gzip".parse().unwrap());
    all.push(("compressed".to_owned(), compressed));
    for operation in Operation::all() {
        if !matches!(
            operation.split(),
            Split::ChangesMeaning | Split::NotApplicable
        ) {
            continue;
        }
        let element = operation.request_element();
        let arrays: String = operation
            .arrays()
            .iter()
            .map(|array| {
                let prefix = match array.member_namespace {
                    Namespace::Messages => "m",
                    _ => "t",
                };
                let member = array.members.first().copied().unwrap_or("String");
                let members = format!("<{prefix}:{member}>a</{prefix}:{member}>").repeat(3);
                format!("<m:{0}>{members}</m:{0}>", array.container)
            })
            .collect();
        let arrays = match &*arrays {
            // Whatever looks like one.
            "" => "<m:ItemIds><t:ItemId Id='a'/><t:ItemId Id='b'/></m:ItemIds>",
            arrays => arrays,
        };
        let request = envelope(&format!("<m:{element}>{arrays}</m:{element}>"));
        all.push((format!("{operation:?}"), Request::new(request.into())));
    }
    all
}
