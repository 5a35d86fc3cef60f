//! Secrets, and what a log shows in their place.

mod derived;
mod edit;
mod entries;
mod escape;
mod form;
mod format;
mod headers;
mod json;
mod layers;
mod loose;
mod mailbox;
mod name_lists;
mod names;
mod read;
mod redaction;
mod rules;
mod shapes;
#[cfg(test)]
mod tests;
mod text;
mod triples;
#[cfg(test)]
mod work;
mod xml;

pub use self::redaction::Redaction;
