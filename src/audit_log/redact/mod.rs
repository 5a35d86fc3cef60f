//! Secrets, and what a log shows in their place.

mod edit;
mod form;
mod format;
mod headers;
mod json;
mod loose;
mod mailbox;
mod names;
mod redaction;
mod rules;
#[cfg(test)]
mod tests;
mod text;
mod xml;

pub use self::redaction::Redaction;
