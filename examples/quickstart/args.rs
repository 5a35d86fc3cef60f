//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use http::Uri;
use tower_ews::policy::ThrottlingPolicy;

pub(crate) const USAGE: &str = "\
usage: cargo run --release --example quickstart -- [--items N] [--mailboxes N] [--batch N]
           [--access delegate|impersonation] [--policy NAME] [--seed N] [--speed X] [--faults] [--json] [--audit FILE] [--url URL [--mailbox ADDRESS]...] [--help]
";

pub(crate) const HELP: &str = "\
Creates calendar events in many mailboxes through one service account, in batches, all at once:
through a bare HTTP client, then through tower_ews::EwsStack.

usage: cargo run --release --example quickstart -- [OPTIONS]

  --items N            events to create, round robin over the mailboxes           [2400]
  --mailboxes N        how many mailboxes: user000@contoso.com and so on           [48]
  --batch N            events of one mailbox in one call, at most; with 1 each event is a call [200]
  --access KIND        delegate: the account opens the mailboxes itself
                       impersonation: it acts as their owners                [delegate]
  --policy NAME        what the server allows, such as exchange_2019  [exchange_online]
  --speed X            the simulated server lives that much faster, and the client's policy with it:
                       at 60 five minutes are five seconds                         [60]
  --seed N             of all that is random in the simulated server                [0]
  --faults             the simulated server breaks down in many ways, now and then
  --audit FILE         an audit log of the stack's calls, a line of JSON each; the example audit_report
                       makes a page of it
  --json               one line of JSON on stdout and nothing else

  --url URL            run the job against this server instead, through the stack only;
                       --speed then divides the times of the client's policy alone [1]
  --mailbox ADDRESS    one of its mailboxes; may be repeated. --mailboxes N then takes the first N of
                       those; without any, user000 and so on in the domain of EWS_USER

With --url the environment gives the credentials, EWS_USER and EWS_PASSWORD (Basic) or EWS_TOKEN (Bearer, with
EWS_USER as the account's name where it is known), the mailboxes where there is no --mailbox, EWS_MAILBOXES
(a@contoso.com,b@contoso.com), and EWS_CA_FILE, a PEM file of root certificates to trust besides the public
ones. The events stay in the mailboxes: their subjects begin with \"quickstart\".

The exit code is 0 if the stack lost nothing and duplicated nothing, 2 if the arguments are wrong, else 1.
";

/// What is wrong with what the user asked for.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// How the service account reaches the mailboxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Delegate,
    Impersonation,
}

impl FromStr for Access {
    type Err = Usage;

    fn from_str(text: &str) -> Result<Self, Usage> {
        match text {
            "delegate" => Ok(Self::Delegate),
            "impersonation" => Ok(Self::Impersonation),
            _ => Err(Usage(format!(
                "--access is delegate or impersonation, not {text:?}"
            ))),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) items: usize,
    /// Events in one call.
    pub(crate) batch: usize,
    /// How many mailboxes, if that was asked for.
    pub(crate) mailboxes: Option<usize>,
    pub(crate) access: Access,
    pub(crate) policy: ThrottlingPolicy,
    pub(crate) seed: u64,
    pub(crate) speed: f64,
    pub(crate) faults: bool,
    pub(crate) json: bool,
    pub(crate) audit: Option<PathBuf>,
    pub(crate) url: Option<Uri>,
    pub(crate) mailbox: Vec<String>,
}

/// The number of mailboxes: three times what one delegate account may have open.
const MAILBOXES: usize = 48;

impl Args {
    /// How many mailboxes the simulated server is asked for.
    pub(crate) fn simulated_mailboxes(&self) -> usize {
        self.mailboxes.unwrap_or(MAILBOXES)
    }

    /// The names of `count` mailboxes in `domain`.
    pub(crate) fn names(count: usize, domain: &str) -> Vec<String> {
        (0..count)
            .map(|number| format!("user{number:03}@{domain}"))
            .collect()
    }

    /// `None` if help is asked for.
    pub(crate) fn parse(given: impl IntoIterator<Item = String>) -> Result<Option<Self>, Usage> {
        let mut args = Self {
            items: 2400,
            batch: 200,
            mailboxes: None,
            access: Access::Delegate,
            policy: ThrottlingPolicy::exchange_online(),
            seed: 0,
            speed: 60.0,
            faults: false,
            json: false,
            audit: None,
            url: None,
            mailbox: Vec::new(),
        };
        let mut speed = None;
        let mut simulator_only = None;
        let mut given = given.into_iter();
        while let Some(argument) = given.next() {
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
                "--items" => args.items = count(&option, &value()?)?,
                "--batch" => args.batch = count(&option, &value()?)?,
                "--mailboxes" => args.mailboxes = Some(count(&option, &value()?)?),
                "--access" => args.access = value()?.parse()?,
                "--policy" => args.policy = policy(&value()?)?,
                "--seed" => args.seed = number(&option, &value()?)?,
                "--speed" => {
                    let text = value()?;
                    let factor: f64 = number(&option, &text)?;
                    if !(0.001..=10_000.0).contains(&factor) {
                        return Err(Usage(format!(
                            "--speed is between 0.001 and 10000, not {text}"
                        )));
                    }
                    speed = Some(factor);
                }
                "--url" => args.url = Some(url(&value()?)?),
                "--mailbox" => args.mailbox.push(value()?),
                "--faults" => {
                    args.faults = true;
                    simulator_only = Some(option.clone());
                }
                "--json" => args.json = true,
                "--audit" => args.audit = Some(value()?.into()),
                "--help" | "-h" => return Ok(None),
                _ => return Err(Usage(format!("there is no {option:?}"))),
            }
            if inline.is_some() {
                return Err(Usage(format!("{option} takes no value")));
            }
        }
        match (&args.url, simulator_only) {
            (Some(_), Some(option)) => Err(Usage(format!(
                "{option} is for the simulated server: it does not go with --url"
            ))),
            (None, _) if !args.mailbox.is_empty() => Err(Usage(
                "--mailbox goes with --url: the simulated server has mailboxes of its own"
                    .to_owned(),
            )),
            _ => {
                let usual = if args.url.is_some() { 1.0 } else { 60.0 };
                args.speed = speed.unwrap_or(usual);
                Ok(Some(args))
            }
        }
    }
}

fn number<T: FromStr>(option: &str, text: &str) -> Result<T, Usage> {
    text.parse()
        .map_err(|_| Usage(format!("{option} is a number, not {text:?}")))
}

fn count(option: &str, text: &str) -> Result<usize, Usage> {
    match number(option, text)? {
        // More subjects than that are not counted on a laptop.
        count @ 1..=1_000_000 => Ok(count),
        _ => Err(Usage(format!(
            "{option} is between 1 and 1000000, not {text}"
        ))),
    }
}

fn policy(name: &str) -> Result<ThrottlingPolicy, Usage> {
    ThrottlingPolicy::named(name)
        .filter(|_| name.starts_with("exchange"))
        .ok_or_else(|| {
            let known: Vec<_> = ThrottlingPolicy::names()
                .filter(|name| name.starts_with("exchange"))
                .collect();
            Usage(format!(
                "there is no policy {name:?} of an Exchange: {}",
                known.join(", ")
            ))
        })
}

fn url(text: &str) -> Result<Uri, Usage> {
    let wrong = |what: &str| {
        Usage(format!(
            "--url is one like https://mail.contoso.com/EWS/Exchange.asmx, but {text:?} {what}"
        ))
    };
    let url: Uri = text.parse().map_err(|_| wrong("is no URL"))?;
    match (url.scheme_str(), url.authority()) {
        (Some("http" | "https"), Some(authority)) if authority.as_str().contains('@') => Err(
            wrong("has credentials in it: they come from the environment"),
        ),
        (Some("http" | "https"), Some(_)) => Ok(url),
        _ => Err(wrong("is neither http nor https")),
    }
}
