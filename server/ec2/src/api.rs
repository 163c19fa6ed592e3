//! Calls of AWS: signed, paced, tried again where that is right, each with a deadline.
//!
//! Called by everything here that asks or orders. What is done about a failure is in one place:
//!
//! | fault | what is done |
//! |---|---|
//! | [`Fault::Throttled`], [`Fault::Unavailable`] | once more, after a pause that doubles and is partly left to chance |
//! | [`Fault::Lost`] | the same, with the same client token |
//! | [`Fault::Expired`] | other credentials, and once more |
//! | [`Fault::NotFound`] | once more for a while, if it was just made |
//! | [`Fault::NoCapacity`], [`Fault::Denied`], [`Fault::Wrong`] | told to the caller |

pub(crate) mod error;
mod pace;
pub(crate) mod query;
pub(crate) mod session;
pub(crate) mod wire;
pub(crate) mod xml;

use crate::metadata::Metadata;
use crate::options::{Ec2Options, Timing};
use error::{ApiError, Fault};
use pace::Pace;
use parking_lot::Mutex;
use query::Params;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use session::Session;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use wire::{Answer, Call, Service, Wire};
use xml::Element;

/// Most pages of a list: of the longest, all instances of a region, there are some hundreds.
const PAGES_MAX: usize = 1000;

/// The services, with one identity.
pub(crate) struct Api {
    wire: Wire,
    session: Session,
    pace: Pace,
    timing: Timing,
    chance: Mutex<SmallRng>,
}

impl Api {
    /// Errors: a field is wrong, or the system has no certificates. Calls nobody.
    pub(crate) fn new(options: &Ec2Options) -> std::io::Result<Self> {
        let invalid = |error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error);
        let client = penstock_remote::client().map_err(std::io::Error::other)?;
        let metadata = Metadata::with_client(client.clone(), options.endpoints.metadata.as_deref()).map_err(invalid)?;
        let session = Session::new(options.identity.clone(), metadata, options.operator_role.clone(), &options.fleet);
        Ok(Self {
            wire: Wire::new(client, options).map_err(invalid)?,
            session,
            pace: Pace::new(),
            timing: options.timing,
            chance: Mutex::new(SmallRng::seed_from_u64(options.seed)),
        })
    }

    pub(crate) fn now_unix_s(&self) -> i64 {
        self.wire.now_unix_s()
    }

    #[cfg(test)]
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Calls EC2.
    pub(crate) async fn ec2(&self, action: &'static str, params: Params) -> Result<Element, ApiError> {
        self.xml(Call::query(Service::Ec2, action, params), Duration::ZERO).await
    }

    /// Calls EC2 about something that was just made: for a while it may not be known.
    pub(crate) async fn ec2_of_new(&self, action: &'static str, params: Params) -> Result<Element, ApiError> {
        self.xml(Call::query(Service::Ec2, action, params), self.timing.not_yet).await
    }

    /// All pages of a list.
    pub(crate) async fn pages(&self, action: &'static str, params: Params) -> Result<Vec<Element>, ApiError> {
        let mut pages: Vec<Element> = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let page = match &next {
                Some(token) => self.ec2(action, params.clone().with("NextToken", token)).await?,
                None => self.ec2(action, params.clone()).await?,
            };
            let token = page.text("nextToken").map(str::to_owned);
            pages.push(page);
            match token {
                None => return Ok(pages),
                Some(_) if pages.len() >= PAGES_MAX => {
                    return Err(ApiError::new(&format!("EC2 {action}"), Fault::Wrong, "a list without an end"));
                }
                // The same page for ever would be no answer.
                Some(token) if next.as_ref() == Some(&token) => {
                    return Err(ApiError::new(&format!("EC2 {action}"), Fault::Wrong, "a page leads to itself"));
                }
                Some(token) => next = Some(token),
            }
        }
    }

    /// The value of a parameter of SSM.
    pub(crate) async fn parameter(&self, name: &str) -> Result<String, ApiError> {
        let call = Call::ssm("GetParameter", &json!({ "Name": name }));
        match self.call(&call, Duration::ZERO).await? {
            Answer::Json(value) if value["Parameter"]["Value"].is_string() => {
                Ok(value["Parameter"]["Value"].as_str().unwrap_or_default().to_owned())
            }
            _ => Err(ApiError::new(&call.name(), Fault::Wrong, format!("an answer without the value of {name}"))),
        }
    }

    async fn xml(&self, call: Call, not_yet: Duration) -> Result<Element, ApiError> {
        match self.call(&call, not_yet).await? {
            Answer::Xml(element) => Ok(element),
            Answer::Json(_) => Err(ApiError::new(&call.name(), Fault::Wrong, "an answer that is not XML")),
        }
    }

    async fn call(&self, call: &Call, not_yet: Duration) -> Result<Answer, ApiError> {
        let begun = Instant::now();
        let (deadline, known) = (begun + self.timing.call, begun + not_yet);
        let (mut attempt, mut renewed) = (0u32, false);
        let mut last: Option<ApiError> = None;
        // What a service did not answer it may have done, whatever it answers next.
        let mut is_open = false;
        let told = |error: ApiError, is_open: bool| match error.fault {
            Fault::Throttled | Fault::Expired | Fault::Denied if is_open => ApiError { fault: Fault::Lost, ..error },
            _ => error,
        };
        loop {
            let tried = timeout_at(deadline, async {
                self.pace.turn().await;
                let keys = self.session.keys(&self.wire).await?;
                let answer = self.wire.send(call, &keys).await;
                if answer.as_ref().is_err_and(|error| error.fault == Fault::Expired) {
                    self.session.forget(&keys).await;
                }
                answer
            });
            let error = match tried.await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                // What it failed with before says more.
                Err(_) => {
                    let error = last.unwrap_or_else(|| ApiError::new(&call.name(), Fault::Lost, "no answer in time"));
                    return Err(told(error, true));
                }
            };
            let now = Instant::now();
            let again = match error.fault {
                Fault::Throttled | Fault::Unavailable | Fault::Lost => true,
                Fault::Expired => !std::mem::replace(&mut renewed, true),
                Fault::NotFound => now < known,
                Fault::NoCapacity | Fault::Denied | Fault::Wrong => false,
            };
            let pause = self.pause(attempt);
            is_open |= matches!(error.fault, Fault::Lost | Fault::Unavailable);
            if !again || now + pause >= deadline {
                return Err(told(error, is_open));
            }
            tracing::debug!(%error, attempt, pause_ms = pause.as_millis() as u64, "a call is made once more");
            if error.fault == Fault::Throttled {
                self.pace.slow_down();
            }
            last = Some(error);
            attempt += 1;
            tokio::time::sleep(pause).await;
        }
    }

    /// Half of it fixed, half left to chance: many that were refused together do not come back together.
    fn pause(&self, attempt: u32) -> Duration {
        let (first, longest) = self.timing.pause;
        let whole = first.saturating_mul(2u32.saturating_pow(attempt.min(16))).min(longest);
        whole.mul_f64(self.chance.lock().random_range(0.5..=1.0))
    }
}
