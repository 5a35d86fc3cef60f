//! A fleet in virtual time: processes that share budgets by the script of the Redis ledger, which runs in a Lua of the test.

#[path = "redis_fleet/fake.rs"]
mod fake;
#[path = "redis_fleet/job.rs"]
mod job;
#[path = "redis_fleet/kinds.rs"]
mod kinds;
#[path = "redis_fleet/priorities.rs"]
mod priorities;
#[path = "redis_fleet/random.rs"]
mod random;
#[path = "redis_fleet/shares.rs"]
mod shares;
#[path = "redis_fleet/trouble.rs"]
mod trouble;
#[path = "redis_fleet/whole_jobs.rs"]
mod whole_jobs;
