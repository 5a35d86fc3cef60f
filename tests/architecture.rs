//! The rules of the architecture, read off the sources: which module may name which, that no two files
//! need each other, that nothing panics, and that the trail of a call is read by the audit log
//! alone.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use architecture::imports::{Circle, Sources};

mod architecture {
    pub(crate) mod imports;
    mod index;
    mod public_api;
}

/// The modules from the bottom up: each may name what stands on the floors below. A new module has
/// to take its place here.
const FLOORS: [Floor; 5] = [
    Floor {
        modules: &["address", "macros"],
        open: false,
    },
    Floor {
        modules: &["soap"],
        open: false,
    },
    Floor {
        modules: &[
            "affinity",
            "body",
            "errors",
            "extensions",
            "http_client",
            "ledger",
            "principal",
            "retry",
            "seconds",
            "trail",
            "wiring",
        ],
        open: true,
    },
    // The policy stands beside the layers: they are told numbers, and do not ask where those come
    // from.
    Floor {
        modules: &[
            "account_pool",
            "anchor_headers",
            "audit_log",
            "batch_splitter",
            "client_request_id",
            "concurrency_by_principal",
            "find_paging",
            "http_span",
            "job",
            "policy",
            "server_busy_backoff",
            "streaming",
        ],
        open: false,
    },
    Floor {
        modules: &["gauges", "guide", "service_builder_ext", "stack"],
        open: true,
    },
];

struct Floor {
    modules: &'static [&'static str],
    /// Whether its modules may name each other.
    open: bool,
}

const PANICKING_CALLS: [&str; 4] = ["unwrap", "unwrap_err", "expect", "expect_err"];
const PANICKING_MACROS: [&str; 4] = ["panic", "todo", "unimplemented", "unreachable"];

/// Methods of `CallTrail` that tell what was written. Other layers decide nothing by a trail, so
/// they only write to it: `record` returns nothing.
const TRAIL_READS: [&str; 5] = ["attempts", "left_out", "each", "sums", "read_all"];
const TRAIL_READERS: [&str; 2] = ["trail", "audit_log"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Names no other module, and is named by none.
    Simulator,
    Floor(usize),
    /// `lib.rs`, and what it hands out by itself.
    Root,
}

fn place_of(module: &str) -> Option<Place> {
    match module {
        "lib" => Some(Place::Root),
        "simulator" => Some(Place::Simulator),
        // What lib.rs re-exports, as in `crate::ServiceBuilderExt`.
        name if name.starts_with(char::is_uppercase) => Some(Place::Root),
        name => FLOORS
            .iter()
            .position(|floor| floor.modules.contains(&name))
            .map(Place::Floor),
    }
}

/// Whether code of the module `from` may name the module `to`.
fn may_name(from: &str, to: &str) -> bool {
    if from == to {
        return true;
    }
    match (place_of(from), place_of(to)) {
        (Some(Place::Root), Some(_)) => true,
        (Some(Place::Floor(from)), Some(Place::Floor(to))) => {
            to < from || to == from && FLOORS[from].open
        }
        (Some(Place::Floor(from)), Some(Place::Root)) => from + 1 == FLOORS.len(),
        _ => false,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Breach {
    NoOpeningDoc,
    UnknownModule(String),
    Names { line: usize, module: String },
    Panics { line: usize, what: String },
    ReadsTrail { line: usize, what: String },
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Breach::NoOpeningDoc => write!(f, "does not say in a first `//!` line what it is"),
            Breach::UnknownModule(module) => {
                write!(
                    f,
                    "the module `{module}` has no floor in tests/architecture.rs"
                )
            }
            Breach::Names { line, module } => write!(f, "line {line} names `crate::{module}`"),
            Breach::Panics { line, what } => write!(f, "line {line} can panic: `{what}`"),
            Breach::ReadsTrail { line, what } => write!(f, "line {line} reads a trail: `{what}`"),
        }
    }
}

/// Reads one source file; `path` says where it is under `src`.
fn breaches(path: &Path, source: &str) -> Vec<Breach> {
    let mut modules: Vec<String> = path
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if modules.last().is_some_and(|last| last == "mod") {
        modules.pop();
    }
    let module = modules.first().cloned().unwrap_or_default();

    let mut found = Vec::new();
    if !source.starts_with("//!") {
        found.push(Breach::NoOpeningDoc);
    }
    if place_of(&module).is_none() {
        found.push(Breach::UnknownModule(module.clone()));
    }
    if modules.iter().any(|part| part == "tests") {
        return found;
    }
    let tokens: TokenStream = source.parse().expect("a source file that compiles");
    let depth = if module == "lib" { 0 } else { modules.len() };
    let writes_trail = source.contains("CallTrail") && !TRAIL_READERS.contains(&&*module);
    let mut reader = Reader {
        module: &module,
        writes_trail,
        found,
    };
    reader.read(tokens, depth, false);
    reader.found
}

struct Reader<'a> {
    module: &'a str,
    /// It names a trail, and may not read it.
    writes_trail: bool,
    found: Vec<Breach>,
}

impl Reader<'_> {
    /// `depth` is the number of modules around these tokens, `compile_time` whether they run in the
    /// compiler alone.
    fn read(&mut self, tokens: TokenStream, depth: usize, compile_time: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut constant = false;
        let mut inline_module = false;
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            if let Some((attribute, after)) = attribute(&tokens, at) {
                at = if for_tests(attribute) {
                    end_of_item(&tokens, after)
                } else {
                    after
                };
                continue;
            }
            match token {
                TokenTree::Group(group) => {
                    let block = group.delimiter() == Delimiter::Brace;
                    self.read(
                        group.stream(),
                        depth + usize::from(block && inline_module),
                        compile_time || constant,
                    );
                    if block {
                        (constant, inline_module) = (false, false);
                    }
                }
                TokenTree::Punct(punct) if punct.as_char() == ';' => {
                    (constant, inline_module) = (false, false);
                }
                TokenTree::Ident(ident) => {
                    let name = ident.to_string();
                    let line = ident.span().start().line;
                    match name.as_str() {
                        "mod" => inline_module = true,
                        // A private `const fn` serves the constants beside it.
                        "const" => {
                            constant = !(is(&tokens, at + 1, "fn") && is_public(&tokens, at))
                        }
                        "crate" => self.names(line, &tokens, at + 1),
                        "super" if !preceded_by(&tokens, at, &[':']) => {
                            let (supers, after) = supers(&tokens, at);
                            if supers == depth {
                                self.names(line, &tokens, after);
                            }
                        }
                        _ => {}
                    }
                    let called = preceded_by(&tokens, at, &['.'])
                        && matches!(tokens.get(at + 1), Some(TokenTree::Group(group))
                            if group.delimiter() == Delimiter::Parenthesis);
                    let named = at
                        .checked_sub(3)
                        .is_some_and(|at| is(&tokens, at, "CallTrail"));
                    let reads = (called || named) && TRAIL_READS.contains(&name.as_str());
                    if reads && self.writes_trail {
                        let what = name.clone();
                        self.found.push(Breach::ReadsTrail { line, what });
                    }
                    let call = PANICKING_CALLS.contains(&name.as_str())
                        && preceded_by(&tokens, at, &['.', ':']);
                    let invocation = PANICKING_MACROS.contains(&name.as_str())
                        && matches!(tokens.get(at + 1), Some(TokenTree::Punct(p)) if p.as_char() == '!');
                    if (call || invocation) && !compile_time && !constant {
                        self.found.push(Breach::Panics { line, what: name });
                    }
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// Records the modules that a path from the root of the crate leads to; it goes on at `at`
    /// with `::`.
    fn names(&mut self, line: usize, tokens: &[TokenTree], at: usize) {
        if !is_punct(tokens, at, ':') {
            return;
        }
        let mut first_names = Vec::new();
        match tokens.get(at + 2) {
            Some(TokenTree::Ident(ident)) => first_names.push(ident.to_string()),
            Some(TokenTree::Group(group)) => {
                let mut begins = true;
                for token in group.stream() {
                    match token {
                        TokenTree::Ident(ident) if begins => first_names.push(ident.to_string()),
                        TokenTree::Punct(punct) if punct.as_char() == ',' => {
                            begins = true;
                            continue;
                        }
                        _ => {}
                    }
                    begins = false;
                }
            }
            _ => first_names.push("*".to_owned()),
        }
        for module in first_names {
            if !may_name(self.module, &module) {
                self.found.push(Breach::Names { line, module });
            }
        }
    }
}

/// The inside of an attribute that begins at `at`, and where it ends.
fn attribute(tokens: &[TokenTree], at: usize) -> Option<(TokenStream, usize)> {
    if !is_punct(tokens, at, '#') {
        return None;
    }
    let at = at + 1 + usize::from(is_punct(tokens, at + 1, '!'));
    match tokens.get(at) {
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Bracket => {
            Some((group.stream(), at + 1))
        }
        _ => None,
    }
}

/// `test`, or a `cfg` that holds in test builds alone.
fn for_tests(attribute: TokenStream) -> bool {
    let text = attribute.to_string().replace(' ', "");
    ["test", "cfg(test)"].contains(&text.as_str()) || text.starts_with("cfg(all(test,")
}

fn end_of_item(tokens: &[TokenTree], mut at: usize) -> usize {
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                // `use a::{b, c};` ends after its semicolon.
                return at + usize::from(is_punct(tokens, at, ';'));
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => return at,
            _ => {}
        }
    }
    at
}

/// Counts the `super`s in a row at `at`, and says where the last one ends.
fn supers(tokens: &[TokenTree], mut at: usize) -> (usize, usize) {
    let mut count = 0;
    loop {
        count += 1;
        at += 1;
        if !(is_punct(tokens, at, ':') && is(tokens, at + 2, "super")) {
            return (count, at);
        }
        at += 2;
    }
}

fn is(tokens: &[TokenTree], at: usize, name: &str) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Ident(ident)) if ident == name)
}

fn is_punct(tokens: &[TokenTree], at: usize, mark: char) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == mark)
}

fn preceded_by(tokens: &[TokenTree], at: usize, marks: &[char]) -> bool {
    at.checked_sub(1)
        .is_some_and(|before| marks.iter().any(|mark| is_punct(tokens, before, *mark)))
}

/// Whether `pub` or `pub(...)` stands before `at`.
fn is_public(tokens: &[TokenTree], at: usize) -> bool {
    let before = |by| at.checked_sub(by).is_some_and(|at| is(tokens, at, "pub"));
    let restricted = at.checked_sub(1).is_some_and(|at| {
        matches!(&tokens[at], TokenTree::Group(group) if group.delimiter() == Delimiter::Parenthesis)
    });
    before(1) || restricted && before(2)
}

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the sources are there") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

#[test]
fn the_sources_keep_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    files.sort();
    assert!(files.len() > 20, "only {} files found", files.len());

    let mut report = String::new();
    for file in files {
        let source = fs::read_to_string(&file).expect("readable text");
        let path = file.strip_prefix(&root).expect("it is under src");
        for breach in breaches(path, &source) {
            report += &format!("\n  src/{}: {breach}", path.display());
        }
    }
    assert!(report.is_empty(), "{report}");
}

fn circles(of: &[(&str, &[&str])]) -> Vec<Circle> {
    let mut circles: Vec<Circle> = of
        .iter()
        .map(|(folder, members)| Circle {
            folder: (*folder).to_owned(),
            members: members.iter().map(|&member| member.to_owned()).collect(),
        })
        .collect();
    circles.sort();
    circles
}

#[test]
fn no_two_files_need_each_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut sources = Sources::default();
    for file in files {
        let source = fs::read_to_string(&file).expect("readable text");
        sources.add(file.strip_prefix(&root).expect("it is under src"), &source);
    }
    assert_eq!(sources.circles(), circles(&[]));
}

#[test]
fn each_kind_of_circle_is_found() {
    type Members<'a> = &'a [(&'a str, &'a [&'a str])];
    let cases: [(&[(&str, &str)], Members<'_>); 9] = [
        // Through a name that the parent re-exports: it counts for the file that defines it.
        (
            &[
                ("r/mod.rs", "pub use self::a::A; mod a; mod b;"),
                ("r/a.rs", "use super::b::B;"),
                ("r/b.rs", "fn f() -> super::A { g() }"),
            ],
            &[("r", &["a", "b"])],
        ),
        (
            &[
                ("r/mod.rs", "pub use self::a::A; mod a; mod b;"),
                ("r/a.rs", ""),
                ("r/b.rs", "use super::A;"),
            ],
            &[],
        ),
        // A file and its parent.
        (
            &[
                ("r/mod.rs", "mod a; pub struct R; fn f() { a::g() }"),
                ("r/a.rs", "use super::R;"),
            ],
            &[("r", &["a", "mod"])],
        ),
        // Between rooms, in three steps.
        (
            &[
                ("r.rs", "use crate::{s::S, std::fmt};"),
                ("s/mod.rs", "mod inner;"),
                ("s/inner.rs", "use super::super::t as other; use other::T;"),
                ("t.rs", "impl crate::r::R {}"),
            ],
            &[("", &["r", "s", "t"])],
        ),
        // A folder and a file beside it.
        (
            &[
                ("r/mod.rs", "mod a; mod s;"),
                ("r/a.rs", "fn f() { super::s::deep::g!(); }"),
                ("r/s/mod.rs", "mod deep; mod other;"),
                ("r/s/deep.rs", ""),
                ("r/s/other.rs", "use super::super::a::A;"),
            ],
            &[("r", &["a", "s"])],
        ),
        // In a module inside of the file, and in a macro.
        (
            &[
                ("r/mod.rs", ""),
                ("r/a.rs", "mod inner { use super::super::b::{C, B as D}; }"),
                ("r/b.rs", "fn f() { format!(\"{}\", super::a::X) }"),
            ],
            &[("r", &["a", "b"])],
        ),
        // Not what tests name, what a visibility says, and other crates.
        (
            &[
                ("r/mod.rs", "mod a; mod http; use ::http::Request;"),
                (
                    "r/a.rs",
                    "pub(in super::super) struct A;\n#[cfg(test)]\nmod tests { use super::super::b::B; }",
                ),
                ("r/b.rs", "use super::a::A;"),
                ("r/http.rs", "use super::OfTheRoom;"),
                ("r/tests.rs", "use super::b::B;"),
            ],
            &[],
        ),
        // Two circles in one folder.
        (
            &[
                ("a.rs", "use crate::b::B;"),
                ("b.rs", "use crate::a::A; use crate::c::C;"),
                ("c.rs", "use crate::d::D;"),
                ("d.rs", "use crate::c::C;"),
            ],
            &[("", &["a", "b"]), ("", &["c", "d"])],
        ),
        (
            &[
                ("lib.rs", "pub use a::A;"),
                ("a.rs", "pub struct A; fn f() -> crate::A {}"),
            ],
            &[],
        ),
    ];
    for (files, expected) in cases {
        let mut sources = Sources::default();
        for (path, source) in files {
            sources.add(Path::new(path), source);
        }
        assert_eq!(sources.circles(), circles(expected), "{files:?}");
    }
}

#[test]
fn each_rule_can_be_broken() {
    let names = |line, module: &str| Breach::Names {
        line,
        module: module.to_owned(),
    };
    let panics = |line, what: &str| Breach::Panics {
        line,
        what: what.to_owned(),
    };
    let reads = |line, what: &str| Breach::ReadsTrail {
        line,
        what: what.to_owned(),
    };
    let cases: [(&str, &str, Vec<Breach>); 24] = [
        (
            "trail.rs",
            "// no doc\nfn f() {}",
            vec![Breach::NoOpeningDoc],
        ),
        (
            "fresh.rs",
            "//! New.",
            vec![Breach::UnknownModule("fresh".to_owned())],
        ),
        // A layer and another layer, in every spelling.
        (
            "anchor_headers.rs",
            "//! A.\nuse crate::client_request_id::ClientRequestId;",
            vec![names(2, "client_request_id")],
        ),
        (
            "anchor_headers.rs",
            "//! A.\nuse crate::{body::ReplayBody,\n    server_busy_backoff::Classify};",
            vec![names(2, "server_busy_backoff")],
        ),
        (
            "anchor_headers.rs",
            "//! A.\nfn f() { super::client_request_id::g() }",
            vec![names(2, "client_request_id")],
        ),
        (
            "server_busy_backoff/peek.rs",
            "//! A.\nuse super::super::anchor_headers::X;\nuse super::classify::Y;",
            vec![names(2, "anchor_headers")],
        ),
        (
            "server_busy_backoff/mod.rs",
            "//! A.\nmod inner { fn f() { super::super::stack::g() } }",
            vec![names(2, "stack")],
        ),
        (
            "anchor_headers.rs",
            "//! A.\nfn f() { vec![crate::policy::ThrottlingPolicy::graph_outlook()]; }",
            vec![names(2, "policy")],
        ),
        // What lies below knows nothing of what lies above.
        (
            "ledger/local/mod.rs",
            "//! L.\nuse crate::concurrency_by_principal::X;",
            vec![names(2, "concurrency_by_principal")],
        ),
        (
            "ledger/mod.rs",
            "//! L.\nuse crate::policy::X;",
            vec![names(2, "policy")],
        ),
        (
            "soap/outline.rs",
            "//! S.\nuse crate::body::ReplayBody;",
            vec![names(2, "body")],
        ),
        (
            "soap/outline.rs",
            "//! S.\nuse crate::ServiceBuilderExt;",
            vec![names(2, "ServiceBuilderExt")],
        ),
        // The simulator stands alone.
        (
            "simulator/xml.rs",
            "//! S.\nuse crate::soap::Operation;",
            vec![names(2, "soap")],
        ),
        (
            "stack.rs",
            "//! S.\nuse crate::simulator::Exchange;",
            vec![names(2, "simulator")],
        ),
        (
            "simulator/xml.rs",
            "//! S.\nuse crate::*;",
            vec![names(2, "*")],
        ),
        // Panics.
        (
            "trail.rs",
            "//! T.\nfn f(x: Option<u8>) {\n    x.unwrap();\n    x.map(Option::unwrap);\n}",
            vec![panics(3, "unwrap"), panics(4, "unwrap")],
        ),
        (
            "trail.rs",
            "//! T.\nfn f() {\n    g(|| h().expect(\"never\"));\n    panic!();\n    todo!()\n}",
            vec![panics(3, "expect"), panics(4, "panic"), panics(5, "todo")],
        ),
        (
            "trail.rs",
            "//! T.\n#[cfg(not(test))]\nfn f() { unimplemented!() }\npub const fn g() { panic!() }",
            vec![panics(3, "unimplemented"), panics(4, "panic")],
        ),
        (
            "trail.rs",
            "//! T.\n#[cfg(test)]\nuse a::{b};\nfn f() { unreachable!() }",
            vec![panics(4, "unreachable")],
        ),
        (
            "trail.rs",
            "//! T.\nconst X: u8 = 1;\nfn f() { x.unwrap_err() }",
            vec![panics(3, "unwrap_err")],
        ),
        // A layer that asks the trail.
        (
            "client_request_id.rs",
            "//! C.\nuse crate::trail::CallTrail;\nfn f(t: &CallTrail) {\n    if t.attempts().is_empty() { g(t.map(CallTrail::left_out)) }\n}",
            vec![reads(4, "attempts"), reads(4, "left_out")],
        ),
        (
            "audit_log/fill.rs",
            "//! F.\nuse crate::trail::CallTrail;\nfn f(t: &CallTrail) { t.read_all(); }",
            vec![],
        ),
        (
            "server_busy_backoff/attempts.rs",
            "//! A.\nuse crate::trail::CallTrail;\nfn f(s: &State) { g(s.attempts); s.attempts += 1; CallTrail::begin_attempt(t); }",
            vec![],
        ),
        // Allowed: docs, strings, tests, the compiler's own time, a path of one's own.
        (
            "anchor_headers.rs",
            "//! [`x`](crate::client_request_id), `y.unwrap()`.\n\
             /// ```\n/// x.unwrap();\n/// ```\n\
             pub(crate) fn f() { \"crate::stack panic!\"; g.unwrap_or(0); crate::body::f(); super::soap::g(); }\n\
             const fn find() -> u8 { panic!(\"no such row\") }\n\
             const X: u8 = match Some(1) { Some(x) => x, None => panic!() };\n\
             #[cfg(test)]\nmod tests { use crate::stack::X; #[test] fn t() { x.unwrap(); } }\n\
             #[test]\nfn t() { x.expect(\"\") }",
            vec![],
        ),
    ];
    for (path, source, expected) in cases {
        assert_eq!(
            breaches(Path::new(path), source),
            expected,
            "{path}: {source}"
        );
    }
}

/// The page that tells where to find what is followed by people who do not know better.
#[test]
fn the_architecture_page_names_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/ARCHITECTURE.md")).unwrap();
    let table = page.split_once("| question | file |").unwrap().1;
    let quoted = table.split('`').skip(1).step_by(2);
    let files: Vec<_> = quoted.filter(|text| text.ends_with(".rs")).collect();
    assert!(files.len() > 15, "{files:?}");
    for file in files {
        assert!(root.join("src").join(file).is_file(), "{file}");
    }
}
