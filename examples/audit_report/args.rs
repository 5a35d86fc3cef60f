//! The command line.

use std::path::PathBuf;

pub(crate) const USAGE: &str = "\
usage: cargo run --release --example audit_report -- LOG... [--out REPORT.html] [--quiet] [--help]
";

pub(crate) const HELP: &str = "\
Reads logs of tower_ews::audit_log, one record of JSON on each line, and writes one page of HTML: what was called, what was
throttled, what was slow, what failed and what to tell support about it, and what has to move to Microsoft Graph.

usage: cargo run --release --example audit_report -- LOG... [OPTIONS]

  LOG                  a file, or - for stdin; several are read one after the other
  --out REPORT.html    where the page goes                     [audit_report.html]
  --quiet              no progress, and nothing on stdout

  --demo N             write N made-up records to LOG instead, over two weeks, to look at a report without a log
  --seed N             of all that is random in them                           [1]

Broken and cut-off lines are counted and passed over. The page loads nothing and runs nothing. The exit code is 0 if it was
written, 2 if the arguments are wrong, else 1.
";

/// What is wrong with what the user asked for.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

#[derive(Debug)]
pub(crate) struct Args {
    /// `-` is stdin.
    pub(crate) logs: Vec<PathBuf>,
    pub(crate) out: PathBuf,
    pub(crate) quiet: bool,
    pub(crate) demo: Option<u64>,
    pub(crate) seed: u64,
}

impl Args {
    /// `None` if help is asked for.
    pub(crate) fn parse(given: impl IntoIterator<Item = String>) -> Result<Option<Self>, Usage> {
        let mut args = Self {
            logs: Vec::new(),
            out: PathBuf::from("audit_report.html"),
            quiet: false,
            demo: None,
            seed: 1,
        };
        let mut given = given.into_iter();
        while let Some(argument) = given.next() {
            if !argument.starts_with('-') || argument == "-" {
                args.logs.push(argument.into());
                continue;
            }
            let (option, mut inline) = match argument.split_once('=') {
                Some((option, value)) => (option.to_owned(), Some(value.to_owned())),
                None => (argument, None),
            };
            let mut value = || {
                inline
                    .take()
                    .or_else(|| given.next())
                    .ok_or_else(|| Usage(format!("{option} needs a value")))
            };
            match option.as_str() {
                "--out" | "-o" => args.out = value()?.into(),
                "--quiet" | "-q" => args.quiet = true,
                "--demo" => args.demo = Some(number(&option, &value()?)?),
                "--seed" => args.seed = number(&option, &value()?)?,
                "--help" | "-h" => return Ok(None),
                _ => return Err(Usage(format!("there is no {option:?}"))),
            }
            if inline.is_some() {
                return Err(Usage(format!("{option} takes no value")));
            }
        }
        match args.logs.len() {
            0 => Err(Usage("which LOG?".to_owned())),
            2.. if args.demo.is_some() => Err(Usage("--demo writes one LOG".to_owned())),
            _ => Ok(Some(args)),
        }
    }
}

fn number(option: &str, text: &str) -> Result<u64, Usage> {
    text.parse()
        .map_err(|_| Usage(format!("{option} is a number, not {text:?}")))
}
