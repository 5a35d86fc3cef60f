//! [`Past`]: what the journal of an interrupted job says.

use std::collections::{BTreeSet, HashSet};
use std::io::{self, BufRead};

use super::line::{self, Entry};
use super::outcome::JobOutcome;

/// What was done in earlier runs of a job, and what is in doubt.
///
/// ```
/// use tower_ews::job::Past;
///
/// // The last line was cut off: that call had not been sent.
/// let past = Past::read(&b"begin a ;\ndone a ;\nbegin b ;\nbegin c"[..])?;
/// assert!(past.is_done("a"));
/// assert_eq!(past.in_doubt(), ["b"]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Past {
    done: HashSet<String>,
    in_doubt: BTreeSet<String>,
    /// What somebody has found out, to be written down.
    settled: Vec<(String, JobOutcome)>,
}

impl Past {
    /// Reads a journal. An empty one is the past of a job that begins.
    ///
    /// # Errors
    ///
    /// The reader's. Lines that are none are passed over.
    pub fn read(mut journal: impl BufRead) -> io::Result<Self> {
        let mut past = Self::default();
        let mut line = Vec::new();
        while journal.read_until(b'\n', &mut line)? > 0 {
            if let Some((entry, key)) = line::read(&line) {
                past.note(entry, key);
            }
            line.clear();
        }
        Ok(past)
    }

    /// Takes in a line.
    pub(super) fn note(&mut self, entry: Entry, key: String) {
        match entry {
            Entry::Ended(JobOutcome::Done) => {
                self.in_doubt.remove(&key);
                self.done.insert(key);
            }
            Entry::Ended(JobOutcome::NotExecuted) => {
                self.in_doubt.remove(&key);
            }
            Entry::Begun | Entry::Ended(JobOutcome::InDoubt) => {
                if !self.done.contains(&key) {
                    self.in_doubt.insert(key);
                }
            }
        }
    }

    /// Returns whether a call was made.
    pub fn is_done(&self, key: &str) -> bool {
        self.done.contains(key)
    }

    /// Returns the calls whose outcome is unknown, in the order of their keys. They are not made again
    /// until [`was_executed`](Self::was_executed) or [`was_not_executed`](Self::was_not_executed) tells.
    pub fn in_doubt(&self) -> Vec<String> {
        self.in_doubt.iter().cloned().collect()
    }

    /// Settles a doubt: the call was executed, and is not made again.
    pub fn was_executed(&mut self, key: &str) {
        self.settle(key, JobOutcome::Done);
    }

    /// Settles a doubt: the call was not executed, and is made again.
    pub fn was_not_executed(&mut self, key: &str) {
        self.settle(key, JobOutcome::NotExecuted);
    }

    fn settle(&mut self, key: &str, outcome: JobOutcome) {
        if self.in_doubt.contains(key) {
            self.settled.push((key.to_owned(), outcome));
            self.note(Entry::Ended(outcome), key.to_owned());
        }
    }

    /// Whether a call is made in this run.
    pub(super) fn leaves_open(&self, key: &str) -> bool {
        !self.done.contains(key) && !self.in_doubt.contains(key)
    }

    pub(super) fn take_settled(&mut self) -> Vec<(String, JobOutcome)> {
        std::mem::take(&mut self.settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past(journal: &str) -> Past {
        Past::read(journal.as_bytes()).unwrap()
    }

    #[test]
    fn the_last_word_counts_and_done_stays_done() {
        let mut past = past(
            "begin a ;\ndone a ;\nbegin a ;\nbegin b ;\nfailed b ;\nbegin c ;\ndoubt c ;\n\
             failed d ;\nbegin d ;\nrubbish\nbegin e ;\n",
        );
        assert!(past.is_done("a"));
        assert_eq!(past.in_doubt(), ["c", "d", "e"]);
        past.was_executed("c");
        past.was_not_executed("d");
        past.was_not_executed("a");
        assert_eq!(past.in_doubt(), ["e"]);
        let open = ["a", "b", "c", "d", "e", "f"].map(|key| past.leaves_open(key));
        assert_eq!(open, [false, true, false, true, false, true]);
        let settled = past.take_settled();
        assert_eq!(settled.len(), 2);
    }
}
