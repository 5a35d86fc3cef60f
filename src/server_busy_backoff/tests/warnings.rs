//! What is wired wrongly is said once for each layer, with the cure.

use std::io;

use tracing_subscriber::fmt::MakeWriter;

use super::*;

/// What was printed.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Printed {
    /// Takes the warnings of this layer.
    fn take(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock());
        let text = String::from_utf8(bytes).unwrap();
        let ours = |line: &&str| {
            line.contains("server_busy_backoff::warnings") || line.contains("tower_ews::wiring")
        };
        text.lines().filter(ours).map(str::to_owned).collect()
    }
}

impl io::Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Printed {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Listens as long as it lives. While there is one listener alone, an event that another thread is the first to come to is
/// never seen by anybody: so there are two, one of which hears nothing.
type Listener = (tracing::subscriber::DefaultGuard, tracing::Dispatch);

fn print() -> (Printed, Listener) {
    let printed = Printed::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(printed.clone())
        .with_ansi(false)
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let silent = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    (printed, (guard, silent))
}

const BROTLI: (&str, &str) = ("content-encoding", "br");

#[tokio::test(start_paused = true)]
async fn a_wait_that_no_ledger_hears_of() {
    let (printed, _guard) = print();
    let log = Log::new();
    let partly = [
        ("Success", "NoError", ""),
        ("Error", "ErrorServerBusy", &*back_off("100")),
    ];
    let partly = messages("CreateItem", &partly);
    for (name, warned, server) in [
        (
            "a fault",
            true,
            Server::new(&log).xml(500, &busy_fault("1000")),
        ),
        ("a member", true, Server::new(&log).xml(200, &partly)),
        (
            "a header",
            true,
            Server::new(&log).respond(503, &[("retry-after", "1")], ""),
        ),
        ("no wait", false, Server::new(&log).xml(503, "")),
        (
            "a wait of zero",
            false,
            Server::new(&log).xml(500, &busy_fault("0")),
        ),
        ("a success", false, Server::new(&log)),
    ] {
        let server = server.xml(200, &success());
        let layer = ServerBusyBackoffLayer::ews();
        send(layer.clone(), &server, ews("CreateItem"))
            .await
            .unwrap();
        let printed_now = printed.take();
        assert_eq!(
            printed_now.len(),
            usize::from(warned),
            "{name}: {printed_now:?}"
        );
        for line in printed_now {
            assert!(line.contains("WARN") && line.contains("ServerBusyBackoffLayer::ledger"));
            assert!(line.contains("operation=\"CreateItem\""), "{line}");
        }
        // Once is enough, whichever service of the layer it is.
        let server = Server::new(&log)
            .xml(500, &busy_fault("1000"))
            .xml(200, &success());
        send(layer, &server, ews("CreateItem")).await.unwrap();
        assert_eq!(printed.take().len(), usize::from(!warned), "{name}");
    }

    // The ledger hears of it.
    let server = Server::new(&log)
        .charged()
        .xml(500, &busy_fault("1000"))
        .xml(200, &success());
    let layer = ServerBusyBackoffLayer::ews().ledger(recorder(&log));
    send(layer, &server, ews("CreateItem")).await.unwrap();
    assert_eq!(printed.take(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_compressed() {
    let (printed, _guard) = print();
    let log = Log::new();
    let layer = ServerBusyBackoffLayer::ews;
    for (name, warned, server) in [
        (
            "a success",
            true,
            Server::new(&log).respond(200, &[XML, BROTLI], "x"),
        ),
        (
            "a fault",
            true,
            Server::new(&log)
                .respond(500, &[XML, BROTLI], "x")
                .xml(200, &success()),
        ),
        (
            "no type",
            true,
            Server::new(&log).respond(200, &[BROTLI], "x"),
        ),
        (
            "a page",
            false,
            Server::new(&log).respond(200, &[("content-type", "text/html"), BROTLI], "x"),
        ),
        (
            "a redirect",
            false,
            Server::new(&log).respond(302, &[BROTLI], "x"),
        ),
        (
            "not compressed",
            false,
            Server::new(&log).xml(200, &success()),
        ),
        (
            "identity",
            false,
            Server::new(&log).respond(200, &[XML, ("content-encoding", "identity")], &success()),
        ),
    ] {
        let layer = layer();
        // What nobody can read is an error, too.
        let unreadable = ["a success", "no type"].contains(&name);
        let result = send(layer.clone(), &server, ews("GetItem")).await;
        assert_eq!(result.is_err(), unreadable, "{name}");
        let printed_now = printed.take();
        assert_eq!(
            printed_now.len(),
            usize::from(warned),
            "{name}: {printed_now:?}"
        );
        for line in printed_now {
            assert!(
                line.contains("WARN") && line.contains("DecompressionLayer"),
                "{line}"
            );
        }
        let server = Server::new(&log).respond(200, &[XML, BROTLI], "x");
        send(layer, &server, ews("GetItem")).await.unwrap_err();
        assert_eq!(printed.take().len(), usize::from(!warned), "{name}");
    }
    // Plain HTTP reads no bodies.
    let server = Server::new(&log).respond(200, &[XML, BROTLI], "x");
    let mut call = ews("GetItem");
    // Behind this path no EWS call is meant, of which there would be a warning.
    *call.uri_mut() = "/api".parse().unwrap();
    send(ServerBusyBackoffLayer::http(), &server, call)
        .await
        .unwrap();
    assert_eq!(printed.take(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_be_reached() {
    let (printed, _guard) = print();
    let log = Log::new();
    let layer = ServerBusyBackoffLayer::ews();
    // Connections that were closed just then are no reason to warn.
    let server = Server::new(&log).fail(refused()).fail(refused());
    let server = server.xml(200, &success());
    send(layer.clone(), &server, ews("CreateItem"))
        .await
        .unwrap();
    assert_eq!(printed.take(), [""; 0]);
    for warned in [true, false] {
        let server = (0..3).fold(Server::new(&log), |server, _| server.fail(refused()));
        let server = server.xml(200, &success());
        send(layer.clone(), &server, ews("CreateItem"))
            .await
            .unwrap();
        let lines = printed.take();
        assert_eq!(lines.len(), usize::from(warned), "{lines:?}");
        for line in lines {
            assert!(line.contains("operation=\"CreateItem\""), "{line}");
            assert!(line.contains("connection refused") && line.contains("set a Deadline"));
        }
    }
}
