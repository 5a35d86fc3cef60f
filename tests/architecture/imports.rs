//! The circles of imports between the files of a folder, read off the sources.
//!
//! A path counts for the file that defines what it names, whoever re-exports it on the way. In each
//! folder its files and folders must not need each other: an import of something inside a folder
//! counts for the whole folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};

use crate::{attribute, end_of_item, for_tests, is_punct, preceded_by};

/// A path of modules from the root of the crate: `["ledger", "local"]`.
type Module = Vec<String>;

/// The sources by their module. A module without a file is part of the file around it.
#[derive(Default)]
pub(crate) struct Sources {
    files: BTreeMap<Module, File>,
}

struct File {
    module: Module,
    /// Whether other files lie in a folder of its name.
    is_folder: bool,
    /// The names that `use` declarations bring in, and where each stands.
    uses: BTreeMap<String, Module>,
    /// All paths in it, absolute, as they are written.
    paths: BTreeSet<Module>,
}

/// Files and folders of one folder that need each other.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Circle {
    /// From `src` on; empty for `src` itself.
    pub(crate) folder: String,
    pub(crate) members: Vec<String>,
}

impl Sources {
    /// Takes the file at `path`, which is relative to `src`, unless it is of the tests.
    pub(crate) fn add(&mut self, path: &Path, source: &str) {
        let mut module: Module = path
            .with_extension("")
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        let is_folder = module.last().is_some_and(|last| last == "mod");
        if is_folder {
            module.pop();
        }
        if module == ["lib"] {
            module.clear();
        }
        if module.iter().any(|part| part == "tests") {
            return;
        }
        let mut file = File {
            module: module.clone(),
            is_folder,
            uses: BTreeMap::new(),
            paths: BTreeSet::new(),
        };
        let tokens: TokenStream = source.parse().expect("a source file that compiles");
        file.read(tokens, &module);
        self.files.insert(module, file);
    }

    /// The circles of all folders, in order.
    pub(crate) fn circles(&self) -> Vec<Circle> {
        let mut edges: BTreeMap<Module, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
        for (module, file) in &self.files {
            for path in &file.paths {
                let Some(target) = self.definer(path, 0) else {
                    continue;
                };
                self.edge(module, &target, &mut edges);
            }
        }
        let mut circles = Vec::new();
        for (folder, edges) in edges {
            for members in circles_of(&edges) {
                let folder = folder.join("/");
                circles.push(Circle { folder, members });
            }
        }
        circles.sort();
        circles
    }

    /// The file that defines what `path` names. None outside of the crate.
    fn definer(&self, path: &[String], depth: usize) -> Option<Module> {
        let known = (0..=path.len())
            .rev()
            .find(|length| self.files.contains_key(&path[..*length]))?;
        let module = &path[..known];
        let re_exported = path
            .get(known)
            .and_then(|name| self.files[module].uses.get(name));
        match re_exported {
            // No chain of re-exports is that long.
            Some(origin) if depth < 16 && origin != path => {
                let rest = path.get(known + 1..).unwrap_or_default();
                self.definer(&[origin, rest].concat(), depth + 1)
            }
            _ => Some(module.to_vec()),
        }
    }

    /// Adds what an import means in the folder that the two files have in common.
    fn edge(
        &self,
        from: &Module,
        to: &Module,
        edges: &mut BTreeMap<Module, BTreeMap<String, BTreeSet<String>>>,
    ) {
        let (from, to) = (self.place(from), self.place(to));
        let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
        let (Some(a), Some(b)) = (from.get(common), to.get(common)) else {
            return;
        };
        edges
            .entry(from[..common].to_vec())
            .or_default()
            .entry(a.clone())
            .or_default()
            .insert(b.clone());
    }

    /// Where a file lies: in its folder, if it is the `mod.rs` of one.
    fn place(&self, module: &Module) -> Module {
        let mut place = module.clone();
        if place.is_empty() {
            place.push("lib".to_owned());
        } else if self.files[module].is_folder {
            place.push("mod".to_owned());
        }
        place
    }
}

impl File {
    /// `module` is the module around these tokens: the file's, or one inside of the file.
    fn read(&mut self, tokens: TokenStream, module: &Module) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        let mut inline_module = None;
        while let Some(token) = tokens.get(at) {
            if let Some((attribute, after)) = attribute(&tokens, at) {
                at = if for_tests(attribute) {
                    end_of_item(&tokens, after)
                } else {
                    after
                };
                continue;
            }
            at += 1;
            match token {
                TokenTree::Ident(ident) if ident == "use" => {
                    at = self.read_use(&tokens, at, module);
                }
                TokenTree::Ident(ident) if ident == "mod" => {
                    inline_module = tokens.get(at).map(TokenTree::to_string);
                }
                // `pub(in super::super)` names no item.
                TokenTree::Ident(ident) if ident == "pub" => {
                    at += usize::from(is_restriction(tokens.get(at)));
                }
                TokenTree::Ident(_)
                    if is_punct(&tokens, at, ':')
                        && is_punct(&tokens, at + 1, ':')
                        && !preceded_by(&tokens, at - 1, &[':', '.']) =>
                {
                    at = self.read_path(&tokens, at - 1, module);
                }
                TokenTree::Punct(punct) if punct.as_char() == ';' => inline_module = None,
                TokenTree::Group(group) => {
                    let inner: Module =
                        module.iter().cloned().chain(inline_module.take()).collect();
                    self.read(group.stream(), &inner);
                }
                _ => {}
            }
        }
    }

    /// A path in an expression, a type or the like; returns where it ends.
    fn read_path(&mut self, tokens: &[TokenTree], mut at: usize, module: &Module) -> usize {
        let mut names = Vec::new();
        while let Some(TokenTree::Ident(ident)) = tokens.get(at) {
            names.push(ident.to_string());
            at += 1;
            if !(is_punct(tokens, at, ':') && is_punct(tokens, at + 1, ':')) {
                break;
            }
            at += 2;
        }
        self.paths.extend(absolute(&names, module));
        at
    }

    /// A `use` declaration; returns where it ends.
    fn read_use(&mut self, tokens: &[TokenTree], at: usize, module: &Module) -> usize {
        let end = (at..tokens.len())
            .find(|at| is_punct(tokens, *at, ';'))
            .unwrap_or(tokens.len());
        // `use ::http` names another crate.
        if !is_punct(tokens, at, ':') {
            self.read_tree(&tokens[at..end], &[], module);
        }
        end + 1
    }

    /// One tree of a `use` declaration, below `prefix`.
    fn read_tree(&mut self, tokens: &[TokenTree], prefix: &[String], module: &Module) {
        let mut names = prefix.to_vec();
        let mut alias = None;
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            match token {
                TokenTree::Ident(ident) if ident == "as" => {
                    alias = tokens.get(at + 1).map(TokenTree::to_string);
                    break;
                }
                TokenTree::Ident(ident) if ident == "self" && !names.is_empty() => {}
                TokenTree::Ident(ident) => names.push(ident.to_string()),
                TokenTree::Group(group) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    for tree in inner.split(
                        |token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ','),
                    ) {
                        if !tree.is_empty() {
                            self.read_tree(tree, &names, module);
                        }
                    }
                    return;
                }
                _ => {}
            }
            at += 1;
        }
        let Some(path) = absolute(&names, module) else {
            return;
        };
        if let Some(name) = alias.or_else(|| names.last().cloned()) {
            if *module == self.module {
                self.uses.insert(name, path.clone());
            }
        }
        self.paths.insert(path);
    }
}

/// Whether it is the `(crate)` or `(in path)` behind a `pub`.
fn is_restriction(token: Option<&TokenTree>) -> bool {
    let Some(TokenTree::Group(group)) = token else {
        return false;
    };
    let first = group.stream().into_iter().next();
    first.is_some_and(|first| ["in", "crate", "super", "self"].contains(&&*first.to_string()))
}

/// The path from the root of the crate.
fn absolute(names: &[String], module: &Module) -> Option<Module> {
    let (first, rest) = names.split_first()?;
    Some(match first.as_str() {
        "crate" => rest.to_vec(),
        "self" => [module, rest].concat(),
        "super" => {
            let up = names.iter().take_while(|name| *name == "super").count();
            let parent = &module[..module.len().saturating_sub(up)];
            [parent, &names[up..]].concat()
        }
        // A child, or another crate: whoever asks for it finds no file then.
        _ => [module, names].concat(),
    })
}

/// The groups of nodes that reach each other.
fn circles_of(edges: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reached = |from: &String| {
        let mut reached = BTreeSet::new();
        let mut next = vec![from];
        while let Some(node) = next.pop() {
            for to in edges.get(node).into_iter().flatten() {
                if reached.insert(to) {
                    next.push(to);
                }
            }
        }
        reached
    };
    let reach: BTreeMap<&String, BTreeSet<&String>> =
        edges.keys().map(|node| (node, reached(node))).collect();
    let mut circles = BTreeSet::new();
    for (node, reached) in &reach {
        if reached.contains(node) {
            let circle = reached.iter().filter(|other| {
                reach
                    .get(**other)
                    .is_some_and(|reached| reached.contains(node))
            });
            circles.insert(circle.map(|name| (**name).clone()).collect::<Vec<_>>());
        }
    }
    circles.into_iter().collect()
}
