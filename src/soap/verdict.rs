//! What a message means for whoever may send its member again.
use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::code::{CodeClass, MemberOutcome, ResponseCode};
use super::outline::{OutlineError, root};
use super::response::{AnswerMessage, ResponseClass};
use super::xml::{Event, Reader, is_blank};

/// Names the mailbox sessions that ran out; it stands in the text of several codes.
const SESSION_LIMIT: &str = "MapiExceptionSessionLimit";

/// What a message says of its member.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict<'a> {
    /// It was executed, or no waiting cures it.
    Settled,
    /// Not begun, because of another member.
    Stopped,
    /// Waiting may cure it.
    Refused {
        /// The code that counts: the inner one, where there is one.
        code: &'a ResponseCode,
        /// It may have been executed all the same.
        unknown: bool,
        /// Too many mailboxes are open.
        session_limit: bool,
    },
}

impl AnswerMessage {
    /// The code that counts: `ErrorInternalServerError` means what its inner code says.
    pub(crate) fn effective_code(&self) -> &ResponseCode {
        match (self.code.class(), &self.inner_code) {
            (CodeClass::InspectInner, Some(inner)) => inner,
            _ => &self.code,
        }
    }

    /// What it says of its member. A subscription quota and a sending quota are settled: nothing but another call, or a day, cures
    /// them.
    pub(crate) fn verdict(&self) -> Verdict<'_> {
        if self.class == ResponseClass::Success {
            return Verdict::Settled;
        }
        let code = self.effective_code();
        let session_limit = self.text.contains(SESSION_LIMIT);
        let refused = |unknown| Verdict::Refused {
            code,
            unknown,
            session_limit,
        };
        match code.class() {
            CodeClass::ThrottleServerBusy
            | CodeClass::ThrottleConnectionCount
            | CodeClass::ThrottleFindCount
            | CodeClass::ThrottleTooManyObjects => refused(false),
            CodeClass::NotProcessed => Verdict::Stopped,
            _ if session_limit => refused(code.outcome() != MemberOutcome::NotApplied),
            CodeClass::TransientRetryLater => match code.outcome() {
                MemberOutcome::NotApplied => refused(false),
                MemberOutcome::PartlyApplied => Verdict::Settled,
                _ => refused(true),
            },
            CodeClass::InspectInner => refused(true),
            _ => Verdict::Settled,
        }
    }
}

static CLASS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("ResponseClass="));
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("Error"));

/// Whether a glance at a whole answer shows that every message in it is a success without an error's code, as of most it does. It is
/// enough that the first class is a success, since a fault has none, that of all errors there is `NoError` alone, and that what is
/// open is closed. Of any other answer it says nothing.
// Half of what reading the answer costs: `benches/overhead`, `stack`.
pub(crate) fn is_plain_success(answer: &[u8]) -> bool {
    let class = || {
        let behind = CLASS.find(answer)? + CLASS.needle().len();
        answer.get(behind..)
    };
    answer.trim_ascii_end().ends_with(b"Envelope>")
        && class().is_some_and(|class| {
            class.starts_with(b"\"Success\"") || class.starts_with(b"'Success'")
        })
        && {
            let mut errors = ERROR.find_iter(answer).peekable();
            errors.peek().is_some() && errors.all(|at| is_no_error(answer, at))
        }
        && is_envelope(answer).unwrap_or_default()
}

/// Whether there is one envelope, well formed as far as its elements go, and nothing else.
fn is_envelope(answer: &[u8]) -> Result<bool, OutlineError> {
    let mut reader = Reader::new(answer)?;
    root(&mut reader)?;
    reader.skip()?;
    Ok(match reader.next()? {
        Event::Eof => true,
        Event::Text(text) => is_blank(reader.bytes(&text)) && matches!(reader.next()?, Event::Eof),
        _ => false,
    })
}

/// Whether the `Error` there is that of `NoError`.
fn is_no_error(answer: &[u8], at: usize) -> bool {
    let (before, behind) = answer.split_at_checked(at).unwrap_or_default();
    let next = behind.get(ERROR.needle().len());
    before.ends_with(b"No") && next.is_some_and(|next| !next.is_ascii_alphanumeric())
}

impl ResponseCode {
    /// Whether a smaller request, or one for less, is what it asks for.
    pub(crate) fn asks_for_less(&self) -> bool {
        matches!(
            self.as_str(),
            "ErrorTimeoutExpired"
                | "ErrorExceededFindCountLimit"
                | "ErrorMailboxDataArrayTooBig"
                | "ErrorRequestStreamTooBig"
        )
    }

    /// Whether, as the code of a fault, it speaks of who calls and how, so that any other request fares no better.
    pub(crate) fn is_about_the_caller(&self) -> bool {
        matches!(
            self.as_str(),
            "ErrorAccountDisabled"
                | "ErrorAccountSuspend"
                | "ErrorCallerIsInvalidADAccount"
                | "ErrorImpersonateUserDenied"
                | "ErrorImpersonationDenied"
                | "ErrorImpersonationFailed"
                | "ErrorInvalidServerVersion"
                | "ErrorPasswordExpired"
                | "ErrorTokenSerializationDenied"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soap::AnswerScanner;

    fn answer(messages: &str) -> String {
        format!(
            "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/'><s:Body><m:GetItemResponse><m:ResponseMessages>\
             {messages}</m:ResponseMessages></m:GetItemResponse></s:Body></s:Envelope>"
        )
    }

    const GOOD: &str =
        "<m:R ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode></m:R>";
    const BUSY: &str =
        "<m:R ResponseClass='Error'><m:ResponseCode>ErrorServerBusy</m:ResponseCode></m:R>";
    const CLASSLESS: &str = "<m:R><m:ResponseCode> ErrorServerBusy</m:ResponseCode></m:R>";
    const STOPPED: &str = "<m:R ResponseClass=\"Warning\"><m:ResponseCode>ErrorBatchProcessingStopped</m:ResponseCode></m:R>";

    #[test]
    fn a_glance_at_a_whole_good_answer_is_enough() {
        for good in [GOOD, &GOOD.replace('"', "'"), &GOOD.repeat(3)] {
            let whole = answer(good);
            assert!(is_plain_success(whole.as_bytes()), "{whole}");
            assert!(is_plain_success(format!("\u{FEFF}{whole}\r\n ").as_bytes()));
            for length in 0..whole.len() {
                let cut = &whole.as_bytes()[..length];
                assert!(!is_plain_success(cut), "cut at {length}");
            }
            // Wrong in the middle, and whole all the same.
            for (from, to) in [
                ("</m:ResponseCode>", "</m:ResponseCod>"),
                ("</m:ResponseCode>", ""),
                ("</m:R>", "</m:R></m:R>"),
                ("<m:R ", "< "),
                ("</s:Envelope>", "</s:Envelope><s:Envelope></s:Envelope>"),
                ("<s:Envelope", "<!DOCTYPE x><s:Envelope"),
            ] {
                let wrong = whole.replacen(from, to, 1);
                assert!(!is_plain_success(wrong.as_bytes()), "{wrong}");
            }
        }
    }

    #[test]
    fn what_is_refused_or_stopped_is_never_a_plain_success() {
        let mut answers: Vec<String> = Vec::new();
        for bad in [BUSY, CLASSLESS, STOPPED] {
            for at in 0..3 {
                let mut messages = [GOOD; 3];
                messages[at] = bad;
                answers.push(answer(&messages.concat()));
            }
            answers.push(answer(bad));
        }
        answers.push("<s:Envelope><s:Body><s:Fault><faultcode>s:Server</faultcode></s:Fault></s:Body></s:Envelope>".to_owned());
        for answer in answers {
            let mut settled = true;
            let mut scanner = AnswerScanner::new();
            let scanned = scanner.push(answer.as_bytes(), &mut |message| {
                settled &= matches!(message.verdict(), Verdict::Settled);
            });
            scanned.unwrap();
            assert!(!is_plain_success(answer.as_bytes()), "{answer}");
            assert!(!settled || answer.contains("Fault"));
        }
    }
}
