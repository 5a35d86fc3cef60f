//! What is recorded at which level, and how levels change while calls go on.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::audit_log::levels::{Control, Look};
use crate::concurrency_by_principal::ConcurrencyByPrincipalLayer;
use crate::principal::{Principal, counted};
use crate::trail::CallTrail;

async fn call<S, B>(service: &S, body: ReplayBody)
where
    S: Service<Request<ReplayBody>, Response = Response<B>> + Clone,
    S::Error: std::fmt::Debug,
    B: Body,
    B::Error: std::fmt::Debug,
{
    let response = service.clone().oneshot(request(body)).await.unwrap();
    response.into_body().collect().await.unwrap();
}

fn level_of(record: &Record) -> Level {
    let headers = record.request_headers.is_some();
    assert_eq!(headers, record.response_headers.is_some());
    let bodies = record.request_body.is_some();
    assert_eq!(bodies, record.response_body.is_some());
    match (headers, bodies) {
        (false, false) => Level::Summary,
        (true, false) => Level::Headers,
        (true, true) => Level::Full,
        (false, true) => panic!("{record:?}"),
    }
}

/// The levels of the records since the last look.
fn levels(sink: &MemorySink) -> Vec<Level> {
    sink.take().iter().map(level_of).collect()
}

#[tokio::test(start_paused = true)]
async fn each_level_tells_more() {
    let sink = MemorySink::new();
    let layer = ews(&sink);
    let handle = layer.handle();
    let service = layer.layer(server(1, |request| {
        let wanted = CallTrail::of(request.extensions()).is_some();
        let response = Response::builder().header("x-wanted", wanted.to_string());
        let cookie = response.header("set-cookie", "secret");
        Ok(cookie.body(Script::text(response_text())).unwrap())
    }));
    fn response_text() -> String {
        soap_response(&["NoError"])
    }
    for level in [Level::Summary, Level::Headers, Level::Full] {
        handle.set(Scope::All, level);
        assert_eq!(handle.level(), level);
        let body = create("amy");
        call(&service, body.clone()).await;
        let record = only(&sink);
        assert_eq!(level_of(&record), level);
        if let Some(headers) = &record.request_headers {
            let authorization = headers.iter().find(|(name, _)| &**name == "authorization");
            assert!(!authorization.unwrap().1.contains("c2VjcmV0"));
            let headers = record.response_headers.as_ref().unwrap();
            assert!(headers.contains(&("x-wanted".into(), "true".into())));
            assert!(headers.iter().all(|(_, value)| &**value != "secret"));
        }
        if let (Some(sent), Some(read)) = (&record.request_body, &record.response_body) {
            assert_eq!((&sent.bytes, sent.total), (&body.to_bytes(), body.len()));
            assert_eq!(
                (&read.bytes[..], read.truncated),
                (response_text().as_bytes(), false)
            );
        }
    }
    handle.set(Scope::All, Level::Off);
    let response = service
        .clone()
        .oneshot(request(create("amy")))
        .await
        .unwrap();
    assert_eq!(
        response.headers()["x-wanted"],
        "false",
        "nobody pays for a trail"
    );
    drop(response);
    assert_eq!((sink.seen(), handle.recorded(), handle.lost()), (3, 3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_level_for_one_principal_operation_or_time() {
    let sink = MemorySink::new();
    let layer = ews(&sink).level(Level::Off);
    let handle = layer.handle();
    let service = layer.layer(server(1_000, |_| {
        Ok(Response::new(Script::text(soap_response(&["NoError"]))))
    }));
    let (amy, bob) = (|| create("amy@contoso.com"), || create("bob@contoso.com"));
    let both = async || {
        call(&service, amy()).await;
        call(&service, bob()).await;
        levels(&sink)
    };

    let until = Instant::now() + ms(10_000);
    handle.set_until(Scope::Principal("Amy@Contoso.com"), Level::Full, until);
    assert_eq!(both().await, [Level::Full]);
    // The principal counts before the operation, whatever it says.
    handle.set(Scope::Operation("CreateItem"), Level::Headers);
    assert_eq!(both().await, [Level::Full, Level::Headers]);
    handle.set(Scope::Operation("CreateItem"), Level::Off);
    assert_eq!(both().await, [Level::Full]);
    handle.set(Scope::All, Level::Summary);
    assert_eq!(
        both().await,
        [Level::Full],
        "the operation counts before all"
    );
    handle.clear(Scope::Operation("CreateItem"));
    assert_eq!(both().await, [Level::Full, Level::Summary]);
    tokio::time::sleep_until(until).await;
    assert_eq!(both().await, [Level::Summary, Level::Summary]);
    // What has ended is forgotten.
    assert!(matches!(handle.control.look(), Look::Plain(Level::Summary)));

    let until = Instant::now() + ms(3_000);
    handle.set_until(Scope::All, Level::Headers, until);
    assert_eq!(handle.level(), Level::Headers);
    assert_eq!(both().await, [Level::Headers, Level::Headers]);
    call(&service, amy()).await;
    assert_eq!(
        (handle.level(), levels(&sink)),
        (Level::Summary, vec![Level::Headers]),
        "it began before the end"
    );
    assert_eq!(both().await, [Level::Summary, Level::Summary]);
    handle.set(Scope::Principal("amy@contoso.com"), Level::Off);
    assert_eq!(both().await, [Level::Summary]);
    handle.clear(Scope::Principal("amy@contoso.com"));
    assert_eq!(both().await, [Level::Summary, Level::Summary]);
    handle.set(Scope::All, Level::Off);
    assert!(matches!(handle.control.look(), Look::Off));
}

#[tokio::test(start_paused = true)]
async fn a_principal_that_only_the_charges_tell() {
    let sink = MemorySink::new();
    let layer = AuditLogLayer::new(sink.clone()).level(Level::Off);
    layer
        .handle()
        .set(Scope::Principal("Tenant-7"), Level::Full);
    let by_length =
        |request: &Request<ReplayBody>| Principal::new(format!("Tenant-{}", request.body().len()));
    let inner = ConcurrencyByPrincipalLayer::in_flight(1, by_length)
        .layer(server(1, |_| Ok(Response::new(Script::text("hello")))));
    let service = layer.layer(inner);
    call(&service, "seven77".into()).await;
    call(&service, "six666".into()).await;
    let record = only(&sink);
    assert_eq!(
        (level_of(&record), record.principal.as_deref()),
        (Level::Full, Some("Tenant-7"))
    );
    assert_eq!(record.request_body.unwrap().bytes, "seven77");
    assert_eq!(record.charges[0].budget.as_ref(), "Concurrency");
}

#[test]
fn levels_are_read_and_written_as_words() {
    for (word, level) in [
        ("off", Level::Off),
        ("summary", Level::Summary),
        ("headers", Level::Headers),
        ("full", Level::Full),
    ] {
        assert_eq!(level.to_string(), word);
        assert_eq!(word.parse(), Ok(level));
        assert_eq!(word.to_uppercase().parse(), Ok(level));
    }
    for text in ["", "none", " full", "fulls"] {
        let error = text.parse::<Level>().unwrap_err().to_string();
        assert!(error.contains(&format!("{text:?}")), "{error}");
        assert!(error.ends_with("off, summary, headers or full"), "{error}");
    }
    assert_eq!(format!("{:>8}", Level::Off), "     off");
}

/// How many rules a call of this principal looks at.
fn looks(control: &Control, operation: &str, principal: &str) -> (u64, Level) {
    counted::during(|| {
        let mut levels = control.begin(Some(operation));
        levels.settle([principal].into_iter())
    })
}

#[tokio::test(start_paused = true)]
async fn a_call_looks_at_its_own_rules_alone() {
    let end = Instant::now() + ms(3_600_000);
    for n in [1, 10_000] {
        let control = Control::new();
        for number in 0..n {
            let until = (number % 2 == 0).then_some(end);
            let name = format!("user{number}@contoso.com");
            control.set(Scope::Principal(&name), Level::Full, until);
            let name = format!("Operation{number}");
            control.set(Scope::Operation(&name), Level::Headers, until);
        }
        let own = looks(&control, "Operation0", "User0@contoso.com");
        assert_eq!(own, (2, Level::Full), "{n}");
        let other = looks(&control, "Operation0", "other@contoso.com");
        assert_eq!(other, (1, Level::Headers), "{n}");
        let other = looks(&control, "GetItem", "other@contoso.com");
        assert_eq!(other, (0, Level::Summary), "{n}");
    }
}

#[tokio::test(start_paused = true)]
async fn rules_that_end_one_by_one_cost_a_few_looks_each() {
    const RULES: u64 = 2_000;
    let control = Control::new();
    let begin = Instant::now();
    for number in 0..RULES {
        let name = format!("user{number}@contoso.com");
        let until = begin + ms(number + 1);
        control.set(Scope::Principal(&name), Level::Full, Some(until));
    }
    let mut all = 0;
    let last = format!("user{}@contoso.com", RULES - 1);
    for _ in 0..RULES {
        let (work, level) = looks(&control, "GetItem", &last);
        assert_eq!(level, Level::Full);
        all += work;
        // A call on its way keeps its rules: what is changed meanwhile is a copy.
        let _kept = control.begin(None);
        tokio::time::advance(ms(1)).await;
    }
    assert_eq!(looks(&control, "GetItem", &last).1, Level::Summary);
    assert!(matches!(control.look(), Look::Plain(Level::Summary)));
    assert!(all < 6 * RULES, "{all} looks");
}

/// One thing that is done with levels.
#[derive(Clone, Debug)]
enum Step {
    Set(u8, Level, Option<u64>),
    Clear(u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let level = || {
        prop_oneof![
            Just(Level::Off),
            Just(Level::Summary),
            Just(Level::Headers),
            Just(Level::Full)
        ]
    };
    prop_oneof![
        4 => (0..9_u8, level(), proptest::option::of(0..20_u64)).prop_map(|(of, level, ms)| Step::Set(of, level, ms)),
        1 => (0..9_u8).prop_map(Step::Clear),
        3 => (0..8_u64).prop_map(Step::Wait),
    ]
}

const PRINCIPALS: [&str; 4] = ["amy", "bob", "cem", "dan"];
const OPERATIONS: [&str; 4] = ["GetItem", "getitem", "FindItem", "SendItem"];

/// Of all, of a principal, or of an operation.
fn scope(number: u8) -> Scope<'static> {
    match usize::from(number) {
        0 => Scope::All,
        number @ 1..=4 => Scope::Principal(PRINCIPALS[number - 1]),
        number => Scope::Operation(OPERATIONS[number - 5]),
    }
}

proptest! {
    #[test]
    fn levels_are_as_in_the_model(steps in proptest::collection::vec(step(), 0..40)) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let control = Control::new();
            let handle = AuditHandle { control: Arc::new(control), sink: Arc::new(MemorySink::new()) };
            let control = &handle.control;
            let mut base = Level::Summary;
            let mut rules: HashMap<Scope<'static>, (Level, Option<Instant>)> = HashMap::new();
            for step in steps {
                match step {
                    Step::Set(0, level, None) => {
                        handle.set(Scope::All, level);
                        base = level;
                        rules.remove(&Scope::All);
                    }
                    Step::Set(of, level, after) => {
                        let until = after.map(|after| Instant::now() + ms(after));
                        match until {
                            Some(until) => handle.set_until(scope(of), level, until),
                            None => handle.set(scope(of), level),
                        }
                        rules.insert(scope(of), (level, until));
                    }
                    Step::Clear(of) => {
                        handle.clear(scope(of));
                        rules.remove(&scope(of));
                    }
                    Step::Wait(millis) => tokio::time::advance(ms(millis)).await,
                }
                let now = Instant::now();
                rules.retain(|_, (_, until)| until.is_none_or(|until| now < until));
                let said = |scope| rules.get(&scope).map(|(level, _)| *level);
                let all = said(Scope::All).unwrap_or(base);
                prop_assert_eq!(handle.level(), all);
                for operation in OPERATIONS {
                    let otherwise = said(Scope::Operation(operation)).unwrap_or(all);
                    for (at, principal) in PRINCIPALS.into_iter().enumerate() {
                        let next = PRINCIPALS[(at + 1) % PRINCIPALS.len()];
                        let levels = [said(Scope::Principal(principal)), said(Scope::Principal(next))];
                        let expected = levels.into_iter().flatten().max().unwrap_or(otherwise);
                        let mut levels = control.begin(Some(operation));
                        let at_most = levels.at_most;
                        let level = levels.settle([principal, &next.to_uppercase()].into_iter());
                        prop_assert_eq!(level, expected);
                        prop_assert!(level <= at_most);
                    }
                }
                // By now a call has looked.
                prop_assert_eq!(matches!(control.look(), Look::Rules), !rules.is_empty());
            }
            Ok(())
        })?;
    }
}
