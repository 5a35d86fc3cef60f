//! What is no secret stays as it is.

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;

use super::{FORM, JSON, XML};
use crate::audit_log::redact::Redaction;

/// Names of elements and attributes of Exchange's schemas that have secrets behind them.
const SECRET: [&str; 13] = [
    "ClientPublishSecret",
    "ClientToken",
    "ClientToken2",
    "EncryptedSharedFolderData",
    "EncryptedSharedFolderDataCollection",
    "Etoken",
    "PeopleToken",
    "PeopleTokens",
    "ProxyPartnerToken",
    "RefreshToken2",
    "SerializedSecurityContext",
    "Token",
    "TokenValue",
];

/// Names of the schemas that look like those.
const OTHERS: [&str; 69] = [
    "Author",
    "ChangeKey",
    "CompanyNameSortKey",
    "DeletePeopleInsightsTokens",
    "DeletePeopleInsightsTokensResponse",
    "DescriptiveLinkKey",
    "DictionaryKey",
    "DisplayNameFirstLastSortKey",
    "DisplayNameLastFirstSortKey",
    "ExtendedKeywordDefinition",
    "ExtendedKeywords",
    "FindMailboxStatisticsByKeywords",
    "FindMailboxStatisticsByKeywordsResponse",
    "FindMailboxStatisticsByKeywordsResponseMessage",
    "FirstAuthErrorDates",
    "GetClientAccessToken",
    "GetClientAccessTokenResponse",
    "GetClientAccessTokenResponseMessage",
    "GetEncryptionConfiguration",
    "GetEncryptionConfigurationResponse",
    "GetEncryptionConfigurationResponseMessage",
    "GetPasswordExpirationDate",
    "GetPasswordExpirationDateResponse",
    "GetPeopleInsightsTokens",
    "GetPeopleInsightsTokensResponse",
    "GetUMPin",
    "HomeCitySortKey",
    "InstanceKey",
    "IsEncrypted",
    "IsPin",
    "Key",
    "KeyInsightsOnly",
    "Keyword",
    "KeywordMatchOption",
    "KeywordStat",
    "KeywordStatisticsSearchResult",
    "KeywordStats",
    "Keywords",
    "LobbyBypass",
    "MSExchangeCertificate",
    "MapiSearchKey",
    "MemberCorrelationKey",
    "PassportId",
    "PasswordExpirationDate",
    "ProxySecurityContext",
    "RefreshTokenExpiry2",
    "RequiresToken",
    "RootItemChangeKey",
    "SaveUMPin",
    "SearchKey",
    "SecurityIdentifier",
    "SenderAuthenticationRequired",
    "SetEncryptionConfiguration",
    "SetEncryptionConfigurationResponse",
    "SetEncryptionConfigurationResponseMessage",
    "SetPeopleInsightsTokens",
    "SetPeopleInsightsTokensResponse",
    "SharingSecurity",
    "SkypeAuthCertificate",
    "SortKey",
    "TokenRefreshLastAttempted",
    "TokenRefreshLastCompleted",
    "TokenRequest",
    "TokenRequests",
    "TokenSource",
    "TokenType",
    "UserSMIMECertificate",
    "ValidateUMPin",
    "WorkCitySortKey",
];

fn is_redacted(name: &str) -> bool {
    let text = format!("<a><t:{name}>value</t:{name}><b {name}=\"value\"/></a>");
    let expected = text.replace("value", "REDACTED");
    let shown = Redaction::new().body(XML, &[Bytes::from(text.clone())], false);
    assert!(shown == text || shown == expected, "{shown:?}");
    shown == expected
}

#[test]
fn exchanges_own_names_stay_apart() {
    for name in SECRET {
        assert!(is_redacted(name), "{name}");
    }
    for name in OTHERS {
        assert!(!is_redacted(name), "{name}");
    }
}

/// The same with all names of the schemas, where those can be had.
#[test]
fn no_other_name_of_the_schemas_is_secret() {
    let Ok(folder) = std::env::var("EWS_XSD_DIR") else {
        println!("skips: EWS_XSD_DIR is not set");
        return;
    };
    let mut names = BTreeSet::new();
    collect(Path::new(&folder), &mut names);
    assert!(names.len() > 2_000, "{}", names.len());
    let secret: Vec<_> = names.iter().filter(|name| is_redacted(name)).collect();
    assert_eq!(secret, SECRET.iter().collect::<Vec<_>>());
}

fn collect(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "xsd") {
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            for declared in ["element name=\"", "attribute name=\""] {
                let found = text.split(declared).skip(1);
                names.extend(found.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
            }
        }
    }
}

#[test]
fn texts_without_a_secret_stay() {
    let redaction = Redaction::new();
    for text in [
        "Subject: Monkey business, keyboard: none, turkeys: 7",
        "Press any key: now. 10:15 key takeaways: none",
        "ChangeKey=\"EQAAABY\" Id=\"AAMkAGI=\" InstanceKey: AQAAAA==",
        "SyncState=H4sIAAAAAAAEAGNg; SortKey=a",
        "/v1.0/me/messages?$skiptoken=abc&$deltatoken=def&nextPageToken=g",
        "Culture=neutral, PublicKeyToken=b77a5c561934e089",
        "The request failed with HTTP status 401: Unauthorized.",
        "POP server, basic auth for svc failed; Negotiate: failed; OAuth: token expired",
        "System.Net.Security.SslStream: cannot read; std::token::Kind",
        "status code=503, error_code: 5, max_tokens=100",
        "password expires: 2026-01-01, PasswordPolicy: strict, secretary: Ann",
        "token_type=Bearer&expires_in=3599&state=abc&session_state=d",
        "AADSTS50126: Error validating credentials due to invalid username or password. Trace ID: 5c9a",
        "see https://contoso.com/reset?lang=en#password for more",
        "a <b and c> d, 50% off & more; C:\\temp\\new folder\\notes.txt",
        "signature: Ann Smith, CEO; sig: none; auth: failed; pass: ok; Key: value; jwt: malformed",
        "error=\"invalid_token\", error_description=\"The access token expired\"",
        "-----Original Message-----\nFrom: Ann",
        "author: Ann, authority: https://login.contoso.com/common",
        "compass=north; bypass=true; secretName: my-secret; AccessKeyId: x",
        "x-ms-diagnostics: 2000003;reason=\"The token has expired.\";error_category=\"expired_token\"",
    ] {
        assert_eq!(&*redaction.text(text), text);
        let json = json_of(text);
        let shown = redaction.body(JSON, &[Bytes::from(json.clone())], false);
        assert_eq!(shown, json);
    }
}

/// The text as the value of a key.
fn json_of(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("{{\"message\":\"{escaped}\",\"id\":1}}")
}

#[test]
fn what_is_no_secret_comes_back_without_a_copy() {
    let redaction = Redaction::new();
    for (kind, body) in [
        (
            XML,
            concat!(
                r#"<?xml version="1.0" encoding="utf-8"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:token="urn:x"><s:Header>"#,
                r#"<t:RequestServerVersion Version="Exchange2013"/></s:Header><s:Body><m:GetClientAccessToken><m:TokenRequests><t:TokenRequest><t:Id>1</t:Id>"#,
                r#"<t:TokenType>CallerIdentity</t:TokenType></t:TokenRequest></m:TokenRequests></m:GetClientAccessToken><m:ResponseCode>ErrorServerBusy</m:ResponseCode>"#,
                r#"<t:Body BodyType="HTML">&lt;p&gt;12 &amp; 13&lt;/p&gt; a &lt; b, 5 > 4, x: y</t:Body><!-- a comment --><t:SyncState>H4sIAA==</t:SyncState>"#,
                r#"<t:PasswordExpirationDate>2026-01-01</t:PasswordExpirationDate><t:EmailAddress>ann@contoso.com</t:EmailAddress></s:Body></s:Envelope>"#,
            ),
        ),
        (
            JSON,
            r#"{"value":[{"id":"1","@odata.nextLink":"https://graph/v1?$skiptoken=abc","code":"ErrorItemNotFound","key":"k"}],"error":null}"#,
        ),
        (
            FORM,
            "a=b&scope=https%3A%2F%2Foutlook.office365.com%2F.default&username=ann",
        ),
        (
            Some("text/plain"),
            "connect to https://mail.contoso.com:443/EWS: refused. Basic authentication is off; Bearer is on.",
        ),
        (None, ""),
    ] {
        let body = Bytes::from_static(body.as_bytes());
        let shown = redaction.body(kind, std::slice::from_ref(&body), false);
        assert_eq!(shown, body);
        assert_eq!(shown.as_ptr(), body.as_ptr());
    }
}
