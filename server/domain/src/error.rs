//! Everything that can be answered instead of a result, and how each request's end is counted.

use std::time::Duration;

/// The closed set of error kinds. One table in the front end maps them to gRPC and HTTP; nothing else does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorCode {
    /// The request is wrong and will be wrong again.
    InvalidArgument,
    /// No such function, version or route.
    NotFound,
    /// The request conflicts with the present state.
    Conflict,
    /// Larger than a stated limit.
    TooLarge,
    /// Understood, but not offered here.
    Unsupported,
    /// Everything that could take it is busy: come back later.
    Exhausted,
    /// Nothing can take it now: not loaded, starting or draining.
    Unavailable,
    /// The deadline passed, or cannot be met.
    DeadlineExceeded,
    /// The caller left.
    Cancelled,
    /// Our fault, or the model's.
    Internal,
    /// Nobody knows who asks.
    Unauthenticated,
    /// Who asks may not.
    Forbidden,
}

/// Why a request was deliberately and early refused. Never a word for a failure.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ShedReason {
    /// Every slot of every environment of the version is taken.
    EnvironmentConcurrency,
    /// The function's own concurrency is used up.
    FunctionConcurrency,
    /// The caller has as many requests in flight as it may have.
    CallerConcurrency,
    /// The server has as many requests in flight as it may have, less what functions reserve.
    ServerConcurrency,
    /// The environment's queue is full, counted in requests.
    QueueRequests,
    /// The environment's queue is full, counted in items or tokens.
    QueueItems,
    /// Bytes in flight would exceed `memory_budget_bytes`.
    MemoryBudget,
    /// The deadline cannot be met.
    DeadlineUnmeetable,
    /// No environment is ready yet.
    NoCapacity,
    /// The server or the environment is draining.
    Draining,
}

impl ErrorCode {
    /// All of them.
    pub const ALL: [ErrorCode; 12] = [
        ErrorCode::Internal,
        ErrorCode::InvalidArgument,
        ErrorCode::NotFound,
        ErrorCode::Conflict,
        ErrorCode::TooLarge,
        ErrorCode::Unsupported,
        ErrorCode::Exhausted,
        ErrorCode::Unavailable,
        ErrorCode::DeadlineExceeded,
        ErrorCode::Cancelled,
        ErrorCode::Unauthenticated,
        ErrorCode::Forbidden,
    ];

    /// Its place in [`ErrorCode::ALL`].
    pub const fn index(self) -> usize {
        match self {
            ErrorCode::Internal => 0,
            ErrorCode::InvalidArgument => 1,
            ErrorCode::NotFound => 2,
            ErrorCode::Conflict => 3,
            ErrorCode::TooLarge => 4,
            ErrorCode::Unsupported => 5,
            ErrorCode::Exhausted => 6,
            ErrorCode::Unavailable => 7,
            ErrorCode::DeadlineExceeded => 8,
            ErrorCode::Cancelled => 9,
            ErrorCode::Unauthenticated => 10,
            ErrorCode::Forbidden => 11,
        }
    }
}

impl ShedReason {
    /// All of them.
    pub const ALL: [ShedReason; 10] = [
        ShedReason::EnvironmentConcurrency,
        ShedReason::FunctionConcurrency,
        ShedReason::CallerConcurrency,
        ShedReason::ServerConcurrency,
        ShedReason::QueueRequests,
        ShedReason::QueueItems,
        ShedReason::MemoryBudget,
        ShedReason::DeadlineUnmeetable,
        ShedReason::NoCapacity,
        ShedReason::Draining,
    ];

    /// The stable text of `x-penstock-shed-reason`, of gRPC's ErrorInfo and of metrics.
    pub const fn name(self) -> &'static str {
        match self {
            ShedReason::EnvironmentConcurrency => "environment_concurrency",
            ShedReason::FunctionConcurrency => "function_concurrency",
            ShedReason::CallerConcurrency => "caller_concurrency",
            ShedReason::ServerConcurrency => "server_concurrency",
            ShedReason::QueueRequests => "queue_requests",
            ShedReason::QueueItems => "queue_items",
            ShedReason::MemoryBudget => "memory_budget",
            ShedReason::DeadlineUnmeetable => "deadline_unmeetable",
            ShedReason::NoCapacity => "no_capacity",
            ShedReason::Draining => "draining",
        }
    }

    /// The reason of a name, as it crosses the link.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// The error it is answered with.
    pub const fn code(self) -> ErrorCode {
        match self {
            ShedReason::EnvironmentConcurrency
            | ShedReason::FunctionConcurrency
            | ShedReason::CallerConcurrency
            | ShedReason::ServerConcurrency
            | ShedReason::QueueRequests
            | ShedReason::QueueItems
            | ShedReason::MemoryBudget => ErrorCode::Exhausted,
            ShedReason::DeadlineUnmeetable => ErrorCode::DeadlineExceeded,
            ShedReason::NoCapacity | ShedReason::Draining => ErrorCode::Unavailable,
        }
    }
}

/// What is answered instead of a result: a code, words for a person, and for a shed its reason and a wait.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind of error.
    pub code: ErrorCode,
    /// What was found and what would be right.
    pub message: String,
    /// Set if the request was shed.
    pub shed: Option<ShedReason>,
    /// A stable machine-readable reason for failures, such as `execution_crashed`.
    pub reason: Option<&'static str>,
    /// How long the caller should wait before trying again, from the batch times learned or the measured drain rate.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A plain error.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), shed: None, reason: None, retry_after: None }
    }

    /// A bad request.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message)
    }

    /// A shed, with the wait a client should make.
    pub fn shed(reason: ShedReason, message: impl Into<String>, retry_after: Option<Duration>) -> Self {
        Self { code: reason.code(), message: message.into(), shed: Some(reason), reason: None, retry_after }
    }

    /// A shed of what cannot be done in time: its answer would be ready in `done_in`, `left` is left. It asks to be sent
    /// again after `wait`, when it could be.
    pub fn unmeetable(done_in: Duration, left: Duration, wait: Duration) -> Self {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        let text = format!(
            "the deadline cannot be met: the answer would be ready in {:.1} ms, {:.1} ms are left",
            milliseconds(done_in),
            milliseconds(left)
        );
        Self::shed(ShedReason::DeadlineUnmeetable, text, Some(wait))
    }

    /// The same with a stable reason text.
    #[must_use]
    pub fn with_reason(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    /// The stable reason text, of a shed or of a failure.
    pub fn reason_name(&self) -> Option<&'static str> {
        self.shed.map(ShedReason::name).or(self.reason)
    }

    /// How this end is counted.
    pub fn outcome(&self) -> Outcome {
        match (self.shed, self.code) {
            (Some(reason), _) => Outcome::Shed(reason),
            (None, ErrorCode::DeadlineExceeded) => Outcome::Expired,
            (None, ErrorCode::Cancelled) => Outcome::Cancelled,
            (None, code) => Outcome::Failed(code),
        }
    }
}

/// How a request ended. Closed: received = done + failed + shed + expired + cancelled + in flight, at any moment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// Answered.
    Done,
    /// Answered with an error that is not a refusal for load.
    Failed(ErrorCode),
    /// Refused early and on purpose.
    Shed(ShedReason),
    /// Its deadline passed while it waited or ran.
    Expired,
    /// The caller left.
    Cancelled,
}

impl Outcome {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Outcome> {
        let plain = [Outcome::Done, Outcome::Expired, Outcome::Cancelled];
        plain.into_iter().chain(ErrorCode::ALL.map(Outcome::Failed)).chain(ShedReason::ALL.map(Outcome::Shed))
    }

    /// How many there are.
    pub const COUNT: usize = 3 + ErrorCode::ALL.len() + ShedReason::ALL.len();

    /// Its place in [`Outcome::all`].
    pub const fn index(self) -> usize {
        match self {
            Outcome::Done => 0,
            Outcome::Expired => 1,
            Outcome::Cancelled => 2,
            Outcome::Failed(code) => 3 + code.index(),
            Outcome::Shed(reason) => 3 + ErrorCode::ALL.len() + reason as usize,
        }
    }
}
