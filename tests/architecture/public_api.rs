//! The names of the crate that a user can write, read off the sources, and those that the page of the public API lists.
//!
//! A name counts where it can be written: `pub use` adds one to the module that it stands in. Methods, fields and variants
//! belong to their type.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::{attribute, end_of_item, for_tests, is_punct, sources};

const ITEMS: [&str; 8] = [
    "const", "enum", "fn", "static", "struct", "trait", "type", "union",
];

/// What one source file makes public.
#[derive(Debug, Default, PartialEq, Eq)]
struct Declared {
    /// Items, and modules inside of the file, with all that is public in those.
    names: Vec<String>,
    /// Modules that are files of their own.
    modules: Vec<String>,
}

/// The public items and modules of the crate whose sources lie in `folder`, by their paths.
fn of_sources(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut modules = vec![String::new()];
    while let Some(module) = modules.pop() {
        let path = match module.as_str() {
            "" => folder.join("lib.rs"),
            module => {
                let path = folder.join(module.replace("::", "/"));
                let file = path.with_extension("rs");
                if file.is_file() {
                    file
                } else {
                    path.join("mod.rs")
                }
            }
        };
        let source = fs::read_to_string(path).expect("the file of a public module");
        let declared = declared(&source);
        names.extend(declared.names.iter().map(|name| join(&module, name)));
        for inner in declared.modules {
            names.insert(join(&module, &inner));
            modules.push(join(&module, &inner));
        }
    }
    names
}

/// The names that the page lists, each once: a heading for each module, a row with a reason for each of its items.
fn of_page(page: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut module = "";
    for line in page.lines() {
        let quoted = line.split('`').nth(1).unwrap_or_default();
        if line.starts_with("## ") {
            module = match quoted {
                "tower_ews" => "",
                module => {
                    assert!(names.insert(module.to_owned()), "listed twice: {line}");
                    module
                }
            };
        } else if line.starts_with("| `") {
            let parent = quoted.rsplit_once("::").map_or("", |(parent, _)| parent);
            assert_eq!(parent, module, "under another module's heading: {line}");
            let reason = line.split('|').nth(2).unwrap_or_default();
            assert!(!reason.trim().is_empty(), "no reason: {line}");
            assert!(names.insert(quoted.to_owned()), "listed twice: {line}");
        }
    }
    names
}

fn declared(source: &str) -> Declared {
    let mut declared = Declared::default();
    let tokens = source.parse().expect("a source file that compiles");
    declared.read(tokens, "");
    declared
}

impl Declared {
    /// Reads the items of the module `inner` of the file; its own are those of ``.
    fn read(&mut self, tokens: TokenStream, inner: &str) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            if let Some((attribute, after)) = attribute(&tokens, at) {
                at = if for_tests(attribute) {
                    end_of_item(&tokens, after)
                } else {
                    after
                };
                continue;
            }
            let end = end_of_item(&tokens, at);
            if let [TokenTree::Ident(first), rest @ ..] = &tokens[at..end] {
                // `pub(crate)` is not public.
                if first == "pub" && !matches!(rest.first(), Some(TokenTree::Group(_))) {
                    self.item(rest, inner);
                }
            }
            at = end;
        }
    }

    /// `tokens` is an item without its `pub`.
    fn item(&mut self, tokens: &[TokenTree], inner: &str) {
        // The keyword of `const fn` is `fn`.
        let keyword = tokens.iter().enumerate().position(|(at, token)| {
            let text = token.to_string();
            let next = tokens.get(at + 1).map(TokenTree::to_string);
            ["mod", "use"].contains(&&*text)
                || ITEMS.contains(&&*text) && !matches!(next.as_deref(), Some("fn" | "unsafe"))
        });
        let Some(keyword) = keyword else { return };
        let (rest, name) = (&tokens[keyword + 1..], tokens.get(keyword + 1));
        match (tokens[keyword].to_string().as_str(), name) {
            ("use", _) => self.re_exports(rest, inner),
            ("mod", Some(name)) => {
                let module = join(inner, &name.to_string());
                match rest.get(1) {
                    Some(TokenTree::Group(group)) => {
                        self.names.push(module.clone());
                        self.read(group.stream(), &module);
                    }
                    _ => self.modules.push(module),
                }
            }
            (_, Some(name)) => self.names.push(join(inner, &name.to_string())),
            _ => {}
        }
    }

    /// Adds the last names of a tree of a `use` declaration.
    fn re_exports(&mut self, tree: &[TokenTree], inner: &str) {
        let mut name = None;
        for (at, token) in tree.iter().enumerate() {
            match token {
                TokenTree::Ident(ident) => name = Some(ident.to_string()),
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                    let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
                    let mut begin = 0;
                    for end in 0..=tokens.len() {
                        if end == tokens.len() || is_punct(&tokens, end, ',') {
                            self.re_exports(&tokens[begin..end], inner);
                            begin = end + 1;
                        }
                    }
                    return;
                }
                _ => assert!(
                    !is_punct(tree, at, '*'),
                    "`pub use` with `*` hides what is public: name the items"
                ),
            }
        }
        self.names.extend(name.map(|name| join(inner, &name)));
    }
}

fn join(module: &str, name: &str) -> String {
    match module {
        "" => name.to_owned(),
        _ => format!("{module}::{name}"),
    }
}

#[test]
fn each_public_item_has_its_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let public = of_sources(&root.join("src"));
    assert!(public.len() > 150, "only {} found", public.len());
    let page = fs::read_to_string(root.join("docs/public_api.md")).unwrap();
    let listed = of_page(&page);

    let mut report = String::new();
    for name in public.difference(&listed) {
        report += &format!(
            "\n  `{name}` is public: make it pub(crate), or say in docs/public_api.md what a user does with it"
        );
    }
    for name in listed.difference(&public) {
        report += &format!("\n  `{name}` is not public: take it out of docs/public_api.md");
    }
    assert!(report.is_empty(), "{report}");
}

/// The public traits, layers and errors of a file that show no code in their docs.
fn without_example<'a>(source: &'a str, public: &BTreeSet<&str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    // Between an item and the one before it is an empty line.
    for item in source.split("\n\n") {
        for line in item.lines() {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            if let (Some("pub"), Some(kind), Some(name)) =
                (words.next(), words.next(), words.next())
            {
                let is_asked = match kind {
                    "trait" => true,
                    "struct" | "enum" => name.ends_with("Layer") || name.ends_with("Error"),
                    _ => false,
                };
                if is_asked && public.contains(name) && !item.contains("```") {
                    found.push(name);
                }
            }
        }
    }
    found
}

#[test]
fn each_trait_layer_and_error_has_an_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let public = of_sources(&root.join("src"));
    let public: BTreeSet<&str> = public
        .iter()
        .map(|name| name.rsplit("::").next().unwrap_or(name))
        .collect();
    let mut report = String::new();
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    for file in files {
        let source = fs::read_to_string(&file).unwrap();
        for name in without_example(&source, &public) {
            report += &format!("\n  {name} in {}", file.display());
        }
    }
    assert!(report.is_empty(), "show how they are used:{report}");

    let public = BTreeSet::from(["A", "BLayer", "CError", "D"]);
    let source = "/// Does.\npub trait A {\n}\n\n/// ```\n/// b();\n/// ```\n#[must_use]\npub struct BLayer;\n\n\
                  #[non_exhaustive]\npub enum CError {}\n\npub struct D;\n\npub trait Private {}\n";
    assert_eq!(without_example(source, &public), ["A", "CError"]);
}

#[test]
fn each_kind_of_public_item_is_found() {
    let cases: [(&str, &[&str], &[&str]); 8] = [
        (
            "pub struct A { pub a: u8 } pub struct B(pub u8); pub enum C { D } pub union E { e: u8 }",
            &["A", "B", "C", "E"],
            &[],
        ),
        (
            "pub trait A { fn f(); } pub unsafe trait B {} pub type C = u8;",
            &["A", "B", "C"],
            &[],
        ),
        (
            "pub fn a() {} pub const fn b() {} pub async fn c() {} pub const unsafe fn d() {}",
            &["a", "b", "c", "d"],
            &[],
        ),
        (
            "pub const A: [u8; 1] = { [1] }; pub static B: u8 = 1;",
            &["A", "B"],
            &[],
        ),
        (
            "pub use self::a::{B, c::{D, E as F}}; pub use crate::g; pub use h::I;",
            &["B", "D", "F", "g", "I"],
            &[],
        ),
        (
            "pub mod a; mod b; pub mod c { pub struct D; pub mod e; mod f { pub struct G; } }",
            &["c", "c::D"],
            &["a", "c::e"],
        ),
        // Not for users, tests, what belongs to a type, and docs.
        (
            "struct A; pub(crate) struct B; pub(in crate::c) use d::E; impl A { pub fn f() {} }",
            &[],
            &[],
        ),
        (
            "#[cfg(test)] pub mod tests; /// `pub struct A;`\n#[derive(Clone)] pub struct B<T: Fn() -> u8>(T);",
            &["B"],
            &[],
        ),
    ];
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    for (source, names, modules) in cases {
        let expected = Declared {
            names: owned(names),
            modules: owned(modules),
        };
        assert_eq!(declared(source), expected, "{source}");
    }
}
