//! The back end of the remote ledger: one task that keeps all budgets.

use std::collections::HashMap;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tower_ews::ledger::Limit;

use super::budget::Budget;
use super::counts::{AccountCounts, Counts};
use super::gate::{Gate, Pass};
use super::message::{Admitted, Ask, Blocked, Draw, Held, Message, News, Refused, Reply};
use super::queue::{Queue, Waiting};
use super::{Limits, ONE_WAY};

pub(crate) async fn run(
    limits: Limits,
    mut messages: mpsc::UnboundedReceiver<Message>,
    publish: watch::Sender<Counts>,
) {
    let mut state = State::new(limits);
    loop {
        let wake = state.wake();
        let timer = async {
            match wake {
                Some(wake) => sleep_until(wake).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            message = messages.recv() => match message {
                Some(message) => state.receive(message),
                None => return,
            },
            () = timer => {}
        }
        while let Ok(message) = messages.try_recv() {
            state.receive(message);
        }
        state.advance();
        if publish.receiver_count() > 0 {
            publish.send_replace(state.counts());
        }
    }
}

#[derive(Default)]
struct Account {
    gate: Gate,
    budgets: HashMap<String, Budget>,
}

struct Admission {
    id: u64,
    draws: Vec<Draw>,
    endpoint: Option<String>,
    /// A response said that it was too much.
    refused: bool,
}

struct State {
    limits: Limits,
    accounts: HashMap<String, Account>,
    endpoints: HashMap<String, Gate>,
    queue: Queue,
    /// Questions whose gates may open too late.
    unchecked: Vec<u64>,
    admissions: HashMap<u64, Admission>,
    /// The admissions of questions.
    admitted: HashMap<u64, u64>,
    tickets: u64,
    sequence: u64,
}

impl State {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            accounts: HashMap::new(),
            endpoints: HashMap::new(),
            queue: Queue::default(),
            unchecked: Vec::new(),
            admissions: HashMap::new(),
            admitted: HashMap::new(),
            tickets: 0,
            sequence: 0,
        }
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Acquire { id, ask, reply } => self.enqueue(id, ask, reply),
            Message::Cancel { id } => {
                self.queue.leave(id);
                if let Some(sequence) = self.admitted.get(&id).copied() {
                    let draws = self.admissions[&sequence].draws.clone();
                    self.release(sequence, &draws, false, false);
                }
            }
            Message::Report { to, news } => self.report(&to, news),
            Message::Release { held, good } => {
                self.release(held.sequence, &held.draws, held.split_off, good);
            }
            Message::Look(reply) => _ = reply.send(self.counts()),
        }
    }

    fn enqueue(&mut self, id: u64, ask: Ask, reply: oneshot::Sender<Reply>) {
        let now = Instant::now();
        let queued = self.queue.len();
        if queued >= self.limits.max_queued {
            response(reply, Err(Refused::QueueFull { queued }));
            return;
        }
        let ticket = ask.ticket.unwrap_or(self.tickets);
        self.tickets = self.tickets.max(ticket + 1);
        let stall_timeout = now + self.limits.max_wait;
        let until = ask
            .deadline
            .map_or(stall_timeout, |end| end.min(stall_timeout))
            - ONE_WAY;
        for draw in &ask.draws {
            let account = self.accounts.entry(draw.principal.clone()).or_default();
            if !account.budgets.contains_key(&draw.budget) {
                let limit =
                    |(name, limit): &(String, Limit)| (*name == draw.budget).then_some(*limit);
                let limit = self.limits.budgets.iter().find_map(limit);
                // A budget without a limit is not counted.
                if let Some(budget) = limit.and_then(Budget::new) {
                    account.budgets.insert(draw.budget.clone(), budget);
                }
            }
        }
        let waiting = Waiting {
            ask,
            ticket,
            since: now,
            until,
            reply,
        };
        self.queue.join(id, waiting);
        self.unchecked.push(id);
    }

    fn report(&mut self, to: &Held, news: News) {
        if let Some(admission) = self.admissions.get_mut(&to.sequence) {
            admission.refused |= !matches!(news, News::Accepted);
        }
        match news {
            News::Busy { until } => {
                for draw in &to.draws {
                    if let Some(account) = self.accounts.get_mut(&draw.principal) {
                        account.gate.close(until);
                    }
                }
                self.unchecked = self.queue.ids();
            }
            News::EndpointBusy { until } => {
                if let Some(endpoint) = &to.endpoint {
                    let gate = self.endpoints.entry(endpoint.clone()).or_default();
                    gate.close(until);
                }
                self.unchecked = self.queue.ids();
            }
            News::Accepted => self.tested(to.sequence, &to.draws, to.endpoint.as_deref(), true),
            News::Exceeded { budget } => self.exceeded(to, &budget),
        }
    }

    /// Lowers the limit that was meant: that of the budget, or the nearest one of those that count what is in flight.
    fn exceeded(&mut self, to: &Held, budget: &str) {
        let near = |draw: &&Draw| {
            let known = self.accounts.get(&draw.principal);
            let known = known.and_then(|account| account.budgets.get(&draw.budget))?;
            let meant = draw.budget == budget || budget == "concurrency" && known.is_in_flight();
            meant.then(|| f64::from(known.used()) / f64::from(known.limit))
        };
        let meant = to.draws.iter().filter(|draw| near(draw).is_some());
        let Some(meant) = meant.max_by(|one, other| near(one).partial_cmp(&near(other)).unwrap())
        else {
            return;
        };
        let account = self.accounts.get_mut(&meant.principal);
        if let Some(known) = account.and_then(|account| account.budgets.get_mut(&meant.budget)) {
            known.exceeded(meant, to.sequence, self.sequence);
        }
    }

    fn release(&mut self, sequence: u64, draws: &[Draw], split_off: bool, good: bool) {
        let now = Instant::now();
        let Some(admission) = self.admissions.get_mut(&sequence) else {
            return;
        };
        let good = good && !admission.refused;
        let endpoint = admission.endpoint.clone();
        let mut given_back = Vec::new();
        for draw in draws {
            if let Some(at) = admission.draws.iter().position(|held| held == draw) {
                given_back.push(admission.draws.swap_remove(at));
            }
        }
        if admission.draws.is_empty() {
            let admission = self.admissions.remove(&sequence);
            self.admitted
                .remove(&admission.map_or(0, |admission| admission.id));
        }
        for draw in &given_back {
            let account = self.accounts.get_mut(&draw.principal);
            let budget = account.and_then(|account| account.budgets.get_mut(&draw.budget));
            if let Some(budget) = budget {
                budget.give_back(draw, now);
                if good && !split_off {
                    budget.accepted(draw);
                }
            }
        }
        if !split_off {
            self.tested(sequence, draws, endpoint.as_deref(), good);
        }
    }

    /// A call that may test gates has a good response, or is over.
    fn tested(&mut self, sequence: u64, draws: &[Draw], endpoint: Option<&str>, good: bool) {
        for draw in draws {
            if let Some(account) = self.accounts.get_mut(&draw.principal) {
                account.gate.tested(sequence, good);
            }
        }
        if let Some(gate) = endpoint.and_then(|endpoint| self.endpoints.get_mut(endpoint)) {
            gate.tested(sequence, good);
        }
    }

    /// Refuses who has waited long enough, admits who can be, forgets what is over.
    fn advance(&mut self) {
        let now = Instant::now();
        for account in self.accounts.values_mut() {
            account
                .budgets
                .values_mut()
                .for_each(|budget| budget.forget(now));
        }
        self.refuse(now);
        while self.admit_one(now) {}
        self.endpoints.retain(|_, gate| !gate.is_open());
    }

    /// Admits the first one in the queue that can be.
    fn admit_one(&mut self, now: Instant) -> bool {
        let firsts = self.queue.firsts(now).into_iter();
        let open = firsts
            .into_iter()
            .find(|id| self.blocked(*id, now).is_none());
        let Some((id, waiting)) = open.and_then(|id| Some((id, self.queue.leave(id)?))) else {
            return false;
        };
        let sequence = self.sequence;
        self.sequence += 1;
        let mut probes = false;
        for draw in &waiting.ask.draws {
            if let Some(account) = self.accounts.get_mut(&draw.principal) {
                probes |= account.gate.admitted(sequence);
                if let Some(budget) = account.budgets.get_mut(&draw.budget) {
                    budget.take(draw);
                }
            }
        }
        let endpoint = waiting.ask.endpoint;
        let gate = endpoint
            .as_ref()
            .and_then(|name| self.endpoints.get_mut(name));
        probes |= gate.is_some_and(|gate| gate.admitted(sequence));
        let admission = Admission {
            id,
            draws: waiting.ask.draws,
            endpoint,
            refused: false,
        };
        self.admissions.insert(sequence, admission);
        self.admitted.insert(id, sequence);
        let admitted = Admitted {
            ticket: waiting.ticket,
            sequence,
            probes,
        };
        // Whoever has gone away takes it back itself.
        response(waiting.reply, Ok(admitted));
        true
    }

    /// What keeps a question waiting, and until when if that is known.
    fn blocked(&mut self, id: u64, now: Instant) -> Option<(Blocked, Option<Instant>)> {
        let ask = &self.queue.get(id)?.ask;
        if let Some(time) = ask.not_before.filter(|time| *time > now) {
            return Some((Blocked::Time, Some(time)));
        }
        let gate = |pass| match pass {
            Pass::Open => None,
            Pass::Closed(until) => Some(Some(until)),
            Pass::Tested => Some(None),
        };
        if let Some(name) = &ask.endpoint {
            let pass = self.endpoints.get_mut(name).map(|gate| gate.pass(now));
            if let Some(until) = pass.and_then(gate) {
                return Some((Blocked::Endpoint(name.clone()), until));
            }
        }
        for draw in &ask.draws {
            let account = self.accounts.get_mut(&draw.principal)?;
            if let Some(until) = gate(account.gate.pass(now)) {
                return Some((Blocked::Gate(draw.principal.clone()), until));
            }
            let same =
                |other: &&Draw| other.principal == draw.principal && other.budget == draw.budget;
            let budget = account.budgets.get(&draw.budget);
            if budget.is_some_and(|budget| !budget.fits(ask.draws.iter().filter(same), now)) {
                let blocked = Blocked::Budget(draw.principal.clone(), draw.budget.clone());
                return Some((blocked, None));
            }
        }
        None
    }

    /// Refuses who has waited long enough, and whose gate opens too late.
    fn refuse(&mut self, now: Instant) {
        while let Some(id) = self.queue.due(now) {
            let blocked = self.blocked(id, now);
            let blocked = blocked.map_or(Blocked::Time, |(blocked, _)| blocked);
            if let Some(waiting) = self.queue.leave(id) {
                let waited = now - waiting.since + ONE_WAY;
                response(waiting.reply, Err(Refused::TimedOut { waited, blocked }));
            }
        }
        for id in std::mem::take(&mut self.unchecked) {
            let Some((blocked, Some(until))) = self.blocked(id, now) else {
                continue;
            };
            if self
                .queue
                .get(id)
                .is_some_and(|waiting| waiting.until < until)
            {
                if let Some(waiting) = self.queue.leave(id) {
                    let wait = until - now;
                    response(waiting.reply, Err(Refused::GateTooLate { wait, blocked }));
                }
            }
        }
    }

    /// When something changes by itself.
    fn wake(&self) -> Option<Instant> {
        let gates = self.endpoints.values().filter_map(Gate::closed_until);
        let accounts = self.accounts.values();
        let accounts = accounts.flat_map(|account| {
            let budgets = account.budgets.values().filter_map(Budget::wake);
            budgets.chain(account.gate.closed_until())
        });
        let now = Instant::now();
        // A gate whose time has come stays until somebody passes it.
        let later = |time: &Instant| *time > now;
        let times = gates.chain(accounts).filter(later);
        times.chain(self.queue.wake(now)).min()
    }

    fn counts(&self) -> Counts {
        let queued = self.queue.by_principal();
        let accounts = self.accounts.iter().map(|(name, account)| {
            let budgets = account.budgets.iter();
            let counts = AccountCounts {
                gated: account.gate.closed_until(),
                queued: queued.get(&**name).copied().unwrap_or_default(),
                held: account.budgets.values().map(Budget::held).sum(),
                budgets: budgets
                    .map(|(name, budget)| (name.clone(), budget.used(), budget.limit))
                    .collect(),
            };
            (name.clone(), counts)
        });
        let gated = |(name, gate): (&String, &Gate)| Some((name.clone(), gate.closed_until()?));
        Counts {
            queued: self.queue.len(),
            admissions: self.admissions.len(),
            accounts: accounts.collect(),
            gated_endpoints: self.endpoints.iter().filter_map(gated).collect(),
        }
    }
}

fn response(reply: oneshot::Sender<Reply>, outcome: Result<Admitted, Refused>) {
    let _ = reply.send(Reply {
        sent: Instant::now(),
        outcome,
    });
}
