//! The guide: how to live inside a server's throttling, page by page.
//!
//! | page | the question |
//! | --- | --- |
//! | [`symptoms`] | Something goes wrong. Which layer cures it? |
//! | [`order`] | In which order do layers stand, and what breaks otherwise? |
//! | [`budgets`] | What does Exchange limit, in its own words, and who is charged? |
//! | [`tuning`] | Which numbers are worth changing? |
//! | [`troubleshooting`] | A call failed last night. What happened to it? |
//! | [`responses`] | What becomes of a call that the server answers like this? |
//! | [`your_own`] | How do I write charges, a classifier, a batch format, a sink or a ledger? |
//! | [`fleet`] | Several processes use one account. |
//! | [`on_premises`] | My Exchange offers NTLM or Negotiate only. |
//! | [`compare`] | What does it cost, and what do others do? |
//! | [`graph`] | EWS ends in Exchange Online. How do I move to Microsoft Graph? |
//!
//! There is nothing here but documentation. Each program in it runs as a test.

pub mod budgets;
pub mod compare;
pub mod fleet;
pub mod graph;
pub mod on_premises;
pub mod order;
pub mod responses;
pub mod symptoms;
pub mod troubleshooting;
pub mod tuning;
pub mod your_own;
