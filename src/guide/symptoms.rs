//! Which layer cures which symptom.
//!
//! Find what you see. The second column says why it happens, the third one where it is cured. [`EwsStack`](crate::EwsStack) has all
//! of these layers; for one of them alone see [`ServiceBuilderExt`](crate::ServiceBuilderExt).
//!
//! # Refusals
//!
//! | you see | why | cure |
//! | --- | --- | --- |
//! | `ErrorExceededConnectionCount`; fewer threads help | more than 27 (10 in Exchange 2010) calls of one account at a time | [`concurrency_by_principal`](crate::concurrency_by_principal) |
//! | `ErrorTooManyObjectsOpened` at the seventeenth mailbox; `MapiExceptionSessionLimit` | a delegate account has 16 mailboxes open for five minutes each | the same, with [`EwsCharges`](crate::principal::EwsCharges); [`account_pool`](crate::account_pool) for more accounts |
//! | somebody keeps a map from mailboxes to service accounts | one account has too few places | [`account_pool`](crate::account_pool) picks the account of each attempt |
//! | one of several accounts is locked out, disabled or has a new password, and its part of the job stands still | the map is fixed | the same: it is left out for as long as that lasts |
//! | `ErrorServerBusy`, `BackOffMilliseconds`, HTTP 503 or 429 | the account has used up the server's time, or the server is overloaded | [`server_busy_backoff`](crate::server_busy_backoff) |
//! | lock-outs grow longer and longer | calls go on during the lock-out, and prolong it | the same, with the ledger of [`concurrency_by_principal`](crate::concurrency_by_principal), so that all calls of the account wait |
//! | nothing retries a 429 inside of a Graph `$batch` | the batch itself is a 200 | [`batch_splitter`](crate::batch_splitter) with `GraphBatchFormat` |
//! | 401 or 403, again and again, and a locked account | no wait cures it | [`AccessDenied`](crate::server_busy_backoff::AccessDenied): it is remembered, and not sent |
//!
//! # Lost and doubled work
//!
//! | you see | why | cure |
//! | --- | --- | --- |
//! | items exist twice after a time-out | a retry of what may have been executed | [`server_busy_backoff`](crate::server_busy_backoff): an unknown outcome is an error of its own |
//! | items exist twice after a busy batch | the whole batch was sent again for its throttled members | [`batch_splitter`](crate::batch_splitter) sends those alone |
//! | `ErrorTimeoutExpired` for large batches | the server gives a batch one minute | [`batch_splitter`](crate::batch_splitter) makes parts that take 20 s |
//! | 1,000 items of 30,000; 250 with a filter; `ErrorExceededFindCountLimit` | a page is cut silently, or the limit of found items is used up | [`find_paging`](crate::find_paging) |
//! | a synchronisation loses changes, or gets them twice, after an error in the middle | the state was kept before its changes were | the same, with its pages followed |
//! | a retry layer does nothing | the body cannot be cloned | [`BufferRequest`](crate::body::BufferRequest) |
//! | a migration was killed | nobody knows which items are there | [`job`](crate::job) with a journal |
//! | notifications stop without an error; `ErrorSubscriptionNotFound`; events that never came | a connection or a subscription was lost | [`streaming`](crate::streaming): gaps are told |
//!
//! # Everything else
//!
//! | you see | why | cure |
//! | --- | --- | --- |
//! | slow impersonated calls, HTTP 500 or 503 at times, `ErrorNoRespondingCASInDestinationSite` | requests reach a server without the mailbox | [`anchor_headers`](crate::anchor_headers) |
//! | support asks for the request id | each attempt has its own | [`client_request_id`](crate::client_request_id), [`audit_log`](crate::audit_log) |
//! | everything stands still | response bodies that nobody reads hold permits | [collect or drop each body](super::order#a-body-is-part-of-its-call) |
//! | what happened to that call last night, and is there a password in the log? | nobody wrote it down, or everything | [`audit_log`](crate::audit_log), which redacts secrets |
//! | it waits for 15 minutes and fails | a wrong host looks like a server that is down | a short [`Deadline`](crate::extensions::Deadline) while you set things up |
