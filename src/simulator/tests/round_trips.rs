//! Attachments, folders, exports, delegates: each operation there and back.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

const A: &str = "a@contoso.com";

/// The values of an attribute, in order.
fn attributes<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.split(&format!(" {name}=\""))
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect()
}

/// The text of the first element of that name.
fn element<'a>(text: &'a str, name: &str) -> &'a str {
    text.split_once(&format!("<{name}>"))
        .and_then(|(_, rest)| rest.split('<').next())
        .unwrap()
}

async fn item(exchange: &Exchange, subject: &str) -> (String, String) {
    let (_, text) = ask(exchange, "", &create(A, &[subject])).await;
    (
        attribute(&text, "Id").to_owned(),
        attribute(&text, "ChangeKey").to_owned(),
    )
}

fn all_of(id: &str) -> String {
    format!(
        "<m:GetItem><m:ItemShape><t:BaseShape>AllProperties</t:BaseShape></m:ItemShape>\
         <m:ItemIds><t:ItemId Id='{id}'/></m:ItemIds></m:GetItem>"
    )
}

#[tokio::test(start_paused = true)]
async fn attachments_chain_their_change_keys() {
    let exchange = quick();
    let (id, key) = item(&exchange, "x").await;
    let attach = |key: &str, names: &[&str]| {
        let files: String = names
            .iter()
            .map(|name| {
                format!("<t:FileAttachment><t:Name>{name}</t:Name><t:Content>aGk=</t:Content></t:FileAttachment>")
            })
            .collect();
        let key = match key {
            "" => String::new(),
            key => format!(" ChangeKey='{key}'"),
        };
        format!(
            "<m:CreateAttachment><m:ParentItemId Id='{id}'{key}/><m:Attachments>{files}</m:Attachments></m:CreateAttachment>"
        )
    };
    let (_, text) = ask(&exchange, "", &attach(&key, &["1", "2"])).await;
    assert_eq!(codes(&text), ["NoError"; 2]);
    let keys = attributes(&text, "RootItemChangeKey");
    assert!(keys[0] != keys[1] && keys[0] != key);
    assert_eq!(attributes(&text, "RootItemId"), [id.as_str(); 2]);
    let files: Vec<String> = attributes(&text, "Id")
        .into_iter()
        .map(str::to_owned)
        .collect();
    // The key of before is stale, and so is that of the first attachment.
    for stale in [&key, keys[0]] {
        let (_, text) = ask(&exchange, "", &attach(stale, &["3", "4"])).await;
        assert_eq!(codes(&text), ["ErrorIrresolvableConflict"; 2]);
    }
    let (_, text) = ask(&exchange, "", &attach(keys[1], &["3"])).await;
    assert_eq!(codes(&text), ["NoError"]);
    let (_, text) = ask(&exchange, "", &attach("", &["3"])).await;
    assert_eq!(codes(&text), ["NoError"]);

    let (_, text) = ask(&exchange, "", &all_of(&id)).await;
    assert_eq!(text.matches("<t:FileAttachment>").count(), 4, "{text}");
    assert!(text.contains("<t:HasAttachments>true<") && !text.contains("aGk="));
    let ids: String = files
        .iter()
        .map(|id| format!("<t:AttachmentId Id='{id}'/>"))
        .collect();
    let (_, text) = ask(
        &exchange,
        "",
        &format!("<m:GetAttachment><m:AttachmentIds>{ids}</m:AttachmentIds></m:GetAttachment>"),
    )
    .await;
    assert_eq!(codes(&text), ["NoError"; 2]);
    assert!(text.contains("<t:Name>2<") && text.contains("<t:Content>aGk=<"));
    let delete = format!(
        "<m:DeleteAttachment><m:AttachmentIds>{ids}</m:AttachmentIds></m:DeleteAttachment>"
    );
    let (_, text) = ask(&exchange, "", &delete).await;
    assert_eq!(codes(&text), ["NoError"; 2]);
    let last = attributes(&text, "RootItemChangeKey")[1].to_owned();
    let (_, text) = ask(&exchange, "", &delete).await;
    assert_eq!(codes(&text), ["ErrorInvalidAttachmentId"; 2]);
    let (_, text) = ask(&exchange, "", &all_of(&id)).await;
    assert_eq!(attribute(&text, "ChangeKey"), last);

    // An attachment's id is no item's, and names its mailbox all the same.
    let (_, text) = ask(&exchange, "", &all_of(&files[0])).await;
    assert_eq!(codes(&text), ["ErrorInvalidIdMalformed"]);
    assert_eq!(exchange.calls().last().unwrap().mailboxes, [A]);
    let report = exchange.report();
    assert_eq!(report.done_twice("CreateAttachment"), [("3", 2)]);
    assert_eq!(report.not_done("DeleteAttachment", ["1", "2", "3"]), ["3"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_exported_can_be_uploaded() {
    let exchange = quick();
    let (id, _) = item(&exchange, "x &amp; y").await;
    let attach = format!(
        "<m:CreateAttachment><m:ParentItemId Id='{id}'/><m:Attachments><t:FileAttachment><t:Name>f</t:Name>\
         <t:Content>aGk=</t:Content></t:FileAttachment></m:Attachments></m:CreateAttachment>"
    );
    ask(&exchange, "", &attach).await;
    let export =
        format!("<m:ExportItems><m:ItemIds><t:ItemId Id='{id}'/></m:ItemIds></m:ExportItems>");
    let (_, text) = ask(&exchange, "", &export).await;
    assert_eq!(
        (codes(&text), attribute(&text, "Id")),
        (vec!["NoError"], id.as_str())
    );
    let data = element(&text, "m:Data").to_owned();
    let (_, text) = ask(&exchange, "", &get_folder(A)).await;
    let parent = attribute(&text, "Id").to_owned();
    let upload = |action: &str, id: &str, data: &str| {
        format!(
            "<m:UploadItems><m:Items><t:Item CreateAction='{action}'><t:ParentFolderId Id='{parent}'/>{id}\
             <t:Data>{data}</t:Data></t:Item></m:Items></m:UploadItems>"
        )
    };
    let (_, text) = ask(&exchange, "", &upload("CreateNew", "", &data)).await;
    assert_eq!(codes(&text), ["NoError"]);
    let copy = attribute(&text, "Id").to_owned();
    assert_ne!(copy, id);
    let (_, text) = ask(&exchange, "", &all_of(&copy)).await;
    assert!(text.contains("<t:Subject>x &amp; y<") && text.contains("<t:Name>f<"));

    let at = |id: &str| format!("<t:ItemId Id='{id}'/>");
    let other = STANDARD.encode("other");
    for action in ["Update", "UpdateOrCreate"] {
        let (_, text) = ask(&exchange, "", &upload(action, &at(&copy), &other)).await;
        assert_eq!(
            (codes(&text), attribute(&text, "Id")),
            (vec!["NoError"], copy.as_str())
        );
    }
    let remove = format!(
        "<m:DeleteItem DeleteType='HardDelete'><m:ItemIds>{}</m:ItemIds></m:DeleteItem>",
        at(&copy)
    );
    let (_, text) = ask(&exchange, "", &remove).await;
    assert_eq!(codes(&text), ["NoError"]);
    let (_, text) = ask(&exchange, "", &upload("Update", &at(&copy), &other)).await;
    assert_eq!(codes(&text), ["ErrorItemNotFound"]);
    let (_, text) = ask(&exchange, "", &upload("UpdateOrCreate", &at(&copy), &other)).await;
    assert_eq!(codes(&text), ["NoError"]);
    let (_, text) = ask(&exchange, "", &upload("CreateNew", "", "?")).await;
    assert_eq!(codes(&text), ["ErrorCorruptData"]);
    let report = exchange.report();
    assert_eq!(report.done_twice("UploadItems"), [("other", 3)]);
    assert_eq!(
        report.existing,
        [("x & y".into(), 1), ("other".into(), 1)].into()
    );
}

#[tokio::test(start_paused = true)]
async fn folders_are_changed_moved_copied_and_emptied() {
    let exchange = quick();
    let make = |parent: &str, name: &str| {
        format!(
            "<m:CreateFolder><m:ParentFolderId>{parent}</m:ParentFolderId><m:Folders><t:Folder>\
             <t:DisplayName>{name}</t:DisplayName></t:Folder></m:Folders></m:CreateFolder>"
        )
    };
    let at = |id: &str| format!("<t:FolderId Id='{id}'/>");
    let (_, text) = ask(&exchange, "", &make(&folder("inbox", A), "outer")).await;
    let (outer, key) = (
        attribute(&text, "Id").to_owned(),
        attribute(&text, "ChangeKey").to_owned(),
    );
    let (_, text) = ask(&exchange, "", &make(&at(&outer), "inner")).await;
    let inner = attribute(&text, "Id").to_owned();
    let message = format!(
        "<m:CreateItem MessageDisposition='SaveOnly'><m:SavedItemFolderId>{}</m:SavedItemFolderId><m:Items>\
         <t:Message><t:Subject>deep</t:Subject><t:IsRead>false</t:IsRead></t:Message></m:Items></m:CreateItem>",
        at(&inner)
    );
    ask(&exchange, "", &message).await;

    let rename = |key: &str| {
        format!(
            "<m:UpdateFolder><m:FolderChanges><t:FolderChange><t:FolderId Id='{outer}'{key}/><t:Updates>\
             <t:SetFolderField><t:FieldURI FieldURI='folder:DisplayName'/><t:Folder><t:DisplayName>renamed</t:DisplayName>\
             </t:Folder></t:SetFolderField></t:Updates></t:FolderChange></m:FolderChanges></m:UpdateFolder>"
        )
    };
    let with_key = format!(" ChangeKey='{key}'");
    for (key, code) in [
        ("", "ErrorChangeKeyRequiredForWriteOperations"),
        (&with_key, "NoError"),
        (&with_key, "ErrorStaleObject"),
    ] {
        let (_, text) = ask(&exchange, "", &rename(key)).await;
        assert_eq!(codes(&text), [code]);
    }

    let relocate = |operation: &str, target: &str, id: &str| {
        format!(
            "<m:{operation}><m:ToFolderId>{target}</m:ToFolderId><m:FolderIds>{id}</m:FolderIds></m:{operation}>"
        )
    };
    let drafts = folder("drafts", A);
    let b = folder("inbox", "b@contoso.com");
    for (operation, target, id, code) in [
        ("MoveFolder", &drafts, at(&outer), "NoError"),
        ("CopyFolder", &drafts, at(&outer), "ErrorFolderExists"),
        ("MoveFolder", &at(&inner), at(&outer), "ErrorMoveCopyFailed"),
        (
            "MoveFolder",
            &b,
            drafts.clone(),
            "ErrorMoveDistinguishedFolder",
        ),
        ("CopyFolder", &b, at(&outer), "NoError"),
    ] {
        let (_, text) = ask(&exchange, "", &relocate(operation, target, &id)).await;
        assert_eq!(codes(&text), [code], "{operation}");
    }
    let there = exchange.items("b@contoso.com");
    assert_eq!(
        (there[0].subject.as_str(), there[0].folder.as_str()),
        ("deep", "inner")
    );
    assert_eq!(exchange.items(A).len(), 1);

    let read = format!(
        "<m:MarkAllItemsAsRead><m:ReadFlag>true</m:ReadFlag><m:SuppressReadReceipts>true</m:SuppressReadReceipts>\
         <m:FolderIds>{}</m:FolderIds></m:MarkAllItemsAsRead>",
        at(&inner)
    );
    let (_, text) = ask(&exchange, "", &read).await;
    assert_eq!(codes(&text), ["NoError"]);
    let id = exchange.items(A)[0].id.clone();
    let (_, text) = ask(&exchange, "", &all_of(&id)).await;
    assert!(text.contains("<t:IsRead>true<"));

    let empty = |target: &str, kind: &str| {
        format!(
            "<m:EmptyFolder DeleteType='{kind}' DeleteSubFolders='true'><m:FolderIds>{target}</m:FolderIds></m:EmptyFolder>"
        )
    };
    let (_, text) = ask(&exchange, "", &empty(&drafts, "MoveToDeletedItems")).await;
    assert_eq!(codes(&text), ["NoError"]);
    let (_, text) = ask(&exchange, "", &empty(&folder("calendar", A), "HardDelete")).await;
    assert_eq!(codes(&text), ["ErrorCannotEmptyFolder"]);
    // It lies in the bin now, and is gone when that is emptied.
    assert_eq!(exchange.items(A).len(), 1);
    let (_, text) = ask(
        &exchange,
        "",
        &empty(&folder("deleteditems", A), "MoveToDeletedItems"),
    )
    .await;
    assert_eq!(codes(&text), ["NoError"]);
    assert_eq!(exchange.items(A), []);
    let report = exchange.report();
    assert_eq!(
        report.done["MoveFolder"],
        [("renamed".to_owned(), 1)].into()
    );
    assert_eq!(
        report.done["UpdateFolder"],
        [("outer".to_owned(), 1)].into()
    );
}

#[tokio::test(start_paused = true)]
async fn items_go_to_the_junk_and_to_the_archive() {
    let exchange = quick();
    let (id, _) = item(&exchange, "x").await;
    let junk = |id: &str, moves: &str| {
        format!(
            "<m:MarkAsJunk IsJunk='true' MoveItem='{moves}'><m:ItemIds><t:ItemId Id='{id}'/></m:ItemIds></m:MarkAsJunk>"
        )
    };
    let (_, text) = ask(&exchange, "", &junk(&id, "false")).await;
    assert!(codes(&text) == ["NoError"] && !text.contains("MovedItemId"));
    let (_, text) = ask(&exchange, "", &junk(&id, "true")).await;
    let moved = attribute(&text, "Id").to_owned();
    assert_eq!(exchange.items(A)[0].folder, "Junk Email");
    let archive = |id: &str, source: &str| {
        format!(
            "<m:ArchiveItem><m:ArchiveSourceFolderId>{source}</m:ArchiveSourceFolderId>\
             <m:ItemIds><t:ItemId Id='{id}'/><t:ItemId Id='{id}'/></m:ItemIds></m:ArchiveItem>"
        )
    };
    let (_, text) = ask(&exchange, "", &archive(&moved, &folder("nowhere", A))).await;
    assert_eq!(codes(&text), ["ErrorFolderNotFound"]);
    let (_, text) = ask(&exchange, "", &archive(&moved, &folder("junkemail", A))).await;
    assert_eq!(codes(&text), ["NoError", "ErrorItemNotFound"]);
    assert_eq!(exchange.items(A)[0].folder, "Archive");
    assert_eq!(exchange.report().done_twice("MarkAsJunk"), [("x", 2)]);
}

#[tokio::test(start_paused = true)]
async fn delegates_come_and_go() {
    let exchange = quick();
    let call = |operation: &str, inside: &str, rest: &str| {
        format!(
            "<m:{operation} IncludePermissions='true'><m:Mailbox><t:EmailAddress>{A}</t:EmailAddress></m:Mailbox>\
             {inside}{rest}</m:{operation}>"
        )
    };
    let user = |name: &str| {
        format!(
            "<t:UserId><t:PrimarySmtpAddress>{name}@contoso.com</t:PrimarySmtpAddress></t:UserId>"
        )
    };
    let users = |names: &[&str], level: &str| {
        let users: String = names
            .iter()
            .map(|name| {
                format!(
                    "<t:DelegateUser>{}<t:DelegatePermissions><t:CalendarFolderPermissionLevel>{level}\
                     </t:CalendarFolderPermissionLevel></t:DelegatePermissions></t:DelegateUser>",
                    user(name)
                )
            })
            .collect();
        format!("<m:DelegateUsers>{users}</m:DelegateUsers>")
    };
    let (_, text) = ask(&exchange, "", &call("GetDelegate", "", "")).await;
    assert!(codes(&text) == ["NoError"] && !text.contains("<m:ResponseMessages"));
    let deliver = "<m:DeliverMeetingRequests>NoForward</m:DeliverMeetingRequests>";
    let (_, text) = ask(
        &exchange,
        "",
        &call("AddDelegate", &users(&["b", "c", "b"], "Author"), deliver),
    )
    .await;
    assert_eq!(
        codes(&text),
        [
            "NoError",
            "NoError",
            "NoError",
            "ErrorDelegateAlreadyExists"
        ]
    );
    let (_, text) = ask(
        &exchange,
        "",
        &call("UpdateDelegate", &users(&["c", "d"], "Editor"), ""),
    )
    .await;
    assert_eq!(codes(&text), ["NoError", "NoError", "ErrorNotDelegate"]);
    let (_, text) = ask(&exchange, "", &call("GetDelegate", "", "")).await;
    assert_eq!(text.matches("<m:DelegateUser>").count(), 2);
    assert!(text.contains(">Author<") && text.contains(">Editor<") && text.contains(">NoForward<"));
    let ids = |names: &[&str]| {
        let ids: String = names.iter().map(|name| user(name)).collect();
        format!("<m:UserIds>{ids}</m:UserIds>")
    };
    let (_, text) = ask(
        &exchange,
        "",
        &call("RemoveDelegate", &ids(&["b", "d"]), ""),
    )
    .await;
    assert_eq!(codes(&text), ["NoError", "NoError", "ErrorNotDelegate"]);
    let (_, text) = ask(&exchange, "", &call("GetDelegate", &ids(&["c", "b"]), "")).await;
    assert_eq!(codes(&text), ["NoError", "NoError", "ErrorNotDelegate"]);
    // An error about the mailbox is that of the whole response.
    let wrong = call("GetDelegate", &ids(&["b", "c"]), "").replace(A, "nobody");
    let (_, text) = ask(&exchange, "", &wrong).await;
    assert_eq!(codes(&text), ["ErrorNonExistentMailbox"]);
}

#[tokio::test(start_paused = true)]
async fn mail_tips_and_ids() {
    let exchange = Exchange::builder()
        .policy(Policy::unlimited())
        .mailbox(A)
        .build();
    let tips = |sender: &str| {
        format!(
            "<m:GetMailTips><m:SendingAs><t:EmailAddress>{sender}</t:EmailAddress></m:SendingAs><m:Recipients>\
             <t:Mailbox><t:EmailAddress>{A}</t:EmailAddress></t:Mailbox>\
             <t:Mailbox><t:EmailAddress>nobody@contoso.com</t:EmailAddress></t:Mailbox></m:Recipients>\
             <m:MailTipsRequested>All</m:MailTipsRequested></m:GetMailTips>"
        )
    };
    let (_, text) = ask(&exchange, "", &tips(A)).await;
    assert_eq!(codes(&text), ["NoError"; 3]);
    assert!(
        text.contains("<t:InvalidRecipient>false<") && text.contains("<t:InvalidRecipient>true<")
    );
    let (_, text) = ask(&exchange, "", &tips("nobody@contoso.com")).await;
    assert_eq!(codes(&text), ["ErrorNonExistentMailbox"]);

    // There and back through every format.
    let (id, _) = item(&exchange, "x").await;
    let mut now = ("EwsId", id.clone());
    for format in ["HexEntryId", "EntryId", "EwsId"] {
        let convert = format!(
            "<m:ConvertId DestinationFormat='{format}'><m:SourceIds><t:AlternateId Format='{}' Id='{}' Mailbox='{A}'/>\
             </m:SourceIds></m:ConvertId>",
            now.0, now.1
        );
        let (_, text) = ask(&exchange, "", &convert).await;
        assert_eq!(codes(&text), ["NoError"], "{format}");
        now = (format, attribute(&text, "Id").to_owned());
    }
    assert_eq!(now.1, id);

    let zones = "<m:GetServerTimeZones ReturnFullTimeZoneData='false'><m:Ids><t:Id>UTC</t:Id><t:Id>Tokyo Standard Time</t:Id>\
                 <t:Id>Nowhere</t:Id></m:Ids></m:GetServerTimeZones>";
    let (_, text) = ask(&exchange, "", zones).await;
    assert_eq!(attributes(&text, "Id"), ["UTC", "Tokyo Standard Time"]);
}
