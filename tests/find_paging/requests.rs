//! What is sent: views are inserted byte by byte, and what would mean something else goes through unchanged.

use tower_ews::find_paging::{FindPagingLayer, Paging};

use super::server::{MESSAGES, Server, TYPES};
use crate::schema::{complaint, schemas};
use crate::{envelope, find_item, follow, request, send, text};
use tower::{Layer, ServiceExt};

async fn sent(layer: &FindPagingLayer, body: &str, paging: Option<Paging>) -> String {
    let server = Server::new(&[5, 5, 5]);
    let response = layer
        .layer(server.clone())
        .oneshot(request(body, paging))
        .await;
    text(response.unwrap()).await.unwrap();
    server.requests().remove(0)
}

const ITEM_SHAPE: &str = "<m:ItemShape><t:BaseShape>IdOnly</t:BaseShape></m:ItemShape>";
const FOLDER_SHAPE: &str = "<m:FolderShape><t:BaseShape>IdOnly</t:BaseShape></m:FolderShape>";
const FOLDERS: &str = "<m:ParentFolderIds><t:FolderId Id=\"f0\"/></m:ParentFolderIds>";

fn find(inside: &str) -> String {
    envelope(&format!(
        "<m:FindItem Traversal=\"Shallow\">{inside}</m:FindItem>"
    ))
}

fn view(prefix: &str, of: &str, size: u32, offset: u32) -> String {
    format!(
        "<{prefix}IndexedPage{of}View MaxEntriesReturned=\"{size}\" Offset=\"{offset}\" BasePoint=\"Beginning\"/>"
    )
}

/// Requests in which `{}` stands where a view goes, and the view.
fn insertions() -> Vec<(String, String)> {
    let restriction = "<m:Restriction><t:Exists><t:FieldURI FieldURI=\"item:Subject\"/></t:Exists></m:Restriction>";
    let plain = view("m:", "Item", 1000, 0);
    let few = view("m:", "Item", 250, 0);
    let find_folder = |inside: &str| {
        envelope(&format!(
            "<m:FindFolder Traversal=\"Deep\">{inside}</m:FindFolder>"
        ))
    };
    let mut cases = vec![
        (find(&format!("{ITEM_SHAPE}{{}}{FOLDERS}")), plain.clone()),
        (
            find(&format!("{ITEM_SHAPE}{{}}{restriction}{FOLDERS}")),
            few.clone(),
        ),
        (
            find(&format!(
                "{ITEM_SHAPE}{{}}{FOLDERS}<m:QueryString>subject:a</m:QueryString>"
            )),
            few,
        ),
        (
            find(&format!(
                "{ITEM_SHAPE}{{}}<m:SortOrder><t:FieldOrder Order=\"Ascending\"><t:FieldURI FieldURI=\"item:Subject\"/></t:FieldOrder></m:SortOrder>{FOLDERS}"
            )),
            plain.clone(),
        ),
        // Two folders: the offset counts in each.
        (
            find(&format!(
                "{ITEM_SHAPE}{{}}<m:ParentFolderIds><t:FolderId Id=\"f0\"/><t:FolderId Id=\"f1\"/></m:ParentFolderIds>"
            )),
            plain.clone(),
        ),
        (
            find_folder(&format!("{FOLDER_SHAPE}{{}}{FOLDERS}")),
            view("m:", "Folder", 1000, 0),
        ),
        (
            find_folder(&format!("{FOLDER_SHAPE}{{}}{restriction}{FOLDERS}")),
            view("m:", "Folder", 250, 0),
        ),
        // White space, comments and processing instructions stay where they are.
        (
            find(&format!(
                "\r\n\t<!-- <m:ItemShape/> -->{}<!-- x > y --><?p i?>\n {FOLDERS} ",
                "<m:ItemShape\n><t:BaseShape>IdOnly</t:BaseShape><!-- </m:ItemShape> --></m:ItemShape >{}"
            )),
            plain.clone(),
        ),
    ];
    // Other prefixes, a default namespace, one that is declared at the operation, and one that is declared anew inside.
    let soap = "http://schemas.xmlsoap.org/soap/envelope/";
    cases.push((
        format!(
            "<Envelope xmlns=\"{soap}\"><Body><FindItem xmlns=\"{MESSAGES}\" Traversal=\"Shallow\"><ItemShape><BaseShape xmlns=\"{TYPES}\">IdOnly</BaseShape></ItemShape>{{}}<ParentFolderIds><x:FolderId xmlns:x=\"{TYPES}\" Id=\"f0\"/></ParentFolderIds></FindItem></Body></Envelope>"
        ),
        view("", "Item", 1000, 0),
    ));
    cases.push((
        format!(
            "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><m:Envelope xmlns:m='{soap}'><m:Header/><m:Body><é.x:FindItem xmlns:é.x='{MESSAGES}' Traversal='Shallow'><y:ItemShape xmlns:y='{MESSAGES}'><t:BaseShape xmlns:t='{TYPES}'>IdOnly</t:BaseShape></y:ItemShape>{{}}<é.x:ParentFolderIds><t:FolderId xmlns:t='{TYPES}' Id='f0'/></é.x:ParentFolderIds></é.x:FindItem></m:Body></m:Envelope>\n"
        ),
        view("é.x:", "Item", 1000, 0),
    ));
    cases
}

#[tokio::test(start_paused = true)]
async fn a_view_is_inserted_and_every_other_byte_stays() {
    let mut all = Vec::new();
    for (template, view) in insertions() {
        let (body, expected) = (template.replace("{}", ""), template.replace("{}", &view));
        for layer in [FindPagingLayer::new(), follow()] {
            let sent = sent(&layer, &body, Some(Paging::one_page())).await;
            assert_eq!(sent, expected);
        }
        all.push(expected);
    }
    for schema in schemas() {
        assert_eq!(
            complaint("find_paging_requests", &schema, &all),
            None,
            "{schema:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn sizes_and_offsets_are_settings() {
    let layer = FindPagingLayer::new().page_size(7).restricted_page_size(0);
    let body = find_item(&[0]);
    let sent_body = sent(&layer, &body, Some(Paging::one_page().from_offset(3))).await;
    assert!(sent_body.contains(&view("m:", "Item", 7, 3)), "{sent_body}");
    let restricted = find(&format!("{ITEM_SHAPE}{FOLDERS}<m:QueryString/>"));
    let sent_body = sent(&layer, &restricted, None).await;
    assert!(sent_body.contains(&view("m:", "Item", 1, 0)), "{sent_body}");
    // The headers that described the shorter body are gone.
    let server = Server::new(&[5]);
    send(&layer, &server, &body).await.unwrap();
    let head = server.heads().remove(0);
    assert!(!head.headers.contains_key("content-length"));
    assert!(head.headers.contains_key("content-type"));
}

#[tokio::test(start_paused = true)]
async fn what_would_mean_something_else_goes_through_unchanged() {
    let views = [
        "<m:IndexedPageItemView MaxEntriesReturned=\"10\" Offset=\"0\" BasePoint=\"Beginning\"/>",
        "<m:FractionalPageItemView MaxEntriesReturned=\"10\" Numerator=\"1\" Denominator=\"2\"/>",
        "<m:SeekToConditionPageItemView BasePoint=\"Beginning\"><t:Condition/></m:SeekToConditionPageItemView>",
        "<m:CalendarView StartDate=\"2026-01-01T00:00:00Z\" EndDate=\"2026-02-01T00:00:00Z\"/>",
        "<m:ContactsView MaxEntriesReturned=\"5\"/>",
        "<m:GroupBy Order=\"Ascending\"/>",
        "<m:DistinguishedGroupBy Order=\"Ascending\"/>",
        "<SomethingElse/>",
    ];
    let mut bodies: Vec<String> = views
        .iter()
        .map(|view| find(&format!("{ITEM_SHAPE}{view}{FOLDERS}")))
        .collect();
    bodies.extend([
        // What the schema does not allow is the server's to refuse.
        find(FOLDERS),
        find(ITEM_SHAPE),
        find(&format!("{ITEM_SHAPE}{ITEM_SHAPE}{FOLDERS}")),
        find(&format!(
            "{ITEM_SHAPE}<m:ParentFolderIds>f0</m:ParentFolderIds>"
        )),
        find(&format!("{ITEM_SHAPE}<m:ParentFolderIds/>")),
        envelope("<m:FindItem/>"),
        envelope("<m:GetFolder><m:FolderIds/></m:GetFolder>"),
        envelope("<m:FindConversation/>"),
        find(&format!("{ITEM_SHAPE}{FOLDERS}")).replace("/messages\"", "/other\""),
    ]);
    for body in bodies {
        let server = Server::new(&[5]);
        for layer in [FindPagingLayer::new(), follow()] {
            // The server of the test cannot read all of them.
            let echo = tower::service_fn(async |request: http::Request<_>| {
                Ok::<_, std::convert::Infallible>(http::Response::new(request.into_body()))
            });
            let response = layer
                .layer(echo)
                .oneshot(request(&body, None))
                .await
                .unwrap();
            assert_eq!(text(response).await.unwrap(), body);
        }
        assert_eq!(server.calls(), 0);
    }
    let broken = "<s:Envelope><s:Body><m:FindItem>";
    for body in [broken, "{}", "", &find_item(&[0])] {
        let echo = tower::service_fn(async |request: http::Request<_>| {
            Ok::<_, std::convert::Infallible>(http::Response::new(request.into_body()))
        });
        let request = request(body, Some(Paging::off()));
        let response = follow().layer(echo).oneshot(request).await.unwrap();
        assert_eq!(text(response).await.unwrap(), body);
    }
}
