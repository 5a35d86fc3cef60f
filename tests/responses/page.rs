//! `docs/responses.md`: the table of this test, as a page. `EWS_WRITE_DOCS=1` writes it anew.

use std::fmt::Write as _;
use std::path::Path;

use super::{Row, Worth, rows};

const PAGE: &str = "docs/responses.md";

const INTRODUCTION: &str = "\
# What happens for which response

What becomes of a call that a server, a proxy or a network responds like this, through the whole stack with its default
settings. The test `responses` tries each row as a single call, in a batch of 20 and in one of 1,000, as a read (GetItem) and
as something that must not be done twice (CreateItem), and makes this page: `EWS_WRITE_DOCS=1 cargo test --all-features --test responses`.

- **One call** and **a batch**: the most requests, if the server goes on to respond like this. Whatever the server says, no
  call goes on behind its deadline, 15 minutes by default. A caller's `Deadline` is one moment for a whole batch: its waits,
  its parts and their responses. A batch without one has this time since the server last settled one of its members, so that
  it goes on for as long as it gets on.
- **Perhaps executed**: an operation that must not be done twice is then not sent again. The caller is told: an error that
  says `outcome unknown`, `RetryInfo::outcome_unknown` beside the server's response, or an entry of its own in a batch. A
  read is never in doubt, and is sent again.
- **One bad member**: where only one member of a batch gets such a response, the others have what they asked for within a
  minute, and it has the server's error, or one that quotes it.

";

const REST: &str = "
## What is behind the numbers

- A lost response, or one that leaves open what was executed, is asked for six more times at most. The waits between grow from
  half a second to half a minute at most in all. Response codes are asked for as often as their condition lasts: seconds 3
  times, minutes 6, hours once.
- An attempt is given up when its response has not begun after 100 s (`attempt_timeout`), longer for large uploads, and the
  response to a part of a batch when it pauses for as long. Another connection often helps, so a read is asked for twice more.
  Calls that stream notifications have no such limit.
- Throttling is waited for until the deadline. A wait that the server sets is never shortened; from 30 s on it has a margin
  of a hundredth. A server that goes on to ask for too little is asked ever more seldom.
- A part of a batch that fails as a whole is sent in halves, down to the members that are to blame. After two failures in a
  row the parts are as small as can be, and drawn from the whole batch where order makes no difference; three of those
  speak for the rest. Beside successes more of them have to fail, one for ten members that were done, up to fifty, or all for
  five minutes; the first minute is taken for an outage, and waited for.
- After the outcome of a part is lost that must not be done twice, nothing is sent for 10 to 20 s, then one small part
  alone. If that is lost too, the rest is not sent; once the server has gone on after a loss, one more is tried before.
  Such parts have 50 members at most (`max_in_doubt`), and half as many as the last one that was lost. They grow again after
  eight good ones for each that was lost so far.
- When everything fails, the retries of all calls together are 100 at once and 10 a second for a server, 20 at once and 2 a
  second for a principal.
- Where another server has the mailbox, the caller's hook is asked once for its endpoint (`find_endpoint`), and the request goes
  there. Without a hook the response has a `MailboxMoved` in its extensions, which says what to do.
- `ErrorImpersonateUserDenied` is final, unless the same account was let into the same mailbox before: then it is tried once more.
- A 401 of credentials, or a 403 of a mailbox, is remembered: nothing like it is sent for a minute, then for ever longer, up
  to an hour, not even by calls that wait already. After three mailboxes in a row a 403 speaks for the account and its program.
  New credentials are tried at once: in the same call, if the hook that puts them on has others after a 401. A 401 of
  credentials that were good before is a mishap, and the second one in a row is not.
";

fn page() -> String {
    let mut page = String::from(INTRODUCTION);
    page += "| the server says | perhaps executed | asked again | one call | a batch |\n";
    page += "| --- | --- | --- | --- | --- |\n";
    for Row {
        name,
        worth,
        executed,
        ..
    } in rows()
    {
        let executed = if executed { "yes" } else { "no" };
        let (again, one, batch) = match worth {
            Worth::Final => ("no", "1".to_owned(), "1".to_owned()),
            Worth::FinalForPart => ("smaller parts", "1".to_owned(), limit(worth)),
            Worth::Once => ("once", "2".to_owned(), limit(worth)),
            Worth::Seconds => ("for seconds", "4".to_owned(), limit(worth)),
            Worth::Minutes => ("for half a minute", "7".to_owned(), limit(worth)),
            Worth::Hangs => ("twice", "3".to_owned(), limit(worth)),
            Worth::UntilDeadline => ("until the deadline", limit(worth), limit(worth)),
        };
        let _ = writeln!(page, "| {name} | {executed} | {again} | {one} | {batch} |");
    }
    page + REST
}

fn limit(worth: Worth) -> String {
    worth.requests_of_batch().to_string()
}

#[test]
fn the_page_has_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = page();
    if std::env::var_os("EWS_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "{PAGE} is old: run this test with EWS_WRITE_DOCS=1"
    );
}
