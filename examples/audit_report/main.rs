//! A page to look at, made of an audit log: calls, throttling, slow and failed calls, and what has to move to Microsoft Graph.
//!
//! ```text
//! cargo run --release --example audit_report -- LOG --out REPORT.html
//! ```
//!
//! Logs may be of any size: they are read once, from the begin to the end, into tables that do not grow. Without a log,
//! `--demo 100000 LOG` makes one up. `--help` tells the rest.

mod args;
mod charts;
mod demo;
mod distinct;
mod failures;
mod format;
mod graph;
mod lines;
mod page;
mod record;
mod series;
mod slowest;
mod tally;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use args::{Args, Usage};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lines::Line;
use record::Unread;
use tally::Tally;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The caller has to say something else.
    #[error(transparent)]
    Usage(#[from] Usage),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(
        "{}, line {line}: a record of schema {found}, and this program reads schema {}: take the audit_report of the version \
         that wrote the log",
        path.display(),
        record::SCHEMA
    )]
    OtherSchema {
        path: PathBuf,
        line: u64,
        found: u64,
    },
    #[error("none of the {0} lines is a record: is that an audit log?")]
    NoRecord(u64),
    #[error("a plot cannot be drawn: {0}")]
    Plot(#[from] Box<dyn std::error::Error>),
}

/// What was read.
#[derive(Debug, Default)]
struct Read {
    bytes: u64,
    lines: u64,
    /// Lines that are no record.
    broken: u64,
    /// The first few of them.
    broken_at: Vec<(String, u64)>,
    tally: Tally,
}

/// How many broken lines are named.
const NAMED: usize = 10;

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            print!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Err(usage) => return explain(&usage.into()),
    };
    match run(&args) {
        Ok(told) => {
            if !args.quiet {
                // A closed pipe is no failure: the page is written.
                let _ = writeln!(io::stdout(), "{told}");
            }
            ExitCode::SUCCESS
        }
        Err(failure) => explain(&failure),
    }
}

fn explain(failure: &Failure) -> ExitCode {
    eprintln!("audit_report: {failure}");
    match failure {
        Failure::Usage(_) => {
            eprintln!("\n{}", args::USAGE);
            ExitCode::from(2)
        }
        _ => ExitCode::FAILURE,
    }
}

fn run(args: &Args) -> Result<String, Failure> {
    if let (Some(records), [log]) = (args.demo, &*args.logs) {
        demo::write(log, records, args.seed).map_err(at(log))?;
        return Ok(format!(
            "{} made-up records in {}",
            format::count(records),
            log.display()
        ));
    }
    if args.logs.iter().any(|log| same_file(log, &args.out)) {
        return Err(Usage("--out is one of the logs".to_owned()).into());
    }
    let begin = Instant::now();
    let read = read(args)?;
    let records = read.tally.outcomes.calls;
    if records == 0 && read.lines > 0 {
        return Err(Failure::NoRecord(read.lines));
    }
    let sources: Vec<String> = args
        .logs
        .iter()
        .map(|log| log.display().to_string())
        .collect();
    let page = page::render(&read, &sources)?;
    std::fs::write(&args.out, page).map_err(at(&args.out))?;
    let broken = match read.broken {
        0 => String::new(),
        broken => format!(" ({} lines are no records)", format::count(broken)),
    };
    Ok(format!(
        "{} records{broken} in {:.1} s: {}",
        format::count(records),
        begin.elapsed().as_secs_f64(),
        args.out.display()
    ))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let path = path.to_owned();
    move |source| Failure::File { path, source }
}

fn same_file(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        // One of them does not exist.
        _ => false,
    }
}

fn read(args: &Args) -> Result<Read, Failure> {
    let sizes = args
        .logs
        .iter()
        .map(|log| log.metadata().ok().map(|m| m.len()));
    let progress = progress(sizes.sum(), args.quiet);
    let mut read = Read::default();
    for log in &args.logs {
        if log == Path::new("-") {
            read_one(log, &mut io::stdin().lock(), &mut read, &progress)?;
        } else {
            let file = File::open(log).map_err(at(log))?;
            let mut file = BufReader::with_capacity(1 << 20, file);
            read_one(log, &mut file, &mut read, &progress)?;
        }
    }
    progress.finish_and_clear();
    Ok(read)
}

fn read_one(
    path: &Path,
    log: &mut impl BufRead,
    read: &mut Read,
    progress: &ProgressBar,
) -> Result<(), Failure> {
    let mut buffer = Vec::new();
    for line in 1.. {
        let found = lines::next(log, &mut buffer, &mut read.bytes).map_err(at(path))?;
        let counted = match found {
            Line::End => break,
            Line::TooLong => false,
            Line::Whole if buffer.trim_ascii().is_empty() => continue,
            Line::Whole => match record::read(&buffer) {
                Ok(record) => read.tally.add(&record),
                Err(Unread::Broken) => false,
                Err(Unread::OtherSchema(found)) => {
                    let path = path.to_owned();
                    return Err(Failure::OtherSchema { path, line, found });
                }
            },
        };
        read.lines += 1;
        if !counted {
            read.broken += 1;
            if read.broken_at.len() < NAMED {
                read.broken_at.push((path.display().to_string(), line));
            }
        }
        if line % 1024 == 0 {
            progress.set_position(read.bytes);
        }
    }
    Ok(())
}

/// A bar, where a person looks at it. Stdin has no length.
fn progress(length: Option<u64>, quiet: bool) -> ProgressBar {
    let target = if quiet {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    let template = match length {
        Some(_) => "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} to go",
        None => "{spinner} {bytes}, {bytes_per_sec}",
    };
    let bar = ProgressBar::with_draw_target(length, target);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}
