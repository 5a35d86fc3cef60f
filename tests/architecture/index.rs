//! The index of the tests, `tests/README.md`, against the files that are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The names in the first column of a page's tables that have a `file` column.
fn listed(page: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut of_files = false;
    for line in page.lines() {
        let column = line.split('|').nth(1).unwrap_or_default();
        of_files = column.trim() == "file" || of_files && line.starts_with('|');
        if !of_files {
            continue;
        }
        for name in column.split('`').skip(1).step_by(2) {
            assert!(names.insert(name.to_owned()), "listed twice: {name}");
        }
    }
    names
}

/// The entries of a folder; folders end with a slash.
fn present(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("the folder of the tests");
    entries
        .map(|entry| {
            let entry = entry.expect("an entry");
            let name = entry.file_name().to_string_lossy().into_owned();
            match entry.path().is_dir() {
                true => name + "/",
                false => name,
            }
        })
        .collect()
}

#[test]
fn the_index_of_the_tests_names_each_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let listed = listed(&fs::read_to_string(folder.join("README.md")).unwrap());
    let mut present = present(&folder);
    assert!(present.remove("README.md"));
    assert!(present.len() > 30, "{present:?}");

    let mut report = String::new();
    for name in present.difference(&listed) {
        report += &format!(
            "\n  tests/{name} is not in tests/README.md: add a row that says what it shows"
        );
    }
    for name in listed.difference(&present) {
        report += &format!("\n  tests/{name} is in tests/README.md and not there: take it out");
    }
    assert!(report.is_empty(), "{report}");
}

#[test]
fn only_the_tables_of_files_are_read() {
    let page = "\
        Not `a.rs`.\n\n\
        | file | what it shows |\n\
        | --- | --- |\n\
        | `b.rs`, `b/` | not `c.rs` |\n\
        | `d.tsv` | |\n\n\
        | variable | what it does |\n\
        | --- | --- |\n\
        | `E` | |\n";
    assert_eq!(
        listed(page),
        ["b.rs", "b/", "d.tsv"].map(str::to_owned).into()
    );
}
