//! Validates documents against Exchange's own schema with `xmllint`.
//!
//! `EWS_XSD_DIR` names a folder with an `envelope.xsd` that imports `messages.xsd`, `types.xsd` and
//! a SOAP 1.1 envelope, or a folder with one such folder for each version of Exchange.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The schema files, or none (with a word about it) where the environment names no folder.
pub(crate) fn schemas() -> Vec<PathBuf> {
    let Some(folder) = std::env::var_os("EWS_XSD_DIR") else {
        println!("skipped: EWS_XSD_DIR is not set");
        return Vec::new();
    };
    let versions = std::fs::read_dir(&folder).expect("EWS_XSD_DIR is a folder");
    let versions = versions.map(|entry| entry.unwrap().path());
    let mut schemas: Vec<PathBuf> = std::iter::once(PathBuf::from(&folder))
        .chain(versions)
        .map(|folder| folder.join("envelope.xsd"))
        .filter(|schema| schema.is_file())
        .collect();
    schemas.sort();
    assert!(!schemas.is_empty(), "EWS_XSD_DIR has no envelope.xsd");
    schemas
}

/// What xmllint has against these documents, which it reads in a folder of this test; `None` when
/// all are valid.
pub(crate) fn complaint(test: &str, schema: &Path, texts: &[String]) -> Option<String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    std::fs::create_dir_all(&folder).unwrap();
    let files = texts.iter().enumerate().map(|(number, text)| {
        let file = folder.join(format!("{number}.xml"));
        std::fs::write(&file, text).unwrap();
        file
    });
    let output = Command::new("xmllint")
        .args(["--noout", "--nonet", "--schema"])
        .arg(schema)
        .args(files)
        .output()
        .expect("xmllint runs");
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}
