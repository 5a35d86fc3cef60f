//! [`Conversation`]: what one connection is, to a server: nobody's, challenged, or an account's.

use std::mem;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, HeaderValue, WWW_AUTHENTICATE};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tower::ServiceExt;
use tower_ews::simulator::Body;

use super::check::Check;
use super::{MEANS, Shared};

type ReplyBody = Either<Body, Full<Bytes>>;

pub(super) struct Conversation {
    shared: Arc<Shared>,
    state: Mutex<State>,
}

struct State {
    login: Login,
    /// Calls since the last login, and since the connection was made.
    calls: (usize, usize),
}

enum Login {
    None,
    Challenged {
        check: Box<Check>,
        id: Option<HeaderValue>,
    },
    Account(String),
}

/// What becomes of a request.
enum Verdict {
    Challenge(Vec<u8>),
    Refuse,
    Call { account: String, is_last: bool },
}

impl Conversation {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let state = Mutex::new(State {
            login: Login::None,
            calls: (0, 0),
        });
        Self { shared, state }
    }

    pub(super) async fn respond(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        let shared = &self.shared;
        shared.count(|report| {
            report.in_flight += 1;
            report.peak = report.peak.max(report.in_flight);
        });
        let response = match self.judge(&request) {
            Verdict::Challenge(token) => {
                let token = format!("NTLM {}", STANDARD.encode(token));
                unauthorized(&token)
            }
            Verdict::Refuse => unauthorized("NTLM"),
            Verdict::Call { account, is_last } => self.call(account, is_last, request).await,
        };
        shared.count(|report| report.in_flight -= 1);
        response
    }

    fn judge(&self, request: &Request<Incoming>) -> Verdict {
        let token = request.headers().get(AUTHORIZATION);
        let token = token.and_then(|value| value.to_str().ok()?.strip_prefix("NTLM "));
        let token = token.and_then(|token| STANDARD.decode(token).ok());
        let id = request.headers().get("client-request-id").cloned();
        let mut state = self.state.lock().expect("the state");
        let login = mem::replace(&mut state.login, Login::None);
        match (token, login) {
            (None, Login::Account(account)) => self.go_on(&mut state, account),
            (None, _) => {
                self.shared.count(|report| report.strays += 1);
                Verdict::Refuse
            }
            (Some(token), Login::Challenged { check, id: first }) => {
                state.calls.0 = 0;
                let other = usize::from(id != first);
                self.shared.count(|report| report.other_ids += other);
                let account = check.account(&token, &self.shared.binding);
                let right = usize::from(account.is_some());
                self.shared.count(|report| {
                    report.logins += right;
                    report.refused += 1 - right;
                });
                account.map_or(Verdict::Refuse, |account| self.go_on(&mut state, account))
            }
            (Some(token), _) => self.challenge(&mut state, &token, request, id),
        }
    }

    fn challenge(
        &self,
        state: &mut State,
        token: &[u8],
        request: &Request<Incoming>,
        id: Option<HeaderValue>,
    ) -> Verdict {
        let mut check = Box::new(Check::new(self.shared.options.accounts.clone()));
        let full = usize::from(!request.body().is_end_stream());
        self.shared.count(|report| {
            report.challenges += 1;
            report.full_first_legs += full;
        });
        let Ok(challenge) = check.challenge(token) else {
            return Verdict::Refuse;
        };
        state.login = Login::Challenged { check, id };
        Verdict::Challenge(challenge)
    }

    fn go_on(&self, state: &mut State, account: String) -> Verdict {
        let options = &self.shared.options;
        state.calls.0 += 1;
        state.calls.1 += 1;
        if state.calls.0 > options.calls_per_login {
            // Forgotten: it asks for a new login, with the call unread.
            return Verdict::Refuse;
        }
        state.login = Login::Account(account.clone());
        Verdict::Call {
            account,
            is_last: state.calls.1 >= options.calls_per_connection,
        }
    }

    async fn call(
        &self,
        account: String,
        is_last: bool,
        mut request: Request<Incoming>,
    ) -> Response<ReplyBody> {
        let means = request.headers().get(MEANS);
        let mixed = usize::from(means.is_some_and(|means| means.as_bytes() != account.as_bytes()));
        let basic = format!("{account}:{}", self.shared.options.accounts[&account]);
        let basic = format!("Basic {}", STANDARD.encode(basic));
        self.shared.count(|report| {
            report.mixed += mixed;
            *report.calls.entry(account).or_default() += 1;
        });
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, basic.try_into().expect("base64"));
        let exchange = self.shared.options.exchange.clone();
        let response = exchange.oneshot(request).await;
        let mut response = response.expect("no fault is asked for").map(Either::Left);
        if is_last {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    }
}

fn unauthorized(offer: &str) -> Response<ReplyBody> {
    let mut response = Response::new(Either::Right("<html>Unauthorized</html>".into()));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    let offer = HeaderValue::from_str(offer).expect("base64");
    response.headers_mut().insert(WWW_AUTHENTICATE, offer);
    response
}
