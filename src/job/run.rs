//! [`Job`]: makes many calls with bounded concurrency, and records the outcome of each.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use tower::{BoxError, ServiceExt};
use tower_service::Service;

use super::journal::{Journal, Mark};
use super::outcome::{JobOutcome, outcome};

type Judge = Arc<dyn Fn(&Result<Response<Bytes>, BoxError>) -> JobOutcome + Send + Sync>;

/// How a job is done. The [module](super) has an example with a journal.
///
/// ```
/// use std::convert::Infallible;
///
/// use bytes::Bytes;
/// use futures_util::StreamExt;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower_ews::job::Job;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let client = tower::service_fn(async |_: Request<u32>| {
///     Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("created")))
/// });
/// let requests = (0..1_000).map(|item| (item.to_string(), Request::new(item)));
/// let results = Job::new().concurrency(100).run(client, requests);
/// assert_eq!(results.count().await, 1_000);
/// # });
/// ```
#[derive(Clone)]
#[must_use = "a job does nothing until it is run"]
pub struct Job {
    concurrency: usize,
    journal: Option<Journal>,
    judge: Judge,
}

impl Job {
    /// Creates a job without a journal. Default: 1,000 concurrent calls.
    pub fn new() -> Self {
        Self {
            concurrency: 1_000,
            journal: None,
            judge: Arc::new(outcome),
        }
    }

    /// Sets how many calls are offered at the same time. 1,000 by default, at least 1.
    ///
    /// They mostly wait in the ledger, which groups them by mailbox: it can only do so with those that it sees. Several for each
    /// mailbox that can be open are right. Each takes its request and, in an [`EwsStack`](crate::EwsStack), some
    /// 10 KB of memory; 15 KB with two [accounts](crate::account_pool), and 1 KB more for each further one.
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.concurrency = calls.max(1);
        self
    }

    /// Sets the journal. What its past has done is skipped, and what is in doubt.
    pub fn journal(mut self, journal: Journal) -> Self {
        self.journal = Some(journal);
        self
    }

    /// Sets what a response or an error says of its call. By default:
    ///
    /// - a success is [`Done`](JobOutcome::Done), whatever its body says of single members,
    /// - a refusal after the last retry, a status of 400 to 499 and an error that proves that nothing was sent are
    ///   [`NotExecuted`](JobOutcome::NotExecuted), and so is a SOAP fault whose code says it,
    /// - everything else is [`InDoubt`](JobOutcome::InDoubt).
    ///
    /// For calls that may be made twice, such as reads, nothing needs to be in doubt:
    ///
    /// ```
    /// use tower_ews::job::{Job, JobOutcome};
    ///
    /// let job = Job::new().judge(|result| match result {
    ///     Ok(response) if response.status().is_success() => JobOutcome::Done,
    ///     _ => JobOutcome::NotExecuted,
    /// });
    /// # let _ = job;
    /// ```
    pub fn judge<F>(mut self, judge: F) -> Self
    where
        F: Fn(&Result<Response<Bytes>, BoxError>) -> JobOutcome + Send + Sync + 'static,
    {
        self.judge = Arc::new(judge);
        self
    }

    /// Makes the calls, and returns their results as they come. Nothing is sent before the stream is polled.
    ///
    /// Each request has a key, which stands for it in the journal: the same one in each run, and each one once. One whose key was
    /// done before, in this run or an earlier one, is skipped, and one whose key is under way ends with a
    /// [`JournalError`](super::JournalError). `requests` is asked for the next one when there is room for it. Responses are read to their ends.
    pub fn run<S, B, I>(self, service: S, requests: I) -> Results<S, I::IntoIter>
    where
        I: IntoIterator<Item = (String, Request<B>)>,
        S: Service<Request<B>> + Clone,
    {
        Results {
            job: self,
            service,
            requests: Some(requests.into_iter()),
            calls: FuturesUnordered::new(),
            progress: Progress::default(),
        }
    }
}

impl Default for Job {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("concurrency", &self.concurrency)
            .field("journal", &self.journal)
            .finish_non_exhaustive()
    }
}

/// How one call of a job has ended.
///
/// ```
/// use tower_ews::job::{JobOutcome, JobResult};
///
/// fn report(result: &JobResult) -> String {
///     match (&result.outcome, &result.result) {
///         (JobOutcome::Done, _) => format!("{} is there", result.key),
///         (_, Ok(response)) => format!("{}: HTTP {}", result.key, response.status()),
///         (_, Err(error)) => format!("{}: {error}", result.key),
///     }
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct JobResult {
    /// Which call.
    pub key: String,
    /// Its response, or its error.
    pub result: Result<Response<Bytes>, BoxError>,
    /// What the journal says of it.
    pub outcome: JobOutcome,
}

/// How far a job is.
///
/// ```
/// use tower_ews::job::Progress;
///
/// assert_eq!(Progress::default().done, 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Calls that wait or are under way.
    pub offered: usize,
    /// Calls that were done in this run.
    pub done: usize,
    /// Calls that were not executed.
    pub not_executed: usize,
    /// Calls whose outcome is unknown.
    pub in_doubt: usize,
    /// Calls that were not made, since their keys were done or in doubt already.
    pub skipped: usize,
}

type Call = Pin<Box<dyn Future<Output = JobResult> + Send>>;

/// The results of a job, as a [`Stream`]. Made by [`Job::run`].
#[must_use = "streams do nothing unless they are polled"]
pub struct Results<S, I> {
    job: Job,
    service: S,
    /// None once the last one was taken.
    requests: Option<I>,
    calls: FuturesUnordered<Call>,
    progress: Progress,
}

impl<S, I> Results<S, I> {
    /// Returns how far the job is.
    pub fn progress(&self) -> Progress {
        Progress {
            offered: self.calls.len(),
            ..self.progress
        }
    }

    /// Returns the next request that no earlier run has made.
    fn next_request<B>(&mut self) -> Option<(String, Request<B>)>
    where
        I: Iterator<Item = (String, Request<B>)>,
    {
        let requests = self.requests.as_mut()?;
        for (key, request) in requests {
            let journal = self.job.journal.as_ref();
            if journal.is_none_or(|journal| journal.leaves_open(&key)) {
                return Some((key, request));
            }
            self.progress.skipped += 1;
        }
        self.requests = None;
        None
    }

    /// Offers as many calls as there is room for.
    fn offer<B, ResB>(&mut self)
    where
        I: Iterator<Item = (String, Request<B>)>,
        S: Service<Request<B>, Response = Response<ResB>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Send + 'static,
        ResB: Body + Send + 'static,
        ResB::Data: Send,
        ResB::Error: Into<BoxError>,
    {
        while self.calls.len() < self.job.concurrency {
            let Some((key, request)) = self.next_request() else {
                return;
            };
            let call = make(self.service.clone(), key, request, self.job.clone());
            self.calls.push(Box::pin(call));
        }
    }
}

impl<S, I, B, ResB> Stream for Results<S, I>
where
    I: Iterator<Item = (String, Request<B>)> + Unpin,
    S: Service<Request<B>, Response = Response<ResB>> + Clone + Send + Unpin + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Send + 'static,
    ResB: Body + Send + 'static,
    ResB::Data: Send,
    ResB::Error: Into<BoxError>,
{
    type Item = JobResult;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<JobResult>> {
        self.offer();
        let next = Pin::new(&mut self.calls).poll_next(cx);
        if let Poll::Ready(Some(result)) = &next {
            let progress = &mut self.progress;
            *match result.outcome {
                JobOutcome::Done => &mut progress.done,
                JobOutcome::NotExecuted => &mut progress.not_executed,
                JobOutcome::InDoubt => &mut progress.in_doubt,
            } += 1;
        }
        next
    }
}

impl<S, I> fmt::Debug for Results<S, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Results")
            .field("progress", &self.progress())
            .finish_non_exhaustive()
    }
}

/// Makes one call.
async fn make<S, B, ResB>(service: S, key: String, mut request: Request<B>, job: Job) -> JobResult
where
    S: Service<Request<B>, Response = Response<ResB>>,
    S::Error: Into<BoxError>,
    ResB: Body,
    ResB::Error: Into<BoxError>,
{
    let mark = job.journal.as_ref().map(|journal| Mark::new(journal, &key));
    if let Some(mark) = &mark {
        request.extensions_mut().insert(mark.clone());
    }
    let early = mark.as_ref().zip(job.journal.as_ref());
    let begun = match early.filter(|(_, journal)| !journal.has_layer()) {
        Some((mark, _)) => mark.begin(),
        None => Ok(()),
    };
    let result = match begun {
        Ok(()) => respond(service, request).await,
        Err(error) => Err(error.into()),
    };
    let mut outcome = (job.judge)(&result);
    if let (Some(mark), Some(journal)) = (&mark, &job.journal) {
        if result.is_err() && !mark.is_begun() {
            // What was never sent cannot have been executed. Another call may have the key, so this one says nothing of it.
            outcome = JobOutcome::NotExecuted;
        } else {
            // If this fails the call is in doubt for the next run, and no further one is sent.
            let _ = journal.end(&key, outcome);
        }
    }
    JobResult {
        key,
        result,
        outcome,
    }
}

/// Makes a call, and reads its response to its end.
async fn respond<S, B, ResB>(service: S, request: Request<B>) -> Result<Response<Bytes>, BoxError>
where
    S: Service<Request<B>, Response = Response<ResB>>,
    S::Error: Into<BoxError>,
    ResB: Body,
    ResB::Error: Into<BoxError>,
{
    let response = service.oneshot(request).await.map_err(Into::into)?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(Into::into)?.to_bytes();
    Ok(Response::from_parts(head, body))
}
