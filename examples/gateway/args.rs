//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::Uri;

pub(crate) const HELP: &str = "\
A reverse proxy that puts the whole stack in front of an Exchange, for EWS clients that cannot be changed.
Point them at http://HOST:PORT/EWS/Exchange.asmx; they authenticate as before, with Basic or Bearer.

usage: cargo run --release --features https --example gateway -- [OPTIONS]

  --listen ADDR           where clients connect                                    [127.0.0.1:8080]
  --upstream URL          the Exchange, such as https://mail.contoso.com. Without it, a simulated one:
                          svc@contoso.com, amy@contoso.com, bob@contoso.com, all with the password \"secret\"
  --policy FILE|NAME      what the server allows: a TOML file, which SIGHUP reads again, or a preset,
                          such as exchange_2019                                    [exchange_online]
  --deadline SECONDS      for one call, below the time-outs of the clients. The EWS Managed API waits
                          100 s, exchangelib 120 s                                              [90]
  --upload-timeout SECONDS  how long a client may send nothing of its request                   [30]
  --read-timeout SECONDS  how long a client may read nothing of its response                   [60]
  --max-connections N     further ones wait                                                  [10000]
  --max-buffered BYTES    of all requests together                                      [1073741824]
  --drain SECONDS         for calls under way after SIGTERM                                    [120]
  --tls-cert FILE         certificates in PEM, read again on SIGHUP
  --tls-key FILE          their private key
  --admin ADDR            where the page, /metrics and /healthz are served. Without it they are at --listen, the
                          page and the metrics for this machine only
  --audit FILE            an audit log of all calls, a line of JSON each
  --keep-busy-members     hand on ErrorServerBusy of single members as it is. Clients such as exchangelib
                          repeat the whole batch then, and create its other members twice

  --simulate NAME         without --upstream, the policy of the simulated server     [exchange_online]
  --speed X               without --upstream, it lives that much faster, and the policy with it   [1]
";

#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) listen: SocketAddr,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) upstream: Option<Uri>,
    pub(crate) policy: String,
    pub(crate) deadline: Duration,
    pub(crate) upload_timeout: Duration,
    pub(crate) read_timeout: Duration,
    pub(crate) max_connections: usize,
    pub(crate) max_buffered: u64,
    pub(crate) drain: Duration,
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    pub(crate) audit: Option<PathBuf>,
    pub(crate) keep_busy_members: bool,
    pub(crate) simulate: String,
    pub(crate) speed: f64,
}

impl Args {
    /// `None` if help is asked for.
    pub(crate) fn parse(given: impl IntoIterator<Item = String>) -> Result<Option<Self>, String> {
        let mut args = Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin: None,
            upstream: None,
            policy: "exchange_online".to_owned(),
            deadline: Duration::from_secs(90),
            upload_timeout: Duration::from_secs(30),
            read_timeout: Duration::from_secs(60),
            max_connections: 10_000,
            max_buffered: 1 << 30,
            drain: Duration::from_secs(120),
            tls: None,
            audit: None,
            keep_busy_members: false,
            simulate: "exchange_online".to_owned(),
            speed: 1.0,
        };
        let (mut certificates, mut key) = (None, None);
        let mut simulator_only = None;
        let mut given = given.into_iter();
        while let Some(option) = given.next() {
            let mut value = || {
                given
                    .next()
                    .ok_or_else(|| format!("{option} needs a value"))
            };
            match option.as_str() {
                "--listen" => args.listen = parsed(&option, &value()?)?,
                "--admin" => args.admin = Some(parsed(&option, &value()?)?),
                "--upstream" => args.upstream = Some(upstream(&value()?)?),
                "--policy" => args.policy = value()?,
                "--deadline" => args.deadline = seconds(&option, &value()?)?,
                "--upload-timeout" => args.upload_timeout = seconds(&option, &value()?)?,
                "--read-timeout" => args.read_timeout = seconds(&option, &value()?)?,
                "--max-buffered" => args.max_buffered = parsed(&option, &value()?)?,
                "--max-connections" => args.max_connections = connections(&option, &value()?)?,
                "--drain" => args.drain = seconds(&option, &value()?)?,
                "--tls-cert" => certificates = Some(PathBuf::from(value()?)),
                "--tls-key" => key = Some(PathBuf::from(value()?)),
                "--audit" => args.audit = Some(value()?.into()),
                "--keep-busy-members" => args.keep_busy_members = true,
                "--simulate" => {
                    args.simulate = value()?;
                    simulator_only = Some(option);
                }
                "--speed" => {
                    args.speed = parsed(&option, &value()?)?;
                    if !(0.001..=10_000.0).contains(&args.speed) {
                        return Err("--speed is between 0.001 and 10000".to_owned());
                    }
                    simulator_only = Some(option);
                }
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("there is no {option:?}")),
            }
        }
        args.tls = match (certificates, key) {
            (Some(certificates), Some(key)) => Some((certificates, key)),
            (None, None) => None,
            _ => return Err("--tls-cert and --tls-key go together".to_owned()),
        };
        match (&args.upstream, simulator_only) {
            (Some(_), Some(option)) => Err(format!("{option} is for the simulated server")),
            _ => Ok(Some(args)),
        }
    }
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(option: &str, text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|error| format!("{option} {text:?}: {error}"))
}

fn seconds(option: &str, text: &str) -> Result<Duration, String> {
    let seconds: f64 = parsed(option, text)?;
    match (0.01..=86_400.0).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err(format!("{option} is between 0.01 and 86400 seconds")),
    }
}

fn connections(option: &str, text: &str) -> Result<usize, String> {
    match parsed(option, text)? {
        number @ 1..=1_000_000 => Ok(number),
        _ => Err(format!("{option} is between 1 and 1000000")),
    }
}

fn upstream(text: &str) -> Result<Uri, String> {
    let uri: Uri = parsed("--upstream", text)?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) if !authority.as_str().contains('@') => Ok(uri),
        _ => Err(
            "--upstream is a URL such as https://mail.contoso.com, without credentials".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Args>, String> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn what_is_wrong_with_a_command_line() {
        for (line, word) in [
            ("--listen here", "--listen \"here\""),
            ("--upstream mail.contoso.com", "https://mail.contoso.com"),
            (
                "--upstream https://svc:secret@mail.contoso.com",
                "--upstream is a URL",
            ),
            (
                "--upstream https://mail.contoso.com --speed 60",
                "--speed is for the simulated server",
            ),
            ("--deadline 0", "between 0.01 and 86400"),
            ("--deadline nan", "between 0.01 and 86400"),
            ("--max-connections 0", "between 1 and"),
            ("--tls-cert x.pem", "go together"),
            ("--policy", "needs a value"),
            ("--polcy x", "no \"--polcy\""),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(word), "{line}: {error}");
        }
        assert!(parse("--deadline 5 --help").unwrap().is_none());
        let args = parse("--deadline 5 --upstream https://mail.contoso.com:444/EWS/Exchange.asmx")
            .unwrap()
            .unwrap();
        assert_eq!((args.deadline, args.tls), (Duration::from_secs(5), None));
    }

    #[test]
    fn help_names_each_option() {
        for option in [
            "listen",
            "upstream",
            "policy",
            "deadline",
            "upload-timeout",
            "read-timeout",
            "max-connections",
            "max-buffered",
            "drain",
            "tls-cert",
            "tls-key",
            "admin",
            "audit",
            "keep-busy-members",
            "simulate",
            "speed",
        ] {
            assert!(HELP.contains(&format!("  --{option} ")), "{option}");
            assert!(
                !parse(&format!("--{option}")).is_err_and(|error| error.contains("there is no")),
                "{option}"
            );
        }
    }
}
