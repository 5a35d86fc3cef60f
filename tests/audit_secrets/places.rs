//! Places of a secret that were thought of one by one.

use super::place::{
    CANARY, JWT, Place, create, envelope, impersonate, soap_response, token_response,
    username_token,
};

pub(crate) fn places() -> Vec<Place> {
    let password = format!("<t:Password>{CANARY}</t:Password>");
    let headers = Place::new;
    let message = |text: &str| {
        soap_response(&format!(
            "<m:MessageText>{text}</m:MessageText><m:ResponseCode>ErrorItemNotFound</m:ResponseCode>"
        ))
    };
    let mut places = vec![
        headers("Basic").shown("Basic REDACTED"),
        headers("Bearer")
            .asks("authorization", format!("Bearer {JWT}"))
            .shown("Bearer REDACTED"),
        headers("no scheme").asks("authorization", CANARY),
        headers("proxy").asks("proxy-authorization", format!("Negotiate {CANARY}=")),
        headers("api key").asks("x-api-key", CANARY),
        headers("subscription key").asks("ocp-apim-subscription-key", CANARY),
        headers("function key").asks("x-functions-key", CANARY),
        headers("signature").asks("signature", format!("keyId=\"a\", signature=\"{CANARY}\"")),
        headers("security context").asks("x-serializedsecuritycontext", CANARY),
        headers("token").asks("x-ms-token-aad-access-token", CANARY),
        headers("guard of the web client").asks("x-owa-canary", CANARY),
        headers("on behalf of").asks("x-user-authorization", format!("Bearer {JWT}")),
        headers("cookie")
            .asks("cookie", format!("exchangecookie={CANARY}; X-BEResource={CANARY}"))
            .shown("exchangecookie=REDACTED"),
        headers("referer").asks("referer", format!("https://svc:{CANARY}@proxy.contoso.com/")),
        headers("user agent").asks("user-agent", format!("tool/1 (https://svc:{CANARY}@contoso.com)")),
        headers("id of the caller").asks("client-request-id", format!("Bearer {CANARY}")),
        headers("id of the caller, a token").asks("client-request-id", JWT),
        headers("set-cookie")
            .tells("set-cookie", format!("X-BackEndCookie={CANARY}; path=/; secure; HttpOnly"))
            .shown("X-BackEndCookie=REDACTED"),
        headers("redirect")
            .tells("location", format!("https://login.contoso.com/?code={CANARY}&state=7&sig={CANARY}"))
            .shown("login.contoso.com"),
        headers("redirect, fragment").tells("location", format!("https://localhost/#access_token={CANARY}")),
        headers("challenge").tells("www-authenticate", format!("Negotiate {CANARY}==")),
        headers("challenge, NTLM").tells("www-authenticate", format!("NTLM {CANARY}")),
        headers("authentication-info").tells("authentication-info", format!("nextnonce=\"{CANARY}\"")),
        headers("diagnosis").tells("x-diaginfo", format!("AM6PR01; token={CANARY}")),
        headers("request id").tells("request-id", format!("Bearer {CANARY}")),
        headers("front end").tells("x-feserver", format!("https://svc:{CANARY}@am6/")),
        headers("back end").tells("x-calculatedbetarget", format!("password={CANARY}")),
        headers("new token").tells("x-access-token", CANARY),
        headers("userinfo")
            .uri(format!("https://svc:{CANARY}@mail.contoso.com/EWS/Exchange.asmx"))
            .shown("mail.contoso.com"),
        headers("query").uri(format!(
            "https://mail.contoso.com/EWS/Exchange.asmx?access_token={CANARY}&a=b"
        )),
        headers("query, encoded").uri(format!(
            "https://mail.contoso.com/EWS/Exchange.asmx?next=https%3A%2F%2Fa%2F%3Fapi_key%3D{CANARY}"
        )),
        headers("UsernameToken").request(create(&username_token())),
        headers("BinarySecurityToken").request(create(&format!(
            r#"<o:BinarySecurityToken xmlns:o="urn:o">{CANARY}</o:BinarySecurityToken>"#
        ))),
        headers("SerializedSecurityContext").request(create(&format!(
            "<t:SerializedSecurityContext><t:UserSid>{CANARY}</t:UserSid></t:SerializedSecurityContext>"
        ))),
        headers("t:Password").request(envelope("", &format!("<m:SetUser>{password}</m:SetUser>"))),
        headers("attribute").request(envelope("", &format!("<m:SetUser Password='{CANARY}'/>"))),
        headers("CDATA").request(envelope("", &format!("<m:SetUser><t:NewPassword><![CDATA[{CANARY}]]></t:NewPassword></m:SetUser>"))),
        headers("entity").request(format!(
            r#"<!DOCTYPE a [<!ENTITY p "{CANARY}">]>{}"#,
            create("")
        )),
        headers("shared folder").request(create(&format!(
            "<m:EncryptedSharedFolderDataCollection><t:EncryptedSharedFolderData><t:Data>{CANARY}</t:Data></t:EncryptedSharedFolderData></m:EncryptedSharedFolderDataCollection>"
        ))),
        headers("comment").request(create(&format!("<!-- {password} -->"))),
        headers("JSON").asks("content-type", "application/json").request(format!(
            r#"{{"client":"a","client_secret":"{CANARY}","deep":{{"accessToken":["{CANARY}"]}}}}"#
        )),
        headers("form")
            .asks("content-type", "application/x-www-form-urlencoded")
            .request(format!("grant_type=password&username=svc&password={CANARY}&assertion={CANARY}")),
        headers("multipart")
            .asks("content-type", "multipart/form-data; boundary=b")
            .request(format!("--b\r\n\r\n{CANARY}\r\n--b--")),
        headers("UTF-16")
            .asks("content-type", "text/xml; charset=utf-16")
            .request(format!("<Password>{CANARY}</Password>")),
        headers("compressed")
            .asks("content-encoding", "gzip")
            .request(format!("\u{1f}{CANARY}"))
            .shown("gzip"),
        headers("client access token").responds_with(token_response(CANARY)),
        headers("JSON response")
            .tells("content-type", "application/json")
            .responds_with(format!(r#"{{"token_type":"Bearer","access_token":"{CANARY}","refresh_token":"{CANARY}"}}"#)),
        headers("HTML response").tells("content-type", "text/html").responds_with(format!(
            r#"<html><form><input name="password" value="{CANARY}"></form></html>"#
        )),
        headers("text response")
            .tells("content-type", "text/plain")
            .responds_with(format!("cannot log in with password={CANARY}")),
        headers("MessageText").responds_with(message(&format!("Authorization: Bearer {CANARY} was refused"))),
        headers("MessageText, escaped").responds_with(message(&format!("&lt;Password&gt;{CANARY}&lt;/Password&gt;"))),
        headers("response code").responds_with(soap_response(&format!(
            "<m:ResponseCode>Bearer {CANARY}</m:ResponseCode>"
        ))),
        headers("fault").responds_with(envelope("", &format!(
            "<s:Fault><faultcode>s:Client</faultcode><faultstring>Bearer {CANARY} is not valid</faultstring></s:Fault>"
        ))),
        headers("call").fails(&[&format!("error sending request for url (https://svc:{CANARY}@mail.contoso.com/)")]),
        headers("source of the call").fails(&[
            "connection error",
            "a proxy",
            &format!("CONNECT failed with Proxy-Authorization: Basic {CANARY}"),
        ]),
        headers("anchor").asks("x-anchormailbox", format!("{CANARY}@contoso.com")).pseudonyms(),
        headers("mailbox")
            .request(create(&impersonate(&format!("{CANARY}@contoso.com"))))
            .pseudonyms(),
        headers("mailbox in an error").fails(&[&format!("no mailbox {CANARY}@contoso.com")]).pseudonyms(),
        headers("mailbox in a path")
            .uri(format!("https://mail.contoso.com/users/{CANARY}@contoso.com?to={CANARY}%40contoso.com"))
            .pseudonyms(),
        headers("mailbox in a response").responds_with(message(&format!("{CANARY}@contoso.com is over its quota"))).pseudonyms(),
    ];
    let mut lost = Place::new("body's error").responds_with("<a/>");
    lost.body_error = Some(format!("stream of Bearer {CANARY} was reset"));
    places.push(lost);
    let unauthorized = Place::new("challenge of a refusal").tells(
        "www-authenticate",
        format!("Bearer client_id=\"a\", Negotiate {CANARY}"),
    );
    places.push(Place {
        status: 401,
        ..unauthorized
    });
    // Between any two bytes of the secret, in two frames, and cut off by the limit.
    for at in 0..=CANARY.len() {
        let text = message(&format!("x {password}"));
        let cut = text.find(CANARY).unwrap() + at;
        let (first, second) = text.split_at(cut);
        let mut straddling = Place::new(format!("straddling {at}"));
        straddling.response = Some(vec![first.into(), second.into()]);
        places.push(straddling);
        let mut limited = Place::new(format!("cut {at}"))
            .responds_with(&*text)
            .request(&*text);
        limited.body_limit = cut;
        places.push(limited);
        let mut limited = Place::new(format!("cut token {at}")).responds_with(token_response(JWT));
        limited.body_limit = token_response(JWT).find(JWT).unwrap() + 1 + at;
        places.push(limited);
    }
    places
}
