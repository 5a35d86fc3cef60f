//! Secrets in every place: names, in each syntax, in each escape.

/// Names of secrets, by how they begin and end and how their words are told apart.
pub(crate) const NAMES: [&str; 38] = [
    "_csrf",
    "X-Csrf",
    "password",
    "Passwords",
    "new_password",
    "PasswordText",
    "password2",
    "userPwd",
    "access_token",
    "RefreshToken",
    "id-token-hint",
    "tokens",
    "tokenValue",
    "tempauth",
    "x-ms-auth",
    "authkey",
    "api-key",
    "ApiKeys",
    "SharedAccessKey",
    "AccountKey",
    "x-functions-key",
    "signing.keys",
    "client_secret",
    "ClientSecretValue",
    "secrets",
    "secret_for_svc",
    "X-Amz-Signature",
    "request-signatures",
    "X-Amz-Credential",
    "userCredentials",
    "passphrase",
    "smtp_pass",
    "X-BackEndCookie",
    "code_verifier",
    "JSESSIONID",
    "xsrf-token",
    "X-OWA-Canary",
    "ESTSAUTH",
];

/// Names that are secret in a query alone.
pub(crate) const FIELDS: [&str; 4] = ["sig", "code", "key", "auth"];

/// Where text with a secret stands as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Text,
    Url,
    Form,
    Json,
    Xml,
}

/// A syntax: `{N}` is the name, `{S}` the secret.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Syntax {
    pub(crate) host: Host,
    pub(crate) template: &'static str,
}

const fn syntax(host: Host, template: &'static str) -> Syntax {
    Syntax { host, template }
}

pub(crate) const SYNTAXES: [Syntax; 61] = [
    syntax(Host::Text, "{N}\u{a0}=\u{a0}{S}"),
    syntax(Host::Json, "{\"type\":\"{N}\",\"value\":\"{S}\"}"),
    syntax(Host::Json, "{\"value\":\"{S}\",\"field\":\"{N}\"}"),
    syntax(Host::Text, "{N}={S}"),
    syntax(Host::Text, "{N}: {S}"),
    syntax(Host::Text, "{N} = '{S}', and more"),
    syntax(Host::Text, "{N} => \"{S}\""),
    syntax(Host::Text, "'{N}' -> '{S}'"),
    syntax(Host::Text, "{N}\n=\n{S}"),
    syntax(Host::Text, "{N}:\r\n  {S}"),
    syntax(Host::Text, "\"{N}\"\n:\n\"a {S}\""),
    syntax(Host::Text, "{N}: |\n  {S}\n  {S}\nuser: ann"),
    syntax(Host::Text, "Server=a;{N}={S};User=b"),
    syntax(Host::Text, "Server=a; {N} = \"x;{S}\"; User=b"),
    syntax(Host::Text, "({N}={S}, user=b)"),
    syntax(Host::Text, "('{N}', '{S}')"),
    syntax(Host::Text, "[[\"{N}\", \"a, {S}\"]]"),
    syntax(Host::Text, "Config { {N}: Some(\"a {S}\"), user: None }"),
    syntax(Host::Text, "headers[\"{N}\"] = b\"{S}\""),
    syntax(Host::Text, "{:{N}=>\"{S}\"}"),
    syntax(Host::Text, "tool -{N} {S} --user ann"),
    syntax(Host::Text, "tool --{N}={S} --user ann"),
    syntax(Host::Text, "- name: {N}\n  value: {S}"),
    syntax(Host::Text, "POST /x HTTP/1.1\r\n{N}: {S}\r\nHost: y"),
    syntax(Host::Url, "https://h.example.com/x?{N}={S}"),
    syntax(Host::Url, "https://h.example.com/x?a=1&{N}={S}&b=2#c"),
    syntax(Host::Url, "https://h.example.com/x?a=1&amp;{N}={S}&amp;b=2"),
    syntax(Host::Url, "https://h.example.com/#state=1&{N}={S}"),
    syntax(Host::Url, "https://h.example.com/x;{N}={S};v=1/y"),
    syntax(Host::Url, "https://h.example.com/x;v=1;{N}={S}?a=b"),
    syntax(Host::Url, "/x?a=1&{N}={S}"),
    syntax(Host::Form, "{N}={S}&user=ann"),
    syntax(Host::Form, "user=ann&{N}=a+{S}"),
    syntax(Host::Json, r#"{"{N}":"{S}"}"#),
    syntax(Host::Json, r#"{"user":"ann","{N}" : "a \"{S}"}"#),
    syntax(Host::Json, r#"{"{N}":["{S}",{"a":"{S}"}],"b":1}"#),
    syntax(Host::Json, r#"{"{N}":{"a":{"b":"{S}"}},"b":1}"#),
    syntax(Host::Json, r#"{"name":"{N}","value":"{S}"}"#),
    syntax(Host::Json, r#"{"value":"{S}","name":"{N}"}"#),
    syntax(Host::Json, r#"[{"key":"{N}","value":{"a":"{S}"}}]"#),
    syntax(Host::Json, r#"[{"value":["{S}"],"type":"x","key":"{N}"}]"#),
    syntax(Host::Json, r#"{"url":"https://h/x?{N}={S}"}"#),
    syntax(Host::Json, r#"{"message":"the {N}: {S}"}"#),
    syntax(Host::Xml, "<t:{N}>{S}</t:{N}><b/>"),
    syntax(Host::Xml, "<{N} a='1'>\n  {S}\n</{N}><b/>"),
    syntax(Host::Xml, "<{N}><![CDATA[{S}]]></{N}><b/>"),
    syntax(Host::Xml, "<!-- <{N}>{S}</{N}> --><b/>"),
    syntax(Host::Xml, "<login user='a' {N}='{S}'/>"),
    syntax(Host::Xml, "<login\n  t:{N} = \"{S}\" user=\"a\"/>"),
    syntax(Host::Xml, "<add key=\"{N}\" value=\"{S}\"/>"),
    syntax(Host::Xml, "<add value='{S}' name='{N}'/>"),
    syntax(Host::Xml, "<meta name=\"{N}\" content=\"{S}\">"),
    syntax(Host::Xml, "<t:Value Name='{N}'>{S}</t:Value>"),
    syntax(
        Host::Xml,
        "<e><key>{N}</key><string>{S}</string><key>user</key><string>a</string></e>",
    ),
    syntax(Host::Xml, "<e><Name> {N} </Name><Value>{S}</Value></e>"),
    syntax(
        Host::Xml,
        "<e><Value>{S}</Value><Name><![CDATA[{N}]]></Name></e>",
    ),
    syntax(
        Host::Xml,
        "<t:DictionaryEntry><t:DictionaryKey><t:Type>String</t:Type><t:Value>{N}</t:Value></t:DictionaryKey><t:DictionaryValue><t:Type>String</t:Type><t:Value>{S}</t:Value></t:DictionaryValue></t:DictionaryEntry>",
    ),
    syntax(
        Host::Xml,
        "<t:ExtendedProperty><t:ExtendedFieldURI PropertyName=\"{N}\" PropertyType=\"String\"/><t:Value>{S}</t:Value></t:ExtendedProperty>",
    ),
    syntax(Host::Xml, "<m:MessageText>the {N} = {S}</m:MessageText>"),
    syntax(
        Host::Xml,
        "<a href=\"https://h/x?a=1&amp;{N}={S}&amp;b=2\">x</a>",
    ),
    syntax(Host::Xml, "<m:Data>{\"{N}\":\"{S}\"}</m:Data>"),
];

/// Secrets that are known by their shape, without a name.
pub(crate) const SHAPES: [(Host, &str); 29] = [
    (Host::Text, "sent Bearer {S}, refused"),
    (Host::Text, "sent Bearer\n  {S}{S}\nrefused"),
    (Host::Text, "Authorization: Basic {S}=="),
    (
        Host::Text,
        "X-WSSE: UsernameToken Username=\"bob\", PasswordDigest=\"{S}\", Nonce=\"{S}\", Created=\"2026\"",
    ),
    (
        Host::Text,
        "AWS4-HMAC-SHA256 Credential={S}/20260101/aws4_request, SignedHeaders=host, Signature={S}",
    ),
    (Host::Text, "with SharedKey acc:{S} refused"),
    (
        Host::Text,
        "refused eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJ4In0.{S} again",
    ),
    (Host::Text, "refused ('eyJhbGciOiJub25lIn0.{S}.')"),
    (Host::Text, "an NTLM message TlRMTVNTUAABAAAA{S}/+= came"),
    (
        Host::Text,
        "-----BEGIN PRIVATE KEY-----\n{S}\n{S}/+=\n-----END PRIVATE KEY-----\nmore",
    ),
    (Host::Text, "key -----BEGIN RSA PRIVATE KEY-----{S}"),
    (
        Host::Text,
        "-----BEGIN OPENSSH PRIVATE KEY-----\r\n{S}\r\n-----END OPENSSH PRIVATE KEY-----",
    ),
    (Host::Url, "https://svc:{S}@h.example.com:8443/x"),
    (Host::Url, "https://{S}@h.example.com/x"),
    (Host::Url, "//svc:{S}@h.example.com/x"),
    (
        Host::Url,
        "https://h.example.com/x?X-Goog-Signature={S}&x=1",
    ),
    (
        Host::Url,
        "https://h.blob.core.windows.net/c?sv=2024&se=2026&sr=b&sp=r&sig={S}",
    ),
    (
        Host::Json,
        r#"{"@microsoft.graph.downloadUrl":"https://c.sharepoint.com/download.aspx?UniqueId=1&tempauth={S}v1.eyJz"}"#,
    ),
    (Host::Json, r#"{"headers":["Authorization: Bearer {S}"]}"#),
    (Host::Text, "Config { user: \"svc\", pass: \"a {S}\" }"),
    (Host::Text, "pass={S}; user=b"),
    (Host::Text, "sig=\"{S}\""),
    (Host::Text, "signature=\"{S}\", keyId=\"a\""),
    (Host::Text, "refused?hmac='{S}'"),
    (
        Host::Json,
        r#"{"Name":"Authorization","Values":["a","{S}"]}"#,
    ),
    (
        Host::Json,
        r#"{"headerValue":"{S}","headerName":"x-api-key"}"#,
    ),
    (Host::Text, "bearer={S}"),
    (
        Host::Text,
        "Digest username=\"a\", nonce=\"{S}\", cnonce=\"{S}\"",
    ),
    (
        Host::Xml,
        "<m:MessageText>Cannot send Basic {S}= there</m:MessageText>",
    ),
];

/// One way to write all of a text inside of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Entities,
    Decimal,
    Hexadecimal,
    Backslashes,
    Unicode,
    Percent,
    /// Letters too.
    AllUnicode,
    AllDecimal,
    AllPercent,
}

pub(crate) const ESCAPES: [&[Step]; 20] = [
    &[],
    &[Step::Entities],
    &[Step::Decimal],
    &[Step::Hexadecimal],
    &[Step::Backslashes],
    &[Step::Unicode],
    &[Step::Percent],
    &[Step::AllUnicode],
    &[Step::AllDecimal],
    &[Step::AllPercent],
    &[Step::Entities, Step::Entities],
    &[Step::Backslashes, Step::Backslashes],
    &[Step::Percent, Step::Percent],
    &[Step::Backslashes, Step::Entities],
    &[Step::Entities, Step::Backslashes],
    &[Step::Percent, Step::Backslashes],
    &[Step::Backslashes, Step::Percent],
    &[Step::Percent, Step::Entities],
    &[Step::Entities, Step::Percent],
    &[Step::Percent, Step::Backslashes, Step::Entities],
];

pub(crate) fn escaped(text: &str, steps: &[Step]) -> String {
    steps
        .iter()
        .fold(text.to_owned(), |text, step| escape(&text, *step))
}

fn escape(text: &str, step: Step) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        let code = letter as u32;
        let is_plain = letter.is_ascii_alphanumeric() || "-_.~".contains(letter);
        match (step, letter) {
            (Step::Entities, '&') => out += "&amp;",
            (Step::Entities, '<') => out += "&lt;",
            (Step::Entities, '>') => out += "&gt;",
            (Step::Entities, '"') => out += "&quot;",
            (Step::Entities, '\'') => out += "&apos;",
            (Step::Decimal, _) if !is_plain => out += &format!("&#{code};"),
            (Step::Hexadecimal, _) if !is_plain => out += &format!("&#x{code:x};"),
            (Step::Backslashes, '"' | '\\') => out.extend(['\\', letter]),
            (Step::Backslashes, '\n') => out += "\\n",
            (Step::Backslashes, '\r') => out += "\\r",
            (Step::Unicode, _) if !is_plain => out += &format!("\\u{code:04x}"),
            (Step::Percent, _) if !is_plain => out += &format!("%{code:02X}"),
            (Step::AllUnicode, _) => out += &format!("\\u{code:04X}"),
            (Step::AllDecimal, _) => out += &format!("&#{code};"),
            (Step::AllPercent, _) => out += &format!("%{code:02x}"),
            _ => out.push(letter),
        }
    }
    out
}

/// A text with a secret in it.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    /// What it is made of.
    pub(crate) name: String,
    pub(crate) host: Host,
    /// Whether it stands as it is in its host, or in an escape.
    pub(crate) is_escaped: bool,
    pub(crate) text: String,
    /// How the secret is written in it.
    pub(crate) secret: String,
}

fn placement(host: Host, template: &str, name: &str, steps: &[Step], secret: &str) -> Placement {
    let text = template.replace("{N}", name).replace("{S}", secret);
    Placement {
        name: format!("{template:?} of {name:?} in {steps:?}"),
        host,
        is_escaped: !steps.is_empty(),
        text: escaped(&text, steps),
        secret: escaped(secret, steps),
    }
}

/// The name in one of the ways in which names are written.
fn cased(name: &str, random: &mut fastrand::Rng) -> String {
    match random.u8(0..4) {
        0 => name.to_ascii_uppercase(),
        1 => name.to_ascii_lowercase(),
        2 => name.replace(['-', '.'], "_"),
        _ => name.to_owned(),
    }
}

/// Each name in each syntax in each escape that `wanted` picks.
pub(crate) fn placements(
    secret: &str,
    random: &mut fastrand::Rng,
    mut wanted: impl FnMut(&mut fastrand::Rng) -> bool,
) -> Vec<Placement> {
    let mut all = Vec::new();
    for syntax in SYNTAXES {
        let fields = if syntax.host == Host::Url {
            &FIELDS[..]
        } else {
            &[]
        };
        for name in NAMES.iter().chain(fields) {
            for steps in ESCAPES {
                if wanted(random) {
                    let name = cased(name, random);
                    all.push(placement(
                        syntax.host,
                        syntax.template,
                        &name,
                        steps,
                        secret,
                    ));
                }
            }
        }
    }
    for (host, template) in SHAPES {
        for steps in ESCAPES {
            if wanted(random) {
                all.push(placement(host, template, "", steps, secret));
            }
        }
    }
    all
}
