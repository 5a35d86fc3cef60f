//! What whoever calls can send in smaller parts is not resent as it is, if that was perhaps too much.

use super::*;
use crate::trail::PartOfBatch;

fn part_of_batch(operation: &str) -> Request<ReplayBody> {
    let mut request = ews(operation);
    request.extensions_mut().insert(PartOfBatch);
    request
}

#[tokio::test(start_paused = true)]
async fn a_lost_response_of_a_read_is_handed_over_at_once() {
    for is_part in [true, false] {
        let log = Log::new();
        let server = Server::new(&log).fail(reset()).xml(200, &success());
        let request = match is_part {
            true => part_of_batch("GetItem"),
            false => ews("GetItem"),
        };
        let result = send(ServerBusyBackoffLayer::ews(), &server, request).await;
        if is_part {
            let error = result.unwrap_err();
            assert_eq!(log.calls().len(), 1);
            let lost = std::iter::successors(
                Some(&*error as &(dyn std::error::Error + 'static)),
                |error| error.source(),
            )
            .any(|error| error.is::<std::io::Error>());
            assert!(lost, "{error:?}");
            // What the layers above make of it.
            let failure = crate::retry::Failure::of(&*error);
            assert_eq!(failure, crate::retry::Failure::Lost);
        } else {
            assert_eq!(text(result.unwrap()).await, success());
            assert_eq!(log.calls().len(), 2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_breaks_off_is_handed_over_at_once() {
    for (is_part, calls) in [(true, 1), (false, 2)] {
        let log = Log::new();
        let broken = TestBody::new(&log, Vec::<Bytes>::new()).then(Err(reset().into()));
        let response = http_response(200, &[XML], broken);
        let server = Server::new(&log)
            .step(move |_| async move { Ok(response) })
            .xml(200, &success());
        let request = match is_part {
            true => part_of_batch("GetItem"),
            false => ews("GetItem"),
        };
        let result = send(ServerBusyBackoffLayer::ews(), &server, request).await;
        assert_eq!(log.calls().len(), calls);
        assert_eq!(result.is_ok(), !is_part);
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_a_read_is_handed_over_at_once() {
    let timed_out = messages("GetItem", &[("Error", "ErrorTimeoutExpired", ""); 3]);
    let one = fault("ErrorTimeoutExpired", "");
    for (status, refusal) in [(200, &timed_out), (500, &one)] {
        for is_part in [true, false] {
            let log = Log::new();
            let server = Server::new(&log).xml(status, refusal).xml(200, &success());
            let request = match is_part {
                true => part_of_batch("GetItem"),
                false => ews("GetItem"),
            };
            let response = send(ServerBusyBackoffLayer::ews(), &server, request)
                .await
                .unwrap();
            let (calls, expected) = match is_part {
                true => (1, refusal),
                false => (2, &success()),
            };
            assert_eq!(log.calls().len(), calls);
            assert_eq!(info(&response).attempts as usize, calls);
            assert_eq!(text(response).await, *expected);
        }
    }
}

/// What was certainly not executed is resent, however large: it was not too much.
#[tokio::test(start_paused = true)]
async fn what_was_not_executed_is_resent_all_the_same() {
    let busy = fault("ErrorServerBusy", &back_off("2000"));
    for operation in ["GetItem", "CreateItem"] {
        let log = Log::new();
        let server = Server::new(&log)
            .fail(refused())
            .xml(503, "")
            .xml(500, &busy)
            .xml(200, &success());
        let response = send(
            ServerBusyBackoffLayer::ews(),
            &server,
            part_of_batch(operation),
        )
        .await
        .unwrap();
        let calls = log.calls();
        assert_eq!((calls.len(), info(&response).attempts), (4, 4));
        assert!(calls[3] - calls[2] >= millis(2000), "{calls:?}");
    }
}
