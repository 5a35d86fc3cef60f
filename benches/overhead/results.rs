//! The files that the benches write: `target/bench/<name>.json`.

use std::path::PathBuf;
use std::{env, fs, io};

use serde::Serialize;

/// Writes the rows of a bench, and says where.
pub(super) fn write(name: &str, rows: &impl Serialize) -> io::Result<()> {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"),
        PathBuf::from,
    );
    let folder = target.join("bench");
    fs::create_dir_all(&folder)?;
    let path = folder.join(name).with_extension("json");
    fs::write(&path, serde_json::to_string_pretty(rows)? + "\n")?;
    println!("written to {}", path.display());
    Ok(())
}

/// To three places.
pub(super) fn round(of: f64) -> f64 {
    (of * 1000.0).round() / 1000.0
}
