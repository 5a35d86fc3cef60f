//! The outline of a request against a full `NsReader` walk, on generated, hand-made and broken
//! envelopes.
#[path = "checks/outline.rs"]
mod checks;

use checks::{M, SOAP, SOAP12, T, assert_agrees};
use tower_ews::soap::{Operation, Outline, OutlineError, SidKind};

/// Runs a test with many seeds, or with the one in EWS_TEST_SEED.
fn seeds(cases: u64, test: impl Fn(&mut fastrand::Rng)) {
    let replay = std::env::var("EWS_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let first = replay.unwrap_or_else(|| fastrand::u64(..u64::MAX - cases));
    let cases = if replay.is_some() { 1 } else { cases };
    for seed in first..first + cases {
        let told = Told(seed);
        test(&mut fastrand::Rng::with_seed(seed));
        std::mem::forget(told);
    }
}

/// Says the seed if the test panics.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        eprintln!("failed with EWS_TEST_SEED={}", self.0);
    }
}

/// What a generated request says.
struct Made {
    body: Vec<u8>,
    operation: Operation,
    version: Option<String>,
    sids: Vec<(SidKind, String)>,
    members: Vec<String>,
}

struct Maker<'a> {
    random: &'a mut fastrand::Rng,
    soap: &'static str,
    m: &'static str,
    t: &'static str,
}

impl Maker<'_> {
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.random.usize(..from.len())]
    }

    fn noise(&mut self) -> String {
        let noise = [
            "",
            "",
            "",
            " ",
            "\r\n\t",
            "<!-- <m:Items> ' \" > -->",
            "<?pi <x> '?>",
            "<!---->",
            "\n",
        ];
        self.pick(&noise).to_owned()
    }

    fn text(&mut self) -> String {
        let texts = [
            "plain",
            "a &amp; b",
            "&#60;t:Message&#x3e;",
            " > ]] ",
            "<![CDATA[</m:Items><a b='>]]>",
            "é漢",
            "'\"",
            "<![CDATA[]]]]>",
            "",
        ];
        self.pick(&texts).to_owned()
    }

    fn attributes(&mut self) -> String {
        let mut attributes = String::new();
        for i in 0..self.random.usize(..3) {
            let value = ["1", "a>b", "/>", "&lt;x&gt;", "x/", "", "xmlns"];
            let value = self.pick(&value);
            let quote = self.pick(&['"', '\'']);
            let inner = if quote == '"' { "'" } else { "\"" };
            let space = self.pick(&[" ", "\n  ", "\t"]);
            let equals = self.pick(&["=", " = "]);
            attributes += &format!("{space}k{i}{equals}{quote}{value}{inner}{quote}");
        }
        attributes + self.pick(&["", "", " ", "\n"])
    }

    fn element(&mut self, depth: usize) -> String {
        let names = [
            "t:Message",
            "m:Items",
            "Item",
            "x",
            "t:ItemId",
            "m:CreateItem",
            "a-b.c_d",
            "t:É",
        ];
        let name = self.pick(&names);
        let attributes = self.attributes();
        if self.random.u8(..3) == 0 {
            return format!("<{name}{attributes}/>");
        }
        let mut inner = String::new();
        for _ in 0..self.random.usize(..4) {
            inner += &self.noise();
            inner += &match depth {
                0 => self.text(),
                _ if self.random.bool() => self.text(),
                _ => self.element(depth - 1),
            };
        }
        let space = self.pick(&["", "", " "]);
        format!("<{name}{attributes}>{inner}</{name}{space}>")
    }

    /// Words with white space between and around them.
    fn words(&mut self, members: &mut Vec<String>) -> String {
        let spaces = [" ", "\t", "\r", "\n", "\r\n  ", " \t \n"];
        let mut text = self.pick(&["", " ", "\r\n"]).to_owned();
        for _ in 0..self.random.usize(..6) {
            let words = [
                "a",
                "5cb2c1e1-24b4-4b6f-9d6b-5a4ee6f9b8d2",
                "]]>",
                "é漢",
                "/>'",
            ];
            let word = self.pick(&words);
            members.push(word.to_owned());
            text += word;
            text += self.pick(&spaces);
        }
        if self.random.bool() {
            text.truncate(text.trim_end().len());
        }
        text
    }

    fn tag(prefix: &str, name: &str) -> String {
        if prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{prefix}:{name}")
        }
    }

    fn make(&mut self) -> Made {
        let operation = self.pick(&[
            Operation::CREATE_ITEM,
            Operation::GET_ITEM,
            Operation::GET_USER_AVAILABILITY,
            Operation::GET_FOLDER,
            Operation::UPLOAD_ITEMS,
            app_manifests(),
        ]);
        let (s, m, t) = (self.soap, self.m, self.t);
        let declare = |prefix: &str, space: &str| match prefix {
            "" => format!(" xmlns=\"{space}\""),
            prefix => format!(" xmlns:{prefix}='{space}'"),
        };
        let soap = self.pick(&[SOAP, SOAP12]);
        let mut body = Vec::new();
        if self.random.bool() {
            body.extend(b"\xEF\xBB\xBF");
        }
        let start = [
            "",
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>",
            "<?xml version='1.0' encoding='UTF-8' ?>\n",
        ];
        let start = self.pick(&start);
        body.extend(start.as_bytes());
        let mut text = self.noise();
        let envelope = Self::tag(s, "Envelope");
        text += &format!("<{envelope}{}>", declare(s, soap));
        text += &self.noise();
        let version = self.random.bool().then(|| "Exchange2013_SP1".to_owned());
        let mut sids = Vec::new();
        let header = Self::tag(s, "Header");
        text += &format!("<{header}>");
        if let Some(version) = &version {
            let name = Self::tag(t, "RequestServerVersion");
            text += &format!("<{name}{} Version=' {version} '/>", declare(t, T));
        }
        if self.random.bool() {
            let kinds = [
                ("PrincipalName", SidKind::PrincipalName),
                ("SID", SidKind::Sid),
                ("PrimarySmtpAddress", SidKind::PrimarySmtpAddress),
                ("SmtpAddress", SidKind::SmtpAddress),
            ];
            let (outer, inner) = (
                Self::tag(t, "ExchangeImpersonation"),
                Self::tag(t, "ConnectingSID"),
            );
            text += &format!("<{outer}{}>{}<{inner}>", declare(t, T), self.noise());
            for _ in 0..=self.random.usize(..2) {
                let (name, kind) = self.pick(&kinds);
                let name = Self::tag(t, name);
                let values = [
                    (" ada@contoso.com\n", "ada@contoso.com"),
                    (
                        "o&apos;hara<!-- no -->@contoso&#46;com",
                        "o'hara@contoso.com",
                    ),
                    ("<![CDATA[r&d]]>@contoso.com", "r&d@contoso.com"),
                ];
                let (raw, value) = self.pick(&values);
                text += &format!("<{name}>{raw}</{name}>{}", self.noise());
                sids.push((kind, value.to_owned()));
            }
            text += &format!("</{inner}></{outer}>");
        }
        text += &format!("</{header}>{}", self.noise());
        let (soap_body, name) = (
            Self::tag(s, "Body"),
            Self::tag(m, operation.request_element()),
        );
        text += &format!(
            "<{soap_body}>{}<{name}{} A='>'>",
            self.noise(),
            declare(m, M)
        );
        text += &self.noise();
        text += "<unknown><Items><a/></Items></unknown>";
        let container = Self::tag(m, operation.arrays()[0].container);
        let mut members = Vec::new();
        if self.random.u8(..8) == 0 {
            text += &format!("<{container}/>");
        } else {
            text += &format!("<{container}{}>", self.attributes());
            if operation == app_manifests() && self.random.bool() {
                text += &self.words(&mut members);
            }
            let elements = match members.is_empty() {
                true => self.random.usize(..5),
                false => 0,
            };
            for _ in 0..elements {
                text += &self.noise();
                let member = self.element(3);
                text += &member;
                members.push(member);
            }
            // Nothing but white space in a list of words.
            let noise = match elements {
                0 => String::new(),
                _ => self.noise(),
            };
            text += &format!("{noise}</{container}>");
        }
        text += &format!(
            "{}</{name}></{soap_body}>{}</{envelope}>",
            self.noise(),
            self.noise()
        );
        text += &self.noise();
        body.extend(text.as_bytes());
        Made {
            body,
            operation,
            version,
            sids,
            members,
        }
    }
}

fn app_manifests() -> Operation {
    Operation::by_name("GetAppManifests").unwrap()
}

fn made(random: &mut fastrand::Rng) -> Made {
    let (soap, m, t) = match random.u8(..4) {
        0 => ("", "", ""),
        1 => ("s", "m", "t"),
        2 => ("soap", "", "t"),
        _ => ("t", "x", ""),
    };
    Maker { random, soap, m, t }.make()
}

#[test]
fn agrees_with_a_full_walk() {
    seeds(3000, |random| {
        let made = made(random);
        let shown = String::from_utf8_lossy(&made.body);
        let outline = Outline::parse(&made.body).unwrap_or_else(|error| panic!("{error}: {shown}"));
        assert_eq!(outline.operation(), Some(made.operation), "{shown}");
        assert_eq!(
            outline.request_server_version(),
            made.version.as_deref(),
            "{shown}"
        );
        let sids: Vec<_> = outline
            .impersonation()
            .iter()
            .map(|sid| (sid.kind, sid.value.to_string()))
            .collect();
        assert_eq!(sids, made.sids, "{shown}");
        let array = outline.array().unwrap();
        let members: Vec<_> = array
            .members()
            .iter()
            .map(|range| &made.body[range.clone()])
            .collect();
        let expected: Vec<_> = made.members.iter().map(String::as_bytes).collect();
        assert_eq!(members, expected, "{shown}");
        assert_agrees(&made.body, &outline);
        outline.targets(&made.body);
    });
}

#[test]
fn broken_bodies_are_errors_or_agree() {
    let tokens: &[&[u8]] = &[
        b"<",
        b">",
        b"/",
        b"\"",
        b"'",
        b"<!--",
        b"-->",
        b"<![CDATA[",
        b"]]>",
        b"<?",
        b"?>",
        b"<!DOCTYPE a>",
        b"</",
        b"/>",
        b"\0",
        b"\xFF",
        b"&",
        b"=",
        b" ",
        b"xmlns=''",
        b"<a>",
        b"</a>",
    ];
    let read = std::cell::Cell::new(0);
    seeds(6000, |random| {
        let mut body = made(random).body;
        for _ in 0..=random.usize(..3) {
            let at = random.usize(..body.len());
            match random.u8(..5) {
                0 => body.truncate(at + 1),
                1 => drop(body.remove(at)),
                2 => body[at] = random.u8(..),
                3 => {
                    let token = tokens[random.usize(..tokens.len())];
                    body.splice(at..at, token.iter().copied());
                }
                _ => {
                    let end = (at + random.usize(..20)).min(body.len());
                    let piece = body[at..end].to_vec();
                    let to = random.usize(..=body.len());
                    body.splice(to..to, piece);
                }
            }
            if body.is_empty() {
                return;
            }
        }
        if let Ok(outline) = Outline::parse(&body) {
            read.set(read.get() + 1);
            assert_agrees(&body, &outline);
            outline.targets(&body);
        }
    });
    assert!(
        std::env::var("EWS_TEST_SEED").is_ok() || read.get() > 100,
        "too few bodies stayed readable"
    );
}

fn parse(body: &str) -> Result<Outline, OutlineError> {
    Outline::parse(body.as_bytes())
}

fn request(inner: &str) -> String {
    format!(
        "<s:Envelope xmlns:s='{SOAP}' xmlns:m='{M}' xmlns:t='{T}'><s:Body>{inner}</s:Body></s:Envelope>"
    )
}

#[test]
fn what_is_refused() {
    use OutlineError as E;
    type Case<'a> = (&'a str, String, fn(&E) -> bool);
    let get = "<m:GetItem><m:ItemIds><t:ItemId Id='1'/></m:ItemIds></m:GetItem>";
    let good = request(get);
    assert!(parse(&good).is_ok());
    let cases: Vec<Case> = vec![
        ("dtd", format!("<!DOCTYPE a [<!ENTITY b 'c'>]>{good}"), |e| matches!(e, E::Dtd { at: 0 })),
        ("dtd inside", request(&format!("<!DOCTYPE a>{get}")), |e| matches!(e, E::Dtd { .. })),
        ("dtd in a member", good.replace("<t:ItemId", "<!DOCTYPE a><t:ItemId"), |e| {
            matches!(e, E::Dtd { .. })
        }),
        ("declared", format!("<?xml version='1.0' encoding='utf-16'?>{good}"), |e| {
            matches!(e, E::Encoding { name } if &**name == "utf-16")
        }),
        ("latin", format!("<?xml version='1.0' encoding='iso-8859-1'?>{good}"), |e| {
            matches!(e, E::Encoding { .. })
        }),
        ("second root", format!("{good}{good}"), |e| matches!(e, E::SecondRoot { .. })),
        ("text behind", format!("{good} x"), |e| matches!(e, E::SecondRoot { .. })),
        ("second operation", request(&format!("{get}{get}")), |e| matches!(e, E::SecondOperation { .. })),
        ("cut", good[..good.len() - 5].to_owned(), |e| matches!(e, E::Truncated { .. })),
        ("cut in a member", good[..good.find("Id='1'").unwrap()].to_owned(), |e| {
            matches!(e, E::Truncated { .. })
        }),
        ("crossed", request("<m:GetItem><m:ItemIds><a><b></a></b></m:ItemIds></m:GetItem>"), |e| {
            matches!(e, E::Unbalanced { .. })
        }),
        ("too many ends", format!("{good}</a>"), |e| matches!(e, E::Unbalanced { .. })),
        ("json", "{\"a\": 1}".into(), |e| matches!(e, E::NotSoap { .. })),
        ("empty", String::new(), |e| matches!(e, E::NotSoap { .. })),
        ("other root", "<Envelope/>".into(), |e| matches!(e, E::NotSoap { .. })),
        ("no operation", request(""), |e| matches!(e, E::NotSoap { .. })),
        ("no tag", request("<m:GetItem><m:ItemIds>< a/></m:ItemIds></m:GetItem>"), |e| {
            matches!(e, E::Malformed { .. })
        }),
        ("no attribute name", good.replace("<s:Body>", "<s:Body = 'x'>"), |e| {
            matches!(e, E::Malformed { .. })
        }),
        ("no attribute value", good.replace("<s:Body>", "<s:Body a b='x'>"), |e| {
            matches!(e, E::Malformed { .. })
        }),
        (
            "entity",
            good.replace(
                "<s:Body>",
                "<s:Header><t:ExchangeImpersonation><t:ConnectingSID><t:SID>&x;</t:SID></t:ConnectingSID>\
                 </t:ExchangeImpersonation></s:Header><s:Body>",
            ),
            |e| matches!(e, E::Entity { .. }),
        ),
        ("deep", request(&format!("<m:GetItem>{}", "<a>".repeat(2000))), |e| matches!(e, E::TooDeep { .. })),
        (
            "deep in a member",
            request(&format!("<m:GetItem><m:ItemIds>{}", "<a>".repeat(2000))),
            |e| matches!(e, E::TooDeep { .. }),
        ),
    ];
    for (name, body, expected) in cases {
        let error = parse(&body).expect_err(name);
        assert!(expected(&error), "{name}: {error:?}");
        assert!(!error.to_string().is_empty());
    }
    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(matches!(Outline::parse(&utf16), Err(E::Encoding { .. })));
    let marked: Vec<u8> = [0xFE, 0xFF]
        .into_iter()
        .chain(good.encode_utf16().flat_map(u16::to_be_bytes))
        .collect();
    assert!(matches!(Outline::parse(&marked), Err(E::Encoding { .. })));
    assert!(matches!(
        Outline::parse(b"\x1f\x8b\x08\0\0\0"),
        Err(E::NotSoap { .. })
    ));
}

#[test]
fn arrays_that_are_none() {
    let stray = parse(&request(
        "<m:GetItem><m:ItemIds><t:ItemId Id='1'/> x </m:ItemIds></m:GetItem>",
    ))
    .unwrap();
    assert!(stray.array().is_none());
    let cdata = "<m:GetItem><m:ItemIds><t:ItemId Id='1'/><![CDATA[]]></m:ItemIds></m:GetItem>";
    assert!(parse(&request(cdata)).unwrap().array().is_none());
    let twice = "<m:GetItem><m:ItemIds><t:ItemId/></m:ItemIds><m:ItemIds><t:ItemId/></m:ItemIds></m:GetItem>";
    assert!(parse(&request(twice)).unwrap().array().is_none());
    let other = parse(&request(
        "<m:GetItem><t:ItemIds><t:ItemId/></t:ItemIds></m:GetItem>",
    ))
    .unwrap();
    assert!(
        other.array().is_none(),
        "the container is of another namespace"
    );
    // Of a text with anything else in it nobody but the server knows the words.
    for words in [
        "a <!-- --> b",
        "a b<!---->",
        "a <?p?>b",
        "<![CDATA[a b]]>",
        "a<![CDATA[ ]]>b",
        "a&#32;b c",
        "a &amp; b",
        "a b &",
        "a b<t:String>c</t:String>",
        "<t:String/>a b",
    ] {
        assert!(parse(&list(words)).unwrap().array().is_none(), "{words}");
    }
    let words = "<m:GetFolder><m:FolderIds>a b</m:FolderIds></m:GetFolder>";
    assert!(parse(&request(words)).unwrap().array().is_none());
    let unknown = parse(&request("<m:Frobnicate/>")).unwrap();
    assert_eq!(
        (unknown.operation(), unknown.operation_name()),
        (None, "Frobnicate")
    );
    let foreign = parse(&request("<t:GetItem/>")).unwrap();
    assert_eq!(
        (foreign.operation(), foreign.operation_name()),
        (None, "GetItem")
    );
    let two = "<m:GetImItems><m:ContactIds><t:ItemId/></m:ContactIds><m:GroupIds><t:ItemId/></m:GroupIds></m:GetImItems>";
    let two = parse(&request(two)).unwrap();
    assert_eq!((two.arrays().len(), two.array()), (2, None));
}

/// A request with a list whose members have no names.
fn list(content: &str) -> String {
    request(&format!(
        "<m:GetAppManifests><m:ExtensionIds>{content}</m:ExtensionIds></m:GetAppManifests>"
    ))
}

#[test]
fn words_are_members() {
    let of = |content: &str| -> Vec<String> {
        let body = list(content);
        let outline = parse(&body).unwrap();
        assert_agrees(body.as_bytes(), &outline);
        let array = outline.array().unwrap();
        assert_eq!(&body[array.content()], content);
        let members = array.members().iter();
        members
            .map(|member| body[member.clone()].to_owned())
            .collect()
    };
    assert_eq!(of("a b"), ["a", "b"]);
    assert_eq!(of("a"), ["a"]);
    assert_eq!(of(""), [""; 0]);
    assert_eq!(of(" \t\r\n"), [""; 0]);
    assert_eq!(of("a b\tc\rd\ne\r\n \tf"), ["a", "b", "c", "d", "e", "f"]);
    assert_eq!(of(" \r\n\ta b \n"), ["a", "b"]);
    // Only XML's own four bytes are white space.
    assert_eq!(of("a\u{a0}b\u{c}c d"), ["a\u{a0}b\u{c}c", "d"]);
    assert_eq!(of("a ]]> b > 'c\""), ["a", "]]>", "b", ">", "'c\""]);
    let elements = "<t:String>a b</t:String>\n<!-- --><t:String/>";
    assert_eq!(of(elements), ["<t:String>a b</t:String>", "<t:String/>"]);
    let many: Vec<String> = (0..10_000).map(|n| format!("{n:08x}-24b4")).collect();
    assert_eq!(of(&many.join("\n ")), many);
}

#[test]
fn other_access_headers() {
    let with = |header: &str| {
        let body = request("<m:GetItem/>").replace(
            "<s:Body>",
            &format!("<s:Header>{header}</s:Header><s:Body>"),
        );
        parse(&body).unwrap().has_other_access_header()
    };
    assert!(!with("<t:RequestServerVersion Version='Exchange2016'/>"));
    assert!(with(
        "<t:SerializedSecurityContext><t:UserSid>S</t:UserSid></t:SerializedSecurityContext>"
    ));
    assert!(with(
        "<w:Security xmlns:w='http://docs.oasis-open.org/wss/x'/>"
    ));
}
