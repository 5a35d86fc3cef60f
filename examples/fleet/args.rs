//! What the example is told.

use std::fmt;
use std::str::FromStr;

pub(crate) const HELP: &str = "\
A job of several processes on one account, with one budget in Redis. One of them is killed in the middle.

  --workers N    processes (4)
  --items N      items to create (4000)
  --limit N      calls of the account at a time (27)
  --redis URL    a Redis to use; without it, a redis-server is started
  --no-kill      let all of them live
  --json         print one line of JSON
";

/// What this process is.
pub(crate) enum Role {
    Help,
    Fleet(Args),
    Worker(Work),
}

/// What the supervisor is told.
#[derive(Clone)]
pub(crate) struct Args {
    pub(crate) workers: usize,
    pub(crate) items: usize,
    pub(crate) limit: u32,
    pub(crate) redis: Option<String>,
    pub(crate) kill: bool,
    pub(crate) json: bool,
}

/// What a worker is told: where, and how many at a time. The items come on its stdin.
pub(crate) struct Work {
    pub(crate) redis: String,
    pub(crate) exchange: String,
    pub(crate) limit: u32,
    pub(crate) prefix: String,
}

/// What cannot be understood.
#[derive(Debug)]
pub(crate) struct Usage(String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n\n{HELP}", self.0)
    }
}

fn value<T: FromStr>(name: &str, words: &mut impl Iterator<Item = String>) -> Result<T, Usage> {
    let word = words.next();
    let word = word.ok_or_else(|| Usage(format!("{name} needs a value")))?;
    let read = word.parse();
    read.map_err(|_| Usage(format!("{name} cannot be {word:?}")))
}

impl Args {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Role, Usage> {
        let mut args = Self {
            workers: 4,
            items: 4000,
            limit: 27,
            redis: None,
            kill: true,
            json: false,
        };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--help" => return Ok(Role::Help),
                "--worker" => {
                    return Ok(Role::Worker(Work {
                        redis: value("--worker", &mut words)?,
                        exchange: value("--worker", &mut words)?,
                        limit: value("--worker", &mut words)?,
                        prefix: value("--worker", &mut words)?,
                    }));
                }
                "--workers" => args.workers = value("--workers", &mut words)?,
                "--items" => args.items = value("--items", &mut words)?,
                "--limit" => args.limit = value("--limit", &mut words)?,
                "--redis" => args.redis = Some(value("--redis", &mut words)?),
                "--no-kill" => args.kill = false,
                "--json" => args.json = true,
                other => return Err(Usage(format!("there is no {other:?}"))),
            }
        }
        if args.workers == 0 || args.limit == 0 || args.items == 0 {
            return Err(Usage(String::from("nothing can be done with 0")));
        }
        Ok(Role::Fleet(args))
    }
}
