//! Places of a secret, one by one.

use super::{FORM, JSON, XML};

/// Where a secret stands: `{C}` is the secret, or ⟦all of this⟧; «a name» is written in any case. The rest has to stay.
pub(super) const EXACT: &[(Option<&str>, &str)] = &[
    (
        XML,
        "<a><t:«Password» x='1'>{C}</t:«Password»><b>stays</b></a>",
    ),
    (
        XML,
        "<a><«Password»>⟦<![CDATA[{C}</Password>{C}]]>⟧</«Password»><b>stays</b></a>",
    ),
    (
        XML,
        "<a><«Password»>⟦a&amp;{C}&lt;/Password&gt;{C}⟧</«Password»><b/></a>",
    ),
    (
        XML,
        "<a><«Password»>⟦<!-- </Password> -->{C}⟧</«Password»><b/></a>",
    ),
    (
        XML,
        "<a><«Password»>⟦<Password>1</Password>{C}⟧</«Password»><b/></a>",
    ),
    (
        XML,
        "<x:Header><o:«Security» s:mustUnderstand='1'>⟦<o:UsernameToken><o:Username>{C}</o:Username><o:Nonce>{C}</o:Nonce></o:UsernameToken>⟧</o:«Security»><t:TimeZoneContext/></x:Header>",
    ),
    (
        XML,
        "<m:Token>⟦<t:Id>{C}</t:Id><t:TokenValue>{C}</t:TokenValue>⟧</m:Token><m:ResponseCode>NoError</m:ResponseCode>",
    ),
    (
        XML,
        "<wsse:«BinarySecurityToken» ValueType='a>b'>{C}</wsse:«BinarySecurityToken»><b/>",
    ),
    (
        XML,
        "<t:«RefreshToken2»>{C}</t:«RefreshToken2»><t:TokenRefreshLastAttempted>1</t:TokenRefreshLastAttempted>",
    ),
    (XML, "<t:«ClientSecret»>{C}</t:«ClientSecret»>"),
    (
        XML,
        "<t:«EncryptedSharedFolderData»>⟦<t:Token>{C}</t:Token><t:Data>{C}</t:Data>⟧</t:«EncryptedSharedFolderData»><b/>",
    ),
    (
        XML,
        "<t:«SerializedSecurityContext»>⟦<t:UserSid>{C}</t:UserSid>⟧</t:«SerializedSecurityContext»>",
    ),
    (
        XML,
        "<m:«ProxyPartnerToken»>{C}</m:«ProxyPartnerToken»><b>1</b>",
    ),
    (XML, "<login user='a' «password»='{C}' x=\"1\"/>"),
    (
        XML,
        "<login user=\"a\" t:«AccessToken» = \"⟦{C}>{C}⟧\" x=\"1\">t</login>",
    ),
    (
        XML,
        "<t:Value Name='«Password»'>{C}</t:Value><t:Value Name='BackOffMilliseconds'>90</t:Value>",
    ),
    (XML, "<add key=\"«client_secret»\" value=\"{C}\"/>"),
    (XML, "<add value=\"{C}\" key=\"«client_secret»\"/>"),
    (XML, "<a><!-- <Password>{C}</Password> --><b/></a>"),
    (
        XML,
        "<a><![CDATA[<o:«Password»>{C}</o:«Password»>]]><b/></a>",
    ),
    (
        XML,
        "<m:MessageText>Cannot bind: &lt;t:«Password»&gt;{C}&lt;/t:«Password»&gt; refused</m:MessageText>",
    ),
    (
        XML,
        "<m:MessageText>401 for «Bearer» {C}</m:MessageText><b>1</b>",
    ),
    (XML, "<m:Url>https://{C}@mail.contoso.com/EWS?id=1</m:Url>"),
    (
        XML,
        "<m:Url>https://login/?id=1&amp;«code»={C}&amp;state=2</m:Url>",
    ),
    (None, "  <t:«Password»>{C}</t:«Password»>"),
    (
        Some("text/html"),
        "<form><input type=hidden name=x value=\"{C}\"><b>stays</b></form>",
    ),
    (
        Some("text/html"),
        "<p><meta name='«csrf-token»' content='{C}'>stays<br></p>",
    ),
    (XML, "<add key='«Password»' value={C}/><b>stays</b>"),
    (
        XML,
        "<e><t:Value>{C}</t:Value><t:Name>«Password»</t:Name></e><t:Name>Ann</t:Name><t:Value>stays</t:Value>",
    ),
    (
        XML,
        "<d><key>«Password»</key><string>{C}</string><key>user</key><string>stays</string></d>",
    ),
    (
        XML,
        "<p><t:ExtendedFieldURI PropertyName=\"«Password»\"/><t:Value>{C}</t:Value></p><p><t:ExtendedFieldURI PropertyName=\"Colour\"/><t:Value>stays</t:Value></p>",
    ),
    (
        JSON,
        r#"[{"value":"{C}","name":"«Password»"},{"name":"user","value":"stays"}]"#,
    ),
    (
        JSON,
        r#"{"sv":"2024-11-04","«sig»":"{C}","design":"stays","sigma":"stays","signal":"stays"}"#,
    ),
    (
        XML,
        "<a Key=\"sv\" «Sig»=\"{C}\"/><sigs>{C}</sigs><Design>stays</Design>",
    ),
    (
        JSON,
        r#"{"a":"%7B%22«password»%22%3A%22{C}%22%7D","b":"https:\/\/h\/?«sig»=⟦{C}%26{C}⟧"}"#,
    ),
    (
        Some("text/plain"),
        "%2523«access_token»%253D{C}%2526state%253D1 stays",
    ),
    (
        Some("text/plain"),
        "«tempauth»={C}, «authkey»: {C} and ('«Password»', '{C}') stay",
    ),
    (
        Some("text/plain"),
        "/x;«sig»={C};v=1/y?«X-Amz-Credential»={C}&a=b",
    ),
    (
        Some("text/plain"),
        "-----BEGIN PRIVATE KEY-----⟦\n{C}\n⟧-----END PRIVATE KEY-----\nstays",
    ),
    (
        JSON,
        r#"{"a":"{\\\"«password»\\\" : \\\"⟦a \\\\\\\"{C}⟧\\\"}"}"#,
    ),
    (JSON, r#"{"«password»":"{C}","user":"ann"}"#),
    (
        JSON,
        r#"{"a":[1,2,{"«access_token»" : "⟦{C}\"{C}⟧"}],"b":"stays"}"#,
    ),
    (JSON, r#"{"«refresh-token»":"{C}","expires_in":3599}"#),
    (
        JSON,
        r#"{"IdToken":"{C}","clientSecret":"{C}","ClientAssertion":"{C}"}"#,
    ),
    (JSON, r#"{"p\u0061ssword":"{C}","b":1}"#),
    (JSON, r#"{"name":"«Password»","value":"{C}"}"#),
    (JSON, r#"{"type":"«Password»","value":"{C}"}"#),
    (JSON, r#"{"value":"{C}","field":"«Password»"}"#),
    (JSON, r#"{"header":"«X-Csrf»","value":"{C}"}"#),
    (
        JSON,
        r#"{"name":"«Password»","type":"string","value":"{C}"}"#,
    ),
    (XML, "<input type='«password»' value='{C}'/>"),
    (
        XML,
        "<s><Name>«Password»</Name><Type>string</Type><Value>{C}</Value></s>",
    ),
    (
        XML,
        "<s><Value>{C}</Value><Name>«Password»</Name><Type>string</Type></s>",
    ),
    (
        XML,
        "<d><key>«Password»</key><string>{C}</string><key>host</key><string>stays</string></d>",
    ),
    (Some("text/plain"), "«password»\u{a0}=\u{a0}{C} stays"),
    (Some("text/plain"), "«password»%C2%A0%3D%c2%a0{C}"),
    (Some("text/plain"), "«password»\u{200b}: {C}"),
    (Some("text/plain"), "'«password»'\u{3000}=\u{2009}'{C}'"),
    (FORM, "_«csrf»={C}&user=ann"),
    (
        JSON,
        r#"{"headers":{"«Authorization»":"{C}","«Set-Cookie»":"{C}","Content-Type":"text/plain"}}"#,
    ),
    (
        JSON,
        r#"{"error":{"code":"X","message":"sent «Bearer» {C}"}}"#,
    ),
    (
        JSON,
        r#"{"body":"{\"«password»\":\"⟦{C}\\\"{C}⟧\",\"user\":\"ann\"}"}"#,
    ),
    (
        JSON,
        r#"{"body":"\u003cPassword\u003e{C}\u003c/Password\u003e"}"#,
    ),
    (JSON, r#"{"url":"https:\/\/{C}@host\/x?a=1"}"#),
    (FORM, "grant_type=password&«client_secret»={C}&scope=x"),
    (FORM, "«code»={C}&redirect_uri=http%3A%2F%2Flocalhost"),
    (FORM, "user=ann&pass%77ord={C}&x=1"),
    (FORM, "«SAMLResponse»={C}"),
    (FORM, "user=ann&«password»=⟦a%26{C}+{C}⟧"),
    (None, "grant_type=x&«client_secret»={C}&scope=x"),
    (Some("text/plain"), "«password» = '{C}' and more"),
    (
        Some("text/plain"),
        "the «PassWord»: \"⟦a b {C}⟧\", and more",
    ),
    (Some("text/plain"), "Server=a;«Password»={C};User=b"),
    (Some("text/plain"), "(«pwd»={C}, user=b)"),
    (Some("text/plain"), "«Basic» ⟦{C}=⟧ refused"),
    (Some("text/plain"), "«Negotiate» {C} refused"),
    (
        Some("text/plain"),
        "GET /x\r\n«Authorization»: ⟦{C} a,b;c⟧\r\nHost: y",
    ),
    (
        Some("text/plain"),
        "GET /x\n«Cookie»: ⟦a={C}; b=\"{C}\"; c={C}⟧\nHost: y",
    ),
    (
        Some("text/plain"),
        "see https://⟦{C}:x⟧@host:443/path for more",
    ),
    (
        Some("text/plain"),
        "see https://host/a?«sig»={C}&b=1 for more",
    ),
    (Some("text/plain"), "«token» => {C} end"),
];

/// What is malformed or unreadable: the canary may not be seen, and more than it may be lost.
pub(super) const LOSSY: &[(Option<&str>, &str)] = &[
    (XML, "<a><Password>{C}</Passwort><b>{C}</b></a>"),
    (XML, "<a><Password>{C}<b</x></Password><b/>"),
    (XML, "<a x=\"1><Password>{C}</Password>"),
    (XML, "<a Password=\"{C}<{C}\"/>"),
    (XML, "<a Password=\"{C}<{C}"),
    (XML, "<Password <b>{C}</b></Password>"),
    (XML, "<a><!-- <Password>{C}</Password>"),
    (XML, "<Password><![CDATA[{C}</Password>"),
    (
        XML,
        "<Password>{C}<Password/>{C}<Password x='/>'>{C}</Password>{C}</Password>",
    ),
    (
        XML,
        "<!DOCTYPE a [<!ENTITY p \"{C}\">]><a><Password>&p;</Password></a>",
    ),
    (XML, "<!DOCTYPE a [<!ENTITY p \"{C}"),
    (XML, "{\"password\":\"{C}\"}"),
    (JSON, "<Password>{C}</Password>"),
    (JSON, r#"{'password':'{C}'}"#),
    (JSON, r#"{password: {C}}"#),
    (JSON, r#"{"a":"b, "password":"{C}"}"#),
    (
        JSON,
        r#"{"password":{"x":["{C}"]},"b":{"Token":["{C}",{"y":"{C}"}]}}"#,
    ),
    (JSON, r#"{"password":12345{C}}"#),
    (FORM, "x=https%3A%2F%2Fu%3A{C}%40host%2F"),
    (FORM, "x=%2570assword%253D{C}"),
    (
        Some("multipart/form-data; boundary=x"),
        "--x\r\n\r\n{C}\r\n--x--",
    ),
    (Some("text/xml; charset=utf-7"), "+ADw-Password+AD4-{C}"),
    (
        None,
        "<?xml version='1.0' encoding='utf-16'?><Password>{C}</Password>",
    ),
    (Some("text/plain"), "Bearer \"{C}\""),
    (Some("text/plain"), "u https://u:pass/{C}@host/x"),
    (
        Some("text/plain"),
        "password={C}\"{C} {\"secret\": {\"a\": \"{C}\"}}",
    ),
    (Some("text/plain"), "t eyJhbGciOiJub25lIn0.{C}.x"),
    (
        Some("text/plain"),
        "<wsse:Password Type=\"x\"><b>{C}</b>{C}</wsse:Password>",
    ),
];
