//! [`RedisLedger`]: one budget for many processes, in Redis or Valkey.
//!
//! Exchange charges an account, not a process: ten processes with a limit of 27 each are 270 calls against a limit of 27. With this
//! ledger the processes of a fleet share what the account may use.
//!
//! ```no_run
//! use std::sync::Arc;
//! use tower_ews::EwsStack;
//! use tower_ews::ledger::redis::{RedisLedger, RedisServer};
//! use tower_ews::ledger::Limit;
//! use tower_ews::policy::ThrottlingPolicy;
//! use tower_ews::principal::Budget;
//!
//! let redis = RedisServer::new(redis::Client::open("redis://127.0.0.1/")?);
//! let policy = ThrottlingPolicy::exchange_online();
//! let ledger = policy.redis_ledger().build(redis);
//! let stack = EwsStack::new(policy).ledger(Arc::new(ledger));
//! # let _ = stack;
//! # Ok::<_, redis::RedisError>(())
//! ```
//!
//! # How it works
//!
//! In each process a [`LocalLedger`](crate::ledger::LocalLedger) queues and orders calls, as ever. What it may admit of a
//! principal is *lent* by Redis: a share of each budget, for the time of a lease. A script (`lease.lua`) hands out the shares, and is
//! called when something changes: a call waits for more, others are short of what is not used, a lease is to be renewed, a response
//! reported something. Calls that find room in the share ask nobody.
//!
//! | what | how it is shared |
//! | --- | --- |
//! | [`Limit::InFlight`](crate::ledger::Limit::InFlight) | Shares, whose sum is within the limit. While nobody is short a process that is at work has an equal part at hand. A process that is short is given what others do not use, and then each goes down to its fair share. Where a limit is small beside the number of processes, or one call draws more than a fair share, amounts go round: each release goes to the process that has waited longest. |
//! | [`Limit::Distinct`](crate::ledger::Limit::Distinct) | A value that is open for one process is open for all. A process may use a value once it was told so. A process that has waited for `max_overtake` has the value closed for it that was open longest. |
//! | [`Limit::PerWindow`](crate::ledger::Limit::PerWindow), and [`Limit::Sliding`](crate::ledger::Limit::Sliding) as a bucket of its number | Amounts are drawn ahead, a little at a time; what a process has of them unused does not come back to the bucket. Debt is everybody's. |
//! | gates | Closed for all as soon as one process is told. Each process sends one probe. |
//! | refusals | Lower the limit for all. It rises by one after a while, then faster, as long as nothing is refused. |
//!
//! What a call draws on several budgets of one principal is lent at once or not at all. Calls of several principals acquire in the
//! order of their keys, in each process, so that no two hold what the other one waits for.
//!
//! Only the clock of the server counts; clients send and are sent durations. A process that was lent something does not use it for
//! longer than a lease from the moment at which it *asked*. A request has a number, and one that comes after a later one is refused; a
//! process lowers its share before it says so, and never counts on more than it was told in a reply to its latest request. So lost,
//! slow and repeated messages cost time, and lend nothing twice.
//!
//! # Fairness
//!
//! Between processes: the more urgent calls of all processes go first, then equal shares for those that have enough calls waiting,
//! whatever the number of their calls. A call that others have overtaken for `max_overtake` goes next, one at a time for each process.
//! Apart from that, processes take turns: by age alone the one with the longest queue would have all of it. A process that others make
//! room for gets what is given back with the message that wakes it, after one round trip. Within a process: as
//! [`LocalLedger`](crate::ledger::LocalLedger#fairness).
//!
//! Where several calls end at the same moment, a less urgent process gets a place among them now and then: a few in a hundred of a
//! limit of 12, measured with calls of one length.
//!
//! # When something fails
//!
//! | what happens | what follows |
//! | --- | --- |
//! | a process is killed, or stands still for longer than a lease | Its share is lent to others a lease after it asked last. What it has sent runs on at the server: for so long there may be too much in flight, by its share at most. |
//! | Redis does not respond | Calls go on with what is lent until the lease ends. Then it is as [`WhenUnavailable`] says. |
//! | Redis is back | Processes say what they use, each within four seconds with leases of ten; nothing more is lent until that is within the limit. What a process holds from before, or has let in by its own share, comes on top until it has said so. |
//! | Redis forgets everything (restart, flush, a replica that was behind) | Processes say what they have at their next request, a third of a lease later at most. Until then what was forgotten may be lent once more. Waits for buckets and values begin anew. |
//! | Redis is out of memory | As if it did not respond. |
//! | a message to a waiting process is lost | It asks again a third of a lease later. |
//!
//! # What it needs
//!
//! - *Version*: Redis 5 or later by the commands that are used, or Valkey. Tested with Redis 7.0.15, and nothing else.
//! - *Persistence*: none. What Redis forgets is told again; what was learnt is learnt again.
//! - *Eviction*: `noeviction`. A principal that is evicted is forgotten, as above. Each key has a time to live.
//! - *Memory*: one hash for each principal that is in use, about 100 bytes and 310 for each process that has a lease of it, with one budget (416
//!   bytes for one process, 30,712 for a hundred, by `MEMORY USAGE` of Redis 7.0.15). It is gone
//!   when nobody has a lease, nothing is gated, learnt or open, and buckets are full.
//! - *Commands*: an ACL needs `+evalsha +eval +time +hgetall +hset +hdel +del +pexpire +publish +subscribe +unsubscribe`, on the
//!   keys `~tower-ews:*` and channels `&tower-ews:*`, beside what the client sends when it connects (`+hello +client +select +ping`).
//! - *TLS*: what the `redis` crate has. Switch on its feature (`tokio-rustls-comp`, for example) and use a `rediss://` address.
//! - *Cluster and sentinels*: implement [`RedisConnect`] with their connections (features `cluster-async` and `sentinel` of the `redis`
//!   crate), twenty lines each. All keys of one principal are one key, and messages to any server of a cluster reach all.
//!
//! `tests/redis_ways.rs` has all three against real servers, a replica that a sentinel promotes among them. Valkey has not been tested.
//!
//! # Keys
//!
//! | key or channel | what |
//! | --- | --- |
//! | `tower-ews:{account:svc@contoso.com}` | the hash of a principal, by its [key](crate::principal::Principal::key) |
//! | field `layout` | the version of all this: another one is refused, with [`StoreError::Layout`] |
//! | field `p:<process>` | the lease of one process, JSON: `e` when it ends, `b` the budgets (`a` what it has, `d` what it would use, `q` what of it waits by priority), `h` what waits |
//! | fields `gate`, `learnt:<budget>`, `bucket:<budget>`, `open:<budget>` | until when; the lowered limit; what was drawn; the open values and when they close |
//! | channel `tower-ews:p:<process>` | principals that a process is to ask for again, and what it is given: JSON, `n` the request that it counts from, `g` amounts by budget |
//! | channel `tower-ews:all` | gates of endpoints |
//!
//! ```text
//! redis-cli --scan --pattern 'tower-ews:*'                      who is in use
//! redis-cli HGETALL 'tower-ews:{account:svc@contoso.com}'        who has how much of it
//! redis-cli DEL 'tower-ews:{account:svc@contoso.com}'            forget it; processes say anew what they have
//! ```
//!
//! # How to size it
//!
//! The figures for many principals and processes are calculated, not measured.
//!
//! A process at work sends three commands in each lease for each principal, and two for each amount that goes round. One script call
//! takes time in proportion to the processes that have a lease of the *principal*, not to all of them. A million principals
//! in a day, ten thousand of them in use at a time by one process each, are about 4 MB and, with leases of ten seconds, 3,000 commands
//! a second. A thousand processes on one account are a hash of 310 KB that is read with each call: give such a fleet longer leases,
//! or fewer processes.

mod connect;
mod driver;
mod error;
mod ledger;
mod lent;
mod listen;
mod member;
mod store;
mod wire;

pub use self::connect::{Messages, RedisConnect, RedisFuture, RedisServer, subscribe};
pub use self::driver::WhenUnavailable;
pub use self::error::StoreError;
pub use self::ledger::{RedisLedger, RedisLedgerBuilder};
