//! [`Fake`]: a Redis in virtual time. It runs the script itself, in a Lua of its own, and loses what it is told to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use mlua::{Lua, Table, Value as LuaValue, Variadic};
use parking_lot::Mutex;
use redis::{Cmd, Value};
use serde_json::Value as Json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use tower_ews::ledger::redis::{Messages, RedisConnect, RedisFuture};

/// A server. Clones share it.
#[derive(Clone)]
pub(crate) struct Fake(Arc<Inner>, Arc<AtomicBool>);

struct Inner {
    lua: Lua,
    state: Arc<Mutex<State>>,
    weather: Mutex<Weather>,
    rng: Mutex<fastrand::Rng>,
    down: AtomicBool,
    loaded: AtomicBool,
    calls: AtomicU64,
    watch: Mutex<Option<Watch>>,
}

/// Is told the processes whose leases are good, before each execution of the script.
type Watch = Box<dyn Fn(&HashSet<String>) + Send + Sync>;

/// What happens to messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// The longest way there, and back.
    pub(crate) one_way: Duration,
    /// How many of a hundred requests, replies and messages are lost.
    pub(crate) lost: u8,
    /// How many of a hundred requests come later, after their sender has given up.
    pub(crate) late: u8,
}

/// The fields of a hash, and when it ends.
type Hash = (BTreeMap<String, String>, Option<Instant>);
/// Its channels, and where it hears.
type Listener = (Vec<String>, mpsc::UnboundedSender<(String, String)>);

#[derive(Default)]
struct State {
    hashes: HashMap<String, Hash>,
    listeners: Vec<Listener>,
    outbox: Vec<(String, String)>,
    started: Option<Instant>,
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fake")
    }
}

fn to_lua(lua: &Lua, json: &Json) -> mlua::Result<LuaValue> {
    Ok(match json {
        Json::Null => LuaValue::Nil,
        Json::Bool(b) => LuaValue::Boolean(*b),
        Json::Number(n) => LuaValue::Number(n.as_f64().unwrap()),
        Json::String(s) => LuaValue::String(lua.create_string(s)?),
        Json::Array(all) => {
            let table = lua.create_table()?;
            for (at, one) in all.iter().enumerate() {
                table.set(at + 1, to_lua(lua, one)?)?;
            }
            LuaValue::Table(table)
        }
        Json::Object(all) => {
            let table = lua.create_table()?;
            for (name, one) in all {
                table.set(name.as_str(), to_lua(lua, one)?)?;
            }
            LuaValue::Table(table)
        }
    })
}

fn number(n: f64) -> Json {
    // As cjson writes it: fourteen digits.
    let n: f64 = format!("{n:.13e}").parse().unwrap();
    match n.fract() == 0.0 && n.abs() < 1e14 {
        true => Json::from(n as i64),
        false => Json::from(n),
    }
}

fn to_json(value: &LuaValue) -> Json {
    match value {
        LuaValue::Nil => Json::Null,
        LuaValue::Boolean(b) => Json::from(*b),
        LuaValue::Integer(n) => Json::from(*n),
        LuaValue::Number(n) => number(*n),
        LuaValue::String(s) => Json::from(s.to_str().unwrap().to_owned()),
        LuaValue::Table(table) if table.raw_len() > 0 => {
            let all = table.sequence_values::<LuaValue>();
            all.map(|one| to_json(&one.unwrap())).collect()
        }
        LuaValue::Table(table) => {
            let all = table.pairs::<String, LuaValue>();
            let all = all.map(|pair| {
                let (name, one) = pair.unwrap();
                (name, to_json(&one))
            });
            Json::Object(all.collect())
        }
        other => panic!("{other:?} in JSON"),
    }
}

fn text(value: &LuaValue) -> String {
    match value {
        LuaValue::String(s) => s.to_str().unwrap().to_owned(),
        LuaValue::Integer(n) => n.to_string(),
        LuaValue::Number(n) => number(*n).to_string(),
        other => panic!("{other:?} as an argument"),
    }
}

impl State {
    fn now(&mut self) -> Duration {
        let started = *self.started.get_or_insert_with(Instant::now);
        Duration::from_secs(1_800_000_000) + started.elapsed()
    }

    fn hash(&mut self, key: &str) -> &mut Hash {
        let now = Instant::now();
        let hash = self.hashes.entry(key.to_owned()).or_default();
        if hash.1.is_some_and(|until| until <= now) {
            *hash = Default::default();
        }
        hash
    }

    fn call(&mut self, lua: &Lua, name: &str, args: &[String]) -> mlua::Result<LuaValue> {
        let strings = |all: Vec<String>| -> mlua::Result<LuaValue> {
            Ok(LuaValue::Table(lua.create_sequence_from(all)?))
        };
        match name {
            "TIME" => {
                let now = self.now();
                let parts = [now.as_secs().to_string(), now.subsec_micros().to_string()];
                strings(parts.into())
            }
            "HGETALL" => {
                let hash = self.hash(&args[0]);
                let pairs = hash.0.iter();
                strings(pairs.flat_map(|(a, b)| [a.clone(), b.clone()]).collect())
            }
            "HSET" => {
                let hash = self.hash(&args[0]);
                for pair in args[1..].chunks_exact(2) {
                    hash.0.insert(pair[0].clone(), pair[1].clone());
                }
                Ok(LuaValue::Integer(0))
            }
            "HDEL" => {
                let hash = self.hash(&args[0]);
                for name in &args[1..] {
                    hash.0.remove(name);
                }
                if hash.0.is_empty() {
                    self.hashes.remove(&args[0]);
                }
                Ok(LuaValue::Integer(0))
            }
            "DEL" => {
                self.hashes.remove(&args[0]);
                Ok(LuaValue::Integer(1))
            }
            "PEXPIRE" => {
                let time = Duration::from_millis(args[1].parse().unwrap());
                self.hash(&args[0]).1 = Some(Instant::now() + time);
                Ok(LuaValue::Integer(1))
            }
            "PUBLISH" => {
                self.outbox.push((args[0].clone(), args[1].clone()));
                Ok(LuaValue::Integer(1))
            }
            other => panic!("the script calls {other}"),
        }
    }
}

impl Fake {
    pub(crate) fn new(seed: u64) -> Self {
        let lua = Lua::new();
        let state = Arc::new(Mutex::new(State::default()));
        let redis = lua.create_table().unwrap();
        let shared = Arc::clone(&state);
        let call = lua.create_function(move |lua, args: Variadic<LuaValue>| {
            let args: Vec<String> = args.iter().map(text).collect();
            shared.lock().call(lua, &args[0], &args[1..])
        });
        redis.set("call", call.unwrap()).unwrap();
        let error = lua.create_function(|lua, text: String| {
            let table = lua.create_table()?;
            table.set("err", text)?;
            Ok(table)
        });
        redis.set("error_reply", error.unwrap()).unwrap();
        let cjson = lua.create_table().unwrap();
        let decode = lua.create_function(|lua, text: String| {
            to_lua(lua, &serde_json::from_str(&text).unwrap())
        });
        cjson.set("decode", decode.unwrap()).unwrap();
        let encode = lua.create_function(|_, value: LuaValue| Ok(to_json(&value).to_string()));
        cjson.set("encode", encode.unwrap()).unwrap();
        lua.globals().set("redis", redis).unwrap();
        lua.globals().set("cjson", cjson).unwrap();
        let script = format!(
            "script = function(KEYS, ARGV) {} end",
            include_str!("../../src/ledger/redis/lease.lua")
        );
        lua.load(script).exec().unwrap();
        let inner = Inner {
            lua,
            state,
            weather: Mutex::new(Weather {
                one_way: Duration::from_micros(100),
                lost: 0,
                late: 0,
            }),
            rng: Mutex::new(fastrand::Rng::with_seed(seed)),
            down: AtomicBool::new(false),
            loaded: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            watch: Mutex::new(None),
        };
        Self(Arc::new(inner), Arc::default())
    }

    /// The way of one process to the server, which can be cut.
    pub(crate) fn fork(&self) -> Self {
        Self(Arc::clone(&self.0), Arc::default())
    }

    /// The process says and hears nothing any more.
    pub(crate) fn cut(&self) {
        self.1.store(true, Relaxed);
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        *self.0.weather.lock() = weather;
    }

    /// Nothing arrives any more, or again.
    pub(crate) fn set_down(&self, down: bool) {
        self.0.down.store(down, Relaxed);
        if down {
            self.0.state.lock().listeners.clear();
        }
    }

    pub(crate) fn flush(&self) {
        self.0.state.lock().hashes.clear();
    }

    /// How many commands were executed.
    pub(crate) fn calls(&self) -> u64 {
        self.0.calls.load(Relaxed)
    }

    pub(crate) fn set_watch(&self, watch: impl Fn(&HashSet<String>) + Send + Sync + 'static) {
        *self.0.watch.lock() = Some(Box::new(watch));
    }

    /// The processes whose leases are good.
    pub(crate) fn living(&self) -> HashSet<String> {
        let now = self.0.state.lock().now().as_millis() as f64;
        let fields = self.fields().into_iter();
        let living = fields.filter_map(|(_, field, value)| {
            let process = field.strip_prefix("p:")?;
            let known: Json = serde_json::from_str(&value).unwrap();
            (known["e"].as_f64().unwrap() > now).then(|| process.to_owned())
        });
        living.collect()
    }

    /// The fields of all hashes.
    pub(crate) fn fields(&self) -> Vec<(String, String, String)> {
        let mut state = self.0.state.lock();
        let keys: Vec<String> = state.hashes.keys().cloned().collect();
        let mut all = Vec::new();
        for key in keys {
            for (field, value) in &state.hash(&key).0 {
                all.push((key.clone(), field.clone(), value.clone()));
            }
        }
        all
    }

    pub(crate) fn set_field(&self, key: &str, field: &str, value: &str) {
        let mut state = self.0.state.lock();
        state.hash(key).0.insert(field.to_owned(), value.to_owned());
    }

    fn way(&self) -> Duration {
        let weather = *self.0.weather.lock();
        weather.one_way.mul_f64(0.5 + self.0.rng.lock().f64() / 2.0)
    }

    fn is_lost(&self) -> bool {
        let lost = self.0.weather.lock().lost;
        self.0.down.load(Relaxed) || self.1.load(Relaxed) || self.0.rng.lock().u8(0..100) < lost
    }

    fn is_late(&self) -> bool {
        let late = self.0.weather.lock().late;
        self.0.rng.lock().u8(0..100) < late
    }

    fn execute(&self, args: &[String]) -> Result<Value, redis::RedisError> {
        self.0.calls.fetch_add(1, Relaxed);
        let response = match args[0].as_str() {
            "EVALSHA" if !self.0.loaded.load(Relaxed) => {
                let code = String::from("NOSCRIPT");
                return Err(redis::make_extension_error(code, None));
            }
            "EVALSHA" | "EVAL" => {
                self.0.loaded.store(true, Relaxed);
                if let Some(watch) = &*self.0.watch.lock() {
                    watch(&self.living());
                }
                let lua = &self.0.lua;
                let script: mlua::Function = lua.globals().get("script").unwrap();
                let keys = lua.create_sequence_from([args[3].as_str()]).unwrap();
                let argv = lua.create_sequence_from([args[4].as_str()]).unwrap();
                match script.call::<LuaValue>((keys, argv)).unwrap() {
                    LuaValue::String(text) => Value::BulkString(text.as_bytes().to_vec()),
                    LuaValue::Table(error) => {
                        let error: String = Table::get(&error, "err").unwrap();
                        let (code, detail) = error.split_once(' ').unwrap_or((&error, ""));
                        let detail = Some(detail.to_owned());
                        return Err(redis::make_extension_error(code.to_owned(), detail));
                    }
                    other => panic!("the script returned {other:?}"),
                }
            }
            "PUBLISH" => {
                let message = (args[1].clone(), args[2].clone());
                self.0.state.lock().outbox.push(message);
                Value::Int(1)
            }
            other => panic!("{other} is sent"),
        };
        self.deliver();
        Ok(response)
    }

    fn deliver(&self) {
        let mut state = self.0.state.lock();
        for (channel, text) in std::mem::take(&mut state.outbox) {
            for (channels, to) in &state.listeners {
                if channels.contains(&channel) && !self.is_lost() {
                    let (to, way) = (to.clone(), self.way());
                    let message = (channel.clone(), text.clone());
                    tokio::spawn(async move {
                        sleep(way).await;
                        _ = to.send(message);
                    });
                }
            }
        }
    }
}

impl RedisConnect for Fake {
    fn command(&self, command: Cmd) -> RedisFuture<Value> {
        let args = command.args_iter().map(|arg| match arg {
            redis::Arg::Simple(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            _ => panic!("a cursor"),
        });
        let (fake, args) = (self.clone(), args.collect::<Vec<_>>());
        Box::pin(async move {
            sleep(fake.way()).await;
            if fake.is_lost() {
                std::future::pending::<()>().await;
            }
            if fake.is_late() {
                let (later, args) = (fake.clone(), args.clone());
                let after = Duration::from_millis(fake.0.rng.lock().u64(0..20_000));
                tokio::spawn(async move {
                    sleep(after).await;
                    _ = later.execute(&args);
                });
                std::future::pending::<()>().await;
            }
            let response = fake.execute(&args);
            if fake.is_lost() {
                std::future::pending::<()>().await;
            }
            sleep(fake.way()).await;
            response
        })
    }

    fn subscribe(&self, channels: Vec<String>) -> RedisFuture<Messages> {
        let fake = self.clone();
        Box::pin(async move {
            sleep(fake.way()).await;
            if fake.0.down.load(Relaxed) {
                std::future::pending::<()>().await;
            }
            let (sender, mut receiver) = mpsc::unbounded_channel();
            fake.0.state.lock().listeners.push((channels, sender));
            let messages = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
            Ok(Box::pin(messages) as Messages)
        })
    }
}
