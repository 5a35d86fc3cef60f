//! Tests of jobs against a scripted client.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use http::StatusCode;
use http_body_util::Full;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, service_fn};

use super::*;
use bytes::Bytes;
use http::{Request, Response};
use tower::BoxError;

/// A file that several runs append to.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Vec<u8>>>);

impl io::Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Disk {
    fn past(&self) -> Past {
        Past::read(&self.0.lock()[..]).unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }
}

fn requests(number: usize) -> impl Iterator<Item = (String, Request<String>)> + Unpin {
    (0..number).map(|at| (at.to_string(), Request::new(at.to_string())))
}

#[tokio::test(start_paused = true)]
async fn so_many_calls_at_a_time_and_requests_are_made_as_they_are_needed() {
    let client = service_fn(async |_: Request<String>| {
        sleep(Duration::from_secs(1)).await;
        Ok::<_, BoxError>(Response::new(Full::<Bytes>::default()))
    });
    let made = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&made);
    let requests = requests(25).inspect(move |_| *counted.lock() += 1);
    let mut results = Job::new().concurrency(10).run(client, requests);
    let start = Instant::now();
    assert_eq!(*made.lock(), 0);
    let first = results.next().await.unwrap();
    assert_eq!((first.outcome, *made.lock()), (JobOutcome::Done, 10));
    assert_eq!(results.progress().offered, 9);
    let rest: Vec<_> = results.by_ref().collect().await;
    assert_eq!(rest.len(), 24);
    assert_eq!(start.elapsed(), Duration::from_secs(3));
    assert_eq!(results.progress().done, 25);
}

#[tokio::test(start_paused = true)]
async fn outcomes_are_written_and_the_next_run_goes_on() {
    let client = service_fn(async |request: Request<String>| {
        let mut response = Response::new(Full::<Bytes>::default());
        match request.body().as_str() {
            "1" => {
                return Err(BoxError::from(io::Error::from(
                    io::ErrorKind::ConnectionReset,
                )));
            }
            "2" => return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into()),
            "3" => *response.status_mut() = StatusCode::NOT_FOUND,
            "4" => *response.status_mut() = StatusCode::BAD_GATEWAY,
            "5" => std::future::pending().await,
            _ => {}
        }
        Ok(response)
    });
    let disk = Disk::default();
    let journal = Journal::new(disk.clone());
    let service = journal.layer().layer(client);
    let mut results = Job::new().journal(journal).run(service, requests(6));
    let all = async { while results.next().await.is_some() {} };
    assert!(timeout(Duration::from_secs(1), all).await.is_err());
    let progress = results.progress();
    assert_eq!(
        (progress.done, progress.not_executed, progress.in_doubt),
        (1, 2, 2)
    );
    drop(results);

    let mut past = disk.past();
    assert_eq!(past.in_doubt(), ["1", "4", "5"]);
    past.was_executed("1");
    past.was_not_executed("4");
    let journal = Journal::resume(disk.clone(), past);
    let works = service_fn(async |_: Request<String>| {
        Ok::<_, BoxError>(Response::new(Full::<Bytes>::default()))
    });
    let service = journal.layer().layer(works);
    let results = Job::new().journal(journal).run(service, requests(6));
    let mut keys: Vec<String> = results.map(|result| result.key).collect().await;
    keys.sort();
    assert_eq!(keys, ["2", "3", "4"]);
    let past = disk.past();
    assert_eq!(past.in_doubt(), ["5"]);
    assert!(
        (0..5).all(|key| past.is_done(&key.to_string())),
        "{}",
        disk.text()
    );
}

#[tokio::test(start_paused = true)]
async fn without_the_layer_a_call_is_in_doubt_from_the_beginning() {
    let disk = Disk::default();
    let client = service_fn(async |_: Request<String>| {
        std::future::pending::<Result<Response<Full<Bytes>>, BoxError>>().await
    });
    let job = Job::new().journal(Journal::new(disk.clone()));
    let mut results = job.run(client, requests(3));
    let _ = timeout(Duration::from_secs(1), results.next()).await;
    assert_eq!(disk.past().in_doubt(), ["0", "1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_that_cannot_be_written_down() {
    /// Room for a number of lines.
    struct Full2(usize);
    impl io::Write for Full2 {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for has_layer in [true, false] {
        let sent = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&sent);
        let client = service_fn(move |_: Request<String>| {
            *counted.lock() += 1;
            std::future::ready(Ok::<_, BoxError>(Response::new(Full::<Bytes>::default())))
        });
        let journal = Journal::new(Full2(5));
        let layer = has_layer.then(|| journal.layer());
        let service = tower::util::option_layer(layer).layer(client);
        let job = Job::new().concurrency(1).journal(journal);
        let results: Vec<_> = job.run(service, requests(10)).collect().await;
        let errors = results
            .iter()
            .filter_map(|result| result.result.as_ref().err());
        let errors: Vec<_> = errors.collect();
        assert!(errors.iter().all(|error| error.is::<JournalError>()));
        assert_eq!((errors.len(), *sent.lock()), (7, 3));
        let end = &results[9];
        assert_eq!(end.outcome, JobOutcome::NotExecuted);
    }
}

/// Whatever is wrong with the keys: two jobs at the same time, the same job once more, a key that comes twice.
#[tokio::test(start_paused = true)]
async fn one_journal_makes_no_call_twice() {
    for has_layer in [true, false] {
        let sent: Arc<Mutex<Vec<String>>> = Arc::default();
        let counted = Arc::clone(&sent);
        let client = service_fn(move |request: Request<String>| {
            let mut sent = counted.lock();
            sent.push(request.into_body());
            let refused = sent.len() == 3;
            async move {
                sleep(Duration::from_secs(1)).await;
                match refused {
                    true => Err(BoxError::from(io::Error::from(
                        io::ErrorKind::ConnectionRefused,
                    ))),
                    false => Ok(Response::new(Full::<Bytes>::default())),
                }
            }
        });
        let disk = Disk::default();
        let journal = Journal::new(disk.clone());
        let layer = has_layer.then(|| journal.layer());
        let service = tower::util::option_layer(layer).layer(client);
        let job = Job::new().concurrency(4).journal(journal);
        let run = || {
            job.clone()
                .run(service.clone(), requests(10).chain(requests(10)))
        };
        let results = futures_util::stream::select(run(), run());
        let refusals = results
            .filter(|result| std::future::ready(result.outcome != JobOutcome::Done))
            .map(|result| result.result.unwrap_err());
        let refusals: Vec<BoxError> = refusals.collect().await;
        assert!(refusals.len() > 1, "{refusals:?}");
        run().collect::<Vec<_>>().await;
        run().collect::<Vec<_>>().await;
        let mut sent = std::mem::take(&mut *sent.lock());
        // The one that was refused was made once more.
        assert_eq!(sent.len(), 11);
        sent.sort();
        sent.dedup();
        assert_eq!(sent.len(), 10);
        let past = disk.past();
        assert!(
            (0..10).all(|key| past.is_done(&key.to_string())),
            "{}",
            disk.text()
        );
    }
}
